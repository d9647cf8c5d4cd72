"""P-values from ranks among calibration scores, for single rows and for the rows of a stream.

Scores are compared in float32, as in metrics. A NaN has no rank: it raises an error; inside
`jax.jit`, where values cannot be checked, its p-value is NaN.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxae.errors import UserError
from jaxae.types import AnyArray, Decision, Key


def is_concrete(values: AnyArray) -> bool:
    """Whether the values can be checked; under `jax.jit` they do not exist yet."""
    return not isinstance(values, jax.core.Tracer)


def refuse_nan(**arrays: AnyArray) -> None:
    """If an array contains NaN, raise a `UserError` that names the array and counts them."""
    for name, values in arrays.items():
        bad = int(np.isnan(values).sum()) if is_concrete(values) else 0
        if bad:
            raise UserError(
                f"{bad} of {np.size(values)} values of {name} are NaN, which has no rank; remove "
                "the rows that they belong to"
            )


def refuse_other_than_p_values(p: AnyArray) -> None:
    """If values are not in [0, 1], raise a `UserError` that counts them and names the first."""
    refuse_nan(p=p)
    outside = np.asarray((p < 0) | (p > 1)) if is_concrete(p) else np.zeros(0, bool)
    if outside.any():
        raise UserError(
            f"{outside.sum()} of {len(outside)} p-values are not in [0, 1], the first "
            f"{float(p[int(outside.argmax())]):g}; give p-values, not scores"
        )


def refuse_unusable(**arrays: AnyArray) -> None:
    """`refuse_nan`, and raise a `UserError` if the first array (calibration scores) is empty."""
    if not next(iter(arrays.values())).shape[-1]:
        raise UserError("there are no calibration scores; hold out normals (data.valid_fraction)")
    refuse_nan(**arrays)


def shares(n: int) -> Float[np.ndarray, " values"]:
    """The values that a p-value takes among n calibration rows: 1/(n+1), 2/(n+1) ... 1.

    P-values are looked up in this table because XLA divides by a constant by multiplying with its
    rounded inverse. That would change many p-values by one unit in the last place, and put some
    that equal alpha on the other side of it.
    """
    return np.arange(1, n + 2, dtype=np.float32) / np.float32(n + 1)


def split_p_values(
    calibration: Float[AnyArray, " n"], scores: Float[AnyArray, " N"]
) -> Float[Array, " N"]:
    """Split-conformal p-values, p(s) = (1 + #{calibration >= s}) / (n + 1), exact with ties.

    If the row is a normal that is exchangeable with the calibration rows, P(p <= alpha) <= alpha
    for every alpha (Vovk, Gammerman and Shafer, 2005, chapter 4; Laxhammar and Falkman, 2010),
    and > alpha - 1/(n+1) if no scores tie. This is an average over calibration sets; for a single
    set see `fpr_band`. P-values of several rows are positively dependent through the calibration
    set: see `benjamini_hochberg`.

    Args:
      calibration: scores of normals on which nothing was fitted; n < 2**24.
      scores: scores of new rows, higher = more anomalous.

    Returns:
      float32 in [1/(n+1), 1], low = anomalous: the number nearest to the fraction.

    Raises:
      UserError: a score is NaN, or there are no calibration scores.
    """
    refuse_unusable(calibration=calibration, scores=scores)
    calibration, scores = (jnp.asarray(a, jnp.float32) for a in (calibration, scores))
    ordered, n = jnp.sort(calibration), len(calibration)
    p = jnp.asarray(shares(n))[n - jnp.searchsorted(ordered, scores)]
    return jnp.where(jnp.isnan(scores) | jnp.isnan(ordered[-1]), jnp.nan, p)  # NaN are sorted last


def p_values(decision: Decision, scores: Float[AnyArray, " N"]) -> Float[np.ndarray, " N"]:
    """P-values of scores among the calibration scores of a decision, for any threshold rule.

    With them rows can be judged at any alpha, p <= alpha, without fitting another rule. They are
    float64, so that the p-value 1/20 equals the literal 0.05. Their guarantee depends on the
    calibration rows, see `split_p_values`.

    Raises:
      UserError: a score is NaN, or there are no calibration scores.
    """
    calibration, scores = (np.asarray(a, np.float32) for a in (decision.calibration, scores))
    refuse_unusable(calibration=calibration, scores=scores)
    n = len(calibration)
    return (n + 1 - np.searchsorted(np.sort(calibration), scores)) / (n + 1)


def stream_p_values(
    key: Key, calibration: Float[AnyArray, " n"], scores: Float[AnyArray, " T"]
) -> Float[Array, " T"]:
    """P-values of a stream, each row ranked among the calibration rows and all rows before it.

    Ties are broken at random: with n rows so far and U uniform on (0, 1],
    p = (#{rows > s} + U (1 + #{rows = s})) / (n + 1). While the rows stay exchangeable these are
    independent and uniform (Vovk, Nouretdinov and Gammerman, 2003, theorem 1). P-values against one
    fixed calibration set are not: they share its sampling error, which a martingale eventually
    mistakes for drift.

    Args:
      key: breaks ties.
      calibration: scores of the first rows; may be empty.
      scores: in the order of time.

    Returns:
      float32 in (0, 1]; the time grows with T (n + T).

    Raises:
      UserError: a score is NaN.
    """
    refuse_nan(calibration=calibration, scores=scores)
    return _stream(key, *(jnp.asarray(a, jnp.float32) for a in (calibration, scores)))


@jax.jit
def _stream(key: Key, calibration: Array, scores: Array) -> Array:
    n, steps = len(calibration), len(scores)
    seen = jnp.concatenate([calibration, scores])

    def rank(row: tuple[Array, Array]) -> Array:
        t, uniform = row
        before, score = jnp.arange(n + steps) < n + t, seen[n + t]
        above, equal = jnp.sum(before & (seen > score)), jnp.sum(before & (seen == score))
        p = (above + uniform * (1 + equal)) / (1 + n + t)
        return jnp.where(jnp.any(jnp.isnan(seen) & before) | jnp.isnan(score), jnp.nan, p)

    # In (0, 1], never 0: a bet on p = 0 would win without limit.
    uniforms = 1 - jax.random.uniform(key, (steps,))
    return lax.map(rank, (jnp.arange(steps), uniforms), batch_size=256)
