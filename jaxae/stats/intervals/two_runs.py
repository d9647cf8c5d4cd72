"""Two runs on the same rows: DeLong's test of the AUROC, a paired bootstrap of the other metrics.

DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988), in O(N log N) by ranks after Sun and Xu,
IEEE Signal Processing Letters 21 (2014): closed form, no randomness.

The bootstrap resamples normals and anomalies separately, so that their numbers stay. Scores are
ranked once. A resample is a set of rows, its metrics are sums over the counts of both classes at
every rank: no resample is sorted. Resample i is drawn by key i, folded in: neither the number of
resamples nor how many are drawn at once changes it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import ndtr
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxae.errors import UserError
from jaxae.stats.intervals import bounds
from jaxae.stats.intervals.rows import Classes, Difference, Interval, PerMetric, by_class
from jaxae.types import AnyArray, Key

RESAMPLES = 2000
_TABLE = 2**17  # entries (resamples x runs x rows) that are counted at once: they stay in cache
_ROUNDING = 1e-6  # what metrics of equal value may differ by


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
    ties on both sides: p < .05 where the interval excludes 0, up to one resample (Davison and
    Hinkley, Bootstrap Methods and their Application, 1997, chapters 4 and 5). Of two perfect values
    the interval is that of `bounds.of_difference`.

    Args:
      scores: [2, N].
      y: [N] bool, the truth, True = anomaly.
      is_anomaly: [2, N] bool, decisions; they are kept, no threshold is fitted to resamples.
      key: `rng.stream(seed, Purpose.RESAMPLING)`, say.
      resamples: at least 40, so that some lie beyond both ends.

    Returns:
      A `Difference` of each metric.

    Raises:
      UserError: as in `rows.by_class`; decisions are not bool, or not one for each score.
    """
    flagged = np.asarray(is_anomaly)
    if flagged.shape != np.shape(scores) or flagged.dtype != bool or len(flagged) != 2:
        raise UserError(
            f"scores are {list(np.shape(scores))} and decisions {flagged.dtype} "
            f"{list(flagged.shape)}; give both of two runs, [2, N], and decisions as bool"
        )
    classes, y = by_class(scores, y), np.asarray(y)
    n, m = (part.shape[1] for part in classes)
    by_side = np.concatenate([flagged[:, ~y], flagged[:, y]], axis=1)
    drawn, values = resampled_and_measured(classes, jnp.asarray(by_side), key, resamples)
    low, high = bounds.flawless(n, m), bounds.hopeless(n, m)
    paired = map(paired_difference, drawn, values, low[1:], high[1:])
    return PerMetric(delong(classes), *paired)


@jax.jit
def delong(classes: Classes) -> Difference:
    """The AUROC of the first of two runs minus that of the second, by the placements of all rows.

    d -+ z sd and p = 2 Phi(-|d| / sd); var d = S10 / m + S01 / n, sample variances of the
    differences of the placements of m anomalies and n normals. Where neither run has spread, both
    AUROCs being 1 say, the interval is that of `bounds.of_difference`; p is 1 if they are equal,
    else NaN: the normal law says nothing there.
    """
    anomalies, normals = jax.vmap(placements)(*classes)
    one, other = jnp.mean(anomalies, axis=1)
    # The variance of the difference itself: the sum of variances and covariances loses digits.
    s10, s01 = (_mean_covariance(side[:1] - side[1:]) for side in (anomalies, normals))
    sd = jnp.sqrt((s10 + s01)[0, 0])
    value, reach = one - other, bounds.Z * sd
    interval = Interval(jnp.maximum(value - reach, -1), jnp.minimum(value + reach, 1))
    low = bounds.flawless(classes.normals.shape[1], classes.anomalies.shape[1]).auroc
    return Difference(
        value=value,
        interval=bounds.of_difference(interval, (one, other), low, 1 - low),
        p_value=jnp.where(
            sd > bounds.ROUNDING,
            2 * ndtr(-jnp.abs(value) / sd),
            jnp.where(jnp.abs(value) <= bounds.ROUNDING, 1, jnp.nan),
        ),
    )


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


def _mean_covariance(values: Float[Array, "R k"]) -> Float[Array, "R R"]:
    """Covariance of the means of R rows of k values."""
    centred = values - jnp.mean(values, axis=1, keepdims=True)
    k = values.shape[1]
    return jnp.matmul(centred, centred.T, precision="highest") / (k - 1) / k


@functools.partial(jax.jit, static_argnames="resamples")
def resampled_and_measured(
    classes: Classes, flagged: Bool[Array, "R N"], key: Key, resamples: int
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Average precision and F1 of resamples, each [B, R], and of the rows as they are, each [R]."""
    n = classes.normals.shape[1]
    rank = ranks(classes)
    drawn = resample(rank, flagged, key, n, resamples)
    return drawn, jax.vmap(measure, in_axes=(0, 0, None))(rank, flagged, n)


def ranks(classes: Classes) -> Int[Array, "R N"]:
    """Of each row of each run the number of rows with a higher score; normals come first.

    Equal scores have equal ranks.
    """
    # 0 - score and not its negation: there is one zero.
    lowered = 0.0 - jnp.concatenate(classes, axis=1)
    return jax.vmap(lambda row: jnp.searchsorted(jnp.sort(row), row))(lowered)


def draw(key: Key, n: int, m: int) -> Int[Array, " N"]:
    """Rows of one resample: n of the first n with replacement, and m of the m after them."""
    # Words modulo size favour some rows by less than size / 2^32, one part in 4,096 at most.
    words = jax.random.bits(key, (n + m,))
    return jnp.concatenate([words[:n] % n, words[n:] % m + n]).astype(jnp.int32)


def measure(
    rank: Int[Array, " N"], flagged: Bool[Array, " N"], n: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Average precision and F1, each in [0, 1], as `metrics` defines them.

    Args:
      rank: in [0, N), 0 = highest score; n normals first.
      flagged: decisions on the same rows.
      n: number of normals.
    """
    hits, false = jnp.sum(flagged[n:]), jnp.sum(flagged[:n])
    none = jnp.zeros(len(rank), jnp.int32)
    normals, anomalies = (none.at[part].add(1) for part in (rank[:n], rank[n:]))
    fp, tp = jnp.cumsum(normals), jnp.cumsum(anomalies)  # of the cut below each rank
    # Counted, not constant: XLA would multiply with 1 / m, and m * (1 / m) need not be 1.
    m = tp[-1]
    precision = tp / jnp.maximum(tp + fp, 1)
    return _total(anomalies * precision) / m, 2 * hits / (hits + false + m)


def _total(values: Float[Array, " N"]) -> Float[Array, ""]:
    """The sum, by parts of 1,024: rounding errors of a million values stay below 1e-6."""
    return jnp.sum(jnp.sum(jnp.pad(values, (0, -len(values) % 1024)).reshape(-1, 1024), axis=1))


def resample(
    rank: Int[Array, "R N"], flagged: Bool[Array, "R N"], key: Key, n: int, resamples: int
) -> tuple[Float[Array, "B R"], Float[Array, "B R"]]:
    """Average precision and F1 of R runs on the same B resampled rows."""
    m = rank.shape[1] - n

    def one(number: Array) -> tuple[Array, Array]:
        rows = draw(jax.random.fold_in(key, number), n, m)
        return jax.vmap(measure, in_axes=(0, 0, None))(rank[:, rows], flagged[:, rows], n)

    at_once = min(max(1, _TABLE // rank.size), resamples)
    # Whole batches only: a remainder would be compiled once more.
    numbers = jnp.arange(-(-resamples // at_once) * at_once)
    precision, f1 = jax.lax.map(one, numbers, batch_size=at_once)
    return precision[:resamples], f1[:resamples]


def paired_difference(
    drawn: Float[Array, "B 2"], values: Float[Array, " 2"], lowest: float, highest: float
) -> Difference:
    """First run minus second, from a metric of resamples and of the rows as they are.

    `lowest` and `highest` lie behind a value of 1 and of 0, see `bounds.of_difference`.
    """
    differences = drawn[:, 0] - drawn[:, 1]
    sides = jnp.sum(differences <= _ROUNDING), jnp.sum(differences >= -_ROUNDING)
    low, high = jnp.quantile(differences, jnp.array([bounds.TAIL, 1 - bounds.TAIL]), axis=0)
    return Difference(
        value=values[0] - values[1],
        interval=bounds.of_difference(Interval(low, high), (values[0], values[1]), lowest, highest),
        p_value=jnp.minimum(2 * (1 + jnp.minimum(*sides)) / (1 + len(differences)), 1),
    )
