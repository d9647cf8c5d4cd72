"""What every loader gives: arrays as published, before any choice of classes, splits or scaling."""

from typing import NamedTuple

import numpy as np


class Raw(NamedTuple):
    """A data set as its source publishes it."""

    x_train: np.ndarray  # [N, *S] uint8 pixels or float32 values
    y_train: np.ndarray | None  # [N] int32 classes; None = unlabelled, all normal
    x_test: np.ndarray  # [M, *S]
    y_test: np.ndarray  # [M] int32 classes


def to_float(x: np.ndarray) -> np.ndarray:
    """Raw rows as float32: pixels to [0, 1] by x / 255, other numbers as they are.

    Args:
      x: rows [N, *S]; uint8 means pixels.
    """
    if x.dtype == np.uint8:
        return np.divide(x, np.float32(255), dtype=np.float32)
    return x.astype(np.float32)
