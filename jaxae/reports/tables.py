"""Tables as aligned text and as Markdown, and the format of their cells."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

_DIGEST = re.compile("[0-9a-f]{64}")  # SHA-256


def aligned(rows: Sequence[Sequence[str]], right: Iterable[int] = ()) -> str:
    """Format rows of cells as lines; columns are as wide as their longest cell.

    Args:
      rows: all with the same number of cells; the first may be a header.
      right: indices of the right-aligned columns.
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
    """A value of a report: floats to five digits, the first digits of a digest, - for None."""
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {text(part)}" for name, part in value.items())
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return value[:12]
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def interval(ends: Sequence[float] | None, sign: str = "") -> str:
    """An interval as "[low, high]"; "" for None. `sign` "+" shows the sign of positive ends."""
    return f"[{ends[0]:{sign}.4f}, {ends[1]:{sign}.4f}]" if ends else ""
