"""P-values that need no held-out rows: from models of folds, or of an ensemble's bootstrap samples.

Every row calibrates, by models that did not see it; a new row is compared with it by the same
models. The price is a factor of two in what can be proved.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxae.errors import UserError
from jaxae.stats.conformal.ranks import refuse_nan, refuse_none, shares, visible
from jaxae.types import AnyArray

_SIDE_BY_SIDE = 64  # calibration rows compared together: bounds the memory of [rows, B, N]


def cv_plus_p_values(
    held_out: Float[AnyArray, " n"],
    fold: Int[AnyArray, " n"],
    scores: Float[AnyArray, "K N"],
) -> Float[Array, " N"]:
    """Cross-conformal p-values, p(x) = (1 + sum_k #{i in fold k: s_i >= s_k(x)}) / (n + 1).

    P(p <= alpha) <= `cv_plus_bound(alpha, n, K)`, which is 2 alpha for K = n, the jackknife+, if
    rows are exchangeable, folds of one size and every model treats its training rows alike (Barber
    et al., 2021, theorems 1 and 4; Vovk, 2015; for anomalies Hennhofer and Preisach, 2024). With
    models that hardly change from fold to fold it is close to alpha.

    Args:
      held_out: s_i, the score of training row i by the model of its fold, which did not see it.
      fold: k(i), numbers 0 ... K - 1.
      scores: s_k(x), of the rows in question by the model of each fold.

    Returns:
      float32 in [1/(n+1), 1].

    Raises:
      UserError: a score is NaN, there are no rows, or a fold that no model stands for.
    """
    refuse_none(held_out)
    refuse_nan(held_out=held_out, scores=scores)
    folds = np.arange(scores.shape[0])
    strange = np.setdiff1d(fold, folds) if visible(fold) else folds[:0]
    if strange.size:
        raise UserError(f"fold {strange[0]} has no scores; folds are numbered 0 ... {folds[-1]}")
    return _cross(*_float32(held_out, scores), jnp.asarray(fold))


@jax.jit
def _cross(held_out: Array, scores: Array, fold: Array) -> Array:
    size = jnp.bincount(fold, length=len(scores))

    def reach(one: tuple[Array, Array]) -> Array:
        """How many rows of a fold have at least the scores [N]: [N]."""
        k, at = one
        # Rows of other folds are sorted last, as NaN, and cut off.
        ordered = jnp.sort(jnp.where(fold == k, held_out, jnp.nan))
        return size[k] - jnp.minimum(jnp.searchsorted(ordered, at), size[k])

    counts = lax.map(reach, (jnp.arange(len(scores)), scores))
    return jnp.asarray(shares(len(held_out)))[jnp.sum(counts, axis=0)]


def _float32(*arrays: AnyArray) -> list[Array]:
    return [jnp.asarray(values, jnp.float32) for values in arrays]


def cv_plus_bound(alpha: float, n: int, folds: int) -> float:
    """2 alpha + min(2 (1 - 1/K) / (n/K + 1), (1 - K/n) / (K + 1)): the most that P(p <= alpha) is.

    For K folds of one size; of theorem 4 of Barber et al. (2021). At K = n it is 2 alpha.

    Raises:
      UserError: there are fewer than two folds, or more than rows.
    """
    if not 2 <= folds <= n:
        raise UserError(f"there are {folds} folds of {n} rows; give from 2 to as many as rows")
    slack = min(2 * (1 - 1 / folds) / (n / folds + 1), (1 - folds / n) / (folds + 1))
    return min(1.0, 2 * alpha + slack)


def jackknife_after_bootstrap_p_values(
    training: Float[AnyArray, "B n"],
    in_bag: Bool[AnyArray, "B n"],
    scores: Float[AnyArray, "B N"],
    aggregate: Callable = jnp.nanmedian,
) -> Float[Array, " N"]:
    """Jackknife+-after-bootstrap: p(x) = (1 + #{i: s_i >= s_{-i}(x)}) / (n + 1).

    s_i and s_{-i}(x) are the aggregated scores of training row i, and of the new row, by those
    members that were not trained on row i. An ensemble so calibrates itself. P(p <= alpha) <= 2
    alpha if rows are exchangeable and the number of members was drawn from a Binomial(M, (1 -
    1/(n+1))^m), m being the rows in a bag (Kim, Xu and Barber, 2020, theorem 1); for a fixed number
    of members there is no such proof, but the difference fades as members are added.

    Args:
      training: scores of the training rows by every member.
      in_bag: whether a member was trained on a row.
      scores: of the rows in question by every member.
      aggregate: `([B, N] in which NaN stands for the members left out, axis=0) -> [N]`, such as
        `jnp.nanmean`.

    Returns:
      float32 in [1/(n+1), 1].

    Raises:
      UserError: a score is NaN, there are no rows, or one that every member was trained on.
    """
    refuse_none(training)
    refuse_nan(training=training, scores=scores)
    seen = np.flatnonzero(in_bag.all(axis=0)) if visible(in_bag) else np.zeros(0, int)
    if seen.size:
        raise UserError(
            f"{seen.size} training rows, first row {seen[0]}, were seen by all {len(in_bag)} "
            "members, so that none can judge them; add members or leave these rows out"
        )
    return _bootstrap(*_float32(training, scores), jnp.asarray(in_bag), aggregate)


@partial(jax.jit, static_argnames="aggregate")
def _bootstrap(training: Array, scores: Array, in_bag: Array, aggregate: Callable) -> Array:
    def reached(row: tuple[Array, Array]) -> Array:
        """Whether a training row has at least the scores of the new rows: [N]."""
        own, used = row
        both = jnp.concatenate([own[:, None], scores], axis=1)
        both = aggregate(jnp.where(used[:, None], jnp.nan, both), axis=0)
        # No member is left, under `jax.jit`, where it cannot be refused: NaN counts as reached.
        return ~(both[0] < both[1:])

    rows = (training.T, in_bag.T)
    counts = jnp.sum(lax.map(reached, rows, batch_size=_SIDE_BY_SIDE), axis=0)
    return jnp.asarray(shares(len(training.T)))[counts]
