"""The scores of the steps of a series, from windows that may overlap.

The score of a step is the mean over the windows that hold it, of the score map there or, where a
part of the score has no map, of the window's score. It is computed as a stream that remembers one
window of steps, so that its memory does not grow with the series.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxae import config, scoring
from jaxae.config import ExperimentConfig
from jaxae.data.own import windows
from jaxae.detectors.detector import Detector
from jaxae.detectors.judging import LARGEST, maps_fn, prepared, saturated, score_fn
from jaxae.devices import parallel, tuning
from jaxae.methods import learners
from jaxae.types import Dataset, Learner, Source, Split

Values = Callable[[Source], Float[np.ndarray, "N W"]]
_WINDOWS = 4096  # that are scored at a time, at most


class Scored(NamedTuple):
    """Steps that belong to a window, in order, with their scores."""

    step: Int[np.ndarray, " K"]
    score: Float[np.ndarray, " K"]


def averaged(
    parts: Iterable[tuple[Int[np.ndarray, " B"], Float[np.ndarray, "B W"]]],
) -> Iterator[Scored]:
    """Means over the windows that hold a step, as soon as no further window can hold it.

    However the windows are divided into parts, a step's values are added in float64 in the order
    of its windows, so its mean is the same bit for bit. Only the steps of one window are kept from
    part to part.

    Args:
      parts: the first steps of some windows, which rise from window to window and from part to
        part, and the value of each of their steps.
    """
    begin = 0
    total: np.ndarray = np.zeros(0)
    count: np.ndarray = np.zeros(0, np.int64)
    for start, values in parts:
        size = values.shape[1]
        if start[0] > begin + len(total):  # the steps between belong to no window
            yield _means(begin, total, count)
            begin, total, count = int(start[0]), total[:0], count[:0]
        more = int(start[-1]) + size - begin - len(total)
        total, count = (np.pad(kept, (0, max(0, more))) for kept in (total, count))
        for place in reversed(range(size)):  # so that the first windows are added first
            total[start - begin + place] += values[:, place]
            count[start - begin + place] += 1
        done = int(start[-1]) + 1 - begin
        yield _means(begin, total[:done], count[:done])
        begin, total, count = begin + done, total[done:], count[done:]
    yield _means(begin, total, count)


def _means(begin: int, total: np.ndarray, count: np.ndarray) -> Scored:
    held = np.flatnonzero(count)
    return Scored(begin + held, (total[held] / count[held]).astype(np.float32))


def joined(parts: Iterable[Scored]) -> Scored:
    """All steps of a stream."""
    step, score = zip(*parts, strict=True)
    return Scored(np.concatenate(step), np.concatenate(score))


def values_fn(detector: Detector, learner: Learner, devices: parallel.Devices) -> Values:
    """What already scaled windows say of each of their steps, averaged over the members.

    Values that float32 does not hold are `LARGEST`, as the scores of windows are.
    """
    about = detector.about
    if is_mapped(about.config):
        of_rows = maps_fn(detector, learner, devices)
    else:
        scores = score_fn(detector, learner, devices)

        def of_rows(x: Source) -> np.ndarray:
            return np.repeat(saturated(scores(x), x)[:, None], about.shape[0], axis=1)

    def values(x: Source) -> np.ndarray:
        found = of_rows(x)
        return np.where(np.abs(found) <= LARGEST, found, LARGEST)  # NaN is not

    return values


def is_mapped(cfg: ExperimentConfig) -> bool:
    """Whether scores of steps come from the score's map, which every part of the score needs.

    They do not if `data.input` maps rows, whose places are then no steps, nor for products, whose
    map only divides the window's score.
    """
    sign, names = scoring.parts_of(cfg.score)
    of_parts = all(scoring.resolve(name).places for name in names)
    return cfg.data.input == "none" and sign != "*" and of_parts


def of_windows(
    values: Values,
    cut: Callable[[slice], tuple[Int[np.ndarray, " B"], Float[np.ndarray, "B W C"]]],
    count: int,
    size: int,
) -> Iterator[Scored]:
    """The scores of the steps of `count` windows, some at a time.

    Args:
      values: see `values_fn`.
      cut: the first steps of some windows, which rise, and the windows, scaled.
      count: the number of windows.
      size: the values of a window.
    """
    block = min(_WINDOWS, max(1, tuning.FEED_BYTES // (4 * size)))

    def parts() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for first in range(0, count, block):
            start, x = cut(slice(first, first + block))
            yield start, values(x)

    return averaged(parts())


def of_split(values: Values, data: Dataset, split: Split) -> Scored:
    """The scores of the steps of a split's windows, each from these windows alone."""
    assert data.steps
    start = data.steps.start[split.id]
    order = np.argsort(start, kind="stable")

    def cut(block: slice) -> tuple[np.ndarray, np.ndarray]:
        rows = order[block]
        return start[rows], split.x[rows]

    return joined(of_windows(values, cut, len(order), math.prod(data.shape)))


def of_series(
    detector: Detector, series: Float[np.ndarray, "T C"], start: Int[np.ndarray, " N"]
) -> Iterator[Scored]:
    """The scores of the steps of a raw series, as soon as they are known.

    Args:
      detector: fitted on a series.
      series: the steps, in the units of those that the detector was fitted on.
      start: the first step of each window; they rise.

    Raises:
      UserError: the detector cannot judge the windows.
    """
    about = detector.about
    window, cfg = about.shape[0], config.for_scoring(about.config)
    shape = prepared(detector, np.zeros((1, *about.shape), about.dtype)).shape[1:]
    learner = learners.build(cfg, shape)
    values = values_fn(detector, learner, jax.local_devices())

    def cut(block: slice) -> tuple[np.ndarray, np.ndarray]:
        first = start[block]
        begin, end = int(first[0]), int(first[-1]) + window
        raw = windows.rows(series[begin:end], first - begin, window)
        return first, prepared(detector, raw, block.start)

    yield from of_windows(values, cut, len(start), math.prod(about.shape))
