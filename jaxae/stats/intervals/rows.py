"""The inputs and results of all intervals: rows by class, checked once, and tuples."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from jaxae.errors import UserError
from jaxae.types import AnyArray

# Up to here every row is drawn equally often, to a part in 4,096: see `two_runs.draw`.
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
    """Scores of R runs on the same rows, by class."""

    normals: Float[Array, "R n"]
    anomalies: Float[Array, "R m"]


def by_class(scores: Shaped[AnyArray, "..."], y: Shaped[AnyArray, "..."]) -> Classes:
    """The rows of R runs by class, in the order in which they came.

    Args:
      scores: [R, N].
      y: [N] bool, the truth, True = anomaly.

    Raises:
      UserError: the shapes do not belong together, y is not bool, a score is NaN, a class has
        fewer than 2 rows, or there are more than 2**20 rows.
    """
    scores, y = np.asarray(scores), np.asarray(y)
    if scores.ndim != 2 or not scores.size or y.shape != scores.shape[1:]:
        raise UserError(
            f"scores are {list(scores.shape)} and the truth is {list(y.shape)}; give the scores of "
            "all runs as [R, N] and the truth as [N]"
        )
    if y.dtype != bool:
        raise UserError(f"truth is {y.dtype}; it must be bool, True = anomaly")
    if y.size > MAX_ROWS:
        raise UserError(f"there are {y.size} rows; give a sample of at most {MAX_ROWS}")
    bad = np.flatnonzero(np.isnan(scores).any(axis=0))
    if bad.size:
        raise UserError(f"{bad.size} rows have a NaN score, the first is row {bad[0]}; remove them")
    if min(y.sum(), (~y).sum()) < 2:
        raise UserError(
            f"there are {(~y).sum()} normal and {y.sum()} anomalous rows; an interval needs at "
            "least 2 of each: give more test rows"
        )
    scores = scores.astype(np.float32)
    return Classes(jnp.asarray(scores[:, ~y]), jnp.asarray(scores[:, y]))
