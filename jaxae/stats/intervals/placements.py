"""DeLong's variance of AUROCs: closed form, no randomness.

DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988); in O(N log N) by ranks after Sun and Xu,
IEEE Signal Processing Letters 21 (2014).
"""

import functools
from statistics import NormalDist

import jax
import jax.numpy as jnp
from jax.scipy.special import expit, logit, ndtr
from jaxtyping import Array, Float, Shaped

from jaxae.stats.intervals import bounds
from jaxae.stats.intervals.bounds import flawless, instead, of_difference
from jaxae.stats.intervals.rows import Classes, Difference, Interval, by_class, check_confidence
from jaxae.types import AnyArray


def delong(
    scores: Shaped[AnyArray, "..."], y: Shaped[AnyArray, "..."], confidence: float = 0.95
) -> Interval:
    """Interval of one AUROC: normal on the scale of log-odds, with DeLong's variance.

    logit(A) -+ z sd / (A (1 - A)), so that it stays within [0, 1] and leans towards 1/2 as the
    distribution of a high A does; of the closed forms that Qin and Hotilovac compare (Statistical
    Methods in Medical Research 17, 2008) the logit covers better than the plain one near 1. At 1
    and 0 it is that of `flawless`.

    Args:
      scores: [N].
      y: [N] bool, the truth, True = anomaly.
      confidence: in (0, 1).

    Raises:
      UserError: as in `rows.by_class`, or for a confidence outside (0, 1).
    """
    check_confidence(confidence)
    classes = by_class(scores, y, "one")
    return _interval(Classes(classes.normals[0], classes.anomalies[0]), confidence)


def delong_covariance(
    scores: Shaped[AnyArray, "..."], y: Shaped[AnyArray, "..."]
) -> Float[Array, "R R"]:
    """Covariance of the AUROCs of R runs on the same rows; variances are on its diagonal.

    S10 / m + S01 / n, sample covariances of the placements of m anomalies and n normals (DeLong et
    al.).

    Args:
      scores: [R, N].
      y: [N] bool, the truth, True = anomaly.

    Raises:
      UserError: as in `rows.by_class`.
    """
    return covariance(*jax.vmap(placements)(*by_class(scores, y, "any number of")))


def delong_difference(
    scores: Shaped[AnyArray, "..."], y: Shaped[AnyArray, "..."], confidence: float = 0.95
) -> Difference:
    """The AUROC of the first run minus that of the second on the same rows.

    d -+ z sd and p = 2 Phi(-|d| / sd), with var d = c11 + c22 - 2 c12 of `delong_covariance`. Where
    neither run has spread, both AUROCs being 1 say, the interval is that of `flawless`; p is 1 if
    they are equal, else NaN: the normal law says nothing there.

    Args:
      scores: [2, N].
      y: [N] bool, the truth, True = anomaly.
      confidence: in (0, 1).

    Raises:
      UserError: as in `rows.by_class`, or for a confidence outside (0, 1).
    """
    check_confidence(confidence)
    return _difference(by_class(scores, y, "two"), confidence)


def placements(
    normals: Float[Array, " n"], anomalies: Float[Array, " m"]
) -> tuple[Float[Array, " m"], Float[Array, " n"]]:
    """Where rows stand in the other class; both average to the AUROC.

    Returns:
      For each anomaly the share of normals below it, for each normal the share of anomalies above
      it, in [0, 1]; a tie counts half.
    """
    return _share_below(anomalies, normals), 1 - _share_below(normals, anomalies)


def _share_below(values: Float[Array, " a"], others: Float[Array, " b"]) -> Float[Array, " a"]:
    ordered = jnp.sort(others)
    below, up_to = (jnp.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return (below + up_to) / (2 * len(others))


def covariance(anomalies: Float[Array, "R m"], normals: Float[Array, "R n"]) -> Float[Array, "R R"]:
    """Covariance of AUROCs [R, R] from the placements of both classes."""
    return of_mean(anomalies) + of_mean(normals)


def of_mean(values: Float[Array, "R k"]) -> Float[Array, "R R"]:
    """Covariance of the means of R rows of k placements."""
    centred = values - jnp.mean(values, axis=1, keepdims=True)
    k = values.shape[1]
    return jnp.matmul(centred, centred.T, precision="highest") / (k - 1) / k


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


@functools.partial(jax.jit, static_argnames="confidence")
def _interval(classes: Classes, confidence: float) -> Interval:
    """The logit interval of one run, [n] and [m]."""
    anomalies, normals = placements(*classes)
    area = jnp.mean(anomalies)
    sd = jnp.sqrt(covariance(anomalies[None], normals[None])[0, 0])
    reach = _z(confidence) * sd / (area * (1 - area))
    low = flawless(len(normals), len(anomalies), confidence).auroc
    interval = Interval(expit(logit(area) - reach), expit(logit(area) + reach))
    return instead(interval, area, low, 1 - low)


@functools.partial(jax.jit, static_argnames="confidence")
def _difference(classes: Classes, confidence: float) -> Difference:
    anomalies, normals = jax.vmap(placements)(*classes)
    one, other = jnp.mean(anomalies, axis=1)
    # The variance of the difference itself: that of c11 + c22 - 2 c12 loses digits.
    apart = (placed[:1] - placed[1:] for placed in (anomalies, normals))
    sd = jnp.sqrt(covariance(*apart)[0, 0])
    value, reach = one - other, _z(confidence) * sd
    interval = Interval(jnp.maximum(value - reach, -1), jnp.minimum(value + reach, 1))
    single = [_interval(Classes(n, a), confidence) for n, a in zip(*classes, strict=True)]
    return Difference(
        value=value,
        interval=of_difference(interval, (one, other), (single[0], single[1])),
        p_value=jnp.where(
            sd > bounds.ROUNDING,
            2 * ndtr(-jnp.abs(value) / sd),
            jnp.where(jnp.abs(value) <= bounds.ROUNDING, 1, jnp.nan),
        ),
    )
