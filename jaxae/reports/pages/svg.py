"""Charts as SVG in text: they take their colours from the page, in light and in dark."""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Box(NamedTuple):
    """Where a chart's axes lie in its drawing, in its own units."""

    left: float = 46
    top: float = 10
    width: float = 380
    height: float = 210


class Axis(NamedTuple):
    """The values of an axis; of a logarithmic one, their exponents."""

    low: float
    high: float
    log: bool = False

    def share(self, values: Float[np.ndarray, " N"]) -> Float[np.ndarray, " N"]:
        """Where values lie between the ends, 0 to 1."""
        at = np.log10(np.maximum(values, 10.0**self.low)) if self.log else values
        return np.clip((at - self.low) / (self.high - self.low), 0, 1)


def axis_of(values: Float[np.ndarray, " N"]) -> Axis:
    """The axis on which values are best seen: logarithmic where they are above 0 and far apart."""
    low, high = float(values.min()), float(values.max())
    if low > 0 and high > 30 * float(np.median(values)):
        return Axis(math.log10(low), math.log10(high) + 1e-6, True)
    spread = (high - low) or max(abs(high), 1.0)
    return Axis(low - 0.01 * spread, high + 0.01 * spread)


def chart(title: str, parts: Sequence[str], x: Axis, y: Axis, names: tuple[str, str]) -> str:
    """A framed chart with ticks; `title` is what a screen reader says."""
    box = Box()
    lines = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        at_x, at_y = box.left + box.width * share, box.top + box.height * (1 - share)
        lines.append(f'<path class="grid" d="M{box.left} {at_y:.1f}h{box.width}"/>')
        lines.append(_text(at_x, box.top + box.height + 15, _tick(x, share), "middle"))
        lines.append(_text(box.left - 5, at_y + 4, _tick(y, share), "end"))
    lines.append(_text(box.left + box.width / 2, box.top + box.height + 30, names[0], "middle"))
    lines.append(_text(box.left - 40, box.top - 9, names[1], "start"))
    lines += parts
    lines.append(f'<path class="axis" d="M{box.left} {box.top}v{box.height}h{box.width}"/>')
    size = f"0 -12 {box.left + box.width + 14:.0f} {box.top + box.height + 48:.0f}"
    said = html.escape(title, quote=True)
    return f'<svg viewBox="{size}" role="img" aria-label="{said}">{"".join(lines)}</svg>'


def _tick(axis: Axis, share: float) -> str:
    value = axis.low + share * (axis.high - axis.low)
    return f"{10**value:.2g}" if axis.log else f"{value:.3g}"


def _text(x: float | int, y: float | int, words: str, anchor: str) -> str:
    safe = html.escape(words)
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{safe}</text>'


def line(
    x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"], axes: tuple[Axis, Axis], kind: str
) -> str:
    """A curve; `kind` is its class, which colours it."""
    box = Box()
    at_x = box.left + box.width * axes[0].share(x)
    at_y = box.top + box.height * (1 - axes[1].share(y))
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(at_x, at_y, strict=True))
    return f'<polyline class="line {kind}" points="{points}"/>'


def bars(heights: Float[np.ndarray, " N"], kind: str) -> str:
    """Bars side by side over the whole width, heights from 0 to 1."""
    box = Box()
    width = box.width / len(heights)
    return "".join(
        f'<rect class="bar {kind}" x="{box.left + i * width:.2f}" width="{width:.2f}" '
        f'y="{box.top + box.height * (1 - h):.1f}" height="{box.height * h:.1f}"/>'
        for i, h in enumerate(heights)
        if h > 0
    )


def ranked(names: Sequence[str], values: np.ndarray, ends: np.ndarray, title: str) -> str:
    """A bar for each name, 0 to 1, with its interval [N, 2]."""
    step, left, width = 22, 130, 300
    rows = []
    for i, (name, value, (low, high)) in enumerate(zip(names, values, ends, strict=True)):
        y = i * step + 6
        rows.append(_text(left - 6, y + 11, name, "end"))
        rows.append(f'<rect class="bar main" x="{left}" y="{y}" height="14" '
                    f'width="{width * value:.1f}"/>')  # fmt: skip
        rows.append(f'<path class="whisker" d="M{left + width * low:.1f} {y + 7}'
                    f'H{left + width * high:.1f}"/>')  # fmt: skip
        rows.append(_text(left + width + 6, y + 11, f"{value:.4f}", "start"))
    said = html.escape(title, quote=True)
    size = f"0 0 {left + width + 60} {len(names) * step + 12}"
    return f'<svg viewBox="{size}" role="img" aria-label="{said}">{"".join(rows)}</svg>'


def heat(values: Float[np.ndarray, "R C"], rows: Sequence[str], columns: list[list[str]],
         title: str) -> str:  # fmt: skip
    """A cell for each value from 0 to 1, with the value in it and what its column is above."""
    wide, high, left = 74, 34, 110
    cells = []
    for i, (name, of_row) in enumerate(zip(rows, columns, strict=True)):
        cells.append(_text(left - 6, i * high + 21, name, "end"))
        for j, value in enumerate(values[i]):
            x, y = left + j * wide, i * high
            cells.append(
                f'<rect class="bar main" x="{x}" y="{y}" width="{wide - 2}" height="{high - 2}" '
                f'opacity="{max(0.08, 2 * abs(value - 0.5) * 0.6):.2f}"/>'
            )
            cells.append(_text(x + wide / 2, y + 14, of_row[j], "middle"))
            cells.append(_text(x + wide / 2, y + 27, f"{value:.3f}", "middle"))
    said = html.escape(title, quote=True)
    size = f"0 0 {left + wide * values.shape[1]} {high * len(rows)}"
    return f'<svg viewBox="{size}" role="img" aria-label="{said}">{"".join(cells)}</svg>'


def spark(curves: dict[str, Float[np.ndarray, " N"]], title: str) -> str:
    """A small chart without axes: a row over its reconstruction, for one."""
    both = np.concatenate(list(curves.values()))
    axis = Axis(float(both.min()), float(both.max()) + 1e-9)
    lines = []
    for kind, values in curves.items():
        x = np.linspace(0, 220, len(values))
        y = 74 - 70 * axis.share(values)
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        lines.append(f'<polyline class="line {kind}" points="{points}"/>')
    said = html.escape(title, quote=True)
    return f'<svg viewBox="0 0 220 78" role="img" aria-label="{said}">{"".join(lines)}</svg>'
