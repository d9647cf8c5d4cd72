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
from jaxtyping import Float, Int
from tqdm import tqdm

from jaxae import data, rng
from jaxae.config import ExperimentConfig, checks
from jaxae.devices import members, memory, parallel, tuning
from jaxae.ops import ceil_div
from jaxae.training import feeds
from jaxae.types import AnyArray, Key, Learner, Settings, Shape, Source, TrainState

SHOWN = ("loss", "valid_loss", "test_auroc", "test_equal_error_f1")  # next to the progress bar
EpochMetrics = dict[str, Float[np.ndarray, "..."]]  # one value for each member [E], or [] for all
Measured = Callable[[], EpochMetrics]  # waits for the devices
Measure = Callable[[TrainState], Measured]  # starts measuring
OnDivergence = Callable[[int, str], None]
OnEpoch = Callable[[int, TrainState, EpochMetrics], EpochMetrics]  # may add metrics of its own


class Members(NamedTuple):
    """How the members that train together differ.

    Members of an ensemble see the same rows, members of a grid (`jaxae.training.grid`) their own.
    """

    init: Key  # for the initial weights [E]
    noise: Key  # for the noise [E]
    settings: Settings  # `Learner.settings`, each [E]
    plan: Callable[[int, int], parallel.Plan]  # (epoch from 0, devices per group) -> plan
    steps: Int[np.ndarray, " E"]  # per epoch; equal for all members of an ensemble


class Fitted(NamedTuple):
    """The result of training."""

    state: TrainState
    compile_s: float  # seconds for compiling the epoch


@parallel.on_host()
def ensemble(learner: Learner, cfg: ExperimentConfig, n: int) -> Members:
    """The members of a configuration's ensemble, which share n rows and batches, but not keys.

    The plan raises a `UserError` if the batch does not match the rows or the devices.
    """

    def plan(epoch: int, devices: int) -> np.ndarray:
        return data.index_plan(cfg.seed, epoch, n, cfg.train.batch_size, devices)

    init, noise = (rng.stream(cfg.seed, p) for p in (rng.Purpose.INIT, rng.Purpose.NOISE))
    size = cfg.ensemble
    per_epoch = ceil_div(n, cfg.train.batch_size)
    values = with_steps(learner.settings, cfg.train.epochs * per_epoch)
    settings = {name: jnp.full(size, float(value)) for name, value in values.items()}
    steps = np.full(size, per_epoch, np.int32)
    return Members(members.keys(init, size), members.keys(noise, size), settings, plan, steps)


def with_steps(settings: Settings, steps: int) -> Settings:
    """A member's settings, in which "steps", if there, is set to the steps of all epochs."""
    return settings | ({"steps": steps} if "steps" in settings else {})


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
    devices: parallel.Devices | parallel.Layout,
    *,
    members: Members | None = None,
    state: TrainState | None = None,
    measure: Measure = lambda state: dict,
    on_epoch: OnEpoch = lambda epoch, state, metrics: metrics,
    on_divergence: OnDivergence | None = None,
    quiet: bool = False,
) -> Fitted:
    """Train until the state has completed `cfg.train.epochs` epochs.

    The result depends on (learner, rows, members) alone: resuming from a state after k epochs gives
    the same bits as training without a stop.

    Args:
      learner: built with the axis name of `jaxae.devices.parallel`.
      x: normal training rows [N, *S] float32, those of all members.
      cfg: gives epochs and, without `members`, batch size, seed and ensemble.
      devices: see `devices_for`; or a layout. `measure` and `on_epoch` get the state as placed.
      members: how members differ; None = `ensemble(learner, cfg, N)`.
      state: where to start; None = `initial_state`. It is donated: copy it to keep it.
      measure: starts measuring the state after an epoch; returns a function that waits for metrics.
      on_epoch: called after every epoch with its number (from 1), the state and the epoch's mean
        metrics; returns the metrics to show. The next epoch donates the state: copy it to keep it.
      on_divergence: called with a member whose metrics are not finite, and with a sentence that
        names the epoch, the step and the metric; None = raise an error.
      quiet: no progress bar.

    Raises:
      FloatingPointError: a metric is NaN or infinite.
      UserError: there are no rows, they are not float32, the batch does not match them, or it does
        not fit into the devices' memory; then the message suggests a batch size.
    """
    layout = devices if isinstance(devices, parallel.Layout) else parallel.Layout(devices)
    members = members or ensemble(learner, cfg, len(x))
    begun = begin(learner, x, cfg, layout, members, state, quiet)
    state, feed, plan, advice, start = begun
    compile_s = compiled(begun) if start < cfg.train.epochs else 0.0
    steps = int(members.steps.sum() if plan.ndim == 4 else members.steps[0])
    with progress_bar(cfg.train.epochs * steps, start * steps, quiet) as bar:
        epochs = _epochs(cfg, feed, members, layout, state, start, measure, advice)
        for epoch, state, metrics, measured, seconds in epochs:
            for member, problem in _diverged(metrics, members.steps, epoch):
                if on_divergence is None:
                    raise FloatingPointError(of_member(member, len(members.steps), problem))
                on_divergence(member, problem)
            mean = {name: means(values, members.steps) for name, values in metrics.items()}
            mean |= {"steps_per_s": np.array(steps / seconds), **measured()}
            show(bar, steps, on_epoch(epoch, state, mean))
    return Fitted(state, compile_s)


class Begun(NamedTuple):
    """All that training needs before its first epoch, not yet compiled."""

    state: TrainState  # as placed
    feed: feeds.Feed
    plan: parallel.Plan  # of the first epoch
    advice: memory.Advice  # names a batch that fits, if this one does not
    epochs: int  # that the state has completed


def begin(
    learner: Learner,
    x: Source,
    cfg: ExperimentConfig,
    layout: parallel.Layout,
    members: Members,
    state: TrainState | None = None,
    quiet: bool = False,
) -> Begun:
    """Place the state, or `initial_state`, and the members; see `fit` for arguments and errors."""
    checks.refuse_rows(x)
    plan = members.plan(0, layout.per_group)  # checks the batch before anything is compiled
    state = initial_state(learner, x.shape[1:], members.init) if state is None else state
    epochs = epochs_done(state, members.steps)
    state, *fixed = layout.place((state, members.noise, members.settings))
    streams = feeds.is_streaming(cfg.train.feed, x, layout.devices, quiet)
    feed = feeds.Feed(streams, learner, x, layout, (state, *fixed, members.steps), plan)
    advice = memory.Advice(cfg.train.batch_size, feed.needed, layout.devices)
    return Begun(state, feed, plan, advice, epochs)


def compiled(begun: Begun) -> float:
    """Compile the programs of an epoch; returns the seconds that it took."""
    clock = time.perf_counter()
    with begun.advice:
        begun.feed.compile()
    return time.perf_counter() - clock


def _epochs(
    cfg: ExperimentConfig,
    feed: feeds.Feed,
    members: Members,
    layout: parallel.Layout,
    state: TrainState,
    start: int,
    measure: Measure,
    advice: memory.Advice,
) -> Iterator[tuple[int, TrainState, dict[str, np.ndarray], Measured, float]]:
    """Each epoch's number, new state, metrics of steps [E, T], started measurement and seconds.

    While the devices train, the measurement is started and the next plan is made.
    """
    plans = (members.plan(epoch, layout.per_group) for epoch in range(start, cfg.train.epochs))
    plan = next(plans, None)
    for epoch in range(start + 1, cfg.train.epochs + 1):
        with _trace(cfg, epoch - 1, start):
            clock = time.perf_counter()
            with advice:
                state, fetch = feed(state, plan)
            measured, plan = measure(state), next(plans, plan)
            with advice:
                metrics = fetch()
            seconds = time.perf_counter() - clock
        yield epoch, state, metrics, measured, seconds


def means(
    values: Float[np.ndarray, "E T"], counts: Int[AnyArray, " E"] | list[int]
) -> Float[np.ndarray, " E"]:
    """The mean of each member's first `counts` values."""
    return np.stack([np.mean(row[:n]) for row, n in zip(values, counts, strict=True)])


def epochs_done(state: TrainState, steps: int | Int[np.ndarray, " E"]) -> int:
    """The number of epochs, of `steps` steps each, that a state has completed."""
    return int(np.max(jax.device_get(state.step) // steps))


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


_REMEDY = "lower optim.lr, or look for extreme values in the data"


def not_finite(metrics: EpochMetrics, when: str) -> Iterator[tuple[int, str]]:
    """Members with a metric [E] that is not finite, with a sentence that says which and when."""
    for name, values in metrics.items():
        for member in np.flatnonzero(~np.isfinite(values)).tolist():
            yield member, f"{name} is {np.ravel(values)[member]} {when}; {_REMEDY}"


def _diverged(
    metrics: dict[str, np.ndarray], steps: Int[np.ndarray, " E"], epoch: int
) -> Iterator[tuple[int, str]]:
    """The same for metrics of steps [E, T]: the first such step of each member, earliest first."""
    is_finite = np.isfinite([*metrics.values()]).all(axis=0)
    if is_finite.all():
        return
    is_finite |= np.arange(is_finite.shape[1]) >= steps[:, None]  # metrics are undefined there
    first = np.where(is_finite.all(axis=1), -1, is_finite.argmin(axis=1))
    for member in np.argsort(first, kind="stable")[(first < 0).sum() :].tolist():
        step = first[member]
        at = {name: values[[member], step] for name, values in metrics.items()}
        _, problem = next(not_finite(at, f"in epoch {epoch}, step {step + 1}"))
        yield member, problem


def of_member(member: int, members: int, problem: str) -> str:
    """`problem`, preceded by the member's number if there are several members."""
    return f"member {member}: {problem}" if members > 1 else problem
