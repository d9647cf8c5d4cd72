"""Metrics of a series by step, and volumes under the curves of widened ranges.

Scores [T] are higher for more anomalous steps, `y` [T] is the truth, True = anomaly, and `is_alarm`
[T] are decisions. Steps of one range depend on each other, so no metric here has an interval.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from jaxae.errors import UserError
from jaxae.stats import metrics
from jaxae.stats.ranges import apart, coverage, detection, ranges
from jaxae.types import AnyArray

WINDOW = 100  # steps; the default of `TSB_AD.evaluation.metrics.get_metrics`
_CUTS = 250  # thresholds at evenly spaced ranks, as in both public implementations


class Volumes(NamedTuple):
    """Volumes under the surfaces of ROC and precision-recall curves; NaN if a class is empty."""

    roc: float
    pr: float


class StepMetrics(NamedTuple):
    """Every metric of a series by step, in [0, 1] except `delay`.

    Without anomalies only `range_precision` is a number, 0; if all steps are anomalous, `auroc` and
    the volumes are NaN.
    """

    auroc: float
    average_precision: float  # the AUC-PR of TSB-AD: not interpolated
    vus_roc: float
    vus_pr: float
    range_precision: float
    range_recall: float
    range_f1: float
    found: float  # share of true ranges
    delay: float  # steps


def by_step(
    scores: Float[AnyArray, " T"],
    y: Bool[AnyArray, " T"],
    is_alarm: Bool[AnyArray, " T"],
    window: int = WINDOW,
    stretch: Int[AnyArray, " T"] | None = None,
) -> StepMetrics:
    """Metrics of the scores and of the decisions.

    Volumes take the stretches of a series as if they followed each other; ranges end with theirs.

    Args:
      scores: of each step, compared in float32.
      y: the truth.
      is_alarm: the decisions.
      window: the widest buffer of `volumes`, in steps.
      stretch: of each step, see `ranges.apart`; None = the series is not interrupted.

    Raises:
      UserError: a score is NaN, or there are none.
    """
    scores, y = np.asarray(scores, np.float32), np.asarray(y, bool)
    by_range = is_alarm, y
    if stretch is not None:
        by_range = apart(is_alarm, stretch), apart(y, stretch)
    covered, detected = coverage(*by_range), detection(*by_range)
    volume = volumes(scores, y, window)
    return StepMetrics(
        auroc=float(metrics.auroc(scores, y)),
        average_precision=float(metrics.average_precision(scores, y)),
        vus_roc=volume.roc,
        vus_pr=volume.pr,
        range_precision=covered.precision,
        range_recall=covered.recall,
        range_f1=covered.f1,
        found=detected.found,
        delay=detected.delay,
    )


def volumes(
    scores: Float[np.ndarray, " T"], y: Bool[np.ndarray, " T"], window: int = WINDOW
) -> Volumes:
    """VUS-ROC and VUS-PR (Paparrizos et al., VLDB 2022).

    Areas under the range-aware curves, averaged over buffers w = 0, 1 ... `window`. A buffer adds
    floor(w / 2) steps before and after each true range, with the weight sqrt(1 - d / w) at d steps
    from it; weights of several ranges add up to at most 1. Of the steps flagged at one of 250
    thresholds, evenly spaced in rank, TP is the total weight, and

        recall = min(TP / P, 1) * (share of buffered ranges with a flagged step),
        FPR = (flagged - TP) / (T - P),  precision = TP / flagged,
        P = anomalous steps + (weight of the flagged steps in buffers) / 2.

    Buffered ranges that share a step are one. The areas are a trapezoid sum for ROC, which ends in
    (1, 1), and for PR the sum of recall steps times the precision reached. Equal to version "opt"
    of the packages `vus` 0.0.6 and `TSB_AD` 1.5. The larger the window, the more a near miss
    counts: volumes of different windows must not be compared.

    Steps near a range are sorted by their distance once, and each is then counted by the first
    threshold that flags it; so the cost grows with steps + window * (steps in buffers), not with
    thresholds or ranges.

    Args:
      scores: of each step; infinite ones are allowed.
      y: the truth.
      window: the widest buffer in steps, 0 or more; the default is that of `TSB_AD`.

    Raises:
      UserError: a score is NaN, there are none, or `window` is negative.
    """
    scores, y = np.asarray(scores), np.asarray(y, bool)
    _check(scores, window)
    if y.all() or not y.any():
        return Volumes(float("nan"), float("nan"))
    first, truth = _first_cuts(scores), ranges(y)
    flagged, anomalous = (_cumulated(first[steps]) for steps in (slice(None), y))
    in_buffers = _weights(first, y, truth, window)
    found = np.stack([_found(first, truth, reach) for reach in range(window // 2 + 1)])
    tp, positives = anomalous + in_buffers, anomalous[-1] + in_buffers / 2
    tpr = np.minimum(tp / positives, 1) * found[np.arange(window + 1) // 2]
    fpr = (flagged - tp) / (len(y) - positives)
    tpr, fpr = (np.pad(rate, ((0, 0), (1, 0))) for rate in (tpr, fpr))  # nothing flagged
    pr = np.sum(np.diff(tpr) * (tp / flagged), axis=1)
    tpr, fpr = (np.pad(rate, ((0, 0), (0, 1)), constant_values=1) for rate in (tpr, fpr))
    roc = np.trapezoid(tpr, fpr)
    return Volumes(*(min(float(np.mean(of)), 1.0) for of in (roc, pr)))


def _check(scores: np.ndarray, window: int) -> None:
    if not len(scores):
        raise UserError("there are no steps to measure; give at least one")
    if np.isnan(scores).any():
        step = int(np.argmax(np.isnan(scores)))
        raise UserError(f"the score of step {step} is NaN; leave out steps that have no score")
    if window < 0:
        raise UserError(f"the window is {window} steps; give 0 or more, such as {WINDOW}")


def _first_cuts(scores: Float[np.ndarray, " T"]) -> Int[np.ndarray, " T"]:
    """For each step, the first (highest) threshold k that flags it: scores >= threshold k."""
    ranks = np.linspace(0, len(scores) - 1, _CUTS).astype(int)
    ascending = np.sort(scores)
    # Of the ascending thresholds, the last one that is at most the score.
    thresholds = ascending[::-1][ranks][::-1]
    return _CUTS - np.searchsorted(thresholds, scores, side="right")


def _cumulated(
    cuts: Int[np.ndarray, " N"], weights: Float[np.ndarray, " N"] | None = None
) -> Shaped[np.ndarray, " K"]:
    """The number, or the total weight, of steps that each threshold flags."""
    return np.cumsum(np.bincount(cuts, weights, minlength=_CUTS))


def _weights(
    first: Int[np.ndarray, " T"],
    y: Bool[np.ndarray, " T"],
    truth: Int[np.ndarray, "R 2"],
    window: int,
) -> Float[np.ndarray, "W K"]:
    """For each buffer and threshold, the total weight of the flagged steps outside the truth."""
    outside = np.flatnonzero(~y)
    nearest, second = _distances(outside, truth)
    order = np.argsort(nearest, kind="stable")
    order = order[: np.searchsorted(nearest[order], window // 2, side="right")]
    nearest, second, first = nearest[order], second[order], first[outside[order]]
    totals = np.zeros((window + 1, _CUTS))
    for width in range(2, window + 1):
        n = np.searchsorted(nearest, width // 2, side="right")
        # Each weight is at least sqrt(1/2), so that two of them add up to more than 1.
        weights = np.where(second[:n] <= width // 2, 1, np.sqrt(1 - nearest[:n] / width))
        totals[width] = _cumulated(first[:n], weights)
    return totals


def _distances(
    steps: Int[np.ndarray, " N"], truth: Int[np.ndarray, "R 2"]
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " N"]]:
    """The distances of steps outside the truth to the nearest and the second nearest range."""
    far = 2**40  # no range on this side
    starts = np.concatenate([[-far, -far], truth[:, 0], [far, far]])
    lasts = np.concatenate([[-far, -far], truth[:, 1] - 1, [far, far]])
    right = np.searchsorted(starts, steps)
    beside = [starts[right] - steps, starts[right + 1] - steps]
    beside += [steps - lasts[right - 1], steps - lasts[right - 2]]
    nearest, second = np.partition(np.stack(beside), 1, axis=0)[:2]
    return nearest, second


def _found(
    first: Int[np.ndarray, " T"], truth: Int[np.ndarray, "R 2"], reach: int
) -> Float[np.ndarray, " K"]:
    """For each threshold, the share of ranges widened by `reach` that have a flagged step."""
    is_apart = truth[:-1, 1] - 1 + reach < truth[1:, 0] - reach
    starts = np.maximum(truth[np.append(True, is_apart), 0] - reach, 0)
    ends = np.minimum(truth[np.append(is_apart, True), 1] + reach, len(first))
    bounds = np.stack([starts, ends], axis=1).ravel()
    lowest = np.minimum.reduceat(np.append(first, _CUTS), bounds)[::2]
    return _cumulated(lowest) / len(lowest)
