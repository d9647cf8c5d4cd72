"""The type that every loader returns: rows as in their source; and their scaling for a model."""

from functools import reduce
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from jaxae.data import sources
from jaxae.data.own.schema import Schema
from jaxae.errors import UserError
from jaxae.types import Scaling, Source


class Raw(NamedTuple):
    """A data set as published by its source.

    It is labelled if any of its rows has a class. Without labels, all rows are training rows, taken
    as normal, and there are no test rows.
    """

    x_train: Source  # [N, *S] uint8 pixels or values: float64 of tables, else float32
    train_class_id: Int[np.ndarray, " N"] | None  # None = unlabelled, all normal
    x_test: Source  # [M, *S]
    test_class_id: Int[np.ndarray, " M"]
    normal: tuple[int, ...] = ()  # default normal classes of the configuration; () = none
    group: Int[np.ndarray, " N"] | None = None  # training rows that are held out together
    schema: Schema = Schema()  # how rows were read from files
    notes: tuple[str, ...] = ()  # a line for each decision made in reading that a user should know

    @property
    def is_labelled(self) -> bool:
        """Whether any row has a class."""
        return self.train_class_id is not None or len(self.test_class_id) > 0


def to_float(x: Shaped[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """Raw rows as float32: uint8, which means pixels, as x / 255 in [0, 1]; others unchanged."""
    if x.dtype == np.uint8:
        return np.divide(x, np.float32(255), dtype=np.float32)
    return x.astype(np.float32, copy=False)


def scaled(x: Shaped[np.ndarray, "*S"], scaling: Scaling) -> Float[np.ndarray, "*S"]:
    """Raw rows as a model's input: in float32, shifted and scaled."""
    shift, scale = (np.asarray(part) for part in scaling)
    if not shift.any() and (scale == 1).all():
        return to_float(x)
    return (to_float(x) - shift) / scale


def fit_scaling(how: str, x: Source, ids: np.ndarray) -> Scaling:
    """Fit the shift and scale of x' = (x - shift) / scale on some rows.

    `minmax` uses one minimum and one maximum over all values, so x' is in [0, 1] on these rows;
    `splits.make` passes the training rows of every class, as TensorFlow's ECG tutorial does.
    `standard` uses the mean and standard deviation of each feature (for images, of each channel)
    over the normal training rows. A constant feature keeps the scale 1.

    Args:
      how: none, minmax or standard.
      x: raw rows [N, *S].
      ids: positions of the rows to fit on.

    Returns:
      float32, with the rank of a row; axes that share one value have length 1.

    Raises:
      UserError: `how` has another value, such as "auto".
    """
    rank = len(x.shape) - 1
    if how not in ("none", "minmax", "standard"):
        raise UserError(f"data.scale is {how!r}; it must be none, minmax or standard here")
    shift: np.ndarray = np.zeros((1,) * rank)
    scale: np.ndarray = np.ones((1,) * rank)
    rows = sources.view(x, ids, to_float)
    if how == "minmax":
        low, high = sources.span(rows)
        shift, scale = shift + low, scale * (high - low)
    elif how == "standard":
        axes = (0, 1, 2) if rank == 3 else (0,)
        moments = (
            (
                len(x),
                x.mean(axes, np.float64, keepdims=True),
                x.var(axes, np.float64, keepdims=True),
            )
            for x in sources.blocks(rows)
        )
        _, mean, variance = reduce(_merged, moments)
        shift, scale = mean[0], np.sqrt(variance)[0]
    constant = scale <= 1e-6 * np.maximum(1.0, np.abs(shift))  # float32 rounding, not variation
    return Scaling(shift.astype(np.float32), np.where(constant, 1.0, scale).astype(np.float32))


Moments = tuple[int, np.ndarray, np.ndarray]  # number of rows, mean, variance


def _merged(one: Moments, other: Moments) -> Moments:
    """Joint moments of two blocks of rows (Chan, Golub and LeVeque, 1983)."""
    n = one[0] + other[0]
    share = other[0] / n
    difference = other[1] - one[1]
    mean = one[1] + share * difference
    variance = (1 - share) * one[2] + share * other[2] + share * (1 - share) * difference**2
    return n, mean, variance
