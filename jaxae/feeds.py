"""Where the rows of each step come from: all of them on the devices, or the next steps' only.

Both follow the plan of `jaxae.data.index_plan`: same batches, and the same bits of the state.
"""

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from jaxae import memory, parallel, sources, tuning
from jaxae.types import AnyArray, Learner, Metrics, PyTree, Source, TrainState

Plan = Int[np.ndarray, "D T B"]
Measured = dict[str, AnyArray]  # metrics of [E, T], on the devices or on the host
Run = Callable[[TrainState, Plan], tuple[TrainState, Measured]]  # an epoch


def is_streaming(asked: str, x: Source, devices: parallel.Devices, quiet: bool = False) -> bool:
    """Whether rows are read while training, and, where that was left open, a line that says so.

    Args:
      asked: "resident", "streaming", or "auto": resident where the rows lie in memory, or would
        fill a quarter of what the devices hold at most. Several processes always stream: each reads
        the rows of its own devices and no others.
      x: the training rows.
      devices: that train.
      quiet: no line.
    """
    if jax.process_count() > 1:
        return True
    if asked != "auto":
        return asked == "streaming"
    needed, held = memory.of_rows(x, devices), memory.held(devices[0])
    streams = not sources.is_resident(x) and bool(held) and needed > memory.SHARE * held
    if streams and not quiet:
        print(
            f"training rows are {needed / 1e9:.1f} GB of {held / 1e9:.1f} GB of memory: they are "
            "read while training; --train.feed resident keeps them"
        )
    return streams


def make(
    streams: bool,
    learner: Learner,
    x: Source,
    devices: parallel.Devices,
    start: tuple[TrainState, PyTree, PyTree],
    plan: Plan,
) -> Run:
    """What trains an epoch; compiled here.

    Args:
      streams: see `is_streaming`.
      learner: see `jaxae.parallel.epoch_fn`.
      x: training rows [N, *S] float32.
      devices: D of them, of all processes.
      start: state, keys and settings, `place`d.
      plan: one epoch's; all have its shape.
    """
    return (_streaming if streams else _resident)(learner, x, devices, start, plan)


def _resident(
    learner: Learner, x: Source, devices: parallel.Devices, start: tuple, plan: Plan
) -> Run:
    state, *rest = start
    rows = parallel.place(sources.read(x), devices)
    placed = parallel.split(plan, devices)
    program = parallel.compiled_epoch(learner, devices, state, rows, placed, *rest)
    return lambda state, plan: program(state, rows, parallel.split(plan, devices), *rest)


def _streaming(
    learner: Learner, x: Source, devices: parallel.Devices, start: tuple, plan: Plan
) -> Run:
    state, *rest = start
    _, steps, share = plan.shape
    of_step = 4 * share * math.prod(x.shape[1:]) * len(parallel.here(devices))  # bytes
    part = _steps_of_part(steps, tuning.FEED_BYTES // of_step)
    programs = {}
    for length in sorted({part, steps % part} - {0}):  # an epoch ends with what is left
        rows = _blank((len(devices), length * share, *x.shape[1:]), devices)
        own = np.arange(length * share, dtype=np.int32).reshape(length, share)
        own = parallel.split(np.broadcast_to(own, (len(devices), *own.shape)), devices)
        program = parallel.compiled_epoch(learner, devices, state, rows, own, *rest, own_rows=True)
        programs[length] = program, own

    def epoch(state: TrainState, plan: Plan) -> tuple[TrainState, Measured]:
        found: list[Metrics] = []
        for length, rows in _ahead(lambda first: _part(x, plan, first, part, devices), steps, part):
            program, own = programs[length]
            if len(found) > 1:  # so that no more than a few parts lie on the devices
                jax.block_until_ready(found[-2])
            state, metrics = program(state, rows, own, *rest)
            found.append(metrics)
        parts = [parallel.fetch(metrics) for metrics in found]
        return state, jax.tree.map(lambda *a: np.concatenate(a, axis=1), *parts)

    return epoch


def _blank(shape: tuple, devices: parallel.Devices) -> jax.Array:
    """To compile for: `pmap` in many processes takes no shapes."""
    return parallel.split_by(
        lambda own: np.zeros((len(own), *shape[1:]), np.float32), shape, devices
    )


def _steps_of_part(steps: int, wanted: int) -> int:
    """About as many as wanted, so that no part has a single step of several.

    XLA unrolls a loop of one step and fuses it differently: its bits would be others.
    """
    part = min(steps, max(2, wanted))
    while part > 1 and steps % part == 1:
        part += 1
    return part


def _part(
    x: Source, plan: Plan, first: int, length: int, devices: parallel.Devices
) -> tuple[int, jax.Array]:
    """The rows of some steps, on the devices whose they are, and how many steps they are."""
    index = plan[:, first : first + length]
    of_device = (index.shape[1] * index.shape[2], *x.shape[1:])

    def read(own: np.ndarray) -> np.ndarray:
        return x[index[own].ravel()].reshape(len(own), *of_device)

    return index.shape[1], parallel.split_by(read, (len(index), *of_device), devices)


def _ahead(read: Callable[[int], Any], steps: int, part: int) -> Iterator[Any]:
    """What `read` gives for each part, read by another thread while the one before is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="feed") as pool:
        following: Future | None = pool.submit(read, 0)
        for first in range(part, steps + part, part):
            assert following is not None
            rows = following.result()
            following = pool.submit(read, first) if first < steps else None
            yield rows
