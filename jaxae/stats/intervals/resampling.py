"""The bootstrap over rows: normals and anomalies are resampled apart, so that their numbers stay.

Scores are ranked once. A resample is a set of rows, its metrics are sums over the counts of both
classes at every rank: no resample is sorted. Resample i is drawn by key i, folded in: neither the
number of resamples nor how many are drawn at once changes it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxae.errors import UserError
from jaxae.stats.intervals import bounds
from jaxae.stats.intervals.rows import (
    Classes,
    Difference,
    Interval,
    PerMetric,
    by_class,
    check_confidence,
    decisions,
)
from jaxae.types import AnyArray, Key

RESAMPLES = 2000
_TABLE = 2**17  # entries (resamples x runs x rows) that are counted at once: they stay in cache
_ROUNDING = 1e-6  # what metrics of equal value may differ by


def bootstrap(
    scores: Shaped[AnyArray, "..."],
    y: Shaped[AnyArray, "..."],
    is_anomaly: Shaped[AnyArray, "..."],
    key: Key,
    *,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> PerMetric:
    """Percentile intervals of AUROC, average precision and F1, stratified by class.

    The middle share `confidence` of each metric over resamples (Efron and Tibshirani, An
    Introduction to the Bootstrap, 1993, chapter 13). A flawless value, which no resample can
    lower, has the exact interval of `flawless` instead. Close to that, and for average precision
    whenever there are only tens of anomalies, the intervals cover less often than stated; of an
    AUROC `delong` comes closer.

    Args:
      scores: [N].
      y: [N] bool, the truth, True = anomaly.
      is_anomaly: [N] bool, decisions; they are kept, no threshold is fitted to resamples.
      key: `rng.stream(seed, Purpose.RESAMPLING)`, say.
      resamples: at least 2 / (1 - confidence), so that some lie beyond both ends.
      confidence: in (0, 1).

    Returns:
      An `Interval` of each metric, [] in [0, 1].

    Raises:
      UserError: as in `rows.by_class`, for decisions that do not match the scores, or for numbers
        outside of what is said above.
    """
    _check(scores, is_anomaly, resamples, confidence)
    classes = by_class(scores, y, "one")
    *_, intervals = of_runs(classes, decisions(is_anomaly, y), key, resamples, confidence)
    return jax.tree.map(lambda end: end[0], intervals)


def compare(
    scores: Shaped[AnyArray, "..."],
    y: Shaped[AnyArray, "..."],
    is_anomaly: Shaped[AnyArray, "..."],
    key: Key,
    *,
    resamples: int = RESAMPLES,
    confidence: float = 0.95,
) -> PerMetric:
    """Metrics of the first run minus those of the second, on the same rows in every resample.

    The percentile interval of the difference, and twice the smaller share of resamples on either
    side of no difference, (1 + count) / (1 + resamples), ties on both sides: p < 1 - confidence
    where the interval excludes 0, up to one resample (Davison and Hinkley, Bootstrap Methods and
    their Application, 1997, chapters 4 and 5). Of two flawless values the interval is that of
    `bounds.of_difference`.

    Args:
      scores: [2, N].
      y: [N] bool, the truth, True = anomaly.
      is_anomaly: [2, N] bool, decisions.
      key: as for `bootstrap`; the other arguments too.
      resamples: at least 2 / (1 - confidence).
      confidence: in (0, 1).

    Returns:
      A `Difference` of each metric.

    Raises:
      UserError: as `bootstrap`.
    """
    _check(scores, is_anomaly, resamples, confidence)
    classes = by_class(scores, y, "two")
    flagged = decisions(is_anomaly, y)
    drawn, values, intervals = of_runs(classes, flagged, key, resamples, confidence)
    differences = map(functools.partial(_difference, confidence), drawn, values, intervals)
    return PerMetric(*differences)


def _check(scores: AnyArray, is_anomaly: AnyArray, resamples: int, confidence: float) -> None:
    if np.shape(is_anomaly) != np.shape(scores):
        raise UserError(
            f"scores are {list(np.shape(scores))} and decisions {list(np.shape(is_anomaly))}; give "
            "one decision for each score"
        )
    check_resamples(resamples, confidence)


def check_resamples(resamples: int, confidence: float) -> None:
    """A `UserError` unless both are in range and some resamples lie beyond both ends."""
    check_confidence(confidence)
    least = int(np.ceil(2 / (1 - confidence) - 1e-9))
    if resamples < least:
        raise UserError(
            f"{resamples} resamples are too few for {confidence:g}; give at least {least}"
        )


def ranks(classes: Classes) -> Int[Array, "R N"]:
    """Of each row of each run the number of rows with a higher score; normals come first.

    Equal scores have equal ranks.
    """
    # 0 - score and not its negation: there is one zero.
    lowered = 0.0 - jnp.concatenate(classes, axis=1)
    return jax.vmap(lambda row: jnp.searchsorted(jnp.sort(row), row))(lowered)


def draw(key: Key, n: int, m: int) -> Int[Array, " N"]:
    """Rows of one resample: n of the first n with replacement, and m of the m after them."""
    # Words modulo size favour some rows by less than size / 2^32, a part in 4,096 at most.
    words = jax.random.bits(key, (n + m,))
    return jnp.concatenate([words[:n] % n, words[n:] % m + n]).astype(jnp.int32)


def measure(rank: Int[Array, " N"], flagged: Bool[Array, " N"], n: int) -> PerMetric:
    """AUROC, average precision and F1, each [] in [0, 1], as `metrics` defines them.

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
    count, m = fp[-1], tp[-1]
    beaten = (2 * (count - fp) + normals) / (2 * count)
    precision = tp / jnp.maximum(tp + fp, 1)
    return PerMetric(
        auroc=_total(anomalies * beaten) / m,
        average_precision=_total(anomalies * precision) / m,
        f1=2 * hits / (hits + false + m),
    )


def _total(values: Float[Array, " N"]) -> Float[Array, ""]:
    """The sum, by parts of 1,024: rounding errors of a million values stay below 1e-6."""
    return jnp.sum(jnp.sum(jnp.pad(values, (0, -len(values) % 1024)).reshape(-1, 1024), axis=1))


def resample(
    rank: Int[Array, "R N"], flagged: Bool[Array, "R N"], key: Key, n: int, resamples: int
) -> PerMetric:
    """Metrics of R runs on the same resampled rows, each [resamples, R]."""
    m = rank.shape[1] - n

    def one(number: Array) -> PerMetric:
        rows = draw(jax.random.fold_in(key, number), n, m)
        return jax.vmap(measure, in_axes=(0, 0, None))(rank[:, rows], flagged[:, rows], n)

    at_once = min(max(1, _TABLE // rank.size), resamples)
    # Whole batches only: a remainder would be compiled once more.
    numbers = jnp.arange(-(-resamples // at_once) * at_once)
    found = jax.lax.map(one, numbers, batch_size=at_once)
    return jax.tree.map(lambda values: values[:resamples], found)


def percentile(values: Float[Array, "B ..."], confidence: float) -> Interval:
    """The middle share `confidence` of values over their first axis."""
    tail = (1 - confidence) / 2
    low, high = jnp.quantile(values, jnp.array([tail, 1 - tail]), axis=0)
    return Interval(low, high)


@functools.partial(jax.jit, static_argnames=("resamples", "confidence"))
def of_runs(
    classes: Classes, flagged: Array, key: Key, resamples: int, confidence: float
) -> tuple[PerMetric, PerMetric, PerMetric]:
    """Metrics of resamples [B, R], metrics of the rows as they are [R], and their intervals [R]."""
    n, m = (part.shape[1] for part in classes)
    rank = ranks(classes)
    drawn = resample(rank, flagged, key, n, resamples)
    values = jax.vmap(measure, in_axes=(0, 0, None))(rank, flagged, n)
    intervals = PerMetric(*(percentile(of, confidence) for of in drawn))
    return drawn, values, bounds.of_metrics(intervals, values, n, m, confidence)


def _difference(
    confidence: float, drawn: Float[Array, "B 2"], values: Float[Array, " 2"], single: Interval
) -> Difference:
    apart = drawn[:, 0] - drawn[:, 1]
    sides = jnp.sum(apart <= _ROUNDING), jnp.sum(apart >= -_ROUNDING)
    of_one, of_other = (Interval(single.low[run], single.high[run]) for run in (0, 1))
    return Difference(
        value=values[0] - values[1],
        interval=bounds.of_difference(
            percentile(apart, confidence), (values[0], values[1]), (of_one, of_other)
        ),
        p_value=jnp.minimum(2 * (1 + jnp.minimum(*sides)) / (1 + len(apart)), 1),
    )
