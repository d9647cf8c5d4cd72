"""Shared by all intervals: the check of their rows, their types, and bounds for perfect results.

An AUROC of 1 on m anomalies is 1 in every resample, and its DeLong variance is 0: the interval
[1, 1] would claim certainty. Exact bounds replace it, as those of Clopper and Pearson (Biometrika
26, 1934) do for a share if all trials succeed: the smallest value under which a perfect result
still has probability (1 - CONFIDENCE) / 2. They assume nothing about the distributions, unlike
bounds that model the variance (Newcombe, Statistics in Medicine 25, 2006), which are narrower and
fail if a few anomalies are of a kind that is never detected.
"""

import math
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from jaxae.errors import UserError
from jaxae.types import AnyArray

CONFIDENCE = 0.95
TAIL = (1 - CONFIDENCE) / 2
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
ROUNDING = 2**-22  # of a share in float32
MAX_ROWS = 2**20  # up to this, `two_runs.draw` draws every row equally often, to 1 part in 4,096


class Interval(NamedTuple):
    """The range in which a value may lie, including both ends."""

    low: float
    high: float


class PerMetric(NamedTuple):
    """One item for each metric: its value, its interval or its difference."""

    auroc: Any
    average_precision: Any
    f1: Any


def checked(
    scores: Shaped[AnyArray, "..."], y: Shaped[AnyArray, "..."]
) -> tuple[Float[np.ndarray, "R N"], Bool[np.ndarray, " N"]]:
    """Scores of R runs, in float32 as all metrics compare them, and the truth.

    Args:
      scores: [R, N].
      y: [N] bool, the truth, True = anomaly.

    Raises:
      UserError: the shapes do not match, y is not bool, a score is NaN, a class has
        fewer than 2 rows, or there are more than 2**20 rows.
    """
    scores, y = np.asarray(scores), np.asarray(y)
    if scores.ndim != 2 or not scores.size or y.shape != scores.shape[1:]:
        raise UserError(
            f"scores are {list(scores.shape)} and the truth is {list(y.shape)}; give the scores of "
            "all runs as [R, N] and the truth as [N]"
        )
    if y.dtype != bool:
        raise UserError(f"truth is {y.dtype}; it must be bool, True = anomaly")
    if y.size > MAX_ROWS:
        raise UserError(f"there are {y.size} rows; give a sample of at most {MAX_ROWS}")
    bad = np.flatnonzero(np.isnan(scores).any(axis=0))
    if bad.size:
        raise UserError(f"{bad.size} rows have a NaN score, the first is row {bad[0]}; remove them")
    if min(y.sum(), (~y).sum()) < 2:
        raise UserError(
            f"there are {(~y).sum()} normal and {y.sum()} anomalous rows; an interval needs at "
            "least 2 of each: give more test rows"
        )
    return scores.astype(np.float32), y


def of_share(hits: int, trials: int) -> Interval:
    """The interval of Clopper and Pearson (1934) for the share of independent trials that succeed.

    Its ends are the shares under which as many hits or more, or as many or fewer, have probability
    (1 - CONFIDENCE) / 2: quantiles of Beta(h, t - h + 1) and Beta(h + 1, t - h).
    """
    from scipy.special import betaincinv

    low = float(betaincinv(hits, trials - hits + 1, TAIL)) if hits else 0.0
    high = float(betaincinv(hits + 1, trials - hits, 1 - TAIL)) if hits < trials else 1.0
    return Interval(low, high)


def of_clustered_share(hits: Int[np.ndarray, " B"], trials: Int[np.ndarray, " B"]) -> Interval:
    """The interval of Korn and Graubard (1998) for a share whose trials come in clusters.

    Within a cluster trials depend on each other, so `of_share` is taken at the number of
    independent trials that would make the share vary as it does from cluster to cluster,
    n* = p (1 - p) / v (t[n - 1] / t[B - 1])^2, with v the linearised variance of the ratio of sums,
    v = B / (B - 1) sum (h_b - p n_b)^2 / (sum n_b)^2; t are quantiles of Student's distribution.
    A share of 0 or 1 shows no variation: then each cluster counts as one trial.

    Args:
      hits: of each cluster; clusters are independent of each other.
      trials: of each cluster, at least one.

    Returns:
      [0, 1] if there is a single cluster, which says nothing of others.
    """
    from scipy.special import betaincinv, stdtrit

    count, total = len(hits), int(trials.sum())
    if count < 2:
        return Interval(0.0, 1.0)
    share = hits.sum() / total
    if share in (0, 1):
        return of_share(round(share * count), count)
    variance = count / (count - 1) * np.sum((hits - share * trials) ** 2) / total**2
    ratio = stdtrit(total - 1, 1 - TAIL) / stdtrit(count - 1, 1 - TAIL)
    n = min(total, share * (1 - share) * ratio**2 / max(variance, np.finfo(float).tiny))
    x = n * share
    low, high = betaincinv(x, n - x + 1, TAIL), betaincinv(x + 1, n - x, 1 - TAIL)
    return Interval(float(low), float(high))


def flawless(n: int, m: int) -> PerMetric:
    """The lowest true AUROC, average precision and F1 that a perfect result is consistent with.

    With a = (1 - CONFIDENCE) / 2:

    AUROC: split rows into k = min(n, m) disjoint pairs. Each is in order with probability AUROC at
    most, so all are with probability AUROC^k at most: AUROC >= a^(1/k). The bound is attained if a
    share of the smaller class lies beyond all of the other.

    F1: a share of at least r = (a/2)^(1/m) of anomalies and at most f = 1 - (a/2)^(1/n) of normals
    is flagged, jointly with probability 1 - a (Clopper and Pearson, Bonferroni):
    F1 >= 2 m r / (m r + n f + m).

    Average precision: the same r and f hold at the cut above the highest normal (Wilks, Annals of
    Mathematical Statistics 12, 1941: the share of a distribution beyond an extreme of a sample).
    In the worst case the normals above it are above all anomalies, so precision at recall t is
    t / (t + c) with c = f n / m, and the area >= integral from 0 to r = r - c log(1 + r / c).

    Args:
      n: number of normals.
      m: number of anomalies.

    Returns:
      Floats in (0, 1), which approach 1 as both classes grow.
    """
    r, f = (TAIL / 2) ** (1 / m), 1 - (TAIL / 2) ** (1 / n)
    c = f * n / m
    return PerMetric(
        auroc=TAIL ** (1 / min(n, m)),
        average_precision=r - c * math.log1p(r / c),
        f1=2 * m * r / (m * r + n * f + m),
    )


def hopeless(n: int, m: int) -> PerMetric:
    """The highest true AUROC, average precision and F1 that a result of 0 is consistent with.

    AUROC: all anomalies are below all normals, the mirror image of `flawless`. Average precision is
    never 0: its bound is 1. F1: none of m anomalies was flagged, so the true share is at most
    r = 1 - a^(1/m); in the best case no normal is flagged: F1 <= 2 r / (r + 1).
    """
    r = 1 - TAIL ** (1 / m)
    return PerMetric(1 - flawless(n, m).auroc, 1.0, 2 * r / (r + 1))


def is_one(value: float) -> bool:
    """Whether a share is 1, up to rounding."""
    return value >= 1 - ROUNDING


def is_zero(value: float) -> bool:
    """Whether a share is 0, up to rounding."""
    return value <= ROUNDING
