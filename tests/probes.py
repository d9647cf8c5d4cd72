"""Small data with known answers, and the smallest configuration of every method."""

import dataclasses
from functools import cache

import jax
import numpy as np
import pytest

from jaxae import learners, train
from jaxae.config import ExperimentConfig, ModelConfig, OptimConfig, TrainConfig, validate
from jaxae.types import Batch, Dataset, Split

SHAPE = (8, 8, 1)
METHODS = tuple(learners.METHODS)
# Two networks with batch normalisation take long to compile: once more for the patient.
FAST_AND_SLOW = tuple(
    pytest.param(method, marks=pytest.mark.slow) if method == "alocc" else method
    for method in METHODS
)
# Asked for here, the four devices exist before an experiment under test can ask for another number.
DEVICES = jax.local_devices()

_TINY = ExperimentConfig(
    name="tiny",
    model=ModelConfig(latent=4, hidden=(16,), filters=(4, 8)),
    optim=OptimConfig(lr=3e-3),
    train=TrainConfig(epochs=2, batch_size=8, noise_std=0.1),
)


def edit(cfg, changes):
    """The configuration with dotted fields changed, as the command line would."""
    for name, value in changes.items():
        section, _, field = name.rpartition(".")
        part = dataclasses.replace(getattr(cfg, section) if section else cfg, **{field: value})
        cfg = dataclasses.replace(cfg, **{section: part}) if section else part
    return validate(cfg)


def tiny(method="dense", **changes):
    """The smallest configuration of a method; `train__epochs=3` sets train.epochs."""
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return edit(_TINY, {"method": method} | dotted)


@cache
def images(n, seed=0, side=SHAPE[0]):
    """Smooth blobs [n, side, side, 1] in [0, 1], each at its own place."""
    generator = np.random.default_rng(seed)
    at = np.linspace(0, 1, side)
    cy, cx = generator.uniform(0.2, 0.8, (2, n, 1, 1))
    distance = (at[None, :, None] - cy) ** 2 + (at[None, None, :] - cx) ** 2
    return np.exp(-distance / 0.05).astype(np.float32)[..., None]


def split(x, y=False, first_row=0):
    """Rows with one verdict for all, or one for each."""
    y = np.broadcast_to(np.asarray(y, bool), len(x)).copy()
    return Split(x, y, y.astype(np.int32), first_row + np.arange(len(x)))


def dataset(train_x, valid_x, test_normal, test_anomaly):
    """Four blocks of rows as a data set."""
    test = np.concatenate([test_normal, test_anomaly])
    y = np.arange(len(test)) >= len(test_normal)
    one = np.ones((1,) * (train_x.ndim - 1), np.float32)
    return Dataset(
        train_x.shape[1:],
        split(train_x),
        split(valid_x, False, 10_000),
        split(test, y, 20_000),
        0 * one,
        one,
    )


def batch(x, first_slot=0):
    """Rows as one batch."""
    return Batch(jax.numpy.asarray(x), first_slot + jax.numpy.arange(len(x), dtype=np.int32))


def start(cfg, shape=SHAPE):
    """A learner outside any map, and its initial state."""
    learner = learners.build(cfg, shape, axis=None)
    return learner, train.initial_state(learner, shape, cfg.seed)


def leaves(tree):
    """Path -> array on the host."""
    return {
        jax.tree_util.keystr(path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def assert_same(one, other):
    """Two trees hold the same bits."""
    one, other = leaves(one), leaves(other)
    assert one.keys() == other.keys()
    for path in one:
        np.testing.assert_array_equal(one[path], other[path], err_msg=path)


def assert_close(one, other, **tolerance):
    """Two trees hold the same numbers up to rounding."""
    one, other = leaves(one), leaves(other)
    assert one.keys() == other.keys()
    for path in one:
        np.testing.assert_allclose(one[path], other[path], err_msg=path, **tolerance)


def write_npz(path, seed=0, n=96, side=8):
    """A data set of smooth blobs and, as anomalies, their negatives."""
    x = images(n, seed, side)
    test = images(24, seed + 1, side)
    np.savez(path, x_train=x, x_test=np.concatenate([test, 1 - test]), y_test=np.arange(48) // 24)
    return path
