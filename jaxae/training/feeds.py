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
from jaxae.devices.parallel import Plan
from jaxae.ops import ceil_div
from jaxae.types import Key, Learner, Metrics, PyTree, Settings, Source, TrainState

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


# State, keys and settings of the members, as their layout places them, and their steps of an epoch.
Start = tuple[TrainState, Key, Settings, Int[np.ndarray, " E"]]


class _Resident:
    """All rows on every device.

    `compile` compiles the program of an epoch once, before the first epoch; it raises a
    `MemoryError` if the program does not fit on the devices. Calling a feed with a state, which is
    donated, and a plan starts an epoch on the devices. `needed` returns the bytes that an epoch
    would need on each device with another global batch size.
    """

    def __init__(
        self, learner: Learner, x: Source, layout: parallel.Layout, start: Start, plan: Plan
    ):
        self._layout, self._x, self._plan = layout, x, plan
        self._state, keys, settings, steps = start
        self._rest = keys, settings, *_counts(layout, plan, steps)
        kinds = {"own_plans": plan.ndim == 4, "groups": layout.groups}
        self._compiled = functools.partial(
            parallel.compiled_epoch, learner, layout.devices, **kinds
        )

    def compile(self) -> None:
        self._rows = parallel.place(sources.read(self._x), self._layout.devices)
        args = self._state, self._rows, self._split(self._plan), *self._rest
        self._program = self._compiled(*args)
        memory.refuse_program(self._program, self._layout.devices)
        self._state = _shapes(self._state)  # the arrays will be donated

    def _split(self, plan: Plan) -> jax.Array:
        return parallel.split(self._layout.by_device(plan), self._layout.devices)

    def __call__(self, state: TrainState, plan: Plan) -> tuple[TrainState, Measured]:
        state, metrics = self._program(state, self._rows, self._split(plan), *self._rest)
        return state, functools.partial(self._layout.fetch, metrics)

    def needed(self, batch: int) -> int:
        rows = jax.ShapeDtypeStruct(self._x.shape, np.float32)
        plan = _resized(self._layout.by_device(self._plan), self._layout, batch)
        args = _shapes((self._state, rows, plan, *self._rest))
        return memory.of_program(self._compiled(*args))


class _Streaming:
    """Only the rows of the next steps, each on its own device; a second thread reads them."""

    def __init__(
        self, learner: Learner, x: Source, layout: parallel.Layout, start: Start, plan: Plan
    ):
        self._layout, self._x, self._steps = layout, x, plan.shape[-2]
        self._state, *self._rest, steps = start
        self._index = layout.by_device(plan)
        self._part = self._steps_of_part(self._index)
        kinds = {"own_rows": True, "own_plans": plan.ndim == 4, "groups": layout.groups}
        self._compiled = functools.partial(
            parallel.compiled_epoch, learner, layout.devices, **kinds
        )
        firsts = range(0, self._steps, self._part)
        self._counts = [_counts(layout, plan, steps, first, self._part) for first in firsts]
        self._programs: dict[int, tuple[Callable, jax.Array]] = {}

    def _steps_of_part(self, index: Plan) -> int:
        """About as many as make `tuning.FEED_BYTES` for the devices of this process."""
        rows_of_step = math.prod(index.shape[1:]) // index.shape[-2]
        rows_of_step *= len(parallel.local_positions(self._layout.devices))
        step_bytes = 4 * rows_of_step * math.prod(self._x.shape[1:])
        return _steps_of_part(index.shape[-2], tuning.FEED_BYTES // step_bytes)

    def compile(self) -> None:
        devices = self._layout.devices
        for length in sorted({self._part, self._steps % self._part} - {0}):  # the last part
            order = _own_plan(self._index[..., :length, :])
            rows = _blank((len(devices), order[0].size, *self._x.shape[1:]), devices)
            plan = parallel.split(order, devices)
            program = self._compiled(self._state, rows, plan, *self._rest, *self._counts[0])
            memory.refuse_program(program, devices)
            self._programs[length] = program, plan
        self._state = _shapes(self._state)

    def __call__(self, state: TrainState, plan: Plan) -> tuple[TrainState, Measured]:
        pending: list[Metrics] = []
        index = self._layout.by_device(plan)

        def read(first: int) -> tuple[int, jax.Array]:
            part = index[..., first : first + self._part, :]
            return part.shape[-2], _part(self._x, part, self._layout.devices)

        parts = _ahead(read, self._steps, self._part)
        for (length, rows), counts in zip(parts, self._counts, strict=True):
            program, order = self._programs[length]
            if len(pending) > 1:  # so that only a few parts are on the devices at a time
                jax.block_until_ready(pending[-2])
            state, metrics = program(state, rows, order, *self._rest, *counts)
            pending.append(metrics)

        def fetch() -> dict[str, np.ndarray]:
            parts = [self._layout.fetch(metrics) for metrics in pending]
            return jax.tree.map(lambda *a: np.concatenate(a, axis=1), *parts)

        return state, fetch

    def needed(self, batch: int) -> int:
        index = _resized(self._index, self._layout, batch)
        length = self._steps_of_part(index)
        index = np.empty((*index.shape[:-2], length, index.shape[-1]), np.int32)
        rows = jax.ShapeDtypeStruct((len(index), index[0].size, *self._x.shape[1:]), np.float32)
        args = _shapes((self._state, rows, index, *self._rest, *self._counts[0]))
        return memory.of_program(self._compiled(*args))


Feed = _Resident | _Streaming


def make(
    streams: bool, learner: Learner, x: Source, layout: parallel.Layout, start: Start, plan: Plan
) -> Feed:
    """The feed of training rows [N, *S] float32 to the devices of a layout, of all processes.

    `plan` is one epoch's, and all have its shape.
    """
    return (_Streaming if streams else _Resident)(learner, x, layout, start, plan)


def _counts(
    layout: parallel.Layout,
    plan: Plan,
    steps: np.ndarray,
    first: int = 0,
    length: int | None = None,
) -> tuple[PyTree, ...]:
    """How many steps each member makes of a part of an epoch; () if their plan is the same."""
    return (layout.place(np.clip(steps - first, 0, length), empty=0),) if plan.ndim == 4 else ()


def _resized(by_device: Plan, layout: parallel.Layout, batch: int) -> Plan:
    """A plan of as many rows in batches of another size; its values mean nothing."""
    *of_device, steps, share = by_device.shape
    steps = ceil_div(steps * share * layout.per_group, batch)
    return np.empty((*of_device, steps, batch // layout.per_group), np.int32)


def _own_plan(index: Plan) -> Plan:
    """The plan of devices that hold the rows of these steps, and no others, in their order."""
    own = np.arange(index[0].size, dtype=np.int32).reshape(index.shape[1:])
    return np.broadcast_to(own, index.shape)


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


def _part(x: Source, index: Plan, devices: parallel.Devices) -> jax.Array:
    """The rows [D, N, *S] of a part of an epoch, each on its own device."""
    of_device = (index[0].size, *x.shape[1:])

    def read(local: np.ndarray) -> np.ndarray:
        return x[index[local].ravel()].reshape(len(local), *of_device)

    return parallel.split_by(read, (len(index), *of_device), devices)


def _ahead(read: Callable[[int], Any], steps: int, part: int) -> Iterator[Any]:
    """The result of `read` for each part; a second thread reads ahead while a part is in use."""
    with ThreadPoolExecutor(1, thread_name_prefix="feed") as pool:
        reading = (pool.submit(read, first) for first in range(0, steps, part))
        current = next(reading)
        for following in reading:
            yield current.result()
            current = following
        yield current.result()
