"""Detection metrics on the device: jitted, mappable with `jax.vmap`, exact where scores tie.

Conventions: `scores` [N] are compared in float32, higher = more anomalous; `y` [N] is True for
anomalies, the positive class. NaN comes out when a score is NaN, or when a class that the metric
needs has no rows.

Precision: counts are int32 and the pair count of the AUROC is added up exactly in three words of
every block of rows, so that results stay within about 1e-6 of scikit-learn's float64.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxae.errors import UserError
from jaxae.types import AnyArray

MAX_ROWS = 2**30 - 1  # beyond it counts could leave int32
_BLOCK, _WORD = 2**20, 10  # rows whose words, of so many bits, add up within int32


class Confusion(NamedTuple):
    """What a threshold does, anomalies being positive; every field is [] in [0, 1]."""

    accuracy: Array
    precision: Array  # 0 when nothing is flagged
    recall: Array
    f1: Array
    fpr: Array  # share of normal rows that are flagged


class NormalPositive(NamedTuple):
    """The same decisions with normal rows as the positive class; every field is [] in [0, 1]."""

    precision: Array  # 0 when everything is flagged
    recall: Array


class EqualError(NamedTuple):
    """The operating point whose two error rates are closest to each other."""

    threshold: Array  # scores strictly above it are flagged
    f1: Array


class Cuts(NamedTuple):
    """Cut j flags the j highest scores, j = 0 ... N; it is real where it splits no tie."""

    threshold: Array  # [N+1] the highest score that cut j leaves unflagged; -inf for j = N
    tp: Array  # [N+1] int32
    fp: Array  # [N+1] int32
    real: Array  # [N+1] bool
    positive: Array  # [N] bool, y by descending score


def cuts(scores: Float[AnyArray, " N"], y: Bool[AnyArray, " N"]) -> Cuts:
    """Every decision that a threshold can make, with what it flags; scores must not be NaN.

    Raises:
      UserError: there are 2**30 rows or more.
    """
    if scores.shape[0] > MAX_ROWS:
        raise UserError(f"{scores.shape[0]} scores; metrics count at most {MAX_ROWS}, take fewer")
    scores, y = jnp.asarray(scores, jnp.float32), jnp.asarray(y, bool)
    # Ties are ordered by truth, so that no result depends on the order of the rows.
    negated, positive = jax.lax.sort((-scores, y), num_keys=2)
    ordered = -negated
    edge = jnp.ones(1, bool)
    return Cuts(
        threshold=jnp.append(ordered, -jnp.inf),
        tp=_counts(positive),
        fp=_counts(~positive),
        real=jnp.concatenate([edge, ordered[1:] != ordered[:-1], edge])[: len(ordered) + 1],
        positive=positive,
    )


def _counts(flags: Array) -> Array:
    """Cumulative counts with a leading 0: [N] bool -> [N+1] int32."""
    return jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(flags, dtype=jnp.int32)])


def _at_group_start(counts: Array, real: Array) -> Array:
    """For each row, the count at the last real cut before it: [N+1] -> [N]."""
    return jax.lax.cummax(jnp.where(real, counts, 0))[:-1]


def _at_group_end(counts: Array, real: Array) -> Array:
    """For each row, the count at the first real cut that includes it: [N+1] -> [N]."""
    return jax.lax.cummin(jnp.where(real, counts, jnp.iinfo(jnp.int32).max), reverse=True)[1:]


def _pairwise_sum(values: Array) -> Array:
    """Sum by halves: the rounding error grows with log N instead of N."""
    values = jnp.pad(values, (0, (1 << max(len(values) - 1, 0).bit_length()) - len(values)))
    while len(values) > 1:
        values = values[: len(values) // 2] + values[len(values) // 2 :]
    return values[0]


def _mean_of_counts(counts: Array, n: Array) -> Array:
    """The sum of int32 counts [N] over n, though the sum itself would not fit int32."""
    size = min(_BLOCK, max(len(counts), 1))
    blocks = jnp.pad(counts, (0, -len(counts) % size)).reshape(-1, size)
    mask = (1 << _WORD) - 1

    def mean(words: Array) -> Array:
        whole, rest = jnp.divmod(words.sum(axis=1), jnp.maximum(n, 1))  # no rounding of equal ones
        return whole.sum() + _pairwise_sum(rest / n)

    low, middle, high = blocks & mask, (blocks >> _WORD) & mask, blocks >> (2 * _WORD)
    return mean(low) + mean(middle) * 2.0**_WORD + mean(high) * 4.0**_WORD


def _unless(undefined: Array, value: Array) -> Array:
    return jnp.where(undefined, jnp.nan, value)


def _ratio(part: Array, whole: Array) -> Array:
    """A share, part / whole; 0 where the whole is 0."""
    return jnp.where(whole > 0, part / jnp.maximum(whole, 1), 0.0)


@jax.jit
def auroc(scores: Float[AnyArray, " N"], y: Bool[AnyArray, " N"]) -> Array:
    """Area under the ROC curve: P(anomaly scores above normal) + P(they tie) / 2.

    The Mann-Whitney form, equal to `sklearn.metrics.roc_auc_score`, ties included.

    Args:
      scores: of fewer than 2**30 rows.
      y: the truth, True = anomaly.

    Returns:
      [] in [0, 1]; NaN with a NaN score or an empty class.

    Raises:
      UserError: there are 2**30 rows or more.
    """
    sweep = cuts(scores, y)
    anomalies, normals = sweep.tp[-1], sweep.fp[-1]
    # For each anomaly: normals strictly below it + normals at or below it = twice its wins.
    wins = (normals - _at_group_end(sweep.fp, sweep.real)) + (
        normals - _at_group_start(sweep.fp, sweep.real)
    )
    area = _mean_of_counts(jnp.where(sweep.positive, wins, 0), anomalies) / (2 * normals)
    area = jnp.minimum(area, 1.0)
    return _unless((anomalies == 0) | (normals == 0) | jnp.isnan(scores).any(), area)


@jax.jit
def average_precision(scores: Float[AnyArray, " N"], y: Bool[AnyArray, " N"]) -> Array:
    """Average precision: sum over cuts of (recall step) * precision, without interpolation.

    Equal to `sklearn.metrics.average_precision_score`.

    Args:
      scores: of fewer than 2**30 rows.
      y: the truth, True = anomaly.

    Returns:
      [] in [0, 1]; NaN with a NaN score or without anomalies.

    Raises:
      UserError: there are 2**30 rows or more.
    """
    sweep = cuts(scores, y)
    anomalies = sweep.tp[-1]
    # Every anomaly adds a recall step of 1 / anomalies, at the precision of its group's cut.
    flagged = _at_group_end(sweep.tp + sweep.fp, sweep.real)
    precision = _at_group_end(sweep.tp, sweep.real) / flagged
    area = _pairwise_sum(jnp.where(sweep.positive, precision, 0.0)) / anomalies
    return _unless((anomalies == 0) | jnp.isnan(scores).any(), area)


def _decisions(is_anomaly: Array, y: Array) -> tuple[Array, Array, Array, Array]:
    """Counts (tp, fp, fn, tn), each [] int32, of decisions."""
    flagged, y = jnp.asarray(is_anomaly, bool), jnp.asarray(y, bool)
    pairs = ((flagged, y), (flagged, ~y), (~flagged, y), (~flagged, ~y))
    tp, fp, fn, tn = (jnp.sum(a & b, dtype=jnp.int32) for a, b in pairs)
    return tp, fp, fn, tn


@jax.jit
def confusion(is_anomaly: Bool[AnyArray, " N"], y: Bool[AnyArray, " N"]) -> Confusion:
    """Accuracy, precision, recall, F1 and false-positive rate of decisions.

    Args:
      is_anomaly: the decisions.
      y: the truth, True = anomaly.

    Returns:
      Each [] in [0, 1]. Precision is 0 when nothing is flagged. Recall and F1 are NaN without
      anomalies, the false-positive rate without normals.
    """
    tp, fp, fn, tn = _decisions(is_anomaly, y)
    anomalies, normals = tp + fn, fp + tn
    return Confusion(
        accuracy=_unless(anomalies + normals == 0, _ratio(tp + tn, anomalies + normals)),
        precision=_ratio(tp, tp + fp),
        recall=_unless(anomalies == 0, _ratio(tp, anomalies)),
        f1=_unless(anomalies == 0, _ratio(2 * tp, 2 * tp + fp + fn)),
        fpr=_unless(normals == 0, _ratio(fp, normals)),
    )


@jax.jit
def normal_as_positive(is_anomaly: Bool[AnyArray, " N"], y: Bool[AnyArray, " N"]) -> NormalPositive:
    """Precision and recall of the same decisions when *normal* counts as positive.

    Some tutorials report them so; the accuracy is the same either way.

    Args:
      is_anomaly: the decisions.
      y: the truth, True = anomaly, as everywhere.

    Returns:
      Each [] in [0, 1]. Precision is 0 when everything is flagged, recall NaN without normals.
    """
    _, fp, fn, tn = _decisions(is_anomaly, y)
    return NormalPositive(
        precision=_ratio(tn, tn + fn),
        recall=_unless(fp + tn == 0, _ratio(tn, tn + fp)),
    )


@jax.jit
def fpr_at_tpr(
    scores: Float[AnyArray, " N"], y: Bool[AnyArray, " N"], tpr: Array | float = 0.95
) -> Array:
    """The smallest false-positive rate at which at least the share `tpr` of anomalies is flagged.

    Args:
      scores: of fewer than 2**30 rows.
      y: the truth, True = anomaly.
      tpr: the recall asked for, in (0, 1].

    Returns:
      [] in [0, 1]; NaN with a NaN score or an empty class.

    Raises:
      UserError: there are 2**30 rows or more.
    """
    sweep = cuts(scores, y)
    anomalies, normals = sweep.tp[-1], sweep.fp[-1]
    # In whole anomalies; two roundings of slack keep .95 of 20 at 19.
    needed = jnp.ceil(anomalies * tpr * (1 - 2 * jnp.finfo(jnp.float32).eps))
    first = jnp.argmax(sweep.real & (sweep.tp >= needed))
    bad = (anomalies == 0) | (normals == 0) | jnp.isnan(scores).any()
    return _unless(bad, sweep.fp[first] / normals)


@jax.jit
def equal_error(scores: Float[AnyArray, " N"], y: Bool[AnyArray, " N"]) -> EqualError:
    """The point of the ROC curve where false-positive and false-negative rate are closest.

    All distinct scores are tried as cuts, and flagging nothing. The threshold is the highest score
    that stays unflagged, so that `score > threshold` flags exactly what scikit-learn's
    `score >= t` does at its threshold t; it is -inf when the best cut flags every row.

    Args:
      scores: of fewer than 2**30 rows.
      y: the truth, True = anomaly.

    Returns:
      The threshold and the F1 there; NaN with a NaN score or an empty class.

    Raises:
      UserError: there are 2**30 rows or more.
    """
    sweep = cuts(scores, y)
    anomalies, normals = sweep.tp[-1], sweep.fp[-1]
    fpr, fnr = sweep.fp / normals, (anomalies - sweep.tp) / anomalies
    best = jnp.argmin(jnp.where(sweep.real, jnp.abs(fpr - fnr), jnp.inf))
    bad = (anomalies == 0) | (normals == 0) | jnp.isnan(scores).any()
    return EqualError(
        threshold=_unless(bad, sweep.threshold[best]),
        f1=_unless(bad, _f1_of_cuts(sweep)[best]),
    )


@jax.jit
def best_f1(scores: Float[AnyArray, " N"], y: Bool[AnyArray, " N"]) -> Array:
    """The largest F1 over all thresholds: an oracle, since it is chosen with the truth.

    Args:
      scores: of fewer than 2**30 rows.
      y: the truth, True = anomaly.

    Returns:
      [] in [0, 1]; NaN with a NaN score or without anomalies.

    Raises:
      UserError: there are 2**30 rows or more.
    """
    sweep = cuts(scores, y)
    bad = (sweep.tp[-1] == 0) | jnp.isnan(scores).any()
    return _unless(bad, jnp.max(jnp.where(sweep.real, _f1_of_cuts(sweep), 0.0)))


def _f1_of_cuts(sweep: Cuts) -> Array:
    """F1 = 2 tp / (flagged + anomalies) of every cut: [N+1]."""
    return _ratio(2 * sweep.tp, sweep.tp + sweep.fp + sweep.tp[-1])
