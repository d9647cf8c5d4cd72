"""What a run of a series has on record of its steps, computed again and compared."""

import numpy as np

from jaxae import detectors
from jaxae.detectors import steps
from jaxae.devices import parallel
from jaxae.errors import UserError
from jaxae.types import Learner
from jaxae.workflows.verification.outcomes import (
    refuse_lacking,
    refuse_other_rule,
    refuse_other_scores,
)
from jaxae.workflows.verification.records import Records


def of_detector(detector: detectors.Detector) -> None:
    """Compare the threshold of steps with the rule, the held-out scores and their blocks.

    Raises:
      UserError: it is another.
    """
    state = steps.state_of(detector)
    if not state:
        return
    rule = detector.decision.rule
    computed = steps.fitted(state, rule)
    refuse_other_rule(rule, computed, state["rule"], state["score"], "steps")


def of_decisions(detector: detectors.Detector, arrays: dict[str, np.ndarray]) -> None:
    """Compare the decisions about steps with their scores.

    Raises:
      UserError: they do not follow.
    """
    if not steps.state_of(detector) or "step_score" not in arrays:
        return
    decided = steps.judged(detector, arrays["step_score"]).is_anomaly
    if not np.array_equal(decided, arrays.get("step_is_anomaly")):
        raise UserError("decisions about steps do not follow from their threshold and scores")


def of_scores(run: Records, learner: Learner, devices: parallel.Devices) -> dict[str, np.ndarray]:
    """Score the steps of held-out and test windows again, and compare all that is on record.

    Returns:
      The arrays that scores.npz must hold.

    Raises:
      UserError: something differs or is missing.
    """
    detector, arrays, data = run.detector, run.arrays, run.data
    state = steps.state_of(detector)
    if data.steps and not state and not run.is_other_version:
        raise UserError("the detector decides nothing about the steps of its series")
    if not data.steps or not state:
        return {}
    fresh = steps.held_out(detector, learner, data, devices)
    tested = steps.tested(detector, learner, data, devices)
    for name in ("block", "length"):
        if not np.array_equal(state[name], fresh[name]):
            raise UserError(f"the {name} of held-out steps is not that of the data")
    refuse_lacking(arrays, tested)
    of_tested = arrays["step_score"], tested["step_score"]
    for recorded, computed in ((np.asarray(state["score"]), fresh["score"]), of_tested):
        refuse_other_scores(recorded, computed, "scores of steps")
    for name in tested.keys() - {"step_score", "step_is_anomaly"}:
        if not np.array_equal(arrays[name], tested[name]):
            raise UserError(f"{name} in scores.npz is not that of the data")
    return tested
