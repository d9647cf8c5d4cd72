"""Two runs on the same rows: DeLong's test for the AUROC, a paired bootstrap for other metrics.

DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988), by ranks: closed form, no randomness.

The bootstrap resamples normals and anomalies separately, so their numbers stay the same. Scores
are ranked once; no resample is sorted. Number i is folded into the key of resample i, so it depends
neither on the number of resamples nor on how many are drawn at once. All in float64.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxae.errors import UserError
from jaxae.stats.curve import Curve, placements, sweep
from jaxae.stats.intervals import bounds
from jaxae.stats.intervals.bounds import Interval, PerMetric, checked
from jaxae.types import AnyArray, Key

RESAMPLES = 2000
_AT_ONCE = 2**17  # rows drawn at once, for one resample or many
_TOLERANCE = 1e-6  # metrics that differ by less are called equal


class Difference(NamedTuple):
    """A metric of the first run minus that of the second, on the same rows."""

    value: float
    interval: Interval
    p_value: float  # two-sided, for the hypothesis that there is no difference


_NONE = Difference(0.0, Interval(0.0, 0.0), 1.0)


def compare(
    scores: Shaped[AnyArray, "..."],
    y: Shaped[AnyArray, "..."],
    is_anomaly: Shaped[AnyArray, "..."],
    key: Key,
    *,
    resamples: int = RESAMPLES,
) -> PerMetric:
    """Metrics of the first run minus those of the second, with 95 % intervals and p-values.

    AUROC: `delong`. Average precision and F1: the percentile interval of the difference over
    resamples (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13), and twice
    the smaller share of resamples on either side of no difference, (1 + count) / (1 + resamples),
    ties on both sides: p < .05 if the interval excludes 0, up to one resample (Davison and
    Hinkley, Bootstrap Methods and their Application, 1997, chapters 4 and 5). For two perfect
    values the interval is that of `_interval_of_difference`. Runs that give every row the same
    score, and for F1 also the same decision, differ by exactly 0: [0, 0], with p-value 1.

    Args:
      scores: [2, N].
      y: [N] bool, the truth, True = anomaly.
      is_anomaly: [2, N] bool, decisions; they are kept, no threshold is fitted to resamples.
      key: for example `rng.stream(seed, Purpose.RESAMPLING)`.
      resamples: at least 40, so that some lie beyond both ends.

    Returns:
      A `Difference` for each metric.

    Raises:
      UserError: as in `bounds.checked`; decisions are not bool, or not one for each score.
    """
    flagged = np.asarray(is_anomaly)
    if flagged.shape != np.shape(scores) or flagged.dtype != bool or len(flagged) != 2:
        raise UserError(
            f"scores are {list(np.shape(scores))} and decisions {flagged.dtype} "
            f"{list(flagged.shape)}; give both of two runs, [2, N], and decisions as bool"
        )
    scores, y = checked(scores, y)
    n, m = int((~y).sum()), int(y.sum())
    normals_first = np.argsort(y, kind="stable")
    scores, flagged = scores[:, normals_first], flagged[:, normals_first]
    y = np.arange(n + m) >= n
    curves = [sweep(run_scores, y) for run_scores in scores]
    values = measure(np.arange(n + m), curves, flagged, n)
    samples = resamples_of_rows(key, n, m, resamples)
    drawn = np.stack([measure(rows, curves, flagged, n) for rows in samples], axis=1)
    low, high = bounds.flawless(n, m), bounds.hopeless(n, m)
    paired = map(paired_difference, drawn, values, low[1:], high[1:])
    found = PerMetric(delong(curves, y), *paired)
    same_scores, same_decisions = np.array_equal(*scores), np.array_equal(*flagged)
    are_equal = PerMetric(same_scores, same_scores, same_scores and same_decisions)
    return PerMetric(*(_NONE if same else d for d, same in zip(found, are_equal, strict=True)))


def delong(curves: Sequence[Curve], y: Bool[np.ndarray, " N"]) -> Difference:
    """The AUROC of the first of two runs minus that of the second, by the placements of all rows.

    d -+ z sd and p = 2 Phi(-|d| / sd); var d = S10 / m + S01 / n, sample variances of the
    differences of the placements of m anomalies and n normals. If neither run has spread, for
    example if both AUROCs are 1, the interval is that of `_interval_of_difference`, and p is 1 if
    they are equal, else NaN, because the normal approximation does not apply.
    """
    by_row = []  # for each run, the placement of every row
    for curve in curves:
        below, above = placements(curve)
        by_row.append(np.where(y, below[curve.rank], above[curve.rank]))
    areas = [float(placed[y].mean()) for placed in by_row]
    # The variance of the differences; the sum of variances and covariances would lose digits.
    differences = by_row[0] - by_row[1]
    sd = math.sqrt(sum(side.var(ddof=1) / len(side) for side in (differences[y], differences[~y])))
    value, reach = areas[0] - areas[1], bounds.Z * sd
    interval = Interval(max(value - reach, -1), min(value + reach, 1))
    low = bounds.flawless(int((~y).sum()), int(y.sum())).auroc
    if sd > bounds.ROUNDING:
        p_value = math.erfc(abs(value) / sd / math.sqrt(2))
    else:
        p_value = 1.0 if abs(value) <= bounds.ROUNDING else math.nan
    return Difference(value, _interval_of_difference(interval, areas, low, 1 - low), p_value)


def resamples_of_rows(key: Key, n: int, m: int, count: int) -> Iterator[Int[np.ndarray, " N"]]:
    """The rows of each resample of n normals and, after them, m anomalies."""
    at_once = min(max(1, _AT_ONCE // (n + m)), count)
    for first in range(0, count, at_once):
        yield from draw(key, np.arange(first, first + at_once), n, m)[: count - first]


def draw(key: Key, numbers: Int[np.ndarray, " B"], n: int, m: int) -> Int[np.ndarray, "B N"]:
    """Rows of resamples, drawn with replacement: n of the first n and m of the m after them."""
    # Words modulo size favour some rows by less than size / 2^32, at most one part in 4,096.
    words = np.asarray(_words(key, numbers, n + m))
    return np.concatenate([words[:, :n] % n, words[:, n:] % m + n], axis=1).astype(int)


@functools.partial(jax.jit, static_argnames="size")
def _words(key: Key, numbers: Array, size: int) -> Array:
    """32 random bits for each row of each resample: [B, size]."""
    return jax.vmap(lambda i: jax.random.bits(jax.random.fold_in(key, i), (size,)))(numbers)


def measure(
    rows: Int[np.ndarray, " N"], curves: Sequence[Curve], flagged: Bool[np.ndarray, "R N"], n: int
) -> Float[np.ndarray, "2 R"]:
    """Average precision and F1 of R runs, as `metrics` defines them, on rows that may repeat.

    The first n rows are normals, the others anomalies.
    """
    decisions = flagged[:, rows]
    false, hits = decisions[:, :n].sum(axis=1), decisions[:, n:].sum(axis=1)
    precisions = []
    for curve in curves:
        ranks = curve.rank[rows]
        counts = (np.bincount(side, minlength=len(curve.score)) for side in (ranks[:n], ranks[n:]))
        fp, tp = map(np.cumsum, counts)
        steps = np.diff(tp, prepend=0)
        precisions.append(np.sum(steps * (tp / np.maximum(tp + fp, 1))) / tp[-1])
    return np.stack([precisions, 2 * hits / (hits + false + len(rows) - n)])


def paired_difference(
    drawn: Float[np.ndarray, "B 2"], values: Float[np.ndarray, " 2"], lowest: float, highest: float
) -> Difference:
    """First run minus second, from a metric on resamples and on the original rows.

    `lowest` and `highest` are the bounds for a value of 1 and of 0, see `_interval_of_difference`.
    """
    differences = drawn[:, 0] - drawn[:, 1]
    sides = np.sum(differences <= _TOLERANCE), np.sum(differences >= -_TOLERANCE)
    interval = Interval(*np.quantile(differences, [bounds.TAIL, 1 - bounds.TAIL]).tolist())
    one, other = values.tolist()
    return Difference(
        value=one - other,
        interval=_interval_of_difference(interval, (one, other), lowest, highest),
        p_value=min(2 * (1 + int(min(sides))) / (1 + len(differences)), 1.0),
    )


def _interval_of_difference(
    interval: Interval, values: Sequence[float], lowest: float, highest: float
) -> Interval:
    """The interval of a difference; a wider one if both values are 0 or 1 and have no spread.

    Newcombe's square-and-add rule (Statistics in Medicine 17, 1998, method 10; Zou and Donner,
    Statistics in Medicine 27, 2008), from the intervals of the two values, [lowest, 1] for 1 and
    [0, highest] for 0. The lower end is the difference minus the root of (one - its low)^2 +
    (other's high - other)^2; the upper end adds the root for the two other distances.
    """
    if not all(bounds.is_zero(value) or bounds.is_one(value) for value in values):
        return interval
    one, other = values
    (one_low, one_high), (other_low, other_high) = (
        (lowest, 1.0) if bounds.is_one(value) else (0.0, highest) for value in values
    )
    below = math.hypot(one - one_low, other_high - other)
    above = math.hypot(one_high - one, other - other_low)
    return Interval(max(one - other - below, -1.0), min(one - other + above, 1.0))
