"""Drift of a stream: a martingale that bets against its p-values being uniform.

A gambler who starts with 1 and stakes it on small p-values gains nothing on average while the rows
stay exchangeable. By Ville's inequality the wealth then ever reaches 1/delta with a probability of
at most delta: the alarm holds at all times at once, however long one looks.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Bool, Float

from jaxae.conformal.ranks import refuse_nan
from jaxae.errors import UserError
from jaxae.types import AnyArray

# One gambler for each, who bets epsilon p^(epsilon - 1): low ones win more on small p-values and
# lose more on others, so that some are right for a slight drift and some for a large one.
EPSILONS = np.concatenate([2.0 ** -np.arange(3, 9), np.linspace(0.2, 0.95, 6)]).astype(np.float32)


class Wealth(NamedTuple):
    """What the gamblers have, in logarithms."""

    log: Float[Array, " T"]  # of their mean, after each row
    each: Float[Array, " E"]  # of each one after the last row: what a stream goes on from


def bet(p: Float[AnyArray, " T"], each: Float[AnyArray, " E"] | None = None) -> Wealth:
    """The simple mixture of power martingales, M_t = mean over epsilon of prod epsilon p^(eps - 1).

    Vovk, Nouretdinov and Gammerman (2003), with a mean over `EPSILONS` in place of the
    integral: a mean of martingales is one, so nothing is approximate. It grows when scores rise; a
    drift to lower scores it does not see.

    Args:
      p: of `stream_p_values`, in (0, 1]; of other p-values, that are not independent or not
        uniform, the wealth is no martingale.
      each: `Wealth.each` of the stream so far; None: it begins.

    Raises:
      UserError: a p-value is NaN.
    """
    refuse_nan(p=p)
    stakes = jnp.asarray(EPSILONS)
    start = jnp.zeros_like(stakes) if each is None else jnp.asarray(each, jnp.float32)

    def step(each: Array, log_p: Array) -> tuple[Array, Array]:
        each = each + jnp.log(stakes) + (stakes - 1) * log_p
        return each, logsumexp(each) - math.log(len(stakes))

    each, log = lax.scan(step, start, jnp.log(jnp.asarray(p, jnp.float32)))
    return Wealth(log, each)


def crossed(log_wealth: Float[AnyArray, " T"], delta: float) -> Bool[Array, " T"]:
    """Whether the wealth has reached 1/delta yet: P(ever) <= delta while rows are exchangeable.

    Ville's inequality, P(sup M_t >= 1/delta) <= delta.

    Raises:
      UserError: delta is not between 0 and 1.
    """
    if not 0 < delta < 1:
        raise UserError(f"delta is {delta:g}; a probability of false alarm lies between 0 and 1")
    return lax.cummax(jnp.asarray(log_wealth)) >= -math.log(delta)
