"""Scaling of rows, fitted on those that are trained on."""

from functools import reduce

import numpy as np

from jaxae.data import sources
from jaxae.data.datasets.raw import to_float
from jaxae.errors import UserError
from jaxae.types import Scaling, Source


def fit_scaling(how: str, x: Source, ids: np.ndarray) -> Scaling:
    """Shift and scale of x' = (x - shift) / scale, fitted on some rows.

    `minmax` takes one minimum and one maximum over everything: x' in [0, 1] on these rows. As in
    TensorFlow's ECG tutorial `make` gives it the whole training part, whatever the class of a row
    (but not the valid rows, nor any test row). `standard` takes mean and standard deviation of each
    feature, of each channel for images, of the normal training rows. What does not vary keeps the
    scale 1.

    Args:
      how: none, minmax or standard.
      x: raw rows [N, *S].
      ids: positions of the rows to fit on.

    Returns:
      float32, of the rank of a row, with axes of length 1 where they are shared.

    Raises:
      UserError: another way of scaling, "auto" for one.
    """
    rank = len(x.shape) - 1
    if how not in ("none", "minmax", "standard"):
        raise UserError(f"data.scale is {how!r}; it must be none, minmax or standard by now")
    shift: np.ndarray = np.zeros((1,) * rank)
    scale: np.ndarray = np.ones((1,) * rank)
    fitted = sources.view(x, ids, to_float)
    if how == "minmax":
        low, high = sources.span(fitted)
        shift, scale = shift + low, scale * (high - low)
    elif how == "standard":
        axes = (0, 1, 2) if rank == 3 else (0,)
        _, mean, variance = reduce(
            _merged, (_moments(block, axes) for block in sources.blocks(fitted))
        )
        shift, scale = mean[0], np.sqrt(variance)[0]
    constant = scale <= 1e-6 * np.maximum(1.0, np.abs(shift))  # float32 rounding, not variation
    return Scaling(shift.astype(np.float32), np.where(constant, 1.0, scale).astype(np.float32))


Moments = tuple[int, np.ndarray, np.ndarray]  # number of rows, mean, variance


def _moments(x: np.ndarray, axes: tuple[int, ...]) -> Moments:
    return len(x), x.mean(axes, np.float64, keepdims=True), x.var(axes, np.float64, keepdims=True)


def _merged(one: Moments, other: Moments) -> Moments:
    """Moments of two blocks of rows together (Chan, Golub and LeVeque, 1983)."""
    n = one[0] + other[0]
    share = other[0] / n
    apart = other[1] - one[1]
    mean = one[1] + share * apart
    variance = (1 - share) * one[2] + share * other[2] + share * (1 - share) * apart**2
    return n, mean, variance
