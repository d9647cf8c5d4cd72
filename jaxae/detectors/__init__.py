"""The detector: all that judges raw rows, in one folder that needs nothing else.

A detector is arrays (the model's variables, the score's fitted state, the decision with its
calibration scores, the scaling) and a description of what they are. `detector` has its
types, saves and loads it; `fitting` makes one, `judging` applies it. `calibration` decides which
held-out rows a threshold rule is fitted on, `evaluation` computes outputs and scores of rows,
`explanation` says which values of a row are reconstructed worst, `health` warns of failed training.
"""

from jaxae.detectors.detector import (
    Description,
    Detector,
    Judgement,
    Scores,
    folder_of,
    load,
    save,
    tree,
    units,
)
from jaxae.detectors.fitting import check, fit, fit_score
from jaxae.detectors.judging import judge, judge_prepared, prepared, require, score_fn

__all__ = [
    "Description", "Detector", "Judgement", "Scores", "check", "fit", "fit_score", "folder_of",
    "judge", "judge_prepared", "load", "prepared", "require", "save", "score_fn", "tree", "units",
]  # fmt: skip
