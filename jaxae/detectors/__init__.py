"""The detector: all that judges raw rows, in one folder that needs nothing else.

A detector is arrays (the model's variables, the score's fitted state, the decision with its
calibration scores, the scaling) and a description of what they are. `parts` has its types,
`fitting` makes one, `judging` applies it, `files` saves and loads it. `calibration` decides which
held-out rows a threshold rule is fitted on, `evaluation` computes outputs and scores of rows,
`explanation` says which values of a row are reconstructed worst, `health` warns of dead training.
"""

from jaxae.detectors.files import folder_of, load, save, tree
from jaxae.detectors.fitting import check, fit, fit_score
from jaxae.detectors.judging import judge, judge_prepared, prepared, require, score_fn
from jaxae.detectors.parts import Description, Detector, Judgement, Scores, units

__all__ = [
    "Description", "Detector", "Judgement", "Scores", "check", "fit", "fit_score", "folder_of",
    "judge", "judge_prepared", "load", "prepared", "require", "save", "score_fn", "tree", "units",
]  # fmt: skip
