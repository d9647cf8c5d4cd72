"""Long series cut into windows that never straddle two parts."""

import itertools
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

WINDOW = 64  # steps of a window by default, fewer in a short series
_FEWEST = 20  # adjacent windows that a series then has at least
_BLOCKS = 20  # of a training part, at most; valid rows are whole blocks
_PER_BLOCK = 5  # adjacent windows in a block, at least: few are lost at the edges of blocks


def sizes(steps: int, window: int, stride: int) -> tuple[int, int]:
    """Window and stride; 0 stands for the default, a quarter of a window for a stride."""
    window = window or max(2, min(WINDOW, steps // _FEWEST))
    return window, stride or max(1, window // 4)


def runs(*keys: np.ndarray) -> Iterator[tuple[int, int]]:
    """Begin and end of the longest stretches in which no key [T] changes."""
    changed = np.zeros(len(keys[0]) - 1, bool)
    for key in keys:
        changed |= key[1:] != key[:-1]
    ends = [*(np.flatnonzero(changed) + 1).tolist(), len(keys[0])]
    yield from zip([0, *ends[:-1]], ends, strict=True)


def cut(
    stretches: list[tuple[int, int]], window: int, stride: int, blocks: bool
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """Windows within stretches of steps.

    Args:
      stretches: begin and end of each; no window leaves its stretch.
      window: steps of each.
      stride: steps between two.
      blocks: cut the stretches into blocks, as training rows need, of which some are held out;
        else each stretch is one.

    Returns:
      The first step of each window, and its block: windows of two blocks share no step.
    """
    total = sum(end - begin for begin, end in stretches)
    least = max(_PER_BLOCK * window, -(-total // _BLOCKS))
    start, block, count = [], [], 0
    for begin, end in stretches:
        parts = max(1, (end - begin) // least) if blocks else 1
        edges = np.linspace(begin, end, parts + 1).astype(int)
        for first, last in itertools.pairwise(edges):
            at = np.arange(first, last - window + 1, stride)
            start.append(at)
            block.append(np.full(len(at), count))
            count += 1
    return np.concatenate(start), np.concatenate(block)


def rows(
    series: Float[np.ndarray, "T C"], start: Int[np.ndarray, " N"], window: int
) -> Float[np.ndarray, "N L C"]:
    """The windows that begin at these steps."""
    view = np.lib.stride_tricks.sliding_window_view(series, window, axis=0)  # [T - L + 1, C, L]
    return np.ascontiguousarray(view[start].swapaxes(1, 2))


def any_of(flags: np.ndarray, start: Int[np.ndarray, " N"], window: int) -> np.ndarray:
    """Whether each window holds a flagged step, of flags [T]."""
    before = np.concatenate([[0], np.cumsum(flags)])
    return before[start + window] > before[start]
