"""What a run of a series has on record of its steps, computed again and compared."""

from collections.abc import Callable

import numpy as np

from jaxae import detectors
from jaxae.detectors import steps
from jaxae.devices import parallel
from jaxae.errors import UserError
from jaxae.types import Dataset, Learner

Off = Callable[[np.ndarray, np.ndarray], tuple[float, bool]]  # how far scores are apart


def of_detector(detector: detectors.Detector) -> None:
    """Compare the threshold of steps with the rule, the held-out scores and their blocks.

    Raises:
      UserError: it is another.
    """
    state = steps.state_of(detector)
    if not state:
        return
    rule, size = detector.decision.rule, np.median(np.abs(state["score"]))
    for name, value in steps.fitted(state, rule).items():
        found = state["rule"].get(name, np.nan)
        if not np.allclose(found, value, rtol=1e-5, atol=1e-5 * size):
            raise UserError(f"{rule} gives {name} {value} of steps, but the detector has {found}")


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


def of_scores(
    detector: detectors.Detector,
    arrays: dict[str, np.ndarray],
    data: Dataset,
    learner: Learner,
    devices: parallel.Devices,
    off: Off,
    is_other_version: bool,
) -> dict[str, np.ndarray]:
    """Score the steps of held-out and test windows again, and compare all that is on record.

    Returns:
      The arrays that scores.npz must hold.

    Raises:
      UserError: something differs or is missing.
    """
    state = steps.state_of(detector)
    if data.steps and not state and not is_other_version:
        raise UserError("the detector decides nothing about the steps of its series")
    if not data.steps or not state:
        return {}
    fresh = steps.held_out(detector, learner, data, devices)
    tested = steps.tested(detector, learner, data, devices)
    for name in ("block", "length"):
        if not np.array_equal(state[name], fresh[name]):
            raise UserError(f"the {name} of held-out steps is not that of the data")
    lost = [name for name in tested if name not in arrays]
    if lost:
        raise UserError(f"scores.npz lacks {lost[0]}")
    of_tested = arrays["step_score"], tested["step_score"]
    for recorded, computed in ((np.asarray(state["score"]), fresh["score"]), of_tested):
        if recorded.shape != computed.shape:
            raise UserError(f"{recorded.size} steps are scored, but the data have {computed.size}")
        largest, is_off = off(recorded, computed)
        if is_off:
            raise UserError(f"scores of steps differ by up to {largest:.1e}")
    for name in tested.keys() - {"step_score", "step_is_anomaly"}:
        if not np.array_equal(arrays[name], tested[name]):
            raise UserError(f"{name} in scores.npz is not that of the data")
    return tested
