"""Check that a device reproduces its results: repeated, resumed, streamed, and with another driver.

This trains small models of every method with float32 products. The same program on the same arrays
must give the same bits. A different program for the same computation (another driver, in parts,
with members side by side) may be rounded differently, because XLA chooses its kernels by speed.
"""

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from benchmarks.on_device.exactness import apart, relative, the_device
from benchmarks.on_device.part import Attempts, Order
from jaxae.config import ExperimentConfig, ModelConfig, TrainConfig
from jaxae.devices import members, parallel
from jaxae.methods import learners
from jaxae.training import grid, train
from jaxae.types import PyTree

SHAPE = (8, 8, 1)
_ROWS, _EPOCHS, _HALF = 40, 4, 2
_LEAST = 4.0  # seconds for one of `LOOKS`
_ROUNDING = 1e-4  # of losses, by which programs of other shapes may differ
_MODELS = {
    "dense": ModelConfig(latent=4, hidden=(16,)),
    "conv": ModelConfig(latent=4, filters=(4, 8)),
}


def main(order: Order) -> None:
    """Check every method, the quickest first; record those for which there is no time."""
    parallel.initialize()
    attempts = Attempts(order, _LEAST)
    methods = sorted(learners.METHODS, key=lambda name: name not in _MODELS)
    pairs = [*itertools.product(methods, LOOKS.items())]
    if order.rehearsal:
        # The quickest method passes through everything, every method through the quickest look. On
        # a CPU the flag of the second part changes nothing: it is only seen to start.
        quick, brief = len(LOOKS), order.part == "deterministic"
        pairs = pairs[:1] if brief else pairs[:quick] + pairs[quick::quick]
    for method, (name, look) in pairs:
        about = {"setting": order.part, "quantity": name, "part": order.part}
        work = functools.partial(_look, order, look, method, about)
        attempts.make(work, "agreement", f"small {method}", **about)


def _look(order: Order, look: Callable[[str], dict], method: str, about: dict) -> None:
    order.journal.write("agreement", f"small {method}", **about, **look(method))


def _config(method: str, feed: str = "resident", size: int = 1) -> ExperimentConfig:
    return ExperimentConfig(
        "small", method=method, model=_MODELS.get(method, ModelConfig()), ensemble=size,
        train=TrainConfig(
            epochs=_EPOCHS, batch_size=8, noise_std=0.1, feed=feed, precision="highest"
        ),
    )  # fmt: skip


@functools.cache
def _x() -> np.ndarray:
    return np.random.default_rng(0).random((_ROWS, *SHAPE), np.float32) ** 3


def _trained(cfg: ExperimentConfig, **how: Any) -> tuple[np.ndarray, PyTree, PyTree]:
    """Losses of each epoch [T, E], the final state and a middle one, all on the host."""
    losses, middle = [], {}

    def on_epoch(epoch: int, state: PyTree, metrics: dict) -> dict:
        losses.append(metrics["loss"])
        if epoch == _HALF:
            middle["state"] = jax.device_get(state)
        return metrics

    learner = learners.build(cfg, SHAPE)
    fresh = learner._replace(tuning=learner.tuning)  # no other's, so that it is traced anew
    fitted = train.fit(fresh, _x(), cfg, [the_device()], on_epoch=on_epoch, quiet=True, **how)
    return np.array(losses), jax.device_get(fitted.state), middle.get("state")


def _same(one: PyTree, other: PyTree) -> dict:
    """Require the same bits."""
    off = apart(one, other)
    same = all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )
    return {"deviation": off, "allowed": 0.0, "ok": same}


def _alike(one: np.ndarray, other: np.ndarray) -> dict:
    off = relative(one, other)
    return {"deviation": off, "allowed": _ROUNDING, "ok": bool(off <= _ROUNDING)}


@functools.lru_cache(maxsize=1)
def _plain(method: str) -> tuple[np.ndarray, PyTree, PyTree]:
    return _trained(_config(method))


def _again(method: str) -> dict:
    return _same(_trained(_config(method))[1], _plain(method)[1])


def _resumed(method: str) -> dict:
    """Resume twice from the middle."""
    _, whole, middle = _plain(method)
    ends = [_trained(_config(method), state=jax.tree.map(np.array, middle))[1] for _ in range(2)]
    return max((_same(end, whole) for end in ends), key=lambda found: not found["ok"])


def _streamed(method: str) -> dict:
    return _alike(_trained(_config(method, "streaming"))[0], _plain(method)[0])


def _by_shard_map(method: str) -> dict:
    with _driver("shard_map"):
        found = _trained(_config(method))[0]
    return _alike(found, _plain(method)[0])


@contextlib.contextmanager
def _driver(name: str) -> Iterator[None]:
    before = parallel.driver()
    parallel.use(name)
    try:
        yield
    finally:
        parallel.use(before)


def _member(method: str) -> dict:
    """The second member of an ensemble of three, compared with training it alone."""
    cfg = _config(method, size=3)
    apart_ = train.ensemble(learners.build(cfg, SHAPE), cfg, _ROWS)
    alone = apart_._replace(**{
        name: members.part(getattr(apart_, name), 1)
        for name in ("init", "noise", "settings", "steps")
    })  # fmt: skip
    together = _trained(cfg, members=apart_)[0][:, 1]
    return _alike(together, _trained(dataclasses.replace(cfg, ensemble=1), members=alone)[0][:, 0])


def _of_grid(method: str) -> dict:
    """The second member of a grid of two, compared with training it alone on one device."""
    configs = [dataclasses.replace(_config(method), seed=seed) for seed in range(2)]
    learner = learners.build(configs[0], SHAPE, axis=None)
    placed = [grid.Member(cfg, learner.settings, np.arange(_ROWS), np.arange(8)) for cfg in configs]
    losses = []

    def on_epoch(epoch: int, progress: Any, metrics: dict) -> dict:
        losses.append(metrics["loss"][1])
        return metrics

    layout, apart_ = parallel.Layout([the_device()]), grid.members_of(placed)
    train.fit(learner, _x(), configs[0], layout, members=apart_, on_epoch=on_epoch, quiet=True)
    return _alike(np.array(losses), _trained(configs[1])[0][:, 0])


LOOKS = {
    "same bits again": _again,
    "resumed": _resumed,
    "shard_map": _by_shard_map,
    "streaming": _streamed,
    "ensemble member": _member,
    "grid member": _of_grid,
}
