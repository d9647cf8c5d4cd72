"""How fast a learner trains on these devices, measured by short epochs; nothing is kept of them."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

from jaxae.config import ExperimentConfig
from jaxae.devices import hosts, memory, parallel
from jaxae.training import train
from jaxae.types import Learner, Source, TrainState

_LARGE = 1 << 20  # values of a batch; two of its steps take far longer than a dispatch


class Speed(NamedTuple):
    """What was measured.

    Attributes:
      steps_per_s: the median over short epochs, without the first, which is a warm-up.
      compile_s: seconds for compiling a short epoch.
      memory: bytes that a short epoch takes on each device, its rows included; 0 = unknown.
      traffic: bytes that a step reads and writes on each device; 0 = unknown.
      state: after these steps, as placed on the devices.
    """

    steps_per_s: float
    compile_s: float
    memory: int
    traffic: int
    state: TrainState


def steps_of(batch: int, shape: tuple[int, ...], most: int) -> int:
    """The steps of a short epoch: `most`, or two if batches are large and so steps slow."""
    values = batch
    for size in shape:
        values *= size
    return most if values < _LARGE else 2


def measure(
    learner: Learner,
    x: Source,
    cfg: ExperimentConfig,
    devices: parallel.Devices,
    enough: Callable[[list[float]], bool],
) -> Speed:
    """Train on the rows x [N, *S] of a short epoch, over and over.

    Args:
      learner: with `cfg`, as `jaxae.training.train.fit` takes them.
      x: few rows.
      cfg: gives batch size, seed and ensemble.
      devices: to train on.
      enough: steps/s of each short epoch so far -> whether to stop; process 0 decides for all.

    Raises:
      UserError: as `fit`; that training diverges does not matter.
    """
    layout, speeds = parallel.Layout(devices), list[float]()
    begun = train.begin(learner, x, cfg, layout, train.ensemble(learner, cfg, len(x)), quiet=True)
    compile_s, state = train.compiled(begun), begun.state
    while not speeds or not hosts.as_first(enough(speeds)):
        clock = time.perf_counter()
        with begun.advice:
            state, fetch = begun.feed(state, begun.plan)
            fetch()
        speeds.append(begun.plan.shape[-2] / (time.perf_counter() - clock))
    needed, moved = (
        max(map(count, begun.feed.programs)) for count in (memory.of_program, memory.traffic)
    )
    return Speed(statistics.median(speeds[1:] or speeds), compile_s, needed, moved, state)
