"""P-values without held-out rows, from models of folds or of an ensemble's bootstrap samples.

Every training row is also a calibration row, scored by models that were not trained on it; the
same models score a new row for the comparison. The proved bound is then twice as large.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxae.errors import UserError
from jaxae.stats.conformal.ranks import is_concrete, refuse_unusable, shares
from jaxae.types import AnyArray

_SIDE_BY_SIDE = 64  # calibration rows compared together: bounds the memory of [rows, B, N]


def cv_plus_p_values(
    held_out: Float[AnyArray, " n"],
    fold: Int[AnyArray, " n"],
    scores: Float[AnyArray, "K N"],
) -> Float[np.ndarray, " N"]:
    """Cross-conformal p-values, p(x) = (1 + sum_k #{i in fold k: s_i >= s_k(x)}) / (n + 1).

    P(p <= alpha) <= `cv_plus_bound(alpha, n, K)`, which is 2 alpha for K = n, the jackknife+, if
    rows are exchangeable, folds have equal size and training does not depend on row order (Barber
    et al., 2021, theorems 1 and 4; Vovk, 2015; for anomalies Hennhofer and Preisach, 2024). With
    models that hardly change from fold to fold it is close to alpha.

    Args:
      held_out: s_i, the score of training row i by the model that was trained without its fold.
      fold: k(i), the fold of row i, 0 ... K - 1.
      scores: s_k(x), the scores of the new rows by the model of each fold.

    Returns:
      float32 in [1/(n+1), 1].

    Raises:
      UserError: a score is NaN, there are no rows, or a fold has no model.
    """
    refuse_unusable(held_out=held_out, scores=scores)
    held_out, scores = (np.asarray(values, np.float32) for values in (held_out, scores))
    fold = np.asarray(fold)
    unknown = np.setdiff1d(fold, np.arange(len(scores)))
    if unknown.size:
        raise UserError(
            f"fold {unknown[0]} has no scores; folds are numbered 0 ... {len(scores) - 1}"
        )
    counts = np.zeros(scores.shape[1], int)
    for k, model_scores in enumerate(scores):
        ordered = np.sort(held_out[fold == k])
        counts += len(ordered) - np.searchsorted(ordered, model_scores)
    return shares(len(held_out))[counts]


def cv_plus_bound(alpha: float, n: int, folds: int) -> float:
    """The bound of P(p <= alpha): 2 alpha + min(2 (1 - 1/K) / (n/K + 1), (1 - K/n) / (K + 1)).

    It holds for K folds of equal size (Barber et al., 2021, theorem 4). At K = n it is 2 alpha.

    Raises:
      UserError: there are fewer than two folds, or more folds than rows.
    """
    if not 2 <= folds <= n:
        raise UserError(f"there are {folds} folds of {n} rows; give at least 2, at most {n}")
    slack = min(2 * (1 - 1 / folds) / (n / folds + 1), (1 - folds / n) / (folds + 1))
    return min(1.0, 2 * alpha + slack)


def jackknife_after_bootstrap_p_values(
    training: Float[AnyArray, "B n"],
    in_bag: Bool[AnyArray, "B n"],
    scores: Float[AnyArray, "B N"],
) -> Float[Array, " N"]:
    """Jackknife+-after-bootstrap: p(x) = (1 + #{i: s_i >= s_{-i}(x)}) / (n + 1).

    s_i and s_{-i}(x) are the median scores of training row i, and of the new row, by those
    members that were not trained on row i: an ensemble calibrates itself. P(p <= alpha) <= 2 alpha
    if rows are exchangeable and the number of members was drawn from a Binomial(M, (1 -
    1/(n+1))^m), m being the rows in a bag (Kim, Xu and Barber, 2020, theorem 1); for a fixed number
    of members there is no such proof, but the difference vanishes as members are added.

    Args:
      training: scores of the training rows by every member.
      in_bag: whether a member was trained on a row.
      scores: scores of the new rows by every member.

    Returns:
      float32 in [1/(n+1), 1].

    Raises:
      UserError: a score is NaN, there are no rows, or every member was trained on some row.
    """
    refuse_unusable(training=training, scores=scores)
    in_all_bags = np.flatnonzero(in_bag.all(axis=0)) if is_concrete(in_bag) else np.zeros(0, int)
    if in_all_bags.size:
        raise UserError(
            f"{in_all_bags.size} training rows, the first is row {in_all_bags[0]}, are in the bags "
            f"of all {len(in_bag)} members, so none can score them; add members or remove the rows"
        )
    training, scores = (jnp.asarray(a, jnp.float32) for a in (training, scores))
    return _bootstrap(training, scores, jnp.asarray(in_bag))


@jax.jit
def _bootstrap(training: Array, scores: Array, in_bag: Array) -> Array:
    def reached(row: tuple[Array, Array]) -> Array:
        """Whether the score of a training row is at least that of each new row: [N]."""
        score, used = row
        by_member = jnp.concatenate([score[:, None], scores], axis=1)
        medians = jnp.nanmedian(jnp.where(used[:, None], jnp.nan, by_member), axis=0)
        # Under `jax.jit` a row in every bag cannot be refused; its NaN medians count as reached.
        return ~(medians[0] < medians[1:])

    rows = (training.T, in_bag.T)
    counts = jnp.sum(lax.map(reached, rows, batch_size=_SIDE_BY_SIDE), axis=0)
    return jnp.asarray(shares(len(training.T)))[counts]
