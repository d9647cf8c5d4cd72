"""What every loader gives: arrays as published, before any choice of classes, splits or scaling."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped

from jaxae.data.datasets.schema import Schema
from jaxae.types import Scaling, Source


class Raw(NamedTuple):
    """A data set as its source publishes it."""

    x_train: Source  # [N, *S] uint8 pixels or float32 values
    train_class_id: Int[np.ndarray, " N"] | None  # None = unlabelled, all normal
    x_test: Source  # [M, *S]
    test_class_id: Int[np.ndarray, " M"]
    normal: tuple[int, ...] = ()  # classes that are normal where nobody says; () = no such classes
    group: Int[np.ndarray, " N"] | None = None  # training rows that are held out together
    schema: Schema = Schema()  # how the rows were read from files


def to_float(x: Shaped[np.ndarray, "*S"]) -> Float[np.ndarray, "*S"]:
    """Raw rows as float32: uint8, which means pixels, to [0, 1] by x / 255, others as they are."""
    if x.dtype == np.uint8:
        return np.divide(x, np.float32(255), dtype=np.float32)
    return x.astype(np.float32, copy=False)


def scaled(x: Shaped[np.ndarray, "*S"], scaling: Scaling) -> Float[np.ndarray, "*S"]:
    """Raw rows as a model sees them: in float32, shifted and scaled."""
    shift, scale = (np.asarray(part) for part in scaling)
    if not shift.any() and (scale == 1).all():
        return to_float(x)
    return (to_float(x) - shift) / scale
