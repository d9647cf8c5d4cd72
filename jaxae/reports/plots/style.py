"""The common style of all figures: palette, canvas and axes; and writing PNG and SVG.

Figures use matplotlib's classes and never pyplot: no display, no global figure list and no global
settings (except while `svg` writes), so that drawing is safe in a thread.
"""

import io
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxae.storage import disk

DPI = 120
NARROWEST = 5.2  # inches; narrower figures would cut the title lines

# The palette of Okabe and Ito ("Color Universal Design", 2008), distinguishable with any of the
# common colour-vision deficiencies; grey and brown extend it to ten classes.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY, BROWN = "#8C8C8C", "#7B4B1E"
CLASSES = (BLUE, ORANGE, GREEN, VERMILLION, SKY, PURPLE, YELLOW, BLACK, GREY, BROWN)

NORMAL, ANOMALY = GREEN, VERMILLION
ORIGINAL, RECONSTRUCTION = BLACK, BLUE


def load() -> None:
    """Import the parts of matplotlib that are slow to import."""
    from matplotlib.backends import backend_agg
    from matplotlib.figure import Figure

    _ = backend_agg, Figure


def canvas(width: float, height: float, rows: int = 1, cols: int = 1, **subplots):
    """A figure of width x height inches, but wide enough for titles; its axes as [rows, cols]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(max(width, NARROWEST), height), dpi=DPI, layout="constrained")
    return figure, figure.subplots(rows, cols, squeeze=False, **subplots)


def chart(width: float, height: float, x: str, y: str):
    """A figure of width x height inches, and its only axes with their labels."""
    figure, axes = canvas(width, height)
    label(axes[0, 0], x=x, y=y)
    return figure, axes[0, 0]


def panels(count: int, cols: int, width: float, height: float, **subplots):
    """A figure with `count` axes of width x height inches, at most `cols` in a row; the axes."""
    cols = min(cols, count)
    rows = (count - 1) // cols + 1
    figure, axes = canvas(0.6 + width * cols, 1.0 + height * rows, rows, cols, **subplots)
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return figure, axes.flat[:count]


def label(ax, title: str = "", x: str = "", y: str = "") -> None:
    """Give axes a title, labels and the common style: small letters, light grid, no box."""
    ax.set_title(title, fontsize=9, loc="left")
    ax.set_xlabel(x, fontsize=8)
    ax.set_ylabel(y, fontsize=8)
    ax.tick_params(labelsize=7.5, width=0.6, length=3)
    ax.tick_params(which="minor", labelsize=6.5, width=0.4, length=2)
    ax.grid(True, color="#E3E3E3", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_linewidth(0.6)


def headings(figure, title: str, subtitle: str):
    """Add the two title lines to a finished figure: what it shows, and of which run.

    No text of the figure is read as a formula, whatever names it holds.
    """
    left = 0.08 / figure.get_size_inches()[0]
    figure.suptitle(f"{title}\n{subtitle}", fontsize=9.5, x=left, ha="left", va="top")
    for text in _texts(figure):
        text.set_parse_math(False)
    return figure


def _texts(figure) -> Iterator[Any]:
    """The texts of a figure without those of ticks, whose powers of ten are formulas."""
    from matplotlib.text import Text

    axes = [part for ax in figure.axes for part in (ax, ax.xaxis, ax.yaxis)]
    legends = [*figure.legends, *(ax.get_legend() for ax in figure.axes if ax.get_legend())]
    for part in (figure, *axes):
        yield from (child for child in part.get_children() if isinstance(child, Text))
    for legend in legends:
        yield from (legend.get_title(), *legend.get_texts())


def warning_lines(report: dict) -> str:
    """The warnings of a report in lines that fit a figure; "" without any."""
    wrapped = [textwrap.wrap(f"warning: {words}", 88) for words in report.get("warnings", [])]
    return "\n".join(line for lines in wrapped for line in lines)


def legend(ax, **kwargs) -> None:
    """A legend that is readable over data."""
    ax.legend(fontsize=7.5, frameon=True, framealpha=0.85, edgecolor="none", **kwargs)


def outside_legend(figure, ax=None, where: str = "right center", **kwargs) -> None:
    """A legend next to the axes, for the whole figure or for some axes alone."""
    shown = ax.get_legend_handles_labels() if ax else ()
    figure.legend(*shown, loc=f"outside {where}", fontsize=7.5, frameon=False, **kwargs)


def whole_number_ticks(ax) -> None:
    """Puts the x ticks (epochs, samples) at integers."""
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def spans_decades(values: np.ndarray, ratio: float) -> bool:
    """Whether a log axis suits: all finite values are positive, and max / min exceeds `ratio`."""
    finite = values[np.isfinite(values)]
    return finite.size > 0 and finite.min() > 0 and finite.max() > ratio * finite.min()


def verdict(data: dict, i: int) -> tuple[str, str]:
    """The decision on row i and its colour: "Anomaly (score > threshold)" or "Normal (...)".

    A rule that uses more than the threshold may contradict it; then the sign shows this.

    Args:
      data: "score" and "is_anomaly" of rows [N], and the "threshold".
      i: the row.
    """
    score, threshold = float(data["score"][i]), float(data["threshold"])
    word, colour = ("Anomaly", ANOMALY) if data["is_anomaly"][i] else ("Normal", NORMAL)
    sign = ">" if score > threshold else "≤"
    return f"{word} ({score:.3g} {sign} {threshold:.3g})", colour


def save(figure, path: Path) -> Path:
    """Write a figure as PNG atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path.parent.mkdir(parents=True, exist_ok=True)
    with disk.atomic(path) as temporary:
        # Figure.savefig would draw twice, the first time only for the layout.
        FigureCanvasAgg(figure).print_png(temporary)
    return path


def pixels(figure) -> np.ndarray:
    """A figure as a picture: uint8 [H, W, 3]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def read(path: Path) -> np.ndarray:
    """A PNG as a picture: float32 [H, W, 3] in [0, 1]."""
    from matplotlib.image import imread

    return imread(path)[..., :3]


def svg(figure) -> str:
    """A figure as SVG: the same bytes every time, coordinates to a tenth of a point."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    for ax in figure.axes:
        for image in ax.images:
            image.set_interpolation("none")  # keep pixels; the viewer scales them
    content = io.StringIO()
    with rc_context({"svg.hashsalt": "jaxae", "svg.fonttype": "none", "font.sans-serif": _FONTS}):
        FigureCanvasSVG(figure).print_svg(content, metadata={"Date": None})
    short = re.sub("<[^>]+>", lambda tag: _shorter(tag[0]), content.getvalue())
    return re.sub(r">\s+<", "><", short)


_FONTS = ["DejaVu Sans", "Verdana"]  # Verdana has the same width and is on more computers


def _shorter(tag: str) -> str:
    """A tag with fewer digits, and with single quotes, which need no escaping in a URL."""
    tag = re.sub(r"(\.\d)\d+", r"\1", tag.replace("\n", ""))
    return tag.translate({ord("'"): '"', ord('"'): "'"})
