"""Losses, anomaly scores and threshold rules: pure functions of one row, mapped by callers.

Enter a new score in `scores.SCORES`, a new threshold rule in `rules.RULES`; `rules.fit_rule` fits a
rule on calibration scores, and `rules.decide` applies it. A p-value decides without a rule.
`losses` has the training losses, which scores of the same names use; `tails` extrapolates
thresholds beyond the largest score; `pooling` turns the map of a row's places into one number;
`patches` compares patches of images with normal ones.
`jaxae.stats.conformal.ranks` computes p-values.

Higher = more anomalous. A score may carry state fitted on normal rows, and "a+b" adds standardised
scores. No module knows where the rows come from or what a detector is.
"""

from jaxae.scoring.losses import LOSSES, bce, mae, mse
from jaxae.scoring.rules import RULES, decide, fit_rule, rule
from jaxae.scoring.scores import SCORES, apply_rows, combine, parts_of, resolve, row_map, with_maps

__all__ = [
    "LOSSES", "RULES", "SCORES", "apply_rows", "bce", "combine", "decide", "fit_rule", "mae", "mse",
    "parts_of", "resolve", "row_map", "rule", "with_maps",
]  # fmt: skip
