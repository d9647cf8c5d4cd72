"""Many models at once: one-vs-rest in one program, and speed by batch size and number of members.

The grid trains 10 classes x 5 seeds of digits with the networks of `benchmarks.cases`, so that
PyTorch, which trains one model after another, does the same work in each step.
"""

import dataclasses
import functools
import gc
import itertools
import math
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import programs
from benchmarks.cases import IMAGE, config
from benchmarks.on_device import cpu_run
from benchmarks.on_device.exactness import the_device
from benchmarks.on_device.part import Attempts, Order
from benchmarks.on_device.players import Player
from benchmarks.on_device.results import NAME, has_value, read, speeds
from benchmarks.on_device.speed import PRECISION
from jaxae import data
from jaxae.config import DataConfig
from jaxae.devices import parallel
from jaxae.methods import learners
from jaxae.training import grid, train

MODELS = ("fmnist_dense", "mnist_conv")  # a dense and a convolutional one, of images
_UNIT = "member-steps/s"
_TOGETHER, _APART = "one program", "one after another"  # settings
_LEAST = 4.0  # seconds for a point


class Sizes(NamedTuple):
    """How much is measured.

    Attributes:
      seeds: seeds for each class.
      steps: steps per epoch of a member; rows are repeated if there are too few.
      epochs: epochs of the grid; the first one, which compiles, is not counted.
      alone: number of members that are trained one after another.
      batches: batch sizes for one model.
      members: sizes of an ensemble, the most informative first.
      block: steps in one dispatch.
      rounds: rounds for each point.
      seconds: seconds of each round.
      models: those that are measured.
    """

    seeds: int
    steps: int
    epochs: int
    alone: int
    batches: tuple[int, ...]
    members: tuple[int, ...]
    block: int
    rounds: int
    seconds: float
    models: tuple[str, ...]


FULL = Sizes(5, 32, 6, 2, (32, 128, 512, 1024, 4096), (1, 64, 256, 16, 4), 16, 3, 0.2, MODELS)
SMALL = Sizes(1, 2, 3, 1, (16,), (1, 4), 2, 2, 0.05, MODELS[:1])


def main(order: Order) -> None:
    """Measure the grid and its competitors, then ensembles, then batch sizes, as time permits."""
    parallel.initialize(1)
    sizes = SMALL if order.rehearsal else FULL
    attempts = Attempts(order, _LEAST)
    tasks = ((_grid, "grid", "jaxae", _TOGETHER), (_alone, "loop", "jaxae", _APART),
             (_torch, "loop", "torch", ""))  # fmt: skip
    for (work, what, framework, setting), model in itertools.product(tasks, sizes.models):
        made = functools.partial(work, order, sizes, model)
        attempts.make(made, what, model, framework=framework, setting=setting)
        _let_go()
    for what, points in (("ensemble", sizes.members), ("batch", sizes.batches)):
        for model, x in itertools.product(sizes.models, points):
            made = functools.partial(_point, order, sizes, model, what, x)
            attempts.make(made, what, model, framework="jaxae", setting="as is", x=x)
            _let_go()


def _let_go() -> None:
    """Free the device memory held by programs."""
    jax.clear_caches()
    gc.collect()


def _digits() -> tuple[np.ndarray, np.ndarray]:
    """Rows [N, 28, 28, 1] and their classes: scikit-learn's digits, or generated strokes."""
    if not find_spec("sklearn"):
        return cpu_run.synthetic(120)
    raw = data.raw(DataConfig(name="digits"))
    return np.asarray(raw.x_train, np.float32), np.asarray(raw.train_class_id)


def placed(sizes: Sizes, model: str, rehearsal: bool) -> tuple[np.ndarray, list[grid.Member]]:
    """The rows of all members, and the members: each class as the normal one, several seeds."""
    x, y = _digits()
    changes = {"train.epochs": sizes.epochs} | ({"train.batch_size": 16} if rehearsal else {})
    base, found = config(model, **changes), []
    batch = base.train.batch_size
    for normal in np.unique(y):
        own = np.flatnonzero(y == normal)
        valid, trained = own[: len(own) // 10], own[len(own) // 10 :]
        often = math.ceil(sizes.steps * batch / len(trained))
        seen = np.tile(trained, often)[: sizes.steps * batch]
        for seed in range(sizes.seeds):
            cfg = dataclasses.replace(base, seed=seed)
            settings = learners.build(cfg, IMAGE, axis=None).settings
            found.append(grid.Member(cfg, settings, seen, valid))
    return x, found


def _grid(order: Order, sizes: Sizes, model: str) -> None:
    x, members = placed(sizes, model, order.rehearsal)
    learner = learners.build(members[0].cfg, IMAGE, axis=None)
    layout = grid.layout_for(members, 1)
    began, at = time.perf_counter(), []

    def on_epoch(epoch: int, progress: Any, metrics: dict) -> dict:
        at.append(time.perf_counter())
        return metrics

    train.fit(
        learner,
        x,
        members[0].cfg,
        layout,
        members=grid.members_of(members),
        measure=grid.valid_losses(learner, x, members, layout),
        on_epoch=on_epoch,
        quiet=True,
    )
    rounds = sum(member.steps for member in members) / np.diff(at)
    order.journal.write(
        "grid", model, _TOGETHER, framework="jaxae", members=len(members),
        batch=members[0].cfg.train.batch_size, first_epoch_s=at[0] - began,
        whole_s=at[-1] - began, epochs=sizes.epochs, **speeds(rounds.tolist(), _UNIT),
    )  # fmt: skip


def _alone(order: Order, sizes: Sizes, model: str) -> None:
    """Members trained one after another, by a loop over `jaxae.training.train.fit`."""
    x, members = placed(sizes, model, order.rehearsal)
    rounds, whole = [], []
    for member in members[: sizes.alone]:
        at, began = [], time.perf_counter()

        def on_epoch(epoch: int, state: Any, metrics: dict, at: list = at) -> dict:
            at.append(time.perf_counter())
            return metrics

        learner = learners.build(member.cfg, IMAGE)
        rows = x[member.train]
        train.fit(learner, rows, member.cfg, [the_device()], on_epoch=on_epoch, quiet=True)
        rounds += (member.steps / np.diff(at)).tolist()
        whole.append(time.perf_counter() - began)
    order.journal.write(
        "loop", model, _APART, framework="jaxae", members=len(members),
        batch=members[0].cfg.train.batch_size, whole_s=float(np.median(whole)) * len(members),
        epochs=sizes.epochs, **speeds(rounds, _UNIT),
    )  # fmt: skip


def _torch(order: Order, sizes: Sizes, model: str) -> None:
    """PyTorch's fastest setting; a loop over members makes as many steps/s as a single model."""
    if not find_spec("torch"):
        order.journal.write("loop", model, framework="torch", unavailable="torch is not installed")
        return
    batch = 16 if order.rehearsal else config(model).train.batch_size
    spec = {"model": model, "dtype": "float32", "precision": PRECISION, "framework": "torch",
            "threads": 1, "batch": batch}  # fmt: skip
    with tempfile.TemporaryDirectory() as folder, Player("torch") as player:
        weights = str(Path(folder, "weights.npz"))
        np.savez(weights, **programs.initial_weights(spec | {"devices": 1}))
        able = player.ask(do="settings", model=model)
        if "error" in able:
            raise RuntimeError(able["error"])
        setting = _best(order, model, able["settings"])
        told = player.ask(do="prepare", name="torch", spec=spec | {"setting": setting},
                          weights=weights)  # fmt: skip
        told |= player.ask(do="warm_up", name="torch", chunks=[])
        rounds = [
            player.ask(do="train", name="torch", seconds=sizes.seconds) for _ in range(sizes.rounds)
        ]
    errors = [of["error"] for of in [told, *rounds] if "error" in of]
    if errors:
        raise RuntimeError(errors[0])
    order.journal.write("loop", model, setting, framework="torch", batch=batch,
                        **speeds([of["per_s"] for of in rounds], _UNIT))  # fmt: skip


def _best(order: Order, model: str, able: list[str]) -> str:
    """The fastest setting measured on this device; without measurements, the one expected to be."""
    kind = order.journal.common["device"]["kind"]
    known = read(order.out) if (order.out / NAME).is_file() else []
    measured = {
        record["setting"]: record["median"]
        for record in known
        if has_value(record) and record["device"]["kind"] == kind
        and (record["what"], record["model"], record.get("framework")) == ("train", model, "torch")
        and record["setting"] in able
    }  # fmt: skip
    if measured:
        return max(measured, key=lambda name: measured[name])
    return "graph" if "graph" in able else "eager"


def _point(order: Order, sizes: Sizes, model: str, what: str, x: int) -> None:
    """Measure one batch size of one model, or one number of members."""
    batch = 16 if order.rehearsal else config(model).train.batch_size
    spec = {"model": model, "dtype": "float32", "precision": PRECISION, "devices": 1}
    spec |= {"batch": batch, "block": sizes.block, "setting": "as is"}
    spec |= {"batch": x} if what == "batch" else {"ensemble": x}
    program = programs.jaxae(spec, programs.initial_weights(spec))
    first = programs.timed(lambda: program.train(program.steps))
    second = programs.timed(lambda: program.train(program.steps))
    calls = max(1, int(sizes.seconds / second))
    seconds = [programs.timed(lambda: program.train(calls * program.steps))
               for _ in range(sizes.rounds)]  # fmt: skip
    amount = calls * program.steps * (x if what == "ensemble" else 1)
    order.journal.write(
        what, model, "as is", framework="jaxae", x=x, batch=spec["batch"], first_call_s=first,
        **speeds([amount / of for of in seconds], _UNIT),
    )  # fmt: skip
