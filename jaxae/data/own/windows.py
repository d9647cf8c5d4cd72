"""Cutting long series into windows, each within a single part."""

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxae.ops import ceil_div

# On the series of benchmarks/series.py, AUC-PR rises with the window up to a fifth of the training
# steps, and with the number of training windows.
WINDOW = 128  # steps of a window by default, fewer in a short series
_FEWEST = 5  # the fewest adjacent windows in the training part, by default
_MANY = 4096  # windows, up to which a series is cut at every step by default
_BLOCKS = 20  # the most blocks of a training part; blocks are held out as a whole
_PER_BLOCK = 3  # the fewest adjacent windows in a block
_LEAST = 3  # blocks of a shorter training part, each of a window or more


def sizes(parts: list[list[tuple[int, int]]], window: int, stride: int) -> tuple[int, int]:
    """Window and stride; 0 = the default.

    By default a window has 128 steps, at most a fifth of the training steps, and two fit in the
    longest stretch of each part. Windows begin at every step if there are at most 4,096 in the
    training part; else as far apart as makes them so few, at most a quarter of a window.

    Args:
      parts: the stretches of the training part, and perhaps those of the test part.
      window: as configured.
      stride: as configured.
    """
    steps = sum(end - begin for begin, end in parts[0])
    most = min(WINDOW, steps // _FEWEST, *(longest(part) // 2 for part in parts))
    window = window or max(2, most)
    return window, stride or max(1, min(window // 4, steps // _MANY))


def runs(key: Int[np.ndarray, " T"]) -> list[tuple[int, int]]:
    """Start and end of the maximal stretches of equal keys."""
    ends = [*(np.flatnonzero(np.diff(key)) + 1).tolist(), len(key)]
    return list(zip([0, *ends[:-1]], ends, strict=True))


def longest(stretches: list[tuple[int, int]]) -> int:
    """The steps of the longest stretch; 0 = there is none."""
    return max((end - begin for begin, end in stretches), default=0)


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
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, "N 2"]]:
    """Windows within stretches of steps.

    Args:
      stretches: start and end of each; every window is within one stretch.
      window: the steps of a window.
      stride: the steps from one window to the next.
      blocks: divide the stretches into blocks (for training rows, because blocks are held out as
        a whole); else each stretch is one block.

    Returns:
      The first step of each window, and the blocks that contain its first and its last step. Blocks
      begin at the first step of a window; windows without a common block share no step.
    """
    total = sum(end - begin for begin, end in stretches)
    shortest = min(_PER_BLOCK * window, max(window, total // _LEAST))
    block_steps = max(shortest, ceil_div(total, _BLOCKS))
    start, block, count = [], [], 0
    for begin, end in stretches:
        first = np.arange(begin, end - window + 1, stride)
        parts = max(1, min((end - begin) // block_steps, len(first))) if blocks else 1
        later = first[np.arange(1, parts) * len(first) // parts]  # where all blocks but one begin
        ends = np.stack([first, first + window - 1], axis=1)
        start.append(first)
        block.append(count + np.searchsorted(later, ends, side="right"))
        count += parts
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
