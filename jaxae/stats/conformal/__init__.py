"""Conformal anomaly detection: p-values and decisions whose error rates hold in finite samples.

The only assumption is that a new normal and the calibration rows are exchangeable: swapping them
would not change their joint distribution. Rows on which
a model or a score was fitted, and neighbouring windows of one series, are not exchangeable with new
ones; then a p-value is only a rank.
"""

from jaxae.stats.conformal.drift import Wealth, bet
from jaxae.stats.conformal.folds import (
    cv_plus_bound,
    cv_plus_p_values,
    jackknife_after_bootstrap_p_values,
)
from jaxae.stats.conformal.guarantee import (
    benjamini_hochberg,
    fit,
    fpr_band,
    lowest_alpha,
    rank_allowed,
    rank_band,
)
from jaxae.stats.conformal.ranks import p_values, refuse_nan, split_p_values, stream_p_values

__all__ = [
    "Wealth", "benjamini_hochberg", "bet", "cv_plus_bound", "cv_plus_p_values", "fit", "fpr_band",
    "jackknife_after_bootstrap_p_values", "lowest_alpha", "p_values", "rank_allowed", "rank_band",
    "refuse_nan", "split_p_values", "stream_p_values",
]  # fmt: skip
