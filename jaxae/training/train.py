"""Fitting a learner, epoch by epoch; with resident rows, an epoch is one dispatch and one fetch."""

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

SHOWN = ("loss", "valid_loss", "test_auroc", "test_equal_error_f1")  # next to the progress bar
EpochMetrics = dict[str, Float[np.ndarray, "..."]]  # one value for each member [E], or [] for all
Measure = Callable[[TrainState], Callable[[], EpochMetrics]]  # begins, then waits
OnEpoch = Callable[[int, TrainState, EpochMetrics], EpochMetrics]  # may add its own metrics


class Members(NamedTuple):
    """How the members that train together differ; they share their rows.

    For members with different rows, see `jaxae.training.grid`.
    """

    init: Key  # for the initial weights [E]
    noise: Key  # for the noise [E]
    settings: Settings  # `Learner.settings`, each [E]
    plan: Callable[[int, int], np.ndarray]  # (epoch, devices) -> rows of each step [D, T, B/D]


class Fitted(NamedTuple):
    """The result of training."""

    state: TrainState
    compile_s: float  # seconds for compiling the epoch


@parallel.on_host()
def ensemble(learner: Learner, cfg: ExperimentConfig, n: int) -> Members:
    """The members of a configuration's ensemble: n rows and batches in common, but not random keys.

    The plan raises a `UserError` if the batch does not match the rows or the devices.
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
    """The state of members with these keys [E] before the first step; compiled once."""
    row = jnp.zeros((1, *shape))
    return members.each(lambda key: learner.init(key, row), keys, one_by_one=False)


def abstract_state(learner: Learner, shape: Shape, size: int) -> TrainState:
    """Shapes and dtypes of the state of `size` members, without computing the state."""
    keys = jax.eval_shape(lambda: members.keys(jax.random.key(0), size))
    return initial_state.eval_shape(learner, shape, keys)


def devices_for(learner: Learner, cfg: ExperimentConfig, shape: Shape) -> list[jax.Device]:
    """The devices that a configuration sets, or those that train its learner fastest.

    Raises:
      UserError: there are fewer devices, or too little memory for the training state.
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
    """Train until the state has completed `cfg.train.epochs` epochs.

    The result depends on (learner, rows, members) alone: resuming from a state after k epochs gives
    the same bits as training without a stop.

    Args:
      learner: built with the axis name of `jaxae.devices.parallel`.
      x: normal training rows [N, *S] float32.
      cfg: gives epochs, batch size, seed and ensemble.
      devices: see `devices_for`.
      members: how members differ; None = `ensemble(learner, cfg, N)`.
      state: where to start; None = `initial_state`. It is donated: copy it to keep it.
      measure: starts measuring the state after an epoch; returns a function that waits for metrics.
      on_epoch: called after every epoch with its number (from 1), the state and the epoch's mean
        metrics; returns the metrics to show. The next epoch donates the state: copy it to keep it.
      quiet: no progress bar.

    Raises:
      FloatingPointError: a metric is NaN or infinite; names the epoch, the step and the metric.
      UserError: there are no rows, they are not float32, the batch does not match them, or it does
        not fit into the devices' memory; then the message suggests a batch size.
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
    """Return the state after an epoch, its metrics, and the plan of the next epoch, if any.

    While the devices train, the measurement is started and the next plan is made.
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
    """The number of epochs of `steps` steps that a state has completed; equal for all members."""
    return int(np.max(jax.device_get(state.step))) // steps


def progress_bar(
    total: int, done: int, quiet: bool, what: str = "training", unit: str = "step"
) -> tqdm:
    """A progress bar on the terminal, updated less often if stderr is a file."""
    return tqdm(
        total=total,
        initial=done,
        unit=unit,
        desc=what,
        disable=quiet or jax.process_index() > 0,
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10.0,  # few lines in a log file
    )


def show(bar: tqdm, steps: int, metrics: EpochMetrics) -> None:
    """Advance the bar by one epoch."""
    shown = {name: f"{metrics[name].mean():.5f}" for name in SHOWN if name in metrics}
    bar.set_postfix(shown, refresh=False)
    bar.update(steps)


def _trace(cfg: ExperimentConfig, epoch: int, start: int) -> contextlib.AbstractContextManager:
    """If the configuration sets it, a profile of the second epoch, or of the only one."""
    if cfg.profile and epoch == min(start + 1, cfg.train.epochs - 1):
        return jax.profiler.trace(cfg.run_path / "profile")
    return contextlib.nullcontext()


def check_finite(metrics: EpochMetrics, when: str) -> None:
    """Check metrics of each member [E] or of all members together [].

    Raises:
      FloatingPointError: a metric is not finite; names it, its member and `when` it happened.
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
