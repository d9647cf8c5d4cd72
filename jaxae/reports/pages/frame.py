"""What every page shares: the frame, tables and pictures, all in one file."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

_HERE = Path(__file__).parent


def page(title: str, body: Iterable[str]) -> str:
    """A whole page; style and script stand in it."""
    style = (_HERE / "page.css").read_text(encoding="utf-8")
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{text(title)}</title><style>{style}</style></head>'
        f"<body><main>{''.join(body)}</main><script>{script}</script></body></html>\n"
    )


def text(value: Any) -> str:
    """A value in a page: nothing in it is markup."""
    return html.escape(str(value), quote=True)


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table that scrolls by itself where the screen is narrow."""
    top = "".join(f'<th scope="col">{text(head)}</th>' for head in heads)
    lines = []
    for first, *others in rows:
        cells = "".join(f"<td>{text(other)}</td>" for other in others)
        lines.append(f'<tr><th scope="row">{text(first)}</th>{cells}</tr>')
    return (
        f'<div class="wide" tabindex="0"><table><caption>{text(caption)}</caption>'
        f"<thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def heads(pairs: Iterable[tuple[str, str, str]]) -> str:
    """The headline: name, value and what stands below it, of each."""
    cards = (
        f'<div class="head">{text(name)}<b>{text(value)}</b><span class="soft">{text(below)}</span>'
        "</div>"
        for name, value, below in pairs
    )
    return f'<div class="heads">{"".join(cards)}</div>'


def figure(drawn: str, caption: str) -> str:
    """A drawing with its caption."""
    return f"<figure>{drawn}<figcaption>{text(caption)}</figcaption></figure>"


def floats(values: Float[np.ndarray, " N"]) -> str:
    """Numbers for the page's script, bit for bit."""
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def image(values: Float[np.ndarray, "H W C"], said: str, top: float = 1.0) -> str:
    """Values from 0 to `top` as a picture; of many channels, their mean."""
    from PIL import Image

    grey = values.mean(axis=-1) if values.shape[-1] != 3 else values
    pixels = np.clip(grey / (top or 1.0) * 255, 0, 255).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    data = base64.b64encode(content.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{text(said)}">'
