"""Losses, anomaly scores and threshold rules: pure functions of one row, mapped by callers.

Higher = more anomalous. A training loss and the score of the same name share one definition. A
score may carry state fitted on normal rows, "a+b" adds standardised scores, and a rule turns scores
of normals into decisions about others.
"""

from jaxae.scoring.losses import LOSSES, bce, mae, mse
from jaxae.scoring.rules import RULES, decide, fit_rule, rule
from jaxae.scoring.scores import SCORES, apply_rows, combine, resolve

__all__ = [
    "LOSSES",
    "RULES",
    "SCORES",
    "apply_rows",
    "bce",
    "combine",
    "decide",
    "fit_rule",
    "mae",
    "mse",
    "resolve",
    "rule",
]
