"""Drift of a stream: a martingale that bets against its p-values being uniform.

A gambler who starts with 1 and stakes it on small p-values gains nothing on average while the rows
stay exchangeable. By Ville's inequality the probability that the wealth ever reaches 1/delta is
then at most delta. An alarm at `log >= -math.log(delta)` is therefore valid at all times at once,
for a stream of any length.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from jaxae.stats.conformal.ranks import refuse_other_than_p_values
from jaxae.types import AnyArray

# One gambler for each, who bets epsilon p^(epsilon - 1). A low epsilon wins more on small p-values
# and loses more on others: high ones suit a slight drift, low ones a large drift. The last one bets
# nothing and keeps its wealth; redistribution gives the others a share of it when drift begins.
EPSILONS = np.float32([1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1])
JUMP = 0.01  # share of the wealth that is redistributed equally after each row


class Wealth(NamedTuple):
    """Logarithms of the gamblers' wealth."""

    log: Float[Array, " T"]  # of their mean, after each row
    each: Float[Array, " E"]  # of each gambler after the last row, to continue the stream from


def bet(p: Float[AnyArray, " T"], each: Float[AnyArray, " E"] | None = None) -> Wealth:
    """The jumper martingale over power bets: M_t = mean over epsilon of the gamblers' wealth.

    With each row a gambler's wealth is multiplied by epsilon p^(epsilon - 1), whose mean is 1
    (Vovk, Nouretdinov and Gammerman, 2003); then the share `JUMP` of everything is redistributed
    equally, so that gamblers who lost everything before the drift can win when it begins (Vovk et
    al., 2021). The mean grows when scores rise; it does not see a drift to lower scores.

    Args:
      p: from `stream_p_values`, in (0, 1]. If p-values are not independent and uniform, the wealth
        is not a martingale.
      each: `Wealth.each` of the stream so far; None at its start.

    Raises:
      UserError: a p-value is NaN or not in [0, 1].
    """
    refuse_other_than_p_values(p)
    start = np.zeros_like(EPSILONS) if each is None else each
    return _play(jnp.asarray(p, jnp.float32), jnp.asarray(start, jnp.float32))


@jax.jit
def _play(p: Array, start: Array) -> Wealth:
    stakes = jnp.asarray(EPSILONS)

    def step(each: Array, log_p: Array) -> tuple[Array, Array]:
        won = each + jnp.log(stakes) + (stakes - 1) * log_p
        mean = logsumexp(won) - math.log(len(stakes))
        return jnp.logaddexp(math.log1p(-JUMP) + won, math.log(JUMP) + mean), mean

    # `stream_p_values` never returns 0; a 0 from elsewhere gives a large but finite win.
    log_p = jnp.log(jnp.maximum(p, jnp.finfo(jnp.float32).tiny))
    each, log = lax.scan(step, start, log_p)
    return Wealth(log, each)
