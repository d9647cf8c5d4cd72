"""The detector: everything needed to judge raw rows, in one self-contained folder.

A detector is arrays (the model's variables, the score's fitted state, the decision with its
calibration scores, the scaling) and a description of them. `detector` defines its types,
saves and loads it; `fitting` makes one, `judging` applies it. `calibration` decides which held-out
rows a threshold rule is fitted on, `evaluation` computes outputs and scores of rows; `steps` does
both for the steps of a series, scored by `streams`, and `pixels` for the pixels of images.
`explanation` says where a row is anomalous, by the map of its score, `health` warns of failed
training, `label_free` measures quality by pseudo-anomalies.
"""

from jaxae.detectors.detector import (
    Description,
    Detector,
    Judgement,
    Scores,
    described,
    folder_of,
    load,
    save,
    tree,
    units,
)
from jaxae.detectors.fitting import Fold, check, fit, fit_on_folds, fit_score, score_all
from jaxae.detectors.judging import (
    judge,
    judge_prepared,
    map_prepared,
    map_shape,
    maps_fn,
    maps_of,
    prepared,
    saturated,
    score_fn,
    score_maps,
)

__all__ = [
    "Description", "Detector", "Fold", "Judgement", "Scores", "check", "described", "fit",
    "fit_on_folds", "fit_score", "folder_of", "judge", "judge_prepared", "load",
    "map_prepared", "map_shape", "maps_fn", "maps_of", "prepared", "saturated", "save", "score_all",
    "score_fn", "score_maps", "tree", "units",
]  # fmt: skip
