"""What scores are worth: metrics that treat ties exactly, intervals, and conformal guarantees.

`metrics` and `quality` measure scores against the truth, `intervals` says how far that can be
trusted, `conformal` turns scores into p-values whose error rates hold in finite samples.

Pure functions of arrays: they do not know whose scores these are - no method, no detector, no run.
"""

from jaxae.stats.conformal import benjamini_hochberg, p_values, split_p_values
from jaxae.stats.intervals import bootstrap, delong, spread
from jaxae.stats.metrics import auroc, average_precision, best_f1, confusion

__all__ = [
    "auroc",
    "average_precision",
    "benjamini_hochberg",
    "best_f1",
    "bootstrap",
    "confusion",
    "delong",
    "p_values",
    "split_p_values",
    "spread",
]
