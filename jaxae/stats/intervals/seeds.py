"""Spread over seeds and spread over rows, apart and together."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, expit, logit
from jaxtyping import Array, Float, Shaped

from jaxae.stats.intervals import bounds
from jaxae.stats.intervals.placements import of_mean, placements
from jaxae.stats.intervals.resampling import RESAMPLES, check_resamples, percentile, ranks, resample
from jaxae.stats.intervals.rows import Classes, Interval, by_class
from jaxae.types import AnyArray, Key


class Spread(NamedTuple):
    """The AUROC over S seeds; what needs several seeds is NaN for one."""

    mean: Array
    seeds_std: Array  # of one seed's AUROC on these rows: sample standard deviation, ddof 1
    over_seeds: Interval  # of the mean over seeds, for these rows: other seeds
    over_rows: Interval  # of the mean over seeds, for these seeds: other rows
    over_both: Interval  # of the mean over seeds: other seeds and other rows


def spread(
    scores: Shaped[AnyArray, "..."],
    y: Shaped[AnyArray, "..."],
    key: Key,
    *,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> Spread:
    """How the mean AUROC over seeds would change with other seeds, other rows, or both.

    over_seeds: mean -+ t(S - 1) std / sqrt(S), cut to [0, 1]. over_rows: percentiles of the mean
    over seeds when rows are resampled by class, the same for all seeds. over_both: the variances of
    the mean over seeds, std^2 / S, and over rows, DeLong's with placements averaged over seeds,
    are added; t has the degrees of freedom of Satterthwaite (Biometrics Bulletin 2, 1946), and the
    interval is that of log-odds, as in `delong`. What rows do to one seed and not to others counts
    in both variances: the sum errs to the safe side, as Owen (Annals of Applied Statistics 1, 2007)
    finds of resampling seeds and rows together. That one is not used, because a few seeds resampled
    show (S - 1) / S of their variance, and percentiles know no t.

    Where every seed is flawless on the rows, the intervals that other rows enter are those of
    `bounds.flawless`: all seeds are so at most as often as the worst of them.

    Args:
      scores: [S, N] of S seeds on the same rows.
      y: [N] bool, the truth, True = anomaly.
      key: `rng.stream(seed, Purpose.RESAMPLING)`, say.
      resamples: at least 2 / (1 - confidence).
      confidence: in (0, 1).

    Raises:
      UserError: as in `rows.by_class`, or for numbers outside of what is said above.
    """
    check_resamples(resamples, confidence)
    return of_seeds(by_class(scores, y, "any number of"), key, resamples, confidence)


@functools.partial(jax.jit, static_argnames=("resamples", "confidence"))
def of_seeds(classes: Classes, key: Key, resamples: int, confidence: float) -> Spread:
    """`spread` of scores by class."""
    n, m = (part.shape[1] for part in classes)
    anomalies, normals = jax.vmap(placements)(*classes)
    areas = jnp.mean(anomalies, axis=1)
    count, mean = len(areas), jnp.mean(areas)
    std = jnp.std(areas, ddof=1) if count > 1 else jnp.nan * mean
    of_rows = [of_mean(jnp.mean(part, axis=0)[None])[0, 0] for part in (anomalies, normals)]

    degrees = max(count - 1, 1)  # of one seed the spread is NaN already
    reach = student(confidence, jnp.float32(degrees)) * std / jnp.sqrt(count)
    over_seeds = Interval(jnp.maximum(mean - reach, 0), jnp.minimum(mean + reach, 1))

    rank = ranks(classes)
    drawn = resample(rank, jnp.zeros(rank.shape, bool), key, n, resamples).auroc
    over_rows = percentile(jnp.mean(drawn, axis=1), confidence)

    over_both = _together(
        mean,
        jnp.stack([std**2 / count, *of_rows]),
        jnp.array([degrees, m - 1.0, n - 1.0]),
        confidence,
    )
    low = bounds.flawless(n, m, confidence).auroc
    over_rows, over_both = (
        bounds.instead(interval, mean, low, 1 - low) for interval in (over_rows, over_both)
    )
    if count == 1:
        over_both = jax.tree.map(lambda end: jnp.nan * end, over_both)
    return Spread(mean, std, over_seeds, over_rows, over_both)


def _together(
    mean: Array, variances: Float[Array, " K"], degrees: Float[Array, " K"], confidence: float
) -> Interval:
    """The logit interval of a mean in (0, 1), from independent parts of its variance."""
    total = jnp.sum(variances)
    shared = total**2 / jnp.sum(variances**2 / degrees)
    shared = jnp.where(total > 0, shared, 1.0)
    reach = student(confidence, shared) * jnp.sqrt(total) / (mean * (1 - mean))
    return Interval(expit(logit(mean) - reach), expit(logit(mean) + reach))


def student(confidence: float, degrees: Float[Array, ""]) -> Array:
    """Student's t that is exceeded, in size, with probability 1 - confidence.

    P(|T| <= t) = I_s(1/2, degrees / 2) with s = t^2 / (degrees + t^2), solved for s by halving.
    """

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        short = betainc(0.5, degrees / 2, middle) < confidence
        return jnp.where(short, middle, low), jnp.where(short, high, middle)

    # Beyond it the incomplete beta function loses digits in float32, and t is normal to .2 %.
    degrees = jnp.minimum(degrees, 1000)
    zero = jnp.zeros_like(degrees)
    s, _ = jax.lax.fori_loop(0, 40, halve, (zero, zero + 1))
    return jnp.sqrt(degrees * s / (1 - s))
