"""What all intervals have in common: the check of their rows, and the types of their results."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from jaxae.errors import UserError
from jaxae.types import AnyArray

# Up to here every row is drawn equally often, to a part in 4,096: see `two_runs.draw`.
MAX_ROWS = 2**20


class Interval(NamedTuple):
    """Where a value may lie, both ends included."""

    low: float
    high: float


class PerMetric(NamedTuple):
    """One thing for each metric: its value, its interval or its difference."""

    auroc: Any
    average_precision: Any
    f1: Any


def checked(
    scores: Shaped[AnyArray, "..."], y: Shaped[AnyArray, "..."]
) -> tuple[Float[np.ndarray, "R N"], Bool[np.ndarray, " N"]]:
    """Scores of R runs, in float32 as all metrics compare them, and the truth.

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
    return scores.astype(np.float32), y
