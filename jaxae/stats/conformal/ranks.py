"""P-values from ranks among calibration scores: of rows, of the rows of a stream, of groups.

Scores are compared in float32, as metrics compare them. A NaN has no rank: where its value can be
seen it is refused, and inside of `jax.jit` its p-value is NaN.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxae.errors import UserError
from jaxae.types import AnyArray, Decision, Key


def visible(values: AnyArray) -> bool:
    """Whether there are values to look at: under `jax.jit` there are none yet."""
    return not isinstance(values, jax.core.Tracer)


def refuse_nan(**arrays: AnyArray) -> None:
    """Refuse NaN in arrays whose values are visible.

    Raises:
      UserError: names the array and the number of its NaN.
    """
    for name, values in arrays.items():
        bad = int(np.isnan(values).sum()) if visible(values) else 0
        if bad:
            raise UserError(
                f"{bad} of {np.size(values)} values of {name} are NaN, which has no rank; remove "
                "the rows that they belong to"
            )


def refuse_other_than_p_values(p: AnyArray) -> None:
    """Refuse what is not in [0, 1], where it is visible.

    Raises:
      UserError: counts them and names the first.
    """
    refuse_nan(p=p)
    outside = np.asarray((p < 0) | (p > 1)) if visible(p) else np.zeros(0, bool)
    if outside.any():
        raise UserError(
            f"{outside.sum()} of {len(outside)} p-values are not in [0, 1], the first "
            f"{float(p[int(outside.argmax())]):g}; give p-values, not scores"
        )


def refuse_none(calibration: AnyArray) -> None:
    """Refuse an empty calibration set.

    Raises:
      UserError: says so.
    """
    if not calibration.shape[-1]:
        raise UserError("there are no calibration scores; hold out normals (data.valid_fraction)")


def shares(n: int) -> Float[np.ndarray, " values"]:
    """The values that a p-value takes among n calibration rows: 1/(n+1), 2/(n+1) ... 1.

    They are looked up because XLA divides by a constant in multiplying by its rounded inverse: that
    moves many of them by one unit in the last place, and some across the alpha that they equal.
    """
    return np.arange(1, n + 2, dtype=np.float32) / np.float32(n + 1)


def split_p_values(
    calibration: Float[AnyArray, " n"], scores: Float[AnyArray, " N"]
) -> Float[Array, " N"]:
    """Split-conformal p-values, p(s) = (1 + #{calibration >= s}) / (n + 1), exact with ties.

    If the row is a normal that is exchangeable with the calibration rows, P(p <= alpha) <= alpha
    for every alpha (Vovk, Gammerman and Shafer, 2005, chapter 4; Laxhammar and Falkman, 2010),
    and > alpha - 1/(n+1) where no scores tie. That is an average over calibration sets; see
    `fpr_band` for one of them. P-values of several rows depend on each other through the
    calibration set, positively: see `benjamini_hochberg`.

    Args:
      calibration: scores of normals on which nothing was fitted; n < 2**24.
      scores: of the rows in question, higher = more anomalous.

    Returns:
      float32 in [1/(n+1), 1], low = anomalous: the number nearest to the fraction.

    Raises:
      UserError: a score is NaN, or there are no calibration scores.
    """
    refuse_none(calibration)
    refuse_nan(calibration=calibration, scores=scores)
    return _split(_float32(calibration), _float32(scores))


@jax.jit
def _split(calibration: Array, scores: Array) -> Array:
    ordered, n = jnp.sort(calibration), len(calibration)
    p = jnp.asarray(shares(n))[n - jnp.searchsorted(ordered, scores)]
    return _nan_with(scores, ordered, p)


def _nan_with(scores: Array, ordered: Array, p: Array) -> Array:
    """P-values, NaN where a score is NaN or the calibration set holds one: sorting puts it last."""
    return jnp.where(jnp.isnan(scores) | jnp.isnan(ordered[-1]), jnp.nan, p)


def p_values(decision: Decision, scores: Float[AnyArray, " N"]) -> Float[np.ndarray, " N"]:
    """Ranks of scores among those that a threshold rule was fitted on, whatever the rule.

    Rows can so be judged at any alpha, p <= alpha, without a rule fitted anew: in float64, where
    the p-value 1/20 is the number that is written 0.05. What they promise depends on the
    calibration rows, see `split_p_values`.

    Raises:
      UserError: a score is NaN, or there are no calibration scores.
    """
    calibration, scores = (np.asarray(a, np.float32) for a in (decision.calibration, scores))
    refuse_none(calibration)
    refuse_nan(calibration=calibration, scores=scores)
    n = len(calibration)
    return (n + 1 - np.searchsorted(np.sort(calibration), scores)) / (n + 1)


def smoothed_p_values(
    key: Key, calibration: Float[AnyArray, " n"], scores: Float[AnyArray, " N"]
) -> Float[Array, " N"]:
    """Split-conformal p-values whose ties are broken by lot, so that they are exactly uniform.

    With U uniform on (0, 1], p = (#{calibration > s} + U (1 + #{calibration = s})) / (n + 1).

    P(p <= alpha) = alpha for an exchangeable normal (Vovk, Gammerman and Shafer, 2005, chapter 2).
    A decision by it is drawn by lot in part; it is for tests of uniformity. Those of several rows
    share the calibration set and are not independent: for a stream take `stream_p_values`.

    Raises:
      UserError: a score is NaN, or there are no calibration scores.
    """
    refuse_none(calibration)
    refuse_nan(calibration=calibration, scores=scores)
    return _smoothed(key, _float32(calibration), _float32(scores))


@jax.jit
def _smoothed(key: Key, calibration: Array, scores: Array) -> Array:
    ordered, n = jnp.sort(calibration), len(calibration)
    below, up_to = (jnp.searchsorted(ordered, scores, side=side) for side in ("left", "right"))
    p = ((n - up_to) + _lots(key, len(scores)) * (1 + up_to - below)) / (n + 1)
    return _nan_with(scores, ordered, p)


def _lots(key: Key, count: int) -> Array:
    """Uniform on (0, 1]: never 0, since a bet on p = 0 would win everything."""
    return 1 - jax.random.uniform(key, (count,))


def stream_p_values(
    key: Key, calibration: Float[AnyArray, " n"], scores: Float[AnyArray, " T"]
) -> Float[Array, " T"]:
    """Smoothed p-values of a stream, each row ranked among calibration and all rows before it.

    While the rows stay exchangeable these are independent and uniform (Vovk, Nouretdinov and
    Gammerman, 2003, theorem 1), which p-values against one fixed calibration set are not: those all
    lean to the side to which that set leans, and a martingale takes this for drift in the end.

    Args:
      key: of the lots between equal scores.
      calibration: scores of the first rows; none are needed.
      scores: in the order of time.

    Returns:
      float32 in (0, 1]; it takes a time that grows with T (n + T).

    Raises:
      UserError: a score is NaN.
    """
    refuse_nan(calibration=calibration, scores=scores)
    return _stream(key, _float32(calibration), _float32(scores))


@jax.jit
def _stream(key: Key, calibration: Array, scores: Array) -> Array:
    n, steps = len(calibration), len(scores)
    seen = jnp.concatenate([calibration, scores])

    def rank(row: tuple[Array, Array]) -> Array:
        t, lot = row
        before, score = jnp.arange(n + steps) < n + t, seen[n + t]
        above, equal = jnp.sum(before & (seen > score)), jnp.sum(before & (seen == score))
        p = (above + lot * (1 + equal)) / (1 + n + t)
        return jnp.where(jnp.any(jnp.isnan(seen) & before) | jnp.isnan(score), jnp.nan, p)

    return lax.map(rank, (jnp.arange(steps), _lots(key, steps)), batch_size=256)


def group_scores(
    scores: Float[AnyArray, " N"], group: Int[AnyArray, " N"], groups: int
) -> Float[Array, " groups"]:
    """The highest score of each group of rows that belong together, -inf for an empty group.

    Windows of one series, or views of one object, are not exchangeable with those of another: n
    windows that overlap are worth far fewer independent ones. Groups drawn alike are exchangeable,
    and so are these scores. Calibrated on them, a new group has P(any of its rows is flagged) <=
    alpha, n being the number of groups. Blocks of one series are exchangeable only as far as it
    forgets its past from block to block.

    Args:
      scores: of the rows.
      group: numbers 0 ... groups - 1, one for each row.
      groups: how many there are.

    Raises:
      UserError: a score is NaN.
    """
    refuse_nan(scores=scores)
    return jax.ops.segment_max(_float32(scores), jnp.asarray(group), num_segments=groups)


def _float32(values: AnyArray) -> Array:
    return jnp.asarray(values, jnp.float32)
