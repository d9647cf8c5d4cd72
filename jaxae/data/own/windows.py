"""Cutting long series into windows, each within a single part."""

import itertools

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxae.ops import ceil_div

WINDOW = 64  # steps of a window by default, fewer in a short series
_FEWEST = 20  # the fewest adjacent windows that a short series is cut into
_BLOCKS = 20  # the most blocks of a training part; blocks are held out as a whole
_PER_BLOCK = 5  # the fewest adjacent windows in a block, so that few are lost at its edges


def sizes(steps: int, window: int, stride: int) -> tuple[int, int]:
    """Window and stride; 0 = the default, which for the stride is a quarter of a window."""
    window = window or max(2, min(WINDOW, steps // _FEWEST))
    return window, stride or max(1, window // 4)


def runs(key: Int[np.ndarray, " T"]) -> list[tuple[int, int]]:
    """Start and end of the maximal stretches of equal keys."""
    ends = [*(np.flatnonzero(np.diff(key)) + 1).tolist(), len(key)]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def order(group: Int[np.ndarray, " T"] | None, steps: int) -> Int[np.ndarray, " T"]:
    """Positions of the steps, those of a group together; groups by their first step."""
    if group is None:
        return np.arange(steps)
    _, first, inverse = np.unique(group, return_index=True, return_inverse=True)
    return np.argsort(first[inverse], kind="stable")


def covered(start: Int[np.ndarray, " N"], window: int, steps: int) -> Bool[np.ndarray, " T"]:
    """Which steps belong to a window."""
    ends = np.zeros(steps + 1, int)
    np.add.at(ends, start, 1)
    np.add.at(ends, start + window, -1)
    return np.cumsum(ends[:-1]) > 0


def cut(
    stretches: list[tuple[int, int]], window: int, stride: int, blocks: bool
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """Windows within stretches of steps.

    Args:
      stretches: start and end of each; every window is within one stretch.
      window: the steps of a window.
      stride: the steps from one window to the next.
      blocks: cut the stretches into blocks (for training rows, because blocks are held out as a
        whole); else each stretch is one block.

    Returns:
      The first step of each window, and its block; windows of different blocks share no step.
    """
    total = sum(end - begin for begin, end in stretches)
    block_steps = max(_PER_BLOCK * window, ceil_div(total, _BLOCKS))
    start, block, count = [], [], 0
    for begin, end in stretches:
        parts = max(1, (end - begin) // block_steps) if blocks else 1
        edges = np.linspace(begin, end, parts + 1).astype(int)
        for first, last in itertools.pairwise(edges):
            start.append(np.arange(first, last - window + 1, stride))
            block.append(np.full(len(start[-1]), count))
            count += 1
    return np.concatenate(start), np.concatenate(block)


def rows(
    series: Float[np.ndarray, "T C"], start: Int[np.ndarray, " N"], window: int
) -> Float[np.ndarray, "N L C"]:
    """The windows that begin at these steps."""
    view = np.lib.stride_tricks.sliding_window_view(series, window, axis=0)  # [T - L + 1, C, L]
    return np.ascontiguousarray(view[start].swapaxes(1, 2))


def any_of(flags: np.ndarray, start: Int[np.ndarray, " N"], window: int) -> np.ndarray:
    """Whether each window contains a step that is flagged in flags [T]."""
    before = np.concatenate([[0], np.cumsum(flags)])
    return before[start + window] > before[start]
