"""Many members in one program: each device trains whole members and waits for no other device.

`jaxae.training.train` splits every batch of one model over the devices. A grid has a model for each
class, seed, fold and setting of its protocol, so it distributes whole models, and the devices wait
for each other once per epoch. Every device has one copy of all rows; a member consists of a
selection of rows, keys and settings.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from jaxae import data, rng
from jaxae.config import ExperimentConfig
from jaxae.devices import members, memory, parallel, tuning
from jaxae.ops import ceil_div
from jaxae.training import selection, train
from jaxae.training.grid.lanes import Lanes, padded
from jaxae.training.grid.programs import compiled
from jaxae.types import Key, Learner, PyTree, Settings, Source, TrainState


class Member(NamedTuple):
    """One model of a grid, described by positions in the rows that all members share.

    Attributes:
      cfg: the member's own configuration; its seed orders the rows and draws weights and noise.
      settings: `Learner.settings` of that configuration.
      train: positions of its training rows; a row listed twice is used twice as often.
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

    def plan(self, epoch: int) -> Int[np.ndarray, "T B"]:
        """The rows of each step of an epoch, as `jaxae.data.index_plan` orders them."""
        n, batch = len(self.train), self.cfg.train.batch_size
        return self.train[data.index_plan(self.cfg.seed, epoch, n, batch, 1)[0]]


class Progress(NamedTuple):
    """The state of the members [E] of a grid, in their own order, and their best epochs so far."""

    state: TrainState
    selected: selection.Selected | None = None


Watch = Callable[[Callable[[], PyTree]], train.EpochMetrics]  # call the argument for the variables
# (epoch from 1, function that fetches the progress, metrics [E]) -> metrics to show.
OnEpoch = Callable[[int, Callable[[], Progress], train.EpochMetrics], train.EpochMetrics]


def start(learner: Learner, grid: Sequence[Member], shape: tuple[int, ...]) -> Progress:
    """The progress before the first step; each member has the weights it would have alone."""
    keys = jnp.stack([_key(member, rng.Purpose.INIT) for member in grid])
    return Progress(jax.device_get(train.initial_state(learner, shape, keys)))


def fit(
    learner: Learner,
    rows: Source,
    grid: Sequence[Member],
    devices: parallel.Devices,
    progress: Progress,
    *,
    done: int = 0,
    watch: Watch = lambda variables: {},
    choice: selection.Choice | None = None,
    on_epoch: OnEpoch = lambda epoch, progress, metrics: metrics,
    quiet: bool = False,
) -> Progress:
    """Train every member for the number of epochs in its configuration, the same for all.

    A member trains exactly as it would alone on one device: its batches, weights and noise do not
    depend on the others. Members with fewer rows make fewer steps.

    Args:
      learner: built without a mapped axis; members differ only in settings.
      rows: the rows of all members, float32 [N, *S].
      grid: the members [E].
      devices: the members are distributed over them.
      progress: from `start` or an earlier call.
      done: the number of epochs completed in `progress`.
      watch: measures additional metrics after every epoch.
      choice: selects, by each member's own metrics, the epoch whose variables to keep; None = none.
      on_epoch: called after these measurements.
      quiet: no progress bar.

    Raises:
      UserError: the batch is larger than a member's number of rows.
    """
    epochs = grid[0].cfg.train.epochs
    if done >= epochs:
        return progress
    lanes = Lanes([member.steps for member in grid], devices)
    train_epoch = _epoch_of(learner, rows, grid, lanes)
    best = progress.selected
    if choice and not best:
        never = np.zeros(len(grid), np.int32), np.full(len(grid), -np.inf)
        best = selection.Selected(*never, progress.state.variables)
    state = lanes.out(progress.state)
    best = best and best._replace(variables=lanes.out(best.variables))
    steps = sum(member.steps for member in grid)
    with train.progress_bar(epochs * steps, done * steps, quiet) as bar:
        for epoch in range(done + 1, epochs + 1):
            state, metrics = train_epoch(state, epoch)
            metrics |= watch(functools.partial(lanes.back, state.variables))
            if choice and best:
                best = _keep(choice, best, epoch, state.variables, metrics, lanes)
            so_far = functools.partial(_so_far, lanes, state, best)
            train.show(bar, steps, on_epoch(epoch, so_far, metrics))
    return so_far()


def _keep(
    choice: selection.Choice,
    best: selection.Selected,
    epoch: int,
    variables: PyTree,
    metrics: train.EpochMetrics,
    lanes: Lanes,
) -> selection.Selected:
    """For each member the better of its best epoch so far and this one; variables are in lanes."""
    merit = np.asarray(choice.merit(metrics), np.float64)
    is_better = merit >= best.merit
    return selection.Selected(
        np.where(is_better, np.int32(epoch), best.epoch),
        np.where(is_better, merit, best.merit),
        _where(lanes.out(is_better), variables, best.variables),
    )


_where = jax.jit(
    lambda is_better, new, old: jax.tree.map(
        lambda a, b: jnp.where(is_better.reshape(is_better.shape + (1,) * (a.ndim - 2)), a, b),
        new,
        old,
    )
)


def _so_far(lanes: Lanes, state: TrainState, best: selection.Selected | None) -> Progress:
    if best is None:
        return Progress(lanes.back(state))
    state, variables = lanes.back((state, best.variables))
    return Progress(state, best._replace(variables=variables))


def _epoch_of(
    learner: Learner, rows: Source, grid: Sequence[Member], lanes: Lanes
) -> Callable[[TrainState, int], tuple[TrainState, train.EpochMetrics]]:
    """`(state [D, K, ...], epoch from 1) -> (state, metrics [E])`; the rows are placed here."""
    run, measure = compiled(learner, lanes.devices)
    rows = parallel.place(np.asarray(rows), lanes.devices)
    keys = lanes.out(jnp.stack([_key(member, rng.Purpose.NOISE) for member in grid]))
    values = {name: [member.settings[name] for member in grid] for name in grid[0].settings}
    settings = lanes.out({name: np.float32(each) for name, each in values.items()})
    steps = [member.steps for member in grid]
    counts = lanes.out(np.int32(steps), empty=0)
    side_by_side = ceil_div(len(grid), len(lanes.devices))
    platform = lanes.devices[0].platform
    chunk = tuning.chunk_rows(learner.tuning, platform, rows.shape[1:], side_by_side)
    valid = padded([member.valid for member in grid], chunk)
    valid = lanes.out(valid.reshape(len(grid), -1, chunk))
    sizes = [len(member.valid) for member in grid]

    def planned(epoch: int) -> PyTree:
        return lanes.out(padded([member.plan(epoch - 1) for member in grid], 1))

    plans: dict[int, PyTree] = {}  # the next epoch's, made while the devices are busy

    def train_epoch(state: TrainState, epoch: int) -> tuple[TrainState, train.EpochMetrics]:
        clock = time.perf_counter()
        plan = plans.pop(epoch, None)
        plan = planned(epoch) if plan is None else plan
        state, metrics = run(state, rows, plan, counts, keys, settings)
        losses = measure(state.variables, rows, valid, settings)
        if epoch < grid[0].cfg.train.epochs:
            plans[epoch + 1] = planned(epoch + 1)
        means = _means(lanes.back(metrics), steps)
        speed = np.array(sum(steps) / (time.perf_counter() - clock))
        valid_losses = _means({"valid_loss": lanes.back(losses)}, sizes)
        return state, means | valid_losses | {"steps_per_s": speed}

    return train_epoch


def _key(member: Member, purpose: rng.Purpose) -> Key:
    """The key that the member's own experiment, an ensemble of one, would use."""
    return members.keys(rng.stream(member.cfg.seed, purpose), 1)[0]


def _means(values: dict[str, np.ndarray], counts: Sequence[int]) -> dict[str, np.ndarray]:
    """Means [E] of each member's values [E, T], over its first `counts` values."""
    return {
        name: np.stack([np.mean(one[:n]) for one, n in zip(by_member, counts, strict=True)])
        for name, by_member in values.items()
    }


def devices_for(
    learner: Learner, size: int, shape: tuple[int, ...], asked: int
) -> list[jax.Device]:
    """The number of devices asked for, 0 = all, but no more than there are members.

    Raises:
      UserError: there are fewer devices, or too little memory for all members at once.
    """
    count = min(asked or len(jax.local_devices()), size)
    devices = parallel.choose(count, size)
    resident = size if devices[0].platform == "cpu" else ceil_div(size, count)
    memory.check(train.abstract_state(learner, shape, resident), devices[:1])
    return devices
