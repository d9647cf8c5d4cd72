"""Decisions about the pixels of images, by a threshold that is set without labels.

The run's rule is fitted as on scores of rows, but on the highest value of the score map of each
calibration row. So images are what it counts, since pixels of an image depend on each other:
"conformal:0.05" flags pixels in at most 5 % of new normal images on average, whatever the size of
the images, if these are exchangeable with the calibration rows.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float

from jaxae import scoring
from jaxae.config import ExperimentConfig
from jaxae.detectors import calibration
from jaxae.detectors.detector import Detector
from jaxae.detectors.judging import LARGEST, maps_fn, score_maps
from jaxae.devices import parallel, tuning
from jaxae.scoring import pooling
from jaxae.stats.pixels import by_pixel
from jaxae.types import Dataset, Decision, Learner, Shape, Source

State = Mapping[str, Any]  # what `held_out` returns
NAME = "pixels"  # of that in `Detector.places`
_LARGE = 64  # pixels of the longer side, from which on pixels are decided about without masks


def are_decided(cfg: ExperimentConfig, data: Dataset) -> bool:
    """Whether a run decides about pixels: images that are large or have masks, scored by a map."""
    shape = data.raw_shape or data.shape
    is_asked = data.test_place_y is not None or max(shape[:2]) >= _LARGE
    return len(shape) == 3 and is_asked and scoring.resolve(cfg.score).places is not None


def held_out(
    detector: Detector, learner: Learner, data: Dataset, devices: parallel.Devices
) -> State:
    """What decides about pixels, for `Detector.places`.

    The maps are computed twice, some at a time, so that they need not fit in memory: for the
    threshold, and for the pixels of each calibration row that it flags.
    """
    cfg = detector.about.config
    x = data.train.x if cfg.threshold.on == "train" else data.valid.x[_calibrating(cfg, data)]
    x = x[: cfg.threshold.limit or None]
    highest = np.concatenate([_highest(part) for part in _maps(detector, learner, x, devices)])
    decision = scoring.fit_rule(detector.decision.rule, highest)
    parts = _maps(detector, learner, x, devices)
    flagged = np.concatenate([_count(decided(decision, part)) for part in parts])
    return {"highest": highest, "flagged": flagged, "rule": decision.state}


def _calibrating(cfg: ExperimentConfig, data: Dataset) -> np.ndarray:
    return calibration.split_valid(cfg, len(data.valid.y))[1]


def tested(
    detector: Detector, learner: Learner, data: Dataset, devices: parallel.Devices
) -> dict[str, np.ndarray]:
    """What a run records of the pixels of its test rows, see `counted`.

    Returns {} if its detector decides nothing about pixels.
    """
    if not state_of(detector):
        return {}
    maps = list(_maps(detector, learner, data.test.x, devices))
    return counted(detector, maps, data.test_place_y)


@parallel.on_host()
def judged(
    detector: Detector, raw: np.ndarray, truth: Bool[np.ndarray, "N H W"]
) -> dict[str, np.ndarray]:
    """The numbers of `counted` for raw rows and their masks.

    Raises:
      UserError: see `jaxae.detectors.score_maps`.
    """
    return counted(detector, [maps_and_flagged(detector, raw)[0]], truth)


def counted(
    detector: Detector,
    maps: Sequence[Float[np.ndarray, "_ H W"]],
    truth: Bool[np.ndarray, "N H W"] | None,
) -> dict[str, np.ndarray]:
    """What maps say of each row, and of all pixels.

    Returns:
      "pixel_highest" [N], the highest value of each map, and "pixel_flagged" [N], the number of
      flagged pixels; with masks also "pixel_y" and "pixel_found" [N], the numbers of anomalous
      pixels and of those that are flagged, and "pixel_areas" [3]: AUROC, average precision and
      AUPRO of all pixels.
    """
    decision = decision_of(detector)
    is_flagged = np.concatenate([decided(decision, part) for part in maps])
    found = {
        "pixel_highest": np.concatenate([_highest(part) for part in maps]),
        "pixel_flagged": _count(is_flagged),
    }
    if truth is not None and truth.any():
        areas = by_pixel(np.concatenate(maps), truth, is_flagged)[:3]
        found |= {"pixel_y": _count(truth), "pixel_found": _count(truth & is_flagged)}
        found["pixel_areas"] = np.array(areas)
    return found


def flagged(detector: Detector, raw: np.ndarray) -> Bool[np.ndarray, "N H W"]:
    """Which pixels of raw rows are anomalous.

    Raises:
      UserError: see `jaxae.detectors.score_maps`.
    """
    return maps_and_flagged(detector, raw)[1]


@parallel.on_host()
def maps_and_flagged(
    detector: Detector, raw: np.ndarray
) -> tuple[Float[np.ndarray, "N H W"], Bool[np.ndarray, "N H W"]]:
    """The score maps of raw rows in their own pixels, and `flagged`."""
    maps = _bounded(score_maps(detector, raw), detector.about.shape)
    return maps, decided(decision_of(detector), maps)


def state_of(detector: Detector) -> State | None:
    """What decides about pixels; None: nothing does."""
    return detector.places.get(NAME)


def decision_of(detector: Detector) -> Decision:
    """What decides about pixels; its calibration scores are the highest values of maps."""
    state = state_of(detector)
    assert state
    return Decision(detector.decision.rule, state["rule"], state["highest"])


def _maps(
    detector: Detector, learner: Learner, x: Source, devices: parallel.Devices
) -> Iterator[Float[np.ndarray, "B H W"]]:
    """The maps of already scaled rows, some at a time, in the places of raw rows."""
    of_rows, shape = maps_fn(detector, learner, devices), detector.about.shape
    block = max(1, tuning.FEED_BYTES // (4 * int(np.prod(shape))))
    for first in range(0, len(x), block):
        yield _bounded(of_rows(x[first : first + block]), shape)


def _bounded(maps: np.ndarray, shape: Shape) -> Float[np.ndarray, "B H W"]:
    """Maps in the places of raw rows; values that float32 does not hold become the largest."""
    if maps.shape[1:] != shape[:2]:
        maps = np.asarray(jax.vmap(lambda one: pooling.enlarged(one, shape))(maps))
    return np.where(np.abs(maps) <= LARGEST, maps, LARGEST)  # NaN is not


def decided(decision: Decision, maps: Float[np.ndarray, "B H W"]) -> Bool[np.ndarray, "B H W"]:
    """Which pixels of score maps are flagged by a decision about pixels, see `decision_of`."""
    return scoring.decide(decision, maps.ravel()).reshape(maps.shape)


def _highest(maps: np.ndarray) -> Float[np.ndarray, " B"]:
    return maps.reshape(len(maps), -1).max(axis=1)


def _count(places: np.ndarray) -> np.ndarray:
    return np.count_nonzero(places, axis=(1, 2)).astype(np.int32)
