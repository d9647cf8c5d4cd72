"""Data by name, and the order in which training sees the rows."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Int

from jaxae.config import DataConfig
from jaxae.data import published, splits
from jaxae.data.own import kinds
from jaxae.data.published import digits
from jaxae.data.raw_data import Raw
from jaxae.errors import UserError
from jaxae.ops import ceil_div
from jaxae.registry import Registry
from jaxae.rng import Purpose, host_generator
from jaxae.types import Dataset

# Name -> loader of the rows as published; `jaxae.data.own.kinds` knows a user's own files.
DATASETS: Registry[Callable[[DataConfig], Raw]] = Registry(
    "dataset",
    Callable,
    {
        "digits": lambda cfg: digits.load(),
        "mnist": lambda cfg: published.load(published.MNIST, cfg.dir),
        "fashion_mnist": lambda cfg: published.load(published.FASHION_MNIST, cfg.dir),
        "ecg5000": lambda cfg: published.load(published.ECG5000, cfg.dir),
    },
)


def load(cfg: DataConfig) -> Dataset:
    """Load, split and scale a data set: images [N, H, W, C], series [N, T, C] or vectors [N, F].

    Args:
      cfg: names the data set, the normal classes, the splits and the scaling.

    Returns:
      train and valid with normals only, test with both.

    Raises:
      UserError: an unknown name, files that are missing, damaged or not the published ones, no
        network, or a choice of classes that leaves a split without rows.
    """
    return splits.make(raw(cfg), cfg)


def raw(cfg: DataConfig) -> Raw:
    """The rows as published, before they are split and scaled.

    Raises:
      UserError: see `load`.
    """
    kind, path = kinds.find(cfg, DATASETS)
    kinds.refuse_unread(cfg, kind)
    return kinds.read(kind, path, cfg) if kind else DATASETS[cfg.name](cfg)


def index_plan(
    seed: int, epoch: int, n: int, batch_size: int, devices: int
) -> Int[np.ndarray, "D T B"]:
    """Which row each device takes in each step of one epoch; a pure function of its arguments.

    The rows are permuted by (seed, ORDER, epoch). The last batch is completed with the first rows
    of the same order, so every row is seen in every epoch and all batches have one shape. Device d
    takes the slots d * B/D ... (d + 1) * B/D - 1 of each global batch: the order of the global
    batch does not depend on the number of devices.

    Args:
      seed: of the training run.
      epoch: from 0.
      n: number of training rows.
      batch_size: B, of the global batch.
      devices: D.

    Returns:
      int32 [D, T, B/D] with T = ceil(n / B) steps, so that every row is seen at least once.

    Raises:
      UserError: a batch larger than the training set, or not divisible by the devices.
    """
    if batch_size > n:
        raise UserError(
            f"train.batch_size {batch_size} exceeds the {n} training rows; "
            f"set train.batch_size to at most {n}"
        )
    if batch_size % devices:
        raise UserError(
            f"train.batch_size {batch_size} is not divisible by {devices} devices; "
            f"set train.batch_size to a multiple of {devices}, or devices to a divisor of it"
        )
    order = host_generator(seed, Purpose.ORDER, epoch).permutation(n)
    steps = ceil_div(n, batch_size)
    filled = np.concatenate([order, order[: steps * batch_size - n]]).astype(np.int32)
    by_device = filled.reshape(steps, devices, batch_size // devices).swapaxes(0, 1)
    return np.ascontiguousarray(by_device)
