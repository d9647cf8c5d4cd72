"""Thresholds beyond the largest calibration score, extrapolated by extreme value theory."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.errors import UserError
from jaxae.types import Scalar

TAIL = 0.1  # share of the scores that belong to the tail
FEWEST = 10  # scores needed to fit a tail


def generalised_pareto(excess: Float[Array, " m"]) -> tuple[Scalar, Scalar]:
    """Shape xi and scale sigma of P(Y > y) = (1 + xi y / sigma)^(-1/xi), fitted on excesses >= 0.

    The estimator of Zhang and Stephens (2009): the mean of theta = -xi / sigma over a
    grid, weighted by its profile likelihood. It exists for every sample and every shape, needs no
    iterative search, and is close to efficient.

    Returns:
      (xi, sigma); (0, 0) if all excesses are 0.
    """
    m, largest = len(excess), jnp.max(excess)
    y = jnp.sort(excess) / jnp.where(largest > 0, largest, 1.0)
    # The lower quartile sets the width of the grid; if ties make it 0, the mean does.
    quartile = y[int(m / 4 + 0.5) - 1]
    quartile = jnp.where(quartile > 0, quartile, jnp.maximum(jnp.mean(y), 1e-3))
    size = 20 + int(m**0.5)
    theta = 1 + (1 - jnp.sqrt(size / (jnp.arange(1, size + 1) - 0.5))) / (3 * quartile)

    def shape_and_scale(theta: Scalar) -> tuple[Scalar, Scalar]:
        """The most likely shape and scale for a theta; theta = 0 means exponential."""
        xi = jnp.mean(jnp.log1p(-theta * y))
        curved = jnp.abs(theta) > 1e-5
        sigma = jnp.where(curved, -xi / jnp.where(curved, theta, 1.0), jnp.mean(y))
        return xi, jnp.maximum(sigma, jnp.finfo(jnp.float32).tiny)

    xi, sigma = jax.vmap(shape_and_scale)(theta)
    weight = jax.nn.softmax(-m * (jnp.log(sigma) + xi + 1))
    xi, sigma = shape_and_scale(jnp.sum(weight * theta))
    tied = largest <= 0
    return jnp.where(tied, 0.0, xi), jnp.where(tied, 0.0, sigma * largest)


def peaks_over_threshold(scores: Float[Array, " n"], risk: float) -> dict:
    """The score that a normal exceeds with probability `risk`, extrapolated from the top tenth.

    z = u + sigma / xi ((risk n / m)^(-xi) - 1), with `generalised_pareto` fitted on the m = n / 10
    largest scores minus u, the next largest (Pickands, 1975; for anomalies Siffer et al., 2017). An
    estimate without a guarantee, for continuous scores and for risks below 1/(n+1), which conformal
    p-values cannot reach. Shifting or scaling all scores shifts or scales the threshold.

    Args:
      scores: of at least a hundred normals.
      risk: a false-positive rate in (0, 0.1).

    Returns:
      "threshold" [], NaN if a score is NaN.

    Raises:
      UserError: there are too few scores.
    """
    n = len(scores)
    m = int(TAIL * n)
    if m < FEWEST:
        raise UserError(
            f"threshold rule pot fits the largest tenth of the scores, {FEWEST} or more, but there "
            f"are {n} calibration scores; give at least {round(FEWEST / TAIL)} held-out normals "
            "(raise data.valid_fraction, unset threshold.limit) or use another --threshold.rule"
        )
    ordered = jnp.sort(jnp.asarray(scores, jnp.float32))
    u = ordered[n - m - 1]
    xi, sigma = generalised_pareto(ordered[n - m :] - u)
    depth = jnp.maximum(jnp.log(m / (n * jnp.asarray(risk, jnp.float32))), 0.0)
    curved = jnp.abs(xi) > 1e-5
    reach = jnp.where(curved, jnp.expm1(xi * depth) / jnp.where(curved, xi, 1.0), depth)
    return {"threshold": u + sigma * reach}
