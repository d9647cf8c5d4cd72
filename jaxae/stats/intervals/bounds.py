"""What may lie behind a result without a flaw, where resampling finds no spread.

An AUROC of 1 on m anomalies stays 1 in every resample, and its DeLong variance is 0: [1, 1] says
that nothing can ever go wrong. Exact bounds take the place of such an interval, as Clopper and
Pearson's (Biometrika 26, 1934) do for a share of which all trials succeeded: the smallest value
under which a flawless result still has probability (1 - confidence) / 2. They assume nothing about
the distributions, unlike bounds that model the variance (Newcombe, Statistics in Medicine 25,
2006), which are narrower and fail where a few anomalies are of a kind that is never detected.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxae.stats.intervals.rows import Interval, PerMetric

ROUNDING = 2**-22  # of a share in float32


def flawless(n: int, m: int, confidence: float = 0.95) -> PerMetric:
    """The lowest AUROC, average precision and F1 behind a flawless result.

    With a = (1 - confidence) / 2:

    AUROC: split rows into k = min(n, m) pairs that share none. Each is in order with probability
    AUROC at most, so all are with AUROC^k at most: AUROC >= a^(1/k). The bound is attained where a
    share of the smaller class lies beyond all of the other.

    F1: of the anomalies at least r = (a/2)^(1/m) are flagged, of the normals at most
    f = 1 - (a/2)^(1/n), both at once with probability 1 - a (Clopper and Pearson, Bonferroni):
    F1 >= 2 m r / (m r + n f + m).

    Average precision: the same r and f hold at the cut above the highest normal (Wilks, Annals of
    Mathematical Statistics 12, 1941: the share of a distribution beyond an extreme of a sample).
    At worst the normals above it are above all anomalies, so that precision at recall t is
    t / (t + c) with c = f n / m, and the area >= integral from 0 to r = r - c log(1 + r / c).

    Args:
      n: number of normals.
      m: number of anomalies.
      confidence: in (0, 1).

    Returns:
      Floats in (0, 1), which go to 1 as both classes grow.
    """
    tail = (1 - confidence) / 2
    r, f = (tail / 2) ** (1 / m), 1 - (tail / 2) ** (1 / n)
    c = f * n / m
    return PerMetric(
        auroc=tail ** (1 / min(n, m)),
        average_precision=r - c * math.log1p(r / c),
        f1=2 * m * r / (m * r + n * f + m),
    )


def hopeless(m: int, confidence: float = 0.95) -> float:
    """The highest F1 behind one of 0.

    Of m anomalies none was flagged, so that at most r = 1 - ((1 - confidence) / 2)^(1/m) are; at
    best no normal is: F1 <= 2 r / (r + 1).
    """
    r = 1 - ((1 - confidence) / 2) ** (1 / m)
    return 2 * r / (r + 1)


def instead(
    interval: Interval, value: Float[Array, "*R"], lowest: float = 1.0, highest: float = 0.0
) -> Interval:
    """The interval, but [lowest, 1] around a value of 1 and [0, highest] around one of 0."""
    best, worst = _is(value, 1), _is(value, 0)
    return Interval(
        jnp.where(best, lowest, jnp.where(worst, 0.0, interval.low)),
        jnp.where(best, 1.0, jnp.where(worst, highest, interval.high)),
    )


def _is(value: Float[Array, "*R"], edge: int) -> Bool[Array, "*R"]:
    """Whether a share is 0 or 1, but for rounding: compiled, m / m need not be 1."""
    return jnp.abs(value - edge) <= ROUNDING


def of_metrics(
    intervals: PerMetric, values: PerMetric, n: int, m: int, confidence: float
) -> PerMetric:
    """Intervals of all metrics, with the exact ones in place of those without width."""
    low = flawless(n, m, confidence)
    return PerMetric(
        # All anomalies below all normals: the mirror image.
        auroc=instead(intervals.auroc, values.auroc, low.auroc, 1 - low.auroc),
        average_precision=instead(
            intervals.average_precision, values.average_precision, low.average_precision
        ),
        f1=instead(intervals.f1, values.f1, low.f1, hopeless(m, confidence)),
    )


def of_difference(
    interval: Interval, values: tuple[Array, Array], single: tuple[Interval, Interval]
) -> Interval:
    """The interval of a difference, from those of its parts where neither part has spread.

    Newcombe's square-and-add rule (Statistics in Medicine 17, 1998, method 10; Zou and Donner,
    Statistics in Medicine 27, 2008): below by the root of (one - its low)^2 + (other's high -
    other)^2, above by that of the two other distances.
    """
    (one, other), (of_one, of_other) = values, single
    below = jnp.hypot(one - of_one.low, of_other.high - other)
    above = jnp.hypot(of_one.high - one, other - of_other.low)
    rigid = (_is(one, 0) | _is(one, 1)) & (_is(other, 0) | _is(other, 1))
    return Interval(
        jnp.where(rigid, jnp.maximum(one - other - below, -1), interval.low),
        jnp.where(rigid, jnp.minimum(one - other + above, 1), interval.high),
    )
