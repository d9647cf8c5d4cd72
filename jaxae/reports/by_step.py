"""What a report says of the steps of a series: metrics, or alarms to expect, and on what they rest.

Every value has "step", "range", "vus" or "block" in its name, so that none is taken for one of
windows.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from jaxae import detectors, scoring
from jaxae.detectors import steps
from jaxae.stats.conformal import rank_band
from jaxae.stats.intervals import Interval, of_clustered_share, of_share
from jaxae.stats.metrics import confusion
from jaxae.stats.steps import by_step

_MEASURED = ("score", "y", "is_anomaly", "stretch")  # arguments of `measured` in scores.npz


def make(detector: detectors.Detector, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The values of a run by step; {} of one that is no series.

    Args:
      detector: the run's detector.
      arrays: those of `steps.tested`, as `scores.npz` holds them.
    """
    state = steps.state_of(detector)
    if not state or "step_score" not in arrays:
        return {}
    found = alarms_to_expect(detector)
    if "step_y" in arrays:
        found |= measured(*(arrays[f"step_{name}"] for name in _MEASURED))
    return found


def measured(
    score: np.ndarray,
    y: Bool[np.ndarray, " K"],
    is_anomaly: Bool[np.ndarray, " K"],
    stretch: Int[np.ndarray, " K"],
) -> dict[str, Any]:
    """The metrics of tested steps; None is a value that does not exist. They have no intervals."""
    found, of_steps = by_step(score, y, is_anomaly, stretch=stretch), confusion(is_anomaly, y)
    values = {
        "step_auroc": found.auroc,
        "step_average_precision": found.average_precision,
        "vus_roc": found.vus_roc,
        "vus_pr": found.vus_pr,
        **{
            f"step_{name}": getattr(of_steps, name) for name in ("precision", "recall", "f1", "fpr")
        },
        "range_precision": found.range_precision,
        "range_recall": found.range_recall,
        "range_f1": found.range_f1,
        "ranges_found": found.found,
        "mean_delay_steps": found.delay,
    }
    exact = {name: float(value) if np.isfinite(value) else None for name, value in values.items()}
    return exact | {"n_steps": len(y), "n_anomalous_steps": int(y.sum())}


def alarms_to_expect(detector: detectors.Detector) -> dict[str, Any]:
    """The share of new normal steps, and of blocks of them, that is flagged, with intervals.

    The step threshold flags that share of the held-out steps, which also set it, so new steps may
    be flagged somewhat more often. Steps of a block depend on each other, so blocks are what the
    interval counts: see `of_clustered_share`. A block has an alarm if one of its steps is flagged;
    by a conformal rule, of which blocks are the calibration rows, that has the probability of the
    threshold's rank among them, `rank_band`, if blocks are exchangeable. Its threshold is close to
    the highest held-out scores, so the share of held-out steps above it is too low for new ones,
    and at most the share of blocks with an alarm is known.
    """
    state, decision = steps.state_of(detector), steps.decision_of(detector)
    assert state
    block, rule = np.asarray(state["block"]), decision.rule
    is_flagged = scoring.decide(decision, state["score"])
    count, inside = int(block.max()) + 1, block >= 0
    trials = np.bincount(block[inside], minlength=count)
    hits = np.bincount(block[inside & is_flagged], minlength=count)
    with_alarm = int(np.sum(hits > 0))
    share, interval = with_alarm / count, of_share(with_alarm, count)
    of_steps = of_clustered_share(hits, trials)
    spec = scoring.rule(rule)
    if spec.exchangeable and spec.rank and not steps.too_few(count, int(state["length"]), rule):
        share, interval = spec.rank(count) / (count + 1), rank_band(count, spec.rank(count))
        of_steps = Interval(0.0, interval[1])
    return {
        "step_threshold": decision.threshold,
        "n_blocks": count,
        "block_steps": int(state["length"]),
        "step_false_alarm_rate": float(hits.sum() / trials.sum()),
        "step_false_alarm_rate_interval": [*of_steps],
        "block_false_alarm_rate": share,
        "block_false_alarm_rate_interval": [*interval],
        "step_p_value_flaw": steps.why_no_guarantee(detector.about.config) or None,
    }
