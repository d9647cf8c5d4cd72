"""Compiling the programs that a run will need, in a second thread while the first one works.

XLA compiles without holding Python's lock, so a second core can do it: on two cores a short run
takes three quarters of the time. Results do not depend on it: a program that is not ready is
compiled when it is called.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from jaxae import scoring
from jaxae.config import ExperimentConfig
from jaxae.detectors import evaluation
from jaxae.devices import parallel, tuning
from jaxae.devices.parallel import Devices
from jaxae.reports import plots, studies
from jaxae.training import train
from jaxae.types import Dataset, Learner


@contextlib.contextmanager
def meanwhile(tasks: Iterable[Callable[[], object]]) -> Iterator[None]:
    """Run tasks in a second thread, one after another; at exit, drop those not yet started.

    Only in a single process: several would have to agree on an order. Errors are ignored here, as
    the run raises them again when it uses the program.
    """
    if jax.process_count() > 1:
        yield
        return
    with ThreadPoolExecutor(1, thread_name_prefix="precompile") as pool:
        for task in tasks:
            pool.submit(parallel.on_host()(task))
        try:
            yield
        finally:
            pool.shutdown(cancel_futures=True)


def tasks(
    cfg: ExperimentConfig,
    data: Dataset,
    learner: Learner,
    scoring_learner: Learner,
    devices: Devices,
) -> Iterator[Callable[[], object]]:
    """Call the programs that monitor and score on few rows, as the run will, and load matplotlib.

    Tasks are in the order in which a run needs them. Each waits for its program to finish, since
    a program that still runs when the process ends would crash it.
    """
    score = scoring.resolve(cfg.score)
    state = train.abstract_state(learner, data.shape, cfg.ensemble)
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), state.variables)
    settings = {name: np.zeros(cfg.ensemble, np.float32) for name in learner.settings}
    chunk = tuning.chunk_rows(learner.tuning, devices[0].platform, data.shape, cfg.ensemble)
    few = data.test.x[: len(devices) * chunk + 1]
    # Without padding, every number of rows needs its own program.
    is_padded = parallel.is_padded(few.shape, devices, chunk)
    if is_padded:
        yield lambda: evaluation.loss_fn(learner, few, devices)(zeros, settings)()  # noqa: PLW0108
    if is_padded and not score.is_fitted:
        yield lambda: evaluation.scorer(scoring_learner, score, devices)(zeros, {}, few)
    if is_padded:
        yield lambda: evaluation.inference(scoring_learner, devices)(zeros, few)
    yield plots.load
    yield from studies.compiling(cfg, data)
