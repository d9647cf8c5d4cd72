"""Randomness by address: seed, purpose, step, row of the global batch - never by a carried key.

Resuming needs no saved key, and a run does not depend on the number of devices.
"""

import enum

import jax
import numpy as np

from jaxae.types import Array, Key


class Purpose(enum.IntEnum):
    """What a stream of random numbers is for; the numbers are part of the reproducibility promise."""

    INIT = 0
    ORDER = 1
    NOISE = 2
    SPLIT = 3
    CORRUPTION = 4
    FIGURES = 5


def stream(seed: int, purpose: Purpose) -> Key:
    """The key of one purpose: `fold_in(key(seed), purpose)`."""
    return jax.random.fold_in(jax.random.key(seed), int(purpose))


def row_keys(key: Key, slot: Array) -> Array:
    """One key per row, [B] -> [B], addressed by the row's position in the global batch."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, slot)


def host_generator(seed: int, purpose: Purpose, *address: int) -> np.random.Generator:
    """A NumPy generator for the same address scheme: for orders and splits, made on the host."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, int(purpose), *address))))
