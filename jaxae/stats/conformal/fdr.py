"""Which of many rows are anomalies, at a rate of false discoveries."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxae.errors import UserError
from jaxae.stats.conformal.ranks import refuse_other_than_p_values
from jaxae.types import AnyArray, Scalar

# Of the comparison p N <= fdr i. Conformal p-values are fractions that often meet it with equality,
# and both sides are rounded, twice each.
_SLACK = 1 + 4 * float(np.finfo(np.float32).eps)


def benjamini_hochberg(p: Float[AnyArray, " N"], fdr: float) -> Bool[Array, " N"]:
    """The rows whose p-value is at most p_(i), i the last with p_(i) <= fdr i / N.

    The expected share of normals among the selected rows is at most fdr (N0 / N), N0 being the
    number of normals, if the p-values of normals are independent (Benjamini and Hochberg, 1995,
    theorem 1) or positively dependent, PRDS (Benjamini and Yekutieli, 2001, theorem 1.2).
    Split-conformal p-values are PRDS where no scores tie (Bates et al., 2023, theorem 2); those of
    folds are not known to be.

    Args:
      p: p-values in [0, 1].
      fdr: the rate, in (0, 1). With n calibration rows no p-value is below 1/(n+1), so that nothing
        is selected where fewer than N / (fdr (n + 1)) rows stand out.

    Returns:
      True = selected as an anomaly.

    Raises:
      UserError: the rate is not between 0 and 1, or a p-value is NaN or not in [0, 1].
    """
    if not 0 < fdr < 1:
        raise UserError(f"the false-discovery rate is {fdr:g}; it must be between 0 and 1")
    refuse_other_than_p_values(p)
    return _step_up(jnp.asarray(p, jnp.float32), fdr)


@jax.jit
def _step_up(p: Array, fdr: Scalar) -> Array:
    ordered = jnp.sort(p)
    rank = jnp.arange(1, len(p) + 1, dtype=jnp.float32)
    last = jnp.max(jnp.where(ordered * len(p) <= fdr * rank * _SLACK, ordered, -1), initial=-1)
    return p <= last
