"""Intervals for the metrics of one run: closed forms, on the host, without random numbers.

Each metric is a smooth function of two distributions, that of normals and that of anomalies. To
first order its variance is that of the mean influence of the rows of each class (Hampel, Journal of
the American Statistical Association 69, 1974); for the AUROC these influences are DeLong's
placements. The interval is normal on the scale of log-odds, logit(A) -+ z sd / (A (1 - A)), so it
stays within [0, 1] and is skewed towards 1/2, as the distribution of a high A is. Its coverage near
1 is better than that of the plain interval (Qin and Hotilovac, Statistical Methods in Medical
Research 17, 2008), and for the area under the precision-recall curve better than that of a
bootstrap (Boyd, Eng and Page, ECML PKDD 2013). All in float64.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from jaxae.errors import UserError
from jaxae.stats.curve import Curve, placements, sweep
from jaxae.stats.intervals.bounds import PerMetric, Z, flawless, hopeless, is_one, is_zero
from jaxae.types import AnyArray


class Estimate(NamedTuple):
    """A metric and its variance over test sets."""

    value: float
    variance: float


def report(
    scores: Shaped[AnyArray, "..."], y: Shaped[AnyArray, "..."], is_anomaly: Shaped[AnyArray, "..."]
) -> dict[str, list[float] | None]:
    """95 % intervals for the metrics of the same names: {"auroc_interval": [low, high], ...}.

    They cover other test sets of the same size, for the same detector and its threshold, but not
    other seeds. A perfect value has the exact interval of `flawless`. With tens of anomalies the
    coverage is below 95 %, above all for an AUROC near 1. If all scores tie, or every row is
    flagged, there is no spread to estimate, and both ends are the value.

    Args:
      scores: [N], higher = more anomalous.
      y: [N], the truth, True = anomaly.
      is_anomaly: [N], what a detector decided.

    Returns:
      Ends in [0, 1]; None if a score is NaN or a class has fewer than 2 rows.

    Raises:
      UserError: truth or decisions are not bool, or the shapes differ.
    """
    scores, y, flagged = (np.asarray(a) for a in (scores, y, is_anomaly))
    names = [f"{name}_interval" for name in PerMetric._fields]
    if y.dtype != bool or flagged.dtype != bool or not scores.shape == y.shape == flagged.shape:
        shapes = ", ".join(f"{a.dtype} {list(a.shape)}" for a in (scores, y, flagged))
        raise UserError(f"scores, truth and decisions are {shapes}; give [N] numbers and two bool")
    n, m = int((~y).sum()), int(y.sum())
    if min(n, m) < 2 or np.isnan(scores).any():
        return dict.fromkeys(names)
    curve = sweep(scores, y)
    estimates = PerMetric(
        auroc(curve),
        average_precision(curve),
        f1(n, m, int(flagged[y].sum()), int(flagged[~y].sum())),
    )
    ends = map(interval, estimates, flawless(n, m), hopeless(n, m))
    return dict(zip(names, ends, strict=True))


def auroc(curve: Curve) -> Estimate:
    """The mean placement and its DeLong variance."""
    normals, anomalies = curve.normals, curve.anomalies
    below, above = placements(curve)
    value = float(np.sum(anomalies * below) / curve.tp[-1])
    return Estimate(value, _variance_of_mean(below, anomalies) + _variance_of_mean(above, normals))


def average_precision(curve: Curve) -> Estimate:
    """The mean over anomalies of the precision P = tp / (tp + fp) at the cut below each.

    A row above a cut moves its precision: an anomaly by fp / (tp + fp)^2, a normal by
    -tp / (tp + fp)^2. The influence of a row is the sum of this over all anomalies' cuts below it,
    plus, for an anomaly, its own precision.
    """
    normals, anomalies = curve.normals, curve.anomalies
    tp, fp, n, m = curve.tp[1:], curve.fp[1:], curve.fp[-1], curve.tp[-1]
    flagged = (tp + fp).astype(float)
    precision = tp / flagged
    by_anomaly = precision + _at_or_below(anomalies * fp / flagged**2)
    by_normal = -_at_or_below(anomalies * tp / flagged**2) * (n / m)
    value = float(np.sum(anomalies * precision) / m)
    variance = _variance_of_mean(by_anomaly, anomalies) + _variance_of_mean(by_normal, normals)
    return Estimate(value, variance)


def f1(n: int, m: int, hits: int, false: int) -> Estimate:
    """2 m r / (m r + n f + m) of a recall r = hits / m and a false-positive rate f = false / n.

    Both are shares of independent trials, r (1 - r) / m and f (1 - f) / n their variances.
    """
    r, f = hits / m, false / n
    whole = m * r + n * f + m
    by_r, by_f = 2 * m * (n * f + m) / whole**2, -2 * m * r * n / whole**2
    return Estimate(2 * m * r / whole, by_r**2 * r * (1 - r) / m + by_f**2 * f * (1 - f) / n)


def interval(estimate: Estimate, lowest: float, highest: float) -> list[float]:
    """[low, high] by log-odds; [lowest, 1] for a value of 1 and [0, highest] for a value of 0."""
    value, variance = estimate
    if is_one(value):
        return [lowest, 1.0]
    if is_zero(value):
        return [0.0, highest]
    reach = Z * math.sqrt(variance)
    log_odds, step = math.log(value / (1 - value)), reach / (value * (1 - value))
    return [(1 + math.tanh((log_odds + sign * step) / 2)) / 2 for sign in (-1, 1)]


def _at_or_below(values: Float[np.ndarray, " K"]) -> Float[np.ndarray, " K"]:
    """For each score, the sum over it and all lower ones."""
    return np.cumsum(values[::-1])[::-1]


def _variance_of_mean(values: Float[np.ndarray, " K"], counts: Int[np.ndarray, " K"]) -> float:
    """The variance of the mean of values, each repeated `counts` times; NaN for a single one."""
    size = counts.sum()
    if size < 2:
        return math.nan
    mean = np.sum(counts * values) / size
    return float(np.sum(counts * (values - mean) ** 2) / (size - 1) / size)
