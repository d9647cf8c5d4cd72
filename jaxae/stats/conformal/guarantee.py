"""Decisions with a guaranteed error rate: the conformal threshold rule, and selection of many rows.

With n calibration scores and k = floor(alpha (n + 1)) the rule flags scores above the k-th largest
of them. This means p <= alpha, ties included: p(s) = (1 + #{calibration >= s}) / (n + 1) is at most
alpha if and only if fewer than k calibration scores reach s, that is, if and only if s is above the
k-th largest.
"""

import math
from fractions import Fraction

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxae.errors import UserError
from jaxae.stats.conformal.ranks import refuse_other_than_p_values
from jaxae.stats.intervals.bounds import Interval
from jaxae.types import AnyArray

# Conformal p-values often satisfy p N <= fdr i with equality, but are rounded to float32.
_SLACK = 1 + 4 * float(np.finfo(np.float32).eps)


def rank_allowed(n: int, alpha: float) -> int:
    """The k = floor(alpha (n + 1)): a rule may flag the k highest of n + 1 scores.

    Alpha may be any number that rounds to the same float: .29 of 100 rows is 29, and 1/3 of 3 rows
    is 1, although both floats are slightly smaller.

    Raises:
      UserError: alpha is not between 0 and 1, or below 1/(n+1), the smallest of all p-values.
    """
    if not 0 < alpha < 1:
        raise UserError(f"alpha is {alpha:g}; a false-positive rate lies between 0 and 1")
    k = math.floor(Fraction(alpha) * (n + 1) * (1 + Fraction(1, 2**52)))
    if k < 1:
        raise UserError(
            f"alpha {alpha:g} is too low for {n} calibration rows, whose smallest p-value is "
            f"1/{n + 1}: give {math.ceil(1 / alpha) - 1} held-out normals or more (raise "
            "data.valid_fraction, unset threshold.limit), or an alpha of at least "
            f"{lowest_alpha(n):g}"
        )
    return k


def lowest_alpha(n: int) -> float:
    """1 / (n + 1), the smallest p-value that n calibration rows give, rounded up to six digits."""
    return -(-(10**6) // (n + 1)) / 10**6


def fit(scores: Float[Array, " n"], alpha: float) -> dict:
    """The k-th largest score, k = floor(alpha (n + 1)): above it p <= alpha, so it is flagged.

    If a new normal and the calibration rows are exchangeable, P(it is flagged) <= alpha on average
    over calibration sets, and k / (n + 1) if no scores tie; for a single set see `fpr_band` (Vovk,
    2012, propositions 2a and 2b; Bates et al., 2023, section 2).

    Returns:
      "threshold" [], NaN if a score is NaN.

    Raises:
      UserError: see `rank_allowed`.
    """
    n = scores.shape[0]
    ordered = jnp.sort(jnp.asarray(scores, jnp.float32))
    kth = ordered[n - rank_allowed(n, alpha)]
    return {"threshold": jnp.where(jnp.isnan(ordered[-1]), jnp.nan, kth)}  # NaN are sorted last


def fpr_band(n: int, alpha: float, confidence: float = 0.95) -> Interval:
    """Central interval of the false-positive rate that one calibration set gives.

    If no scores tie, the rate is Beta(k, n + 1 - k) distributed over calibration sets, with
    k = floor(alpha (n + 1)) (Vovk, 2012, proposition 2b). If scores tie, the rate is lower, so only
    the upper end is valid.

    Args:
      n: calibration rows, independent and identically distributed with the new normals.
      alpha: the rate of the rule.
      confidence: P(the rate is in the band), in (0, 1).

    Raises:
      UserError: the confidence is not between 0 and 1; see `rank_allowed`.
    """
    return rank_band(n, rank_allowed(n, alpha), confidence)


def rank_band(n: int, rank: int | float, confidence: float = 0.95) -> Interval:
    """`fpr_band` of a threshold by its rank among n calibration scores, 1 = the largest.

    At a whole rank k the false-positive rate is Beta(k, n + 1 - k) distributed, with the mean
    k / (n + 1). Between two ranks the threshold lies between two scores, so the band reaches from
    the low end at the smaller rank to the high end at the larger.

    Raises:
      UserError: the confidence is not between 0 and 1.
    """
    from scipy.special import betaincinv

    if not 0 < confidence < 1:
        raise UserError(f"the confidence is {confidence:g}; it must be between 0 and 1")
    tail = (1 - confidence) / 2
    ends = (math.floor(rank), tail), (math.ceil(rank), 1 - tail)
    return Interval(*(float(betaincinv(k, n + 1 - k, share)) for k, share in ends))


def benjamini_hochberg(p: Float[AnyArray, " N"], fdr: float) -> Bool[np.ndarray, " N"]:
    """The rows whose p-value is at most p_(i), i the last with p_(i) <= fdr i / N.

    The expected share of normals among the selected rows is at most fdr (N0 / N), N0 being the
    number of normals, if the p-values of normals are independent (Benjamini and Hochberg, 1995,
    theorem 1) or positively dependent, PRDS (Benjamini and Yekutieli, 2001, theorem 1.2).
    Split-conformal p-values are PRDS if no scores tie (Bates et al., 2023, theorem 2); it is not
    known whether those of folds are.

    Args:
      p: p-values in [0, 1].
      fdr: the rate, in (0, 1). With n calibration rows no p-value is below 1/(n+1), so nothing is
        selected unless at least N / (fdr (n + 1)) rows have the smallest p-values.

    Returns:
      True = selected as an anomaly.

    Raises:
      UserError: the rate is not between 0 and 1, or a p-value is NaN or not in [0, 1].
    """
    from scipy.stats import false_discovery_control

    if not 0 < fdr < 1:
        raise UserError(f"the false-discovery rate is {fdr:g}; it must be between 0 and 1")
    refuse_other_than_p_values(p)
    return false_discovery_control(np.asarray(p, np.float32)) <= fdr * _SLACK
