"""HTML that all pages share: the frame, tables and figures."""

import base64
import html
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxae.reports.plots import style

_HERE = Path(__file__).parent


def page(title: str, body: Iterable[str]) -> str:
    """A page with its style and script."""
    css = (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{text(title)}</title><style>{css}</style></head>'
        f"<body><main>{''.join(body)}</main><script>{script}</script></body></html>\n"
    )


def text(value: Any) -> str:
    """A value as HTML, with markup escaped."""
    return html.escape(str(value), quote=True)


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table that scrolls sideways on narrow screens."""
    top = "".join(f'<th scope="col">{text(head)}</th>' for head in heads)
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td>{text(other)}</td>" for other in others)
        lines.append(f'<tr><th scope="row">{text(first)}</th>{cells}</tr>')
    return (
        f'<div class="wide" tabindex="0"><table><caption>{text(caption)}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def heads(cards: Iterable[tuple[str, str, str]]) -> str:
    """The headline numbers: each card is a name, its value and a note."""
    divs = (
        f'<div class="head">{text(name)}<b>{text(value)}</b><span class="soft">{text(note)}</span>'
        "</div>"
        for name, value, note in cards
    )
    return f'<div class="heads">{"".join(divs)}</div>'


def values(
    report: Mapping[str, Any], names: Mapping[str, tuple[str, str]], form: str
) -> Iterator[tuple[str, str, str]]:
    """Cards of the values that a report has, for `heads`; "-" is one that does not exist.

    Args:
      report: the report.
      names: field -> the name of the card and its note.
      form: how values are written, as in `format`.
    """
    for key, (name, note) in names.items():
        if key in report:
            yield name, "-" if report[key] is None else format(report[key], form), note


def figure(drawing: Any, alt: str, caption: str = "", overlay: str = "") -> str:
    """A matplotlib figure as a vector image; the same figure gives the same bytes.

    Args:
      drawing: the figure.
      alt: its description for screen readers.
      caption: the line below it.
      overlay: SVG elements drawn over it, in points from the upper left corner; see `axes_box`.
    """
    width, height = 72 * drawing.get_size_inches()
    if overlay:
        overlay = (
            f'<svg viewBox="0 0 {width:g} {height:g}" role="img" '
            f'aria-label="the slider\'s threshold">{overlay}</svg>'
        )
    data = urllib.parse.quote(style.svg(drawing), safe=" /:=;,'()+")
    image = f'<img src="data:image/svg+xml,{data}" alt="{text(alt)}">'
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return (
        f'<figure><div class="wide" tabindex="0"><div class="drawing" '
        f'style="min-width: {0.8 * width:.0f}px">{image}{overlay}</div></div>{below}</figure>'
    )


def axes_box(ax: Any) -> dict[str, Any]:
    """The position of axes in a drawn figure, in points from its upper left corner.

    Returns:
      "left", "top", "width" and "height", the limits "x" and "y", and whether x is "log" or y is
      "log_y".
    """
    width, height = 72 * ax.figure.get_size_inches()
    box = ax.get_position()
    return {
        "left": box.x0 * width,
        "top": (1 - box.y1) * height,
        "width": box.width * width,
        "height": box.height * height,
        "x": [float(end) for end in ax.get_xlim()],
        "y": [float(end) for end in ax.get_ylim()],
        "log": ax.get_xscale() == "log",
        "log_y": ax.get_yscale() == "log",
    }


def floats(values: Float[np.ndarray, " N"]) -> str:
    """float32 values for the page's script, in base64."""
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()
