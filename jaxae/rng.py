"""Random numbers addressed by seed, purpose, step and row of the global batch; no key is carried.

So resuming needs no saved key, and results do not depend on the number of devices.
"""

import enum

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jaxae.types import Key


class Purpose(enum.IntEnum):
    """The purpose of a stream of random numbers; changing a value changes results."""

    INIT = 0
    ORDER = 1
    NOISE = 2
    SPLIT = 3
    CORRUPTION = 4
    FIGURES = 5
    RESAMPLING = 6
    AUGMENTATION = 7
    GENERATION = 8
    CROPS = 9
    BANK = 10


class SplitDraw(enum.IntEnum):
    """The draws with `Purpose.SPLIT`, each at its own address; changing a value changes results."""

    HOLD_OUT = 0  # which training rows become validation rows
    BALANCE = 1  # which anomalies stay in a balanced test set
    FOLDS = 2  # the folds or bootstrap samples of cross-conformal protocols, and their seeds
    CALIBRATION = 3  # which validation rows calibrate if the others standardise sums of scores
    TEST = 4  # which rows of a user's file become test rows if the file does not say


def stream(seed: int, purpose: Purpose) -> Key:
    """The key of one purpose: `fold_in(key(seed), purpose)`."""
    return jax.random.fold_in(jax.random.key(seed), int(purpose))


def row_keys(key: Key, slot: Int[Array, " B"]) -> Key:
    """One key for each row, [B], addressed by the row's position in the global batch."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, slot)


def add_noise(
    x: Float[Array, " B *S"], slot: Int[Array, " B"], key: Key, std: Array | float
) -> Float[Array, " B *S"]:
    """The rows + std * N(0, 1); a row's noise is addressed by its place in the global batch."""
    draw = jax.vmap(lambda k: jax.random.normal(k, x.shape[1:], x.dtype))
    return x + std * draw(row_keys(key, slot))


def host_generator(seed: int, purpose: Purpose, *address: int) -> np.random.Generator:
    """A NumPy generator with the same address scheme, for row orders and splits on the host."""
    entropy = (seed, int(purpose), *map(int, address))
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(entropy)))
