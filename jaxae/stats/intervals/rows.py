"""What all intervals are made of: rows by class, checked once, and the tuples that come out."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Shaped

from jaxae.errors import UserError
from jaxae.types import AnyArray

# Up to here every row is drawn equally often, to a part in 4,096: see `resampling.draw`.
MAX_ROWS = 2**20


class Interval(NamedTuple):
    """Where a value may lie, both ends included."""

    low: Array
    high: Array


class Difference(NamedTuple):
    """A metric of the first run minus that of the second, on the same rows."""

    value: Array
    interval: Interval
    p_value: Array  # two-sided, of the hypothesis that there is no difference


class PerMetric(NamedTuple):
    """One thing for each metric: its value, its interval or its difference."""

    auroc: Any
    average_precision: Any
    f1: Any


class Classes(NamedTuple):
    """Scores of R runs on the same rows, normals and anomalies apart."""

    normals: Float[Array, "R n"]
    anomalies: Float[Array, "R m"]


def by_class(scores: Shaped[AnyArray, "..."], y: Shaped[AnyArray, "..."], runs: str) -> Classes:
    """The rows of R runs by class, in the order in which they came.

    Args:
      scores: [N] of one run or [R, N] of several, as `runs` says.
      y: [N] bool, the truth, True = anomaly.
      runs: "one", "two" or "any number of".

    Raises:
      UserError: the shapes do not belong together, y is not bool, a score is NaN, a class has
        fewer than 2 rows, or there are more than 2**20 rows.
    """
    scores, y = np.asarray(scores), np.asarray(y)
    wanted = {"one": "[N]", "two": "[2, N]"}.get(runs, "[R, N]")
    fits = scores.ndim == (1 if runs == "one" else 2) and (runs != "two" or len(scores) == 2)
    if not fits or not scores.size or y.shape != scores.shape[-1:]:
        raise UserError(
            f"scores are {list(scores.shape)} and the truth is {list(y.shape)}; give the scores of "
            f"{runs} run{'s' * (runs != 'one')} as {wanted} and the truth as [N]"
        )
    if y.dtype != bool:
        raise UserError(f"truth is {y.dtype}; it must be bool, True = anomaly")
    if y.size > MAX_ROWS:
        raise UserError(f"there are {y.size} rows; give a sample of at most {MAX_ROWS}")
    _refuse_nan(scores)
    if min(y.sum(), (~y).sum()) < 2:
        raise UserError(
            f"there are {(~y).sum()} normal and {y.sum()} anomalous rows; an interval needs at "
            "least 2 of each: give more test rows"
        )
    scores = np.atleast_2d(scores).astype(np.float32)
    return Classes(jnp.asarray(scores[:, ~y]), jnp.asarray(scores[:, y]))


def _refuse_nan(scores: np.ndarray) -> None:
    if not (np.issubdtype(scores.dtype, np.floating) or np.issubdtype(scores.dtype, np.integer)):
        raise UserError(f"scores are {scores.dtype}; give real numbers")
    bad = np.flatnonzero(np.isnan(scores).any(axis=0) if scores.ndim > 1 else np.isnan(scores))
    if bad.size:
        raise UserError(f"{bad.size} rows have a NaN score, the first is row {bad[0]}; remove them")


def decisions(is_anomaly: Shaped[AnyArray, "..."], y: Bool[AnyArray, " N"]) -> Bool[Array, "R N"]:
    """Decisions of R runs, the normals' before those of the anomalies.

    Args:
      is_anomaly: [N] of one run or [R, N] of several.
      y: the truth, True = anomaly.

    Raises:
      UserError: decisions are not bool.
    """
    flagged, y = np.atleast_2d(np.asarray(is_anomaly)), np.asarray(y)
    if flagged.dtype != bool:
        raise UserError(f"decisions are {flagged.dtype}; they must be bool, True = anomaly")
    return jnp.asarray(np.concatenate([flagged[:, ~y], flagged[:, y]], axis=1))


def check_confidence(confidence: float) -> None:
    """A `UserError` unless it lies between 0 and 1."""
    if not 0 < confidence < 1:
        raise UserError(f"confidence is {confidence:g}; give a share between 0 and 1, such as 0.95")
