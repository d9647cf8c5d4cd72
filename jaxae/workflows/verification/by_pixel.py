"""What a run has on record of the pixels of its images, computed again and compared."""

import numpy as np

from jaxae import detectors, scoring
from jaxae.detectors import pixels
from jaxae.devices import parallel
from jaxae.errors import UserError
from jaxae.types import Learner
from jaxae.workflows.verification.outcomes import (
    refuse_lacking,
    refuse_other_rule,
    refuse_other_scores,
)
from jaxae.workflows.verification.records import Records

_ROUNDED = 2e-3  # of pixels: as many may change sides of the threshold on another machine
_AREA = 1e-4  # of an area under a curve


def of_detector(detector: detectors.Detector) -> None:
    """Compare the threshold of pixels with the rule and the highest values of held-out maps.

    Raises:
      UserError: it is another.
    """
    state = pixels.state_of(detector)
    if not state:
        return
    rule, highest = detector.decision.rule, np.asarray(state["highest"])
    computed = scoring.fit_rule(rule, highest).state
    refuse_other_rule(rule, computed, state["rule"], highest, "pixels")


def of_scores(run: Records, learner: Learner, devices: parallel.Devices) -> dict[str, np.ndarray]:
    """Compute the maps of held-out and test rows again, and compare all that is on record.

    Returns:
      The arrays that scores.npz must hold.

    Raises:
      UserError: something differs or is missing.
    """
    detector, arrays, data = run.detector, run.arrays, run.data
    state = pixels.state_of(detector)
    if not state and pixels.are_decided(detector.about.config, data) and not run.is_other_version:
        raise UserError("the detector decides nothing about the pixels of its images")
    if not state:
        return {}
    fresh = pixels.held_out(detector, learner, data, devices)
    tested = pixels.tested(detector, learner, data, devices)
    refuse_lacking(arrays, tested)
    of_tested = arrays["pixel_highest"], tested["pixel_highest"]
    for recorded, computed in ((np.asarray(state["highest"]), fresh["highest"]), of_tested):
        refuse_other_scores(recorded, computed, "highest values of maps")
    rounded = _ROUNDED * detector.about.shape[0] * detector.about.shape[1]
    counts = {"flagged": (np.asarray(state["flagged"]), fresh["flagged"])} | {
        name: (arrays[name], tested[name]) for name in ("pixel_flagged", "pixel_found", "pixel_y")
        if name in tested
    }  # fmt: skip
    for name, (recorded, computed) in counts.items():
        allowed = 0 if name == "pixel_y" or np.array_equal(*of_tested) else rounded
        if recorded.shape != computed.shape or np.abs(recorded - computed).max() > allowed:
            raise UserError(f"{name}, a number of pixels, is not that of the data and the detector")
    areas = arrays.get("pixel_areas", np.zeros(0)), tested.get("pixel_areas", np.zeros(0))
    if areas[0].shape != areas[1].shape or not np.allclose(*areas, rtol=0, atol=_AREA):
        raise UserError(f"the metrics of pixels are {areas[0]}, but those of the data {areas[1]}")
    return tested
