"""Members that differ in more than their random numbers: each has rows of its own.

A grid has as many models as its protocol has classes, seeds, folds and settings, so that devices
share out whole models among them, see `jaxae.devices.parallel.Layout`, and wait for each other once
an epoch. All rows lie on every device, once; a member is a selection of them, keys and settings. A
member takes the course that it takes alone on one device: its batches, weights and noise do not
depend on the others. Members with fewer rows make fewer steps.
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
from jaxae.ops import ceil_div
from jaxae.training import train
from jaxae.types import Array, Inferred, Key, Learner, PyTree, Settings, Source, TrainState


class Member(NamedTuple):
    """One of the models of a grid, in terms of rows that all of them share.

    Attributes:
      cfg: of the member alone: its seed orders the rows and draws weights and noise.
      settings: `Learner.settings` of that configuration.
      train: positions of its training rows; one that stands twice is seen twice as often.
      valid: positions of its valid rows.
    """

    cfg: ExperimentConfig
    settings: Settings
    train: Int[np.ndarray, " N"]
    valid: Int[np.ndarray, " V"]

    @property
    def steps(self) -> int:
        """Of one epoch."""
        return ceil_div(len(self.train), self.cfg.train.batch_size)

    def plan(self, epoch: int, devices: int) -> parallel.Plan:
        """The rows [B, T, b] of each step of an epoch, as `jaxae.data.index_plan` orders them."""
        n, batch = len(self.train), self.cfg.train.batch_size
        return self.train[data.index_plan(self.cfg.seed, epoch, n, batch, devices)]


def members_of(grid: Sequence[Member]) -> train.Members:
    """What `jaxae.training.train.fit` needs to know of the members; each starts as it would alone.

    Its plan raises a `UserError` where a batch is larger than a member's rows.
    """
    steps = [member.steps for member in grid]

    def plan(epoch: int, devices: int) -> parallel.Plan:
        plans = [member.plan(epoch, devices) for member in grid]
        count, _, share = plans[0].shape
        padded = np.zeros((len(grid), count, max(steps), share), np.int32)  # which is never read
        for row, part in zip(padded, plans, strict=True):
            row[:, : part.shape[1]] = part
        return padded

    keys = (
        jnp.stack([_key(member, purpose) for member in grid])
        for purpose in (rng.Purpose.INIT, rng.Purpose.NOISE)
    )
    return train.Members(*keys, _settings(grid), plan, np.int32(steps))


def _key(member: Member, purpose: rng.Purpose) -> Key:
    """The key of the member's own experiment, which is an ensemble of one."""
    return members.keys(rng.stream(member.cfg.seed, purpose), 1)[0]


def _settings(grid: Sequence[Member]) -> Settings:
    names = grid[0].settings
    return {name: np.float32([member.settings[name] for member in grid]) for name in names}


def layout_for(
    learner: Learner, grid: Sequence[Member], shape: tuple[int, ...], asked: int
) -> parallel.Layout:
    """The members on as many devices as are asked for, 0 = all there are, but no more than members.

    Raises:
      UserError: more devices than there are, or less memory than the members need all at once.
    """
    size = len(grid)
    count = min(asked or len(jax.local_devices()), size)
    devices = parallel.choose(count, size)
    resident = size if devices[0].platform == "cpu" else ceil_div(size, count)
    memory.check(train.abstract_state(learner, shape, resident), devices[:1])
    return parallel.Layout(devices, [member.steps for member in grid], count)


def valid_losses(
    learner: Learner, rows: Source, grid: Sequence[Member], layout: parallel.Layout
) -> train.Measure:
    """Begins to compute the mean loss of every member's valid rows, without noise: "valid_loss"."""
    used = np.unique(np.concatenate([member.valid for member in grid]))
    placed = parallel.place(rows[used], layout.devices)
    side_by_side = ceil_div(len(grid), layout.groups)
    platform = layout.devices[0].platform
    chunk = tuning.chunk_rows(learner.tuning, platform, placed.shape[1:], side_by_side)
    sizes = [len(member.valid) for member in grid]
    chunks = ceil_div(max(sizes), layout.per_group * chunk)
    valid = np.zeros((len(grid), layout.per_group * chunks * chunk), np.int32)
    for row, member in zip(valid, grid, strict=True):
        row[: len(member.valid)] = np.searchsorted(used, member.valid)
    plan = layout.by_device(valid.reshape(len(grid), layout.per_group, chunks, chunk))
    fixed = placed, parallel.split(plan, layout.devices), layout.place(_settings(grid))
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
