"""Fitting a learner: epochs on resident rows, one dispatch and one fetch each. No file I/O."""

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from tqdm import tqdm

from jaxae import parallel, rng
from jaxae.config import ExperimentConfig, TrainConfig
from jaxae.data import index_plan
from jaxae.scoring import LOSSES
from jaxae.types import Learner, PyTree, TrainState

SHOWN = ("loss", "valid_loss", "test_auroc", "test_equal_error_f1")  # beside the progress bar
Row = dict[str, float]  # one epoch's metrics
OnEpoch = Callable[[int, TrainState, Row], Row]  # may add metrics of its own


class Fitted(NamedTuple):
    """What training leaves behind."""

    state: TrainState
    compile_s: float  # compilation of the epoch, apart from everything else
    steps_per_s: float  # median over the epochs run here; NaN if there were none


def initial_state(learner: Learner, shape: tuple[int, ...], seed: int) -> TrainState:
    """The state before the first step, from the seed alone."""
    init = jax.jit(lambda key: learner.init(key, jax.numpy.zeros((1, *shape))))
    return init(rng.stream(seed, rng.Purpose.INIT))


def abstract_state(learner: Learner, shape: tuple[int, ...], seed: int) -> TrainState:
    """Shapes and dtypes of a state, without computing one."""
    return jax.eval_shape(lambda: initial_state(learner, shape, seed))


def devices_for(
    cfg: ExperimentConfig, learner: Learner, shape: tuple[int, ...]
) -> list[jax.Device]:
    """The devices that a configuration asks for, or that train its learner fastest.

    Raises:
      UserError: more devices than there are, or a batch that they do not divide.
    """
    params = jax.tree.leaves(abstract_state(learner, shape, cfg.seed).params)
    parameters = sum(leaf.size for leaf in params) // cfg.ensemble
    batch_size = cfg.train.batch_size
    on_cpu = parallel.cpu_devices(cfg.method, batch_size, parameters)
    return parallel.choose(cfg.devices, batch_size, on_cpu)


def epochs_done(state: TrainState, steps_per_epoch: int) -> int:
    """How many whole epochs a state has behind it (members of an ensemble march together)."""
    return int(np.max(jax.device_get(state.step))) // steps_per_epoch


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Steps in which every row is seen at least once; see `jaxae.data.index_plan`."""
    return -(-n // batch_size)


def fit(
    learner: Learner,
    x: np.ndarray,
    cfg: TrainConfig,
    seed: int,
    devices: parallel.Devices,
    *,
    state: TrainState | None = None,
    options: dict[str, object] | None = None,
    on_epoch: OnEpoch = lambda epoch, state, row: row,
    profile: Path | None = None,
    quiet: bool = False,
) -> Fitted:
    """Train until `cfg.epochs` epochs are behind the state.

    The course is a function of (learner, rows, seed, batch size) alone: starting from a state that
    has k epochs behind it gives the same bits as never having stopped.

    Args:
      learner: built with the axis name of `jaxae.parallel`.
      x: normal training rows [N, *S] float32.
      cfg: epochs and batch size.
      seed: of weights, order and noise.
      devices: see `jaxae.parallel.choose`.
      state: where to start; None = `initial_state`.
      options: of XLA; see `jaxae.parallel.compiler_options`.
      on_epoch: called after every epoch with its number (from 1), the state and the epoch's mean
        metrics; returns the metrics to show. The state is donated to the next epoch: copy to keep.
      profile: where to write a trace of the second epoch (of the only one, if there is one).
      quiet: no progress bar.

    Raises:
      FloatingPointError: a metric is NaN or infinite; names the epoch, the step and the metric.
      UserError: the batch does not fit the rows or the devices.
    """
    per_epoch = steps_per_epoch(len(x), cfg.batch_size)
    plan = lambda epoch: parallel.split(  # noqa: E731
        index_plan(seed, epoch, len(x), cfg.batch_size, len(devices)), devices
    )
    first_plan = plan(0)  # checks the batch size before anything is compiled
    state = initial_state(learner, x.shape[1:], seed) if state is None else state
    start = epochs_done(state, per_epoch)
    if start >= cfg.epochs:
        return Fitted(state, 0.0, float("nan"))
    state = parallel.place(state, devices)
    rows = parallel.place(x, devices)
    key = parallel.place(rng.stream(seed, rng.Purpose.NOISE), devices)

    clock = time.perf_counter()
    epoch_fn = parallel.epoch_fn(learner, devices)
    run_epoch = parallel.compiled(epoch_fn, options or {}, state, rows, first_plan, key)
    compile_s = time.perf_counter() - clock

    speeds = []
    with tqdm(
        total=cfg.epochs * per_epoch,
        initial=start * per_epoch,
        unit="step",
        desc="training",
        disable=quiet,
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10.0,  # a log file wants few lines
    ) as bar:
        for epoch in range(start, cfg.epochs):
            clock = time.perf_counter()
            with _trace(profile if epoch == min(start + 1, cfg.epochs - 1) else None):
                state, metrics = run_epoch(state, rows, plan(epoch), key)
                metrics = jax.device_get(metrics)
            speeds.append(per_epoch / (time.perf_counter() - clock))
            _check_finite(metrics, epoch + 1)
            row = {name: float(values.mean()) for name, values in metrics.items()}
            row = on_epoch(epoch + 1, state, row | {"steps_per_s": speeds[-1]})
            bar.set_postfix({k: f"{row[k]:.5f}" for k in SHOWN if k in row}, refresh=False)
            bar.update(per_epoch)
    return Fitted(state, compile_s, float(np.median(speeds)))


def _trace(folder: Path | None) -> contextlib.AbstractContextManager:
    return jax.profiler.trace(folder) if folder else contextlib.nullcontext()


def _check_finite(metrics: dict[str, np.ndarray], epoch: int) -> None:
    for name, values in metrics.items():
        bad = ~np.isfinite(values)
        if bad.any():
            raise FloatingPointError(
                f"{name} is {values[bad][0]} in epoch {epoch}, step {int(np.argmax(bad)) + 1}; "
                "lower optim.lr, or look for extreme values in the data"
            )


def valid_loss_fn(
    learner: Learner, x: np.ndarray, loss: str, devices: parallel.Devices
) -> Callable[[PyTree], float]:
    """`variables -> mean loss` over rows that stay on the devices; noise-free inputs."""

    def per_row(variables: PyTree, chunk: jax.Array) -> jax.Array:
        return jax.vmap(LOSSES[loss])(chunk, learner.infer(variables, chunk).x_hat)

    run = parallel.rows_fn(per_row, devices)
    resident = list(parallel.blocks(x, devices, parallel.tight_chunk(len(x), devices)))

    def mean_loss(variables: PyTree) -> float:
        placed = parallel.place(variables, devices)
        return float(np.mean(parallel.map_rows(run, placed, resident, len(x))))

    return mean_loss
