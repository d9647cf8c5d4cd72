"""Fitting a learner, epoch by epoch: one dispatch and one fetch each where rows are resident."""

import contextlib
import functools
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from jaxae import data, rng
from jaxae.config import ExperimentConfig, checks
from jaxae.devices import members, memory, parallel, tuning
from jaxae.training import feeds
from jaxae.types import Key, Learner, Settings, Shape, Source, TrainState

SHOWN = ("loss", "valid_loss", "test_auroc", "test_equal_error_f1")  # beside the progress bar
EpochMetrics = dict[str, Float[np.ndarray, "..."]]  # one value for each member [E], or [] for all
Measure = Callable[[TrainState], Callable[[], EpochMetrics]]  # begins, then waits
OnEpoch = Callable[[int, TrainState, EpochMetrics], EpochMetrics]  # may add metrics of its own


class Members(NamedTuple):
    """What the members of a training differ in, and the rows that they share.

    Members that have rows of their own are a grid, see `jaxae.training.grid`.
    """

    init: Key  # of the initial weights [E]
    noise: Key  # of the noise [E]
    settings: Settings  # `Learner.settings`, each [E]
    plan: Callable[[int, int], np.ndarray]  # (epoch, devices) -> rows of each step [D, T, B/D]


class Fitted(NamedTuple):
    """The result of training."""

    state: TrainState
    compile_s: float  # seconds that compiling the epoch took


@parallel.on_host()
def ensemble(learner: Learner, cfg: ExperimentConfig, n: int) -> Members:
    """The members of a configuration's ensemble: the same n rows and batches, other random numbers.

    Its plan raises a `UserError` where the batch does not fit the rows or the devices.
    """

    def plan(epoch: int, devices: int) -> np.ndarray:
        return data.index_plan(cfg.seed, epoch, n, cfg.train.batch_size, devices)

    init, noise = (rng.stream(cfg.seed, p) for p in (rng.Purpose.INIT, rng.Purpose.NOISE))
    size = cfg.ensemble
    settings = {name: jnp.full(size, float(value)) for name, value in learner.settings.items()}
    return Members(members.keys(init, size), members.keys(noise, size), settings, plan)


@functools.partial(
    jax.jit, static_argnames=("learner", "shape"), compiler_options=tuning.FAST_COMPILE
)
def initial_state(learner: Learner, shape: Shape, keys: Key) -> TrainState:
    """The state before the first step, of members with these keys [E]; compiled once."""
    row = jnp.zeros((1, *shape))
    return members.each(lambda key: learner.init(key, row), keys, one_by_one=False)


def abstract_state(learner: Learner, shape: Shape, size: int) -> TrainState:
    """Shapes and dtypes of the state of `size` members, without computing one."""
    keys = jax.eval_shape(lambda: members.keys(jax.random.key(0), size))
    return initial_state.eval_shape(learner, shape, keys)


def devices_for(learner: Learner, cfg: ExperimentConfig, shape: Shape) -> list[jax.Device]:
    """The devices that a configuration asks for, or that train its learner fastest.

    Raises:
      UserError: more devices than there are, or less memory than the state of training needs.
    """
    state = abstract_state(learner, shape, cfg.ensemble)
    batch_size = cfg.train.batch_size
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params)) // cfg.ensemble
    on_cpu = tuning.host_devices(learner.tuning, batch_size, parameters)
    devices = parallel.choose(cfg.devices, batch_size, on_cpu)
    memory.check(state, devices)
    return devices


@parallel.on_host()
def fit(
    learner: Learner,
    x: Source,
    cfg: ExperimentConfig,
    devices: parallel.Devices,
    *,
    members: Members | None = None,
    state: TrainState | None = None,
    measure: Measure = lambda state: dict,
    on_epoch: OnEpoch = lambda epoch, state, metrics: metrics,
    quiet: bool = False,
) -> Fitted:
    """Train until `cfg.train.epochs` epochs are behind the state.

    The course is a function of (learner, rows, members) alone: starting from a state that has k
    epochs behind it gives the same bits as never having stopped.

    Args:
      learner: built with the axis name of `jaxae.devices.parallel`.
      x: normal training rows [N, *S] float32.
      cfg: its epochs, batch size, seed and ensemble.
      devices: see `devices_for`.
      members: what members differ in; None = `ensemble(learner, cfg, N)`.
      state: where to start; None = `initial_state`. It is donated: copy to keep.
      measure: begins to measure the state after an epoch; what it returns gives the metrics.
      on_epoch: called after every epoch with its number (from 1), the state and the epoch's mean
        metrics; returns the metrics to show. The state is donated to the next epoch: copy to keep.
      quiet: no progress bar.

    Raises:
      FloatingPointError: a metric is NaN or infinite; names the epoch, the step and the metric.
      UserError: there are no rows in float32, or the batch does not fit them, or the memory of the
        devices: then it names one that does.
    """
    checks.refuse_rows(x)
    members = members or ensemble(learner, cfg, len(x))
    plan = members.plan(0, len(devices))  # checks the batch before anything is compiled
    steps = plan.shape[1]
    if state is None:
        state = initial_state(learner, x.shape[1:], members.init)
    start = epochs_done(state, steps)
    if start >= cfg.train.epochs:
        return Fitted(state, 0.0)
    streams = feeds.is_streaming(cfg.train.feed, x, devices, quiet)
    state, keys, settings = parallel.place((state, members.noise, members.settings), devices)

    clock = time.perf_counter()
    feed = feeds.make(streams, learner, x, devices, (state, keys, settings), plan)
    with (advice := memory.Advice(cfg.train.batch_size, feed.needed, devices)):
        feed.compile()
    compile_s = time.perf_counter() - clock
    with progress_bar(cfg.train.epochs * steps, start * steps, quiet) as bar:
        plans = (members.plan(epoch, len(devices)) for epoch in range(start, cfg.train.epochs))
        plan = next(plans)
        for epoch in range(start, cfg.train.epochs):
            with _trace(cfg, epoch, start):
                state, metrics, plan = _epoch(epoch + 1, feed, state, plan, plans, measure, advice)
            show(bar, steps, on_epoch(epoch + 1, state, metrics))
    return Fitted(state, compile_s)


def _epoch(
    epoch: int,
    feed: feeds.Feed,
    state: TrainState,
    plan: feeds.Plan,
    following: Iterator[feeds.Plan],
    measure: Measure,
    advice: memory.Advice,
) -> tuple[TrainState, EpochMetrics, feeds.Plan]:
    """The state after an epoch, the epoch's metrics, and the plan of the next one, if there is one.

    What measures the state is begun, and the next plan made, while the devices train.
    """
    clock = time.perf_counter()
    with advice:
        state, fetch = feed(state, plan)
    steps, measured, plan = plan.shape[1], measure(state), next(following, plan)
    with advice:
        metrics = fetch()
    speed = np.float64(steps / (time.perf_counter() - clock))
    _check_steps(metrics, epoch)
    means = {name: values.mean(axis=1) for name, values in metrics.items()}
    return state, means | {"steps_per_s": speed, **measured()}, plan


def epochs_done(state: TrainState, steps: int) -> int:
    """How many whole epochs of so many steps a state has behind it; the same for all members."""
    return int(np.max(jax.device_get(state.step))) // steps


def progress_bar(
    total: int, done: int, quiet: bool, what: str = "training", unit: str = "step"
) -> tqdm:
    """A progress bar on the terminal, updated less often where stderr is a file."""
    return tqdm(
        total=total,
        initial=done,
        unit=unit,
        desc=what,
        disable=quiet or jax.process_index() > 0,
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10.0,  # a log file wants few lines
    )


def show(bar: tqdm, steps: int, metrics: EpochMetrics) -> None:
    """Move the bar on by an epoch."""
    shown = {name: f"{metrics[name].mean():.5f}" for name in SHOWN if name in metrics}
    bar.set_postfix(shown, refresh=False)
    bar.update(steps)


def _trace(cfg: ExperimentConfig, epoch: int, start: int) -> contextlib.AbstractContextManager:
    """A profile of the second epoch, or of the only one, where the configuration asks for it."""
    if cfg.profile and epoch == min(start + 1, cfg.train.epochs - 1):
        return jax.profiler.trace(cfg.run_path / "profile")
    return contextlib.nullcontext()


def check_finite(metrics: EpochMetrics, when: str) -> None:
    """Check the metrics of members [E], or of all of them together [].

    Raises:
      FloatingPointError: one is not finite; names it, its member and `when` that was.
    """
    for name, values in metrics.items():
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            member = f" of member {bad[0]}" if np.size(values) > 1 else ""
            raise FloatingPointError(
                f"{name}{member} is {np.ravel(values)[bad[0]]} {when}; lower optim.lr, or look for "
                "extreme values in the data"
            )


def _check_steps(metrics: dict[str, np.ndarray], epoch: int) -> None:
    """Find the first step of an epoch in which a metric [E, T] is not finite."""
    bad = [step for a in metrics.values() for step in np.flatnonzero(~np.isfinite(a).all(axis=0))]
    if bad:
        at = {name: values[:, min(bad)] for name, values in metrics.items()}
        check_finite(at, f"in epoch {epoch}, step {min(bad) + 1}")
