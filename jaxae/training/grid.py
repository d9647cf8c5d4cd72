"""Grids: runs trained side by side, each with its own rows, seed and settings.

A grid has a run for each combination of a protocol's classes, seeds and settings, or for each fold.
Devices get whole models, see `jaxae.devices.parallel.Layout`, and wait for each other once per
epoch. A run selects some of the rows that all runs share. It trains exactly as it would alone on
one device: its batches, weights and noise do not depend on the other runs. Runs with fewer rows
take fewer steps.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Int

from jaxae import data, rng
from jaxae.config import ExperimentConfig
from jaxae.devices import members, memory, parallel, tuning
from jaxae.methods import learners
from jaxae.ops import ceil_div
from jaxae.training import train
from jaxae.types import (
    AXIS,
    Array,
    Inferred,
    Key,
    Learner,
    PyTree,
    Settings,
    Shape,
    Source,
    TrainState,
)


class Member(NamedTuple):
    """One run of a grid, with its rows as positions in the rows that all runs share.

    Attributes:
      cfg: its configuration. The seed orders the rows and draws weights and noise; the models of
        an ensemble train as members side by side.
      settings: `Learner.settings` of that configuration.
      train: positions of its training rows; one that is listed twice is seen twice as often.
      valid: positions of its valid rows.
    """

    cfg: ExperimentConfig
    settings: Settings
    train: Int[np.ndarray, " N"]
    valid: Int[np.ndarray, " V"]

    @property
    def steps(self) -> int:
        """The number of steps in one epoch."""
        return ceil_div(len(self.train), self.cfg.train.batch_size)

    def plan(self, epoch: int, devices: int) -> parallel.Plan:
        """The rows [B, T, b] of each step of an epoch, as `jaxae.data.index_plan` orders them."""
        n, batch = len(self.train), self.cfg.train.batch_size
        return self.train[data.index_plan(self.cfg.seed, epoch, n, batch, devices)]


def _models(grid: Sequence[Member]) -> list[Member]:
    """The run of each model: a run with an ensemble is listed once for each of its models."""
    return [run for run in grid for _ in range(run.cfg.ensemble)]


def members_of(grid: Sequence[Member]) -> train.Members:
    """The models as `jaxae.training.train.fit` needs them; each starts as it would alone.

    The plan raises a `UserError` if a batch is larger than a run's rows.
    """
    models = _models(grid)
    steps = np.int32([model.steps for model in models])

    def plan(epoch: int, devices: int) -> parallel.Plan:
        plans = {id(run): run.plan(epoch, devices) for run in grid}
        count, _, share = plans[id(grid[0])].shape
        padded = np.zeros((len(models), count, steps.max(), share), np.int32)  # padding is not read
        for row, model in zip(padded, models, strict=True):
            part = plans[id(model)]
            row[:, : part.shape[1]] = part
        return padded

    keys = (_keys(grid, purpose) for purpose in (rng.Purpose.INIT, rng.Purpose.NOISE))
    return train.Members(*keys, _settings(models), plan, steps)


def _keys(grid: Sequence[Member], purpose: rng.Purpose) -> Key:
    """The keys of the models in the runs' own experiments."""
    streams = (members.keys(rng.stream(run.cfg.seed, purpose), run.cfg.ensemble) for run in grid)
    return jnp.concatenate([*streams])


def _settings(models: Sequence[Member]) -> Settings:
    by_model = [train.with_steps(m.settings, m.cfg.train.epochs * m.steps) for m in models]
    return {name: np.float32([values[name] for values in by_model]) for name in by_model[0]}


def layout_for(grid: Sequence[Member], asked: int) -> parallel.Layout:
    """The models laid out over `asked` devices; 0 = all devices, but at most one for each model.

    Each device has whole models, unless there are several times as many devices as models, or more
    processes than models: then each model's batch is split over a group of devices.

    Raises:
      UserError: there are fewer devices than asked for, or processes cannot share them equally.
    """
    steps, processes = [model.steps for model in _models(grid)], jax.process_count()
    available = len(parallel.all_devices())
    count = asked or max(processes, min(available, len(steps)) // processes * processes)
    parallel.choose(count, count)  # raises
    most = min(count, len(steps))
    groups = max(n for n in range(1, most + 1) if n * (count // n) % processes == 0)
    used = groups * (count // groups)
    return parallel.Layout(parallel.choose(used, used), steps, groups)


def learner_and_layout(
    grid: Sequence[Member], shape: Shape, asked: int
) -> tuple[Learner, parallel.Layout]:
    """The learner that trains all runs on rows of a shape, and `layout_for` their models.

    Raises:
      UserError: the devices have too little memory for all models at once, a batch does not match
        its run's rows or devices, or see `layout_for`.
    """
    layout, size = layout_for(grid, asked), len(_models(grid))
    learner = learners.build(grid[0].cfg, shape, axis=AXIS if layout.per_group > 1 else None)
    devices = layout.devices[:1]
    resident = size if devices[0].platform == "cpu" else ceil_div(size, layout.groups)
    memory.check(train.abstract_state(learner, shape, resident), devices)
    for run in grid:
        run.plan(0, layout.per_group)  # raises
    return learner, layout


def valid_losses(
    learner: Learner, rows: Source, grid: Sequence[Member], layout: parallel.Layout
) -> train.Measure:
    """Measures "valid_loss": the mean loss of each model on its valid rows, without noise."""
    models = _models(grid)
    used = np.unique(np.concatenate([run.valid for run in grid]))
    placed = parallel.place(rows[used], layout.devices)
    side_by_side = ceil_div(len(models), layout.groups)
    platform = layout.devices[0].platform
    chunk = tuning.chunk_rows(learner.tuning, platform, placed.shape[1:], side_by_side)
    sizes = [len(model.valid) for model in models]
    chunks = ceil_div(max(sizes), layout.per_group * chunk)
    valid = np.zeros((len(models), layout.per_group * chunks * chunk), np.int32)
    for row, model in zip(valid, models, strict=True):
        row[: len(model.valid)] = np.searchsorted(used, model.valid)
    plan = layout.by_device(valid.reshape(len(models), layout.per_group, chunks, chunk))
    fixed = placed, parallel.split(plan, layout.devices), layout.place(_settings(models))
    program = parallel.mapped(
        losses_fn(learner, platform), layout.devices, (layout.axis, None, 0, layout.axis), 0,
        groups=layout.groups,
    )  # fmt: skip
    compiled: list = []

    def begin(state: TrainState) -> train.Measured:
        args = state.variables, *fixed
        if not compiled:
            how = learner.tuning, learner.dtype, platform
            compiled.append(tuning.compiled_scorer(program, args, *how))
        losses = compiled[0](*args)
        return lambda: {"valid_loss": train.means(layout.fetch_split(losses), sizes)}

    return begin


def losses_fn(learner: Learner, platform: str):
    """`(variables [K, ...], rows [N, *S], valid [K, C, chunk], settings [K]) -> [K, C * chunk]`."""

    def losses(variables: PyTree, rows: Array, valid: Array, settings: Settings) -> Array:
        def of_member(variables: PyTree, valid: Array, settings: Settings) -> Array:
            def of_rows(index: Array) -> Array:
                seen = Inferred(rows[index], learner.infer(variables, rows[index]))
                return jax.vmap(learner.loss, in_axes=(0, None))(seen, settings)

            return lax.map(of_rows, valid).ravel()

        one_by_one = platform == "cpu"
        return members.each(of_member, variables, valid, settings, one_by_one=one_by_one)

    return losses
