"""Feeds of training rows: all rows stay on the devices, or only those of the next steps.

Both follow the plan of `jaxae.data.index_plan`: the same batches give the same bits of the state.
"""

import functools
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from jaxae.data import sources
from jaxae.devices import memory, parallel, tuning
from jaxae.ops import ceil_div
from jaxae.types import Learner, Metrics, PyTree, Source, TrainState

Plan = Int[np.ndarray, "D T B"]
Measured = Callable[[], dict[str, np.ndarray]]  # waits for the metrics, each [E, T]


def is_streaming(asked: str, x: Source, devices: parallel.Devices, quiet: bool = False) -> bool:
    """Whether rows are read during training; if "auto" decides so, print a line that says it.

    Args:
      asked: "resident", "streaming", or "auto": resident if the rows are in memory, or would fill
        at most a quarter of the devices' memory. Several processes always stream: each reads only
        the rows of its own devices.
      x: the training rows.
      devices: those that train.
      quiet: print nothing.
    """
    if jax.process_count() > 1:
        return True
    if asked != "auto":
        return asked == "streaming"
    needed, held = memory.of_rows(x, devices), memory.held(devices[0])
    streams = not sources.is_resident(x) and bool(held) and needed > memory.SHARE * held
    if streams and not quiet:
        print(
            f"training rows need {needed / 1e9:.1f} GB of {held / 1e9:.1f} GB of memory: they are "
            "read during training; --train.feed resident keeps them on the devices"
        )
    return streams


class _Resident:
    """All rows on every device.

    `compile` compiles the program of an epoch once, before the first epoch; it raises a
    `MemoryError` if the program does not fit on the devices. Calling a feed with a state, which is
    donated, and a plan starts an epoch on the devices. `needed` returns the bytes that an epoch
    would need on each device with another global batch size.
    """

    def __init__(
        self, learner: Learner, x: Source, devices: parallel.Devices, start: tuple, plan: Plan
    ):
        self._state, *self._rest = start
        self._learner, self._devices, self._plan, self._shape = learner, devices, plan, x.shape
        self._x, self._rows = x, None

    def compile(self) -> None:
        self._rows = parallel.place(sources.read(self._x), self._devices)
        plan = parallel.split(self._plan, self._devices)
        args = self._state, self._rows, plan, *self._rest
        self._program = parallel.compiled_epoch(self._learner, self._devices, *args)
        memory.refuse_program(self._program, self._devices)
        self._state = _shapes(self._state)  # the arrays will be donated

    def __call__(self, state: TrainState, plan: Plan) -> tuple[TrainState, Measured]:
        plan = parallel.split(plan, self._devices)
        state, metrics = self._program(state, self._rows, plan, *self._rest)
        return state, functools.partial(parallel.fetch, metrics)

    def needed(self, batch: int) -> int:
        count, steps = len(self._devices), ceil_div(self._shape[0], batch)
        rows = jax.ShapeDtypeStruct(self._shape, np.float32)
        plan = jax.ShapeDtypeStruct((count, steps, batch // count), np.int32)
        args = _shapes((self._state, rows, plan, *self._rest))
        return memory.of_program(parallel.compiled_epoch(self._learner, self._devices, *args))


class _Streaming:
    """Only the rows of the next steps, each on its own device; a second thread reads them."""

    def __init__(
        self, learner: Learner, x: Source, devices: parallel.Devices, start: tuple, plan: Plan
    ):
        self._state, *self._rest = start
        self._learner, self._devices, self._x = learner, devices, x
        _, self._steps, self._share = plan.shape
        self._part = self._steps_of_part(self._steps, self._share)
        self._programs: dict[int, tuple[Callable, jax.Array]] = {}

    def _steps_of_part(self, steps: int, share: int) -> int:
        rows_of_step = share * len(parallel.local_positions(self._devices))
        step_bytes = 4 * rows_of_step * math.prod(self._x.shape[1:])
        return _steps_of_part(steps, tuning.FEED_BYTES // step_bytes)

    def compile(self) -> None:
        count, share, row = len(self._devices), self._share, self._x.shape[1:]
        for length in sorted({self._part, self._steps % self._part} - {0}):  # the last part
            rows = _blank((count, length * share, *row), self._devices)
            order = np.arange(length * share, dtype=np.int32).reshape(length, share)
            plan = parallel.split(np.broadcast_to(order, (count, *order.shape)), self._devices)
            args = self._state, rows, plan, *self._rest
            program = parallel.compiled_epoch(self._learner, self._devices, *args, own_rows=True)
            memory.refuse_program(program, self._devices)
            self._programs[length] = program, plan
        self._state = _shapes(self._state)

    def __call__(self, state: TrainState, plan: Plan) -> tuple[TrainState, Measured]:
        pending: list[Metrics] = []

        def read(first: int) -> tuple[int, jax.Array]:
            return _part(self._x, plan, first, self._part, self._devices)

        for length, rows in _ahead(read, self._steps, self._part):
            program, order = self._programs[length]
            if len(pending) > 1:  # so that only a few parts are on the devices at a time
                jax.block_until_ready(pending[-2])
            state, metrics = program(state, rows, order, *self._rest)
            pending.append(metrics)

        def fetch() -> dict[str, np.ndarray]:
            parts = [parallel.fetch(metrics) for metrics in pending]
            return jax.tree.map(lambda *a: np.concatenate(a, axis=1), *parts)

        return state, fetch

    def needed(self, batch: int) -> int:
        count = len(self._devices)
        share = batch // count
        length = self._steps_of_part(ceil_div(len(self._x), batch), share)
        rows = jax.ShapeDtypeStruct((count, length * share, *self._x.shape[1:]), np.float32)
        plan = jax.ShapeDtypeStruct((count, length, share), np.int32)
        args = _shapes((self._state, rows, plan, *self._rest))
        program = parallel.compiled_epoch(self._learner, self._devices, *args, own_rows=True)
        return memory.of_program(program)


Feed = _Resident | _Streaming


def make(
    streams: bool,
    learner: Learner,
    x: Source,
    devices: parallel.Devices,
    start: tuple[TrainState, PyTree, PyTree],
    plan: Plan,
) -> Feed:
    """The feed of training rows [N, *S] float32 to the D devices of all processes.

    `start` is state, keys and settings, all `place`d; every epoch's plan has the shape of `plan`.
    """
    return (_Streaming if streams else _Resident)(learner, x, devices, start, plan)


def _shapes(tree: PyTree) -> PyTree:
    """Shapes and dtypes of arrays."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def _blank(shape: tuple, devices: parallel.Devices) -> jax.Array:
    """Zeros to compile with: in several processes `pmap` cannot be compiled from shapes alone."""
    return parallel.split_by(
        lambda local: np.zeros((len(local), *shape[1:]), np.float32), shape, devices
    )


def _steps_of_part(steps: int, wanted: int) -> int:
    """The steps of each part: about as many as wanted, but never a last part of a single step.

    XLA unrolls a loop of one step and fuses it differently, which would change the bits.
    """
    part = min(steps, max(2, wanted))
    while part > 1 and steps % part == 1:
        part += 1
    return part


def _part(
    x: Source, plan: Plan, first: int, length: int, devices: parallel.Devices
) -> tuple[int, jax.Array]:
    """The number of steps in a part, and their rows, each on its own device."""
    index = plan[:, first : first + length]
    of_device = (index.shape[1] * index.shape[2], *x.shape[1:])

    def read(local: np.ndarray) -> np.ndarray:
        return x[index[local].ravel()].reshape(len(local), *of_device)

    return index.shape[1], parallel.split_by(read, (len(index), *of_device), devices)


def _ahead(read: Callable[[int], Any], steps: int, part: int) -> Iterator[Any]:
    """The result of `read` for each part; a second thread reads ahead while a part is in use."""
    with ThreadPoolExecutor(1, thread_name_prefix="feed") as pool:
        reading = (pool.submit(read, first) for first in range(0, steps, part))
        current = next(reading)
        for following in reading:
            yield current.result()
            current = following
        yield current.result()
