"""The command `jaxae bench`: how fast a configuration trains and scores on this machine.

`benchmarks/` in the repository compares the same measurements with PyTorch and Keras.
"""

import math
import statistics
import time
from typing import Any

import jax
import numpy as np

from jaxae import detectors, scoring
from jaxae.config import ExperimentConfig, for_scoring
from jaxae.detectors import evaluation
from jaxae.devices import memory, parallel
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.training import speed, train
from jaxae.types import Shape, TrainState

_STEPS, _SCORED = 50, 4096  # the most steps of a short epoch, and rows scored at a time
_TIMES, _SECONDS = 6, 2.0  # each is repeated so often, the first time unmeasured, or so long
_BATCH, _VALUES = 128, 1 << 21  # the largest default batch: rows, and their values


def batch_for(shape: Shape) -> int:
    """A batch whose activations any machine can hold: 128 rows, or fewer if they are large."""
    fitting = max(1, _VALUES // max(1, math.prod(shape)))
    return min(_BATCH, 1 << (fitting.bit_length() - 1))


def measure(cfg: ExperimentConfig, shape: Shape) -> dict[str, Any]:
    """Train and score random rows, a few seconds each.

    Args:
      cfg: without "auto"; its number of epochs is ignored.
      shape: the shape of a row.

    Returns:
      Medians: `train_steps_per_s`, `score_rows_per_s`; `compile_s`, the seconds that compiling the
      training epoch took; and in MB, on each device, `step_mb`, which a step reads and writes,
      `memory_mb`, which training takes, and `peak_mb`, the most that was in use so far.

    Raises:
      UserError: the configuration cannot work.
    """
    if min(shape, default=0) < 1:
        raise UserError(f"shape is {shape}; a row has at least one value along every axis")
    detectors.check(cfg)
    learners.check(cfg)
    parallel.start(cfg)
    batch = cfg.train.batch_size
    steps = speed.steps_of(batch, shape, _STEPS)
    x = np.random.default_rng(0).random((steps * batch, *shape), np.float32)
    learner = learners.build(cfg, shape)
    devices = train.devices_for(learner, cfg, shape)

    def enough(speeds: list[float]) -> bool:
        return len(speeds) == _TIMES or sum(steps / per_s for per_s in speeds) > _SECONDS

    found = speed.measure(learner, x, cfg, devices, enough)
    return {
        "method": cfg.method,
        "batch_size": batch,
        "devices": len(devices),
        "train_steps_per_s": found.steps_per_s,
        "score_rows_per_s": _scored_per_s(cfg, found.state, x[:_SCORED]),
        "compile_s": found.compile_s,
        "step_mb": found.traffic / 1e6,
        "memory_mb": found.memory / 1e6,
        "peak_mb": memory.peak(devices) / 1e6,
    }


def _scored_per_s(cfg: ExperimentConfig, state: TrainState, rows: np.ndarray) -> float:
    learner = learners.build(for_scoring(cfg), rows.shape[1:])
    score = evaluation.scorer(learner, scoring.resolve("mse"), jax.local_devices())
    times: list[float] = []
    while len(times) < 2 or (len(times) < _TIMES and sum(times[1:]) < _SECONDS):
        clock = time.perf_counter()
        score(state.variables, {}, rows)
        times.append(time.perf_counter() - clock)
    return len(rows) / statistics.median(times[1:])
