"""Small data with known answers, and the smallest configuration of every method."""

import contextlib
import dataclasses
from functools import cache

import jax
import numpy as np
import pytest

from jaxae import rng
from jaxae.config import (
    ExperimentConfig,
    FcnConfig,
    ModelConfig,
    OptimConfig,
    TrainConfig,
    validate,
)
from jaxae.devices import members
from jaxae.methods import learners
from jaxae.storage import run_folder
from jaxae.training import train
from jaxae.types import Batch, Dataset, Scaling, Split

SHAPE = (8, 8, 1)
METHODS = tuple(learners.METHODS)
# Two networks with batch normalisation take long to compile: once more for the patient.
FAST_AND_SLOW = tuple(
    pytest.param(method, marks=pytest.mark.slow) if method == "alocc" else method
    for method in METHODS
)
# Each method on some numbers of devices; the slow one on two, where every part of it is at work.
ON_DEVICES = (
    *(("dense", 1), ("dense", 2), ("dense", 4), ("conv", 1), ("conv", 2), ("fcn", 2)),
    *(pytest.param(*on, marks=pytest.mark.slow) for on in (("conv", 4), ("alocc", 2))),
)


class _Devices(list):
    """Devices, of which a test that takes more than there are is skipped."""

    def __getitem__(self, at):
        most = max((at.stop or 0) if isinstance(at, slice) else at + 1, 0)
        if most > len(self):
            reason = (
                f"takes {most} devices, there are {len(self)} ({super().__getitem__(0).platform})"
            )
            pytest.skip(reason, allow_module_level=True)
        return super().__getitem__(at)


# Asked for here, the four devices exist before an experiment under test can ask for another number.
DEVICES = _Devices(jax.local_devices())

_TINY = ExperimentConfig(
    name="tiny",
    optim=OptimConfig(lr=3e-3),
    train=TrainConfig(epochs=2, batch_size=8, noise_std=0.1),
)
_TINY_MODEL = {
    "dense": ModelConfig(latent=4, hidden=(16,)),
    "conv": ModelConfig(latent=4, filters=(4, 8)),
    "fcn": ModelConfig(latent=2),
}
_TINY_OWN = {"fcn": {"fcn": FcnConfig(width=4)}}


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
    of_method = {"model": _TINY_MODEL.get(method, ModelConfig()), **_TINY_OWN.get(method, {})}
    return edit(_TINY, {"method": method} | of_method | dotted)


@cache
def images(n, seed=0, side=SHAPE[0]):
    """Smooth blobs [n, side, side, 1] in [0, 1], each at its own place."""
    generator = np.random.default_rng(seed)
    at = np.linspace(0, 1, side)
    cy, cx = generator.uniform(0.2, 0.8, (2, n, 1, 1))
    distance = (at[None, :, None] - cy) ** 2 + (at[None, None, :] - cx) ** 2
    return np.exp(-distance / 0.05).astype(np.float32)[..., None]


def masked(n, seed=0, side=SHAPE[0]):
    """Blobs [n, side, side, 1] with a bright square each, and its mask [n, side, side]."""
    first = np.random.default_rng(seed).integers(0, side - side // 4, (2, n, 1, 1))
    at = np.arange(side)
    is_row, is_column = ((at >= one) & (at < one + side // 4) for one in first[..., 0])
    mask = is_row[:, :, None] & is_column[:, None, :]
    return np.where(mask[..., None], 1.0, images(n, seed, side)).astype(np.float32), mask


def write_masked(root, side=12):
    """A folder of images of 24 normals to train on, 6 to test, and 6 with masked squares."""
    from PIL import Image

    x, mask = masked(6, 2, side)
    parts = {"train/good": images(24, 0, side), "test/good": images(6, 1, side), "test/hole": x}
    for name, values in (*parts.items(), ("ground_truth/hole", mask[..., None])):
        (root / name).mkdir(parents=True)
        for i, one in enumerate(values):
            Image.fromarray(np.uint8(255 * one[..., 0])).save(root / name / f"{i}.png")
    return root


def split(x, y=False, first_id=0):
    """Rows with one truth for all, or one for each."""
    y = np.broadcast_to(np.asarray(y, bool), len(x)).copy()
    return Split(x, y, y.astype(np.int32), first_id + np.arange(len(x)))


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
        Scaling(0 * one, one),
        "float32",
    )


def batch(x, first_slot=0):
    """Rows as one batch."""
    return Batch(jax.numpy.asarray(x), first_slot + jax.numpy.arange(len(x), dtype=np.int32))


def initial(learner, shape=SHAPE, seed=0, size=1):
    """The state [E, ...] before the first step, from a seed as an experiment has it."""
    keys = members.keys(rng.stream(seed, rng.Purpose.INIT), size)
    return train.initial_state(learner, shape, keys)


def start(cfg, shape=SHAPE):
    """A learner outside any map, and the initial state of one member, without its axis."""
    learner = learners.build(cfg, shape, axis=None)
    return learner, members.pick(initial(learner, shape, cfg.seed), 0)


def stepped(learner):
    """`(state, batch, key) -> (state, metrics)`, compiled, with the learner's own settings."""
    step = jax.jit(learner.step)
    return lambda state, batch, key: step(state, batch, key, learner.settings)


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


@contextlib.contextmanager
def interrupted(epoch):
    """Ctrl-C when the log of an epoch is about to be written."""
    append = run_folder.append_metrics

    def stop(path, number, found):
        if number == epoch:
            raise KeyboardInterrupt
        return append(path, number, found)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "append_metrics", stop)
        yield


def write_npz(path, seed=0, n=96, side=8):
    """A data set of smooth blobs and, as anomalies, their negatives."""
    x = images(n, seed, side)
    test = images(24, seed + 1, side)
    np.savez(path, x_train=x, x_test=np.concatenate([test, 1 - test]), y_test=np.arange(48) // 24)
    return path


def golden(**changes):
    """The run that the golden files are of; it is started where they are."""
    fixed = {"train__epochs": 2, "devices": 1, "run_dir": "run", "data__name": "npz:own.npz"}
    return tiny("dense", **fixed | changes)
