"""What a report says of the pixels of images: metrics, and how many normal ones are flagged.

Every value has "pixel" or "map" in its name, so that none is taken for one of images.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxae import detectors, scoring
from jaxae.detectors import pixels
from jaxae.stats.conformal import rank_band
from jaxae.stats.intervals import of_clustered_share, of_share


def make(detector: detectors.Detector, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The values of a run by pixel; {} if its detector decides nothing about pixels.

    Args:
      detector: the run's detector.
      arrays: those of `pixels.tested`, as `scores.npz` holds them.
    """
    if not pixels.state_of(detector) or "pixel_flagged" not in arrays:
        return {}
    found = to_expect(detector)
    if "pixel_areas" in arrays:
        count = detector.about.shape[0] * detector.about.shape[1]
        found |= measured(arrays, count)
    return found


def measured(arrays: Mapping[str, np.ndarray], size: int) -> dict[str, Any]:
    """The metrics of the pixels of all test rows together, each row of `size` pixels.

    They have no intervals, because pixels of an image depend on each other.
    """
    areas = zip(("auroc", "average_precision", "aupro"), arrays["pixel_areas"], strict=True)
    true, flagged, hits = (
        int(arrays[f"pixel_{name}"].sum(dtype=np.int64)) for name in ("y", "flagged", "found")
    )
    total = size * len(arrays["pixel_y"])
    ratios = {
        "precision": (hits, flagged),
        "recall": (hits, true),
        "f1": (2 * hits, flagged + true),
        "fpr": (flagged - hits, total - true),
    }
    return {
        **{f"pixel_{name}": float(area) if np.isfinite(area) else None for name, area in areas},
        **{f"pixel_{name}": a / b if b else None for name, (a, b) in ratios.items()},
        "n_pixels": total,
        "n_anomalous_pixels": true,
    }


def to_expect(detector: detectors.Detector) -> dict[str, Any]:
    """The share of pixels of new normal images that is flagged, and of images with such a pixel.

    The threshold flags these shares of the calibration rows, which also set it. Pixels of an image
    depend on each other, so images are what the intervals count: see `of_clustered_share`. The
    share of images by a rule with a guarantee is the rank of its threshold, see `rank_band`.
    """
    state, decision = pixels.state_of(detector), pixels.decision_of(detector)
    assert state
    flagged = np.asarray(state["flagged"])
    count, size = len(flagged), detector.about.shape[0] * detector.about.shape[1]
    with_any, rule = int(np.sum(flagged > 0)), scoring.rule(decision.rule)
    share, interval = with_any / count, of_share(with_any, count)
    if rule.exchangeable and rule.rank:
        rank = rule.rank(count)
        share, interval = rank / (count + 1), rank_band(count, rank)
    trials = np.full(count, size)
    return {
        "pixel_threshold": decision.threshold,
        "pixel_false_alarm_rate": float(flagged.sum(dtype=np.int64) / (count * size)),
        "pixel_false_alarm_rate_interval": [*of_clustered_share(flagged, trials)],
        "map_false_alarm_rate": share,
        "map_false_alarm_rate_interval": [*interval],
    }
