"""Tables as text: aligned for a screen, Markdown for a file, and how their cells are written."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

_DIGEST = re.compile("[0-9a-f]{64}")  # SHA-256


def aligned(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> str:
    """Rows of cells as lines, in columns as wide as their longest cell.

    Args:
      rows: of equally many cells each; the first may be a header.
      right: numbers of the columns that end flush; the others begin flush.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    signs = [">" if i in set(right) else "<" for i in range(len(widths))]
    return "\n".join(
        "  ".join(
            f"{cell:{sign}{width}}" for cell, sign, width in zip(row, signs, widths, strict=True)
        ).rstrip()
        for row in rows
    )


def markdown(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def text(value: Any) -> str:
    """A value of a report: floats to five digits, the beginning of a digest, - for None."""
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {text(part)}" for name, part in value.items())
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return value[:12]
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def interval(ends: Sequence[float] | None, sign: str = "") -> str:
    """Both ends of an interval of a rate; "" for None. With `sign` "+" each shows its sign."""
    return f"[{ends[0]:{sign}.4f}, {ends[1]:{sign}.4f}]" if ends else ""
