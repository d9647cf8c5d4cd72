"""Runs of anomalous steps, the ranges of a series: how well alarms cover them, and how early.

A range is half open: steps start ... end - 1. It uses only NumPy, so that figures and pages can be
drawn without JAX.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int


class Coverage(NamedTuple):
    """How the ranges of alarms and of the truth overlap, each in [0, 1]."""

    precision: float  # mean over alarms of the share of their steps that is true; 0 without alarms
    recall: float  # mean over true ranges of the share of their steps in alarm; NaN without any
    f1: float  # the harmonic mean of both; 0 if both are 0


class Detection(NamedTuple):
    """Which true ranges have an alarm within them, and how late."""

    found: float  # share of true ranges with at least one step in alarm; NaN without any
    delay: float  # mean steps from the start to the first step in alarm; NaN if none is found


class PointAdjusted(NamedTuple):
    """Decisions that the truth has changed, and the warning to print beside their metrics."""

    is_alarm: Bool[np.ndarray, " T"]
    warning: str


def ranges(mask: Bool[np.ndarray, " T"]) -> Int[np.ndarray, "R 2"]:
    """The runs of True in order: (start, end) of each, of which `end` is no longer True."""
    edges = np.diff(np.concatenate([[0], np.asarray(mask, bool), [0]]).astype(np.int8))
    return np.stack([np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)], axis=1)


def apart(mask: Bool[np.ndarray, " T"], stretch: Int[np.ndarray, " T"]) -> Bool[np.ndarray, " S"]:
    """The mask with a step of nothing between stretches, so that no range crosses their ends.

    Args:
      mask: by step, of the stretches of a series one after the other.
      stretch: of each step; it rises where the series is interrupted.
    """
    return np.insert(mask, np.flatnonzero(np.diff(stretch)) + 1, False)


def shares(of: Int[np.ndarray, "R 2"], mask: Bool[np.ndarray, " T"]) -> Float[np.ndarray, " R"]:
    """For each range, the share of its steps at which the mask is True."""
    before = np.append(0, np.cumsum(mask))
    return (before[of[:, 1]] - before[of[:, 0]]) / (of[:, 1] - of[:, 0])


def coverage(is_alarm: Bool[np.ndarray, " T"], y: Bool[np.ndarray, " T"]) -> Coverage:
    """Range-based precision and recall (Tatbul et al., NeurIPS 2018), flat bias.

    Without a reward for existence (alpha = 0), and without a penalty for a range that several
    others cover (cardinality 1): the defaults of the package `prts`. So a range counts once,
    however long it is.

    Args:
      is_alarm: decisions by step, True = anomaly.
      y: the truth by step, True = anomaly.
    """
    is_alarm, y = np.asarray(is_alarm, bool), np.asarray(y, bool)
    alarms, truth = ranges(is_alarm), ranges(y)
    precision = float(np.mean(shares(alarms, y))) if len(alarms) else 0.0
    recall = float(np.mean(shares(truth, is_alarm))) if len(truth) else float("nan")
    total = precision + recall
    return Coverage(precision, recall, 2 * precision * recall / total if total else 0.0)


def detection(is_alarm: Bool[np.ndarray, " T"], y: Bool[np.ndarray, " T"]) -> Detection:
    """The share of true ranges that are found, and the mean delay of those in steps.

    A delay of 0 is an alarm at the first step of the range. An alarm that began before the range
    and reaches into it counts as one at its first step; one that ended before it does not count.
    """
    alarms, truth = np.flatnonzero(is_alarm), ranges(y)
    if not len(truth):
        return Detection(float("nan"), float("nan"))
    first = np.append(alarms, len(y))[np.searchsorted(alarms, truth[:, 0])]
    is_found = first < truth[:, 1]
    delays = (first - truth[:, 0])[is_found]
    return Detection(float(np.mean(is_found)), float(np.mean(delays)) if len(delays) else np.nan)


def point_adjusted(is_alarm: Bool[np.ndarray, " T"], y: Bool[np.ndarray, " T"]) -> PointAdjusted:
    """Decisions with every step of a true range in alarm if one of its steps is.

    Only for comparison with papers that do so: it makes random scores look excellent (Kim et al.,
    "Towards a Rigorous Evaluation of Time-Series Anomaly Detection", AAAI 2022).
    """
    truth = ranges(y)
    found = truth[shares(truth, is_alarm) > 0]
    adjusted = np.array(is_alarm, bool)
    for start, end in found:
        adjusted[start:end] = True
    warning = (
        "point adjustment marks a whole true range as found for one alarm in it, so that random "
        "scores look excellent (Kim et al., AAAI 2022); do not compare detectors by it"
    )
    return PointAdjusted(adjusted, warning)
