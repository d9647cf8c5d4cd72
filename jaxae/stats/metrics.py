"""Detection metrics on the host, exact even if scores tie.

Conventions: `scores` [N] are compared in float32, higher = more anomalous; `y` [N] is the truth,
True for anomalies, the positive class; `is_anomaly` [N] are decisions. Metrics are in [0, 1], and
NaN if a score is NaN or if a class that the metric needs has no rows.

Precision: counts are whole numbers, and metrics are computed from them in float32, within about
1e-6 of scikit-learn's float64. The order of operations is fixed, so that a report is the same to
the last bit in every version.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxae.stats.curve import Curve, sweep
from jaxae.types import AnyArray

_BLOCK, _WORD = 2**20, 10  # the AUROC is summed in blocks of 2^20 rows and words of 10 bits
_NAN = np.float32(np.nan)


class Confusion(NamedTuple):
    """Metrics of decisions, each in [0, 1]; anomaly = positive unless a name says otherwise."""

    accuracy: np.float32
    precision: np.float32  # 0 when nothing is flagged
    recall: np.float32
    f1: np.float32
    fpr: np.float32  # share of normal rows that are flagged
    precision_normal_positive: np.float32  # 0 when everything is flagged
    recall_normal_positive: np.float32


class EqualError(NamedTuple):
    """The operating point whose two error rates are closest to each other."""

    threshold: np.float32  # scores strictly above it are flagged
    f1: np.float32


def _counts(
    scores: AnyArray, y: AnyArray, needs_normals: bool = True
) -> tuple[Curve, np.integer, np.integer] | None:
    """The curve with both class counts; None if a score is NaN or a class is empty."""
    scores, y = np.asarray(scores, np.float32), np.asarray(y, bool)
    if np.isnan(scores).any() or not y.any() or (needs_normals and y.all()):
        return None
    curve = sweep(scores, y)
    return curve, curve.tp[-1], curve.fp[-1]


def _ratio(part: Any, whole: Any) -> Any:
    """The ratio of counts, or of arrays of counts, in float32; 0 where the whole is 0."""
    return np.float32(part) / np.float32(np.maximum(whole, 1))


def _pairwise_sum(values: Float[np.ndarray, " N"]) -> np.float32:
    """Sum by halves: the rounding error grows with log N instead of N."""
    values = np.pad(values, (0, (1 << max(len(values) - 1, 0).bit_length()) - len(values)))
    while len(values) > 1:
        values = values[: len(values) // 2] + values[len(values) // 2 :]
    return values[0]


def _by_row(curve: Curve, values: np.ndarray) -> np.ndarray:
    """For each row, by descending score, the value for its score if an anomaly, else 0: [N].

    Among tied rows normals come first, so that no sum depends on the order of the input.
    """
    counts = np.stack([curve.normals, curve.anomalies], axis=1)
    return np.repeat(np.stack([0 * values, values], axis=1).ravel(), counts.ravel())


def _mean_of_counts(counts: Int[np.ndarray, " N"], n: np.integer) -> np.float32:
    """The sum of counts divided by n, in float32; words of bits keep sums exact."""
    size = min(_BLOCK, len(counts))
    blocks = np.pad(counts, (0, -len(counts) % size)).reshape(-1, size)
    mask = (1 << _WORD) - 1

    def mean(words: np.ndarray) -> np.float32:
        whole, rest = np.divmod(words.sum(axis=1), n)
        return np.float32(whole.sum()) + _pairwise_sum(_ratio(rest, n))

    low, middle, high = blocks & mask, (blocks >> _WORD) & mask, blocks >> (2 * _WORD)
    return mean(low) + mean(middle) * np.float32(2**_WORD) + mean(high) * np.float32(4**_WORD)


def auroc(scores: Float[AnyArray, " N"], y: Bool[AnyArray, " N"]) -> np.float32:
    """Area under the ROC curve: P(anomaly scores above normal) + P(they tie) / 2.

    The Mann-Whitney form, equal to `sklearn.metrics.roc_auc_score`, ties included.
    """
    if not (counts := _counts(scores, y)):
        return _NAN
    curve, anomalies, normals = counts
    # For each anomaly: normals strictly below it + normals at or below it = twice its wins.
    wins = 2 * normals - curve.fp[1:] - curve.fp[:-1]
    mean = _mean_of_counts(_by_row(curve, wins), anomalies)
    return min(mean / np.float32(2 * normals), np.float32(1))


def average_precision(scores: Float[AnyArray, " N"], y: Bool[AnyArray, " N"]) -> np.float32:
    """Average precision: sum over cuts of (recall step) * precision, without interpolation.

    Equal to `sklearn.metrics.average_precision_score`; defined without normals too.
    """
    if not (counts := _counts(scores, y, needs_normals=False)):
        return _NAN
    curve, anomalies, _ = counts
    # Every anomaly adds a recall step of 1 / anomalies, at the precision of its score's cut.
    precision = _ratio(curve.tp[1:], curve.tp[1:] + curve.fp[1:])
    return _pairwise_sum(_by_row(curve, precision)) / np.float32(anomalies)


def confusion(is_anomaly: Bool[AnyArray, " N"], y: Bool[AnyArray, " N"]) -> Confusion:
    """Accuracy, precision, recall, F1 and false-positive rate of decisions.

    Precision and recall are also given with normal rows as the positive class, as some tutorials
    report them. Recall and F1 are NaN without anomalies, the false-positive rate and the recall of
    normals without normals.
    """
    flagged, y = np.asarray(is_anomaly, bool), np.asarray(y, bool)
    pairs = ((flagged, y), (flagged, ~y), (~flagged, y), (~flagged, ~y))
    tp, fp, fn, tn = (int(np.sum(one & other)) for one, other in pairs)
    anomalies, normals = tp + fn, fp + tn
    return Confusion(
        accuracy=_ratio(tp + tn, anomalies + normals) if anomalies + normals else _NAN,
        precision=_ratio(tp, tp + fp),
        recall=_ratio(tp, anomalies) if anomalies else _NAN,
        f1=_ratio(2 * tp, 2 * tp + fp + fn) if anomalies else _NAN,
        fpr=_ratio(fp, normals) if normals else _NAN,
        precision_normal_positive=_ratio(tn, tn + fn),
        recall_normal_positive=_ratio(tn, normals) if normals else _NAN,
    )


def fpr_at_tpr(
    scores: Float[AnyArray, " N"], y: Bool[AnyArray, " N"], tpr: float = 0.95
) -> np.float32:
    """The smallest false-positive rate at which at least a share `tpr` of anomalies is flagged.

    `tpr` is a recall in (0, 1].
    """
    if not (counts := _counts(scores, y)):
        return _NAN
    curve, anomalies, normals = counts
    # In whole anomalies; a slack of two rounding errors keeps .95 of 20 at 19.
    slack = np.float32(1 - 2 * float(np.finfo(np.float32).eps))
    needed = np.ceil(np.float32(anomalies) * np.float32(tpr) * slack)
    return _ratio(curve.fp[np.argmax(curve.tp >= needed)], normals)


def equal_error(scores: Float[AnyArray, " N"], y: Bool[AnyArray, " N"]) -> EqualError:
    """The point of the ROC curve where false-positive and false-negative rate are closest.

    All distinct scores are tried as cuts, and also flagging nothing. The threshold is the highest
    score that is not flagged, so that `score > threshold` flags exactly the rows that `score >= t`
    does at scikit-learn's threshold t; it is -inf if the best cut flags every row.
    """
    if not (counts := _counts(scores, y)):
        return EqualError(_NAN, _NAN)
    curve, anomalies, normals = counts
    # Rounding decides between equally good cuts. These products with inverses, of which the first
    # is not rounded before the subtraction, choose the same cut as all earlier versions.
    per_normal, per_anomaly = (1 / np.float32(count) for count in (normals, anomalies))
    fnr = np.float32(anomalies - curve.tp) * per_anomaly
    best = np.argmin(np.abs(np.float32(curve.fp * np.float64(per_normal) - fnr)))
    return EqualError(np.float32(curve.threshold[best]), _f1_of_cuts(curve)[best])


def best_f1(scores: Float[AnyArray, " N"], y: Bool[AnyArray, " N"]) -> np.float32:
    """The largest F1 over all thresholds: an oracle, since the truth selects the threshold."""
    counts = _counts(scores, y, needs_normals=False)
    return np.max(_f1_of_cuts(counts[0])) if counts else _NAN


def _f1_of_cuts(curve: Curve) -> np.ndarray:
    """F1 = 2 tp / (flagged + anomalies) of every cut: [K+1]."""
    return _ratio(2 * curve.tp, curve.tp + curve.fp + curve.tp[-1])
