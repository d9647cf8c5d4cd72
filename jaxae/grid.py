"""Many members in one program: each device trains its own, whole, and none waits for another.

`jaxae.train` splits every batch of one model over the devices. A grid has as many models as its
protocol has classes, seeds, folds and settings, so the models are what is shared out, and a device
meets the others once an epoch. All rows lie on every device, once; a member is a selection of them,
keys and settings.
"""

import functools
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Float, Int

from jaxae import data, members, memory, parallel, rng, train, tuning
from jaxae.config import ExperimentConfig
from jaxae.ops import ceil_div
from jaxae.types import (
    Array,
    Batch,
    Inferred,
    Key,
    Learner,
    Metrics,
    PyTree,
    Settings,
    Source,
    TrainState,
)


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

    def plan(self, epoch: int) -> Int[np.ndarray, "T B"]:
        """The rows of each step of an epoch, as `jaxae.data.index_plan` orders them."""
        n, batch = len(self.train), self.cfg.train.batch_size
        return self.train[data.index_plan(self.cfg.seed, epoch, n, batch, 1)[0]]


class Progress(NamedTuple):
    """Where the members [E] of a grid stand, in their own order."""

    state: TrainState
    kept: PyTree  # `TrainState.variables` of the epoch with the lowest validation loss
    kept_loss: Float[np.ndarray, " E"]
    kept_epoch: Int[np.ndarray, " E"]


# (epoch from 1, progress on the host if asked for, metrics [E]); what is returned is shown.
OnEpoch = Callable[[int, Callable[[], Progress], train.EpochMetrics], train.EpochMetrics]


def start(learner: Learner, grid: Sequence[Member], shape: tuple[int, ...]) -> Progress:
    """Before the first step: each member has the weights that it would have alone."""
    keys = jnp.stack([_key(member, rng.Purpose.INIT) for member in grid])
    state = jax.device_get(train.initial_state(learner, shape, keys))
    size = len(grid)
    return Progress(state, state.variables, np.full(size, np.inf), np.zeros(size, np.int64))


def fit(
    learner: Learner,
    rows: Source,
    grid: Sequence[Member],
    devices: parallel.Devices,
    progress: Progress,
    *,
    done: int = 0,
    on_epoch: OnEpoch = lambda epoch, progress, metrics: metrics,
    quiet: bool = False,
) -> Progress:
    """Train every member for as many epochs as its configuration, the same for all, says.

    A member takes the course that it takes alone on one device: its batches, weights and noise do
    not depend on the others. Members with fewer rows make fewer steps.

    Args:
      learner: built without a mapped axis; members are told apart by their settings.
      rows: float32 [N, *S], those of all members.
      grid: the members [E].
      devices: they share the members out among them.
      progress: see `start`; or what an earlier call left.
      done: epochs that `progress` has behind it.
      on_epoch: called after every epoch.
      quiet: no progress bar.

    Raises:
      UserError: a batch larger than a member's rows.
    """
    epochs = grid[0].cfg.train.epochs
    if done >= epochs:
        return progress
    lanes = _Lanes(grid, devices)
    train_epoch = _epoch_of(learner, rows, grid, lanes)
    state, kept = (lanes.out(tree) for tree in (progress.state, progress.kept))
    loss, chosen = progress.kept_loss, progress.kept_epoch
    steps = sum(member.steps for member in grid)
    with train.progress_bar(epochs * steps, done * steps, quiet) as bar:
        for epoch in range(done + 1, epochs + 1):
            state, found = train_epoch(state, epoch)
            better = found["valid_loss"] < loss
            kept = _taken(lanes.out(better), state.variables, kept)
            loss = np.where(better, found["valid_loss"], loss)
            chosen = np.where(better, epoch, chosen)
            so_far = functools.partial(_so_far, lanes, state, kept, loss, chosen)
            train.show(bar, steps, on_epoch(epoch, so_far, found))
    return so_far()


def _so_far(lanes: "_Lanes", state: TrainState, kept: PyTree, *chosen: np.ndarray) -> Progress:
    return Progress(*lanes.back((state, kept)), *chosen)


def _epoch_of(
    learner: Learner, rows: Source, grid: Sequence[Member], lanes: "_Lanes"
) -> Callable[[TrainState, int], tuple[TrainState, train.EpochMetrics]]:
    """`(state [D, K, ...], epoch from 1) -> (state, metrics [E])`, everything else in place."""
    run, measure = _programs(learner, lanes.devices)
    rows = parallel.place(np.asarray(rows), lanes.devices)
    keys = lanes.out(jnp.stack([_key(member, rng.Purpose.NOISE) for member in grid]))
    values = {name: [member.settings[name] for member in grid] for name in grid[0].settings}
    settings = lanes.out({name: np.float32(of) for name, of in values.items()})
    steps = [member.steps for member in grid]
    counts = lanes.out(np.int32(steps), empty=0)
    valid = lanes.out(_padded([member.valid for member in grid], lanes.chunk))
    sizes = [len(member.valid) for member in grid]

    def train_epoch(state: TrainState, epoch: int) -> tuple[TrainState, train.EpochMetrics]:
        clock = time.perf_counter()
        plan = lanes.out(_padded([member.plan(epoch - 1) for member in grid], 1))
        state, metrics = run(state, rows, plan, counts, keys, settings)
        found = _means(lanes.back(metrics), steps)
        speed = np.float64(sum(steps) / (time.perf_counter() - clock))
        losses = lanes.back(measure(state.variables, rows, valid, settings))
        return state, found | _means({"valid_loss": losses}, sizes) | {"steps_per_s": speed}

    return train_epoch


def _key(member: Member, purpose: rng.Purpose) -> Key:
    """The key that the member's own experiment has, which is an ensemble of one."""
    return members.keys(rng.stream(member.cfg.seed, purpose), 1)[0]


def _means(values: dict[str, np.ndarray], counts: Sequence[int]) -> dict[str, np.ndarray]:
    """Means [E] of the first so many of each member's values [E, T]."""
    return {
        name: np.stack([np.mean(one[:n]) for one, n in zip(of, counts, strict=True)])
        for name, of in values.items()
    }


def _padded(parts: Sequence[np.ndarray], multiple: int) -> Int[np.ndarray, "E T ..."]:
    """Arrays of unequal length, [E, T, ...]; zeros, which are never looked at, fill them up."""
    longest = ceil_div(max(map(len, parts)), multiple) * multiple
    out = np.zeros((len(parts), longest, *parts[0].shape[1:]), np.int32)
    for row, part in zip(out, parts, strict=True):
        row[: len(part)] = part
    return out


class _Lanes:
    """Who trains where: arrays [E, ...] as [D, K, ...], one slice on each device, and back."""

    def __init__(self, grid: Sequence[Member], devices: parallel.Devices):
        self.devices = devices
        self._at = share_out([member.steps for member in grid], len(devices))
        self._empty = self._at < 0
        self.chunk = tuning.chunk_rows(devices[0].platform)

    def out(self, tree: PyTree, empty: float | None = None) -> PyTree:
        """On the devices; lanes without a member hold another one, or `empty`."""

        def arrange(leaf: Array) -> Array:
            placed = leaf[np.maximum(self._at, 0)]
            if empty is not None:
                placed[self._empty] = empty
            return placed

        return parallel.split(jax.tree.map(arrange, tree), self.devices)

    def back(self, tree: PyTree) -> PyTree:
        """On the host, in the order of the members."""
        order = np.argsort(self._at, axis=None)[self._empty.sum() :]

        def gather(leaf: Array) -> np.ndarray:
            return np.asarray(leaf).reshape(-1, *leaf.shape[2:])[order]

        return jax.tree.map(gather, tree)


def share_out(steps: Sequence[int], devices: int) -> Int[np.ndarray, "D K"]:
    """Who goes to which device: the longest first, each to the one with the fewest steps so far.

    Args:
      steps: of an epoch of each member [E].
      devices: D.

    Returns:
      Numbers of members, -1 where a device has a place left over; K = ceil(E / D).
    """
    places = ceil_div(len(steps), devices)
    taken: list[list[int]] = [[] for _ in range(devices)]
    for member in np.argsort(steps, kind="stable")[::-1].tolist():
        free = [lane for lane in taken if len(lane) < places]
        min(free, key=lambda lane: sum(steps[other] for other in lane)).append(member)
    return np.array([lane + [-1] * (places - len(lane)) for lane in taken])


_taken = jax.jit(
    lambda better, new, old: jax.tree.map(
        lambda a, b: jnp.where(better.reshape(better.shape + (1,) * (a.ndim - 2)), a, b), new, old
    )
)


def _programs(learner: Learner, devices: parallel.Devices) -> tuple[Callable, Callable]:
    """An epoch of every member, and the losses of their valid rows, each in one dispatch."""
    one_by_one = devices[0].platform == "cpu"

    def epoch(
        state: TrainState, rows: Array, plan: Array, counts: Array, keys: Key, settings: Settings
    ) -> tuple[TrainState, Metrics]:
        flat = rows.reshape(len(rows), -1)  # a row is then gathered as one piece

        def course(
            state: TrainState, plan: Array, count: Array, key: Key, settings: Settings
        ) -> tuple[TrainState, Metrics]:
            slot = jnp.arange(plan.shape[-1], dtype=jnp.int32)

            def step(i: Array, carry: tuple) -> tuple:
                state, kept = carry
                x = flat[plan[i]].reshape(len(slot), *rows.shape[1:])
                state, found = learner.step(state, Batch(x, slot), key, settings)
                return state, {name: kept[name].at[i].set(found[name]) for name in kept}

            names = jax.eval_shape(step_names, state, key, settings)
            nothing = {name: jnp.zeros(len(plan), leaf.dtype) for name, leaf in names.items()}
            # A loop that ends where the member's rows do: the others' steps cost it nothing.
            return lax.fori_loop(0, count, step, (state, nothing))

        def step_names(state: TrainState, key: Key, settings: Settings) -> Metrics:
            share = plan.shape[-1]
            x = jnp.zeros((share, *rows.shape[1:]))
            return learner.step(state, Batch(x, jnp.arange(share)), key, settings)[1]

        return members.each(course, state, plan, counts, keys, settings, one_by_one=one_by_one)

    def losses(variables: PyTree, rows: Array, valid: Array, settings: Settings) -> Array:
        chunk = tuning.chunk_rows(devices[0].platform)

        def of_member(variables: PyTree, valid: Array, settings: Settings) -> Array:
            def of_rows(index: Array) -> Array:
                seen = Inferred(rows[index], learner.infer(variables, rows[index]))
                return jax.vmap(learner.loss, in_axes=(0, None))(seen, settings)

            return lax.map(of_rows, valid.reshape(-1, chunk)).ravel()

        return members.each(of_member, variables, valid, settings, one_by_one=one_by_one)

    platform = devices[0].platform
    training = tuning.training_options(learner.tuning, learner.dtype, platform, len(devices))
    train_axes, valid_axes = (0, None, 0, 0, 0, 0), (0, None, 0, 0)
    return (
        _mapped(epoch, devices, train_axes, training, donate_argnums=(0,)),
        _mapped(losses, devices, valid_axes, tuning.scoring_options(learner.dtype, platform)),
    )


def _mapped(
    fun: Callable, devices: parallel.Devices, in_axes: tuple, options: dict, **more
) -> Callable:
    """`fun` of what each device holds, compiled at its first call."""
    program: list[Callable] = []
    mapped = jax.pmap(fun, in_axes=in_axes, devices=devices, **more)

    def call(*args: PyTree) -> PyTree:
        if not program:
            program.append(tuning.compiled(mapped.lower(*args), options))
        return program[0](*args)

    return call


def check_memory(learner: Learner, size: int, shape: tuple[int, ...], devices: parallel.Devices):
    """A `UserError` if the members do not fit the devices all at once; see `jaxae.memory`."""
    own = size if devices[0].platform == "cpu" else ceil_div(size, len(devices))
    memory.check(train.abstract_state(learner, shape, own), devices[:1])
