"""The type that every loader returns: rows as in their source; and their scaling for a model."""

import math
from collections.abc import Sequence
from functools import reduce
from typing import NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from jaxae.data import sources
from jaxae.data.own.schema import Schema
from jaxae.devices import tuning
from jaxae.errors import UserError
from jaxae.types import Scaling, Shape, Source, Steps

FARTHEST = 1e30  # scaled values are clipped here; in float32 their squares would be infinite
# Float32 rounds a shift by 6e-8 of its size: up to this many scales, by less than 1e-5 of a scale.
_OFFSET = 128.0
_RANGE = 1e-30, 1e30  # scales that float32 divides by without underflow or overflow
_SAMPLE = 1_000_000  # values in which to look for features that scaling would erase
_ERASED = 1e-6  # of a scale: variation that no model sees


class Raw(NamedTuple):
    """A data set as published by its source.

    It is labelled if any of its rows has a class. Without labels, all rows are training rows, taken
    as normal, and there are no test rows.
    """

    x_train: Source  # [N, *S] uint8 pixels, or values in their own precision
    train_class_id: Int[np.ndarray, " N"] | None  # None = unlabelled, all normal
    x_test: Source  # [M, *S]
    test_class_id: Int[np.ndarray, " M"]
    normal: tuple[int, ...] = ()  # default normal classes of the configuration; () = none
    # Training rows of a group are held out together; windows [N, 2] may have steps of two groups.
    group: Int[np.ndarray, "N ..."] | None = None
    schema: Schema = Schema()  # how rows were read from files
    notes: tuple[str, ...] = ()  # a line for each decision made in reading that a user should know
    names: tuple[str, ...] = ()  # of rows without labels, see `Dataset.names`
    # The truth of each place of test rows, P = (H, W) or (T,), True = anomalous; None = unknown.
    test_place_y: Bool[np.ndarray, " M *P"] | None = None
    steps: Steps | None = None  # of rows that are windows, training windows first

    @property
    def is_labelled(self) -> bool:
        """Whether any row has a class."""
        return self.train_class_id is not None or len(self.test_class_id) > 0


def are_pixels(dtype: np.dtype, shape: Shape) -> bool:
    """Whether values of rows of a shape S are pixels 0 ... 255: those of uint8 images.

    In vectors and series uint8 holds counts, codes or samples: numbers like any other.
    """
    return dtype == np.uint8 and len(shape) >= 3


def narrowed(x: Shaped[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """Numbers as float32 if it holds every one of them exactly, else as float64.

    So the values alone decide, whatever type they were stored in.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        narrow = x.astype(np.float32, copy=False)
        return narrow if np.array_equal(narrow, x) else x.astype(np.float64, copy=False)


def numbers(x: Shaped[np.ndarray, "*S"], pixels: bool = True) -> Float[np.ndarray, "*S"]:
    """Raw rows as real numbers: uint8, if it means pixels, as x / 255 in [0, 1] in float32.

    Rows in float32 stay as they are; every other type becomes float64.
    """
    if x.dtype == np.uint8 and pixels:
        return np.divide(x, np.float32(255), dtype=np.float32)
    return x if x.dtype == np.float32 else x.astype(np.float64, copy=False)


def to_float(x: Shaped[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """`numbers` in float32; those beyond its range become infinite."""
    with np.errstate(over="ignore"):
        return numbers(x).astype(np.float32, copy=False)


def scaled(x: Shaped[np.ndarray, "*S"], scaling: Scaling) -> Float[np.ndarray, "*S"]:
    """Raw rows as a model's input in float32: shifted and scaled in the precision of `scaling`.

    Values beyond `FARTHEST` are set to it.
    """
    shift, scale = (np.asarray(part) for part in scaling)
    with np.errstate(over="ignore"):
        values = numbers(x)
        if shift.any() or (scale != 1).any():
            values = (values.astype(shift.dtype, copy=False) - shift) / scale
        values = values.astype(np.float32, copy=False)
    is_far = x.dtype != np.uint8 and values.size and np.abs(values).max() > FARTHEST
    return np.clip(values, -FARTHEST, FARTHEST) if is_far else values


def place(
    index: Sequence[SupportsIndex] | np.ndarray, shape: Shape, features: Sequence[str] = ()
) -> str:
    """The position of a value in a row as text, without the axis of a single channel: "12 7".

    `features` are names along the last axis, if there are any.
    """
    if len(features) == shape[-1] and len(shape) <= 2:
        return " ".join([*map(str, index[:-1]), features[int(index[-1])]])
    shown = index[:-1] if len(shape) > 1 and shape[-1] == 1 else index
    return " ".join(map(str, shown))


def fit_scaling(how: str, x: Source, ids: np.ndarray, names: Sequence[str] = ()) -> Scaling:
    """Fit the shift and scale of x' = (x - shift) / scale on some rows.

    `minmax` uses one minimum and one maximum over all values, so x' is in [0, 1] on these rows;
    `splits.make` passes the training rows of every class, as TensorFlow's ECG tutorial does.
    `standard` uses the mean and standard deviation of each feature (for images, of each channel)
    over the normal training rows. A feature of which no value differs keeps the scale 1.

    Args:
      how: none, minmax or standard.
      x: raw rows [N, *S].
      ids: positions of the rows to fit on.
      names: of the features, for messages; may be empty.

    Returns:
      With the rank of a row; axes that share one value have length 1. In float64, but in float32
      for pixels and for rows in float32 whose offset is not large in comparison with their scale.

    Raises:
      UserError: `how` has another value, such as "auto", or values are so large that the others
        would all become the same.
    """
    rank = len(x.shape) - 1
    if how not in ("none", "minmax", "standard"):
        raise UserError(f"data.scale is {how!r}; it must be none, minmax or standard here")
    if how == "none":
        return Scaling(np.zeros((1,) * rank, np.float32), np.ones((1,) * rank, np.float32))
    rows = sources.view(x, ids, numbers)
    axes = tuple(range(rank + 1)) if how == "minmax" else (0, 1, 2) if rank == 3 else (0,)
    with np.errstate(over="ignore", invalid="ignore"):
        if how == "minmax":
            low, high = (np.full((1,) * rank, end) for end in sources.span(rows))
            shift, scale = low.astype(np.float64), (high - low).astype(np.float64)
        else:
            found = reduce(_merged, (_moments(block, axes) for block in sources.blocks(rows)))
            shift, scale = found.mean[0], np.sqrt(found.variance)[0]
            low, high = found.low[0], found.high[0]
    is_constant = (low == high) | (scale == 0)
    shift, scale = np.where(is_constant, low, shift), np.where(is_constant, 1.0, scale)
    largest = np.where(np.abs(low) > np.abs(high), low, high)
    _refuse_erased(rows, axes, largest, scale, list(names))
    is_fine = (np.abs(shift) <= _OFFSET * scale) & (scale > _RANGE[0]) & (scale < _RANGE[1])
    in_float32 = low.dtype == np.float32 and (is_fine | is_constant).all()
    dtype = np.float32 if in_float32 else np.float64
    return Scaling(shift.astype(dtype), scale.astype(dtype))


class _Moments(NamedTuple):
    """Number of rows; mean, variance, smallest and largest value of each feature."""

    rows: int
    mean: np.ndarray  # each [1, *S], where axes that share one value have length 1
    variance: np.ndarray
    low: np.ndarray
    high: np.ndarray


def _moments(x: Float[np.ndarray, " N *S"], axes: tuple[int, ...]) -> _Moments:
    """Moments in float64; the mean of the differences corrects the mean of large offsets."""
    mean = x.mean(axes, np.float64, keepdims=True)
    difference = x - mean
    mean = mean + difference.mean(axes, keepdims=True)
    variance = np.square(difference, out=difference).mean(axes, keepdims=True)
    return _Moments(len(x), mean, variance, x.min(axes, keepdims=True), x.max(axes, keepdims=True))


def _merged(one: _Moments, other: _Moments) -> _Moments:
    """Joint moments of two blocks of rows (Chan, Golub and LeVeque, 1983)."""
    n = one.rows + other.rows
    share = other.rows / n
    difference = other.mean - one.mean
    mean = one.mean + share * difference
    variance = (1 - share) * one.variance + share * other.variance
    variance = variance + share * (1 - share) * difference**2
    return _Moments(
        n, mean, variance, np.minimum(one.low, other.low), np.maximum(one.high, other.high)
    )


def _refuse_erased(
    rows: Source, axes: tuple[int, ...], largest: np.ndarray, scale: np.ndarray, names: list[str]
) -> None:
    """Refuse rows of which a few values are so large that all others would become the same.

    That is so where nine in ten values of a feature differ, but by less than a millionth of the
    scale. It is looked for in about a million values.
    """
    count = min(tuning.BLOCK, max(64, _SAMPLE // max(1, math.prod(rows.shape[1:]))))
    some = rows[np.unique(np.linspace(0, len(rows) - 1, count).astype(int))]
    low, high = np.quantile(some.astype(np.float64), [0.05, 0.95], axis=axes, keepdims=True)
    width = (high - low)[0]
    is_erased = ((width > 0) | ~np.isfinite(scale)) & ~(width >= _ERASED * scale)
    if is_erased.any():
        at = tuple(np.argwhere(is_erased)[0].tolist())
        what = f"feature {place(at[-1:], width.shape[-1:], names)}" if width.size > 1 else "a value"
        if not np.isfinite(largest[at]):
            raise UserError(
                f"{what} is NaN or infinite in a training row; remove or fill such rows"
            )
        raise UserError(
            f"{what} is {largest[at]:.6g} in a training row, beside which nine in ten rows, which "
            f"differ by {width[at]:.3g}, would all look the same; remove such rows (is it a mark "
            "for missing values?) or leave the feature out"
        )
