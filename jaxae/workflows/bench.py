"""The command `jaxae bench`: how fast a configuration trains and scores on this machine.

`benchmarks/` in the repository compares the same measurements with PyTorch and Keras.
"""

import dataclasses
import statistics
import time
from typing import Any

import jax
import numpy as np

from jaxae import detectors, scoring
from jaxae.config import ExperimentConfig, for_scoring
from jaxae.detectors import evaluation
from jaxae.devices import parallel
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.training import train
from jaxae.types import Shape

_STEPS, _SCORED = 50, 4096  # steps of an epoch; rows scored at a time


def measure(cfg: ExperimentConfig, shape: Shape, epochs: int = 6) -> dict[str, Any]:
    """Train and score random rows.

    Args:
      cfg: without "auto"; its number of epochs is ignored.
      shape: the shape of a row.
      epochs: the number of epochs of 50 steps; the first is a warm-up.

    Returns:
      Medians: `train_steps_per_s`, `score_rows_per_s`, and `compile_s`, the seconds that compiling
      the training epoch took.

    Raises:
      UserError: the configuration cannot work.
    """
    cfg = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, epochs=epochs))
    if min(shape, default=0) < 1:
        raise UserError(f"shape is {shape}; a row has at least one value along every axis")
    detectors.check(cfg)
    learners.check(cfg)
    parallel.start(cfg)
    generator = np.random.default_rng(0)
    x = generator.random((_STEPS * cfg.train.batch_size, *shape), np.float32)
    learner = learners.build(cfg, shape)
    devices = train.devices_for(learner, cfg, shape)
    speeds = []

    def on_epoch(epoch: int, state: Any, metrics: train.EpochMetrics) -> train.EpochMetrics:
        speeds.append(float(metrics["steps_per_s"]))
        return metrics

    fitted = train.fit(learner, x, cfg, devices, on_epoch=on_epoch, quiet=True)
    score = evaluation.scorer(
        learners.build(for_scoring(cfg), shape), scoring.resolve("mse"), jax.local_devices()
    )
    rows, times = x[:_SCORED], []
    for _ in range(epochs):
        clock = time.perf_counter()
        score(fitted.state.variables, {}, rows)
        times.append(time.perf_counter() - clock)
    return {
        "method": cfg.method,
        "batch_size": cfg.train.batch_size,
        "devices": len(devices),
        "train_steps_per_s": statistics.median(speeds[1:]),
        "score_rows_per_s": len(rows) / statistics.median(times[1:]),
        "compile_s": fitted.compile_s,
    }
