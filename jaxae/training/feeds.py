"""Where the rows of each step come from: all of them on the devices, or the next steps' only.

Both follow the plan of `jaxae.data.index_plan`: same batches, and the same bits of the state.
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
    """Whether rows are read while training; where "auto" decides for it, a printed line says so.

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


class _Resident:
    """All rows on every device.

    A feed compiles the program of an epoch once, before the first one; raises a `MemoryError` where
    the devices do not hold what it takes. Called with a state, which is donated, and a plan, it has
    the devices begin with an epoch. `needed` are the bytes that an epoch takes on each device if
    the global batch has another size.
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
        self._state = _shapes(self._state)  # what it holds is donated

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
    """Only the rows of the next steps, each on its own device; another thread reads them."""

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
        for length in sorted({self._part, self._steps % self._part} - {0}):  # of the end
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
            if len(pending) > 1:  # so that no more than a few parts lie on the devices
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
    """The feed of training rows [N, *S] float32 to D devices, of all processes.

    `start` is state, keys and settings, `place`d; `plan` is one epoch's, and all have its shape.
    """
    return (_Streaming if streams else _Resident)(learner, x, devices, start, plan)


def _shapes(tree: PyTree) -> PyTree:
    """Shapes and dtypes of arrays."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def _blank(shape: tuple, devices: parallel.Devices) -> jax.Array:
    """Zeros to compile for: `pmap` in many processes takes no shapes."""
    return parallel.split_by(
        lambda local: np.zeros((len(local), *shape[1:]), np.float32), shape, devices
    )


def _steps_of_part(steps: int, wanted: int) -> int:
    """About as many steps as wanted in each part, and never a last part of a single step.

    XLA unrolls a loop of one step and fuses it differently: its bits would be others.
    """
    part = min(steps, max(2, wanted))
    while part > 1 and steps % part == 1:
        part += 1
    return part


def _part(
    x: Source, plan: Plan, first: int, length: int, devices: parallel.Devices
) -> tuple[int, jax.Array]:
    """How many steps a part has, and their rows, each on its own device."""
    index = plan[:, first : first + length]
    of_device = (index.shape[1] * index.shape[2], *x.shape[1:])

    def read(local: np.ndarray) -> np.ndarray:
        return x[index[local].ravel()].reshape(len(local), *of_device)

    return index.shape[1], parallel.split_by(read, (len(index), *of_device), devices)


def _ahead(read: Callable[[int], Any], steps: int, part: int) -> Iterator[Any]:
    """What `read` gives for each part, read by another thread while the one before is used."""
    with ThreadPoolExecutor(1, thread_name_prefix="feed") as pool:
        reading = (pool.submit(read, first) for first in range(0, steps, part))
        current = next(reading)
        for following in reading:
            yield current.result()
            current = following
        yield current.result()
