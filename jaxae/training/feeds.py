"""Feeds of training rows: all rows stay on the devices, or only those of the next steps.

Both follow the plan of `jaxae.data.index_plan`, and give the same state, bit for bit.
"""

import functools
import itertools
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
from jaxae.types import Key, Learner, Metrics, PyTree, Settings, Shape, Source, TrainState

Measured = Callable[[], dict[str, np.ndarray]]  # waits for the metrics, each [E, T]


def is_streaming(asked: str, x: Source, devices: parallel.Devices, quiet: bool = False) -> bool:
    """Whether rows are read during training; prints a line if "auto" decides that they are.

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


# The members' states, keys and settings, placed by their layout, and their steps per epoch.
Start = tuple[TrainState, Key, Settings, Int[np.ndarray, " E"]]


class Feed:
    """Brings training rows to the devices of a layout, of all processes.

    Resident: all rows lie on every device, and an epoch is one part. Streaming: a second thread
    reads the rows of the next steps, a part of an epoch, each for its own device.

    Args:
      streams: see `is_streaming`.
      learner: trains on the rows.
      x: training rows [N, *S] float32.
      layout: the members on their devices.
      start: what training starts from.
      plan: of one epoch; the plans of all epochs have the same shape.
    """

    def __init__(
        self,
        streams: bool,
        learner: Learner,
        x: Source,
        layout: parallel.Layout,
        start: Start,
        plan: Plan,
    ):
        self._streams, self._x, self._layout = streams, x, layout
        self._state, *self._rest, steps = start
        self._index, self._steps = layout.by_device(plan), plan.shape[-2]
        self._part = self._steps_of_part(self._index.shape)
        firsts = range(0, self._steps, self._part)
        counts = [np.clip(steps - first, 0, self._part) for first in firsts]
        own_plans = plan.ndim == 4  # one for each member
        self._counts = [(layout.place(n, empty=0),) if own_plans else () for n in counts]
        kinds = {"own_rows": streams, "own_plans": own_plans, "groups": layout.groups}
        self._compiled = functools.partial(
            parallel.compiled_epoch, learner, layout.devices, **kinds
        )
        self._programs: dict[int, Callable] = {}  # by the steps of a part

    def _steps_of_part(self, plan: Shape) -> int:
        """All, or in streaming about as many as this process needs to fill `tuning.FEED_BYTES`."""
        steps = plan[-2]
        if not self._streams:
            return steps
        rows_of_step = math.prod(plan[1:]) // steps
        rows_of_step *= len(parallel.local_positions(self._layout.devices))
        step_bytes = 4 * rows_of_step * math.prod(self._x.shape[1:])
        return _steps_of_part(steps, tuning.FEED_BYTES // step_bytes)

    def compile(self) -> None:
        """Compile the programs of an epoch, once, before the first epoch.

        Raises:
          MemoryError: a program does not fit on the devices.
        """
        devices = self._layout.devices
        # In several processes `pmap` cannot be compiled from shapes alone.
        blank = np.broadcast_to(np.float32(0), self._x.shape)
        self._rows = None if self._streams else parallel.place(sources.read(self._x), devices)
        for length in sorted({self._part, self._steps % self._part} - {0}):  # the last part
            rows, plan = self._placed(blank, self._index[..., :length, :])
            program = self._compiled(self._state, rows, plan, *self._rest, *self._counts[0])
            memory.refuse_program(program, devices)
            self._programs[length] = program
        self._state = _shapes(self._state)  # the arrays will be donated

    def _placed(self, x: Source, index: Plan) -> tuple[jax.Array, jax.Array]:
        """The rows of a part of an epoch, and the plan that indexes them."""
        devices = self._layout.devices
        if self._rows is not None:
            return self._rows, parallel.split(index, devices)
        of_device = (index[0].size, *x.shape[1:])

        def read(local: np.ndarray) -> np.ndarray:
            return x[index[local].ravel()].reshape(len(local), *of_device)

        rows = parallel.split_by(read, (len(index), *of_device), devices)
        in_order = np.arange(index[0].size, dtype=np.int32).reshape(index.shape[1:])
        return rows, parallel.split(np.broadcast_to(in_order, index.shape), devices)

    def __call__(self, state: TrainState, plan: Plan) -> tuple[TrainState, Measured]:
        """Start an epoch from a state, which is donated."""
        pending: list[Metrics] = []
        index = self._layout.by_device(plan)

        def read(first: int) -> tuple[jax.Array, jax.Array]:
            return self._placed(self._x, index[..., first : first + self._part, :])

        parts = _ahead(read, self._steps, self._part)
        for (rows, order), counts in zip(parts, self._counts, strict=True):
            if len(pending) > 1:  # so that only a few parts are on the devices at a time
                jax.block_until_ready(pending[-2])
            program = self._programs[order.shape[-2]]
            state, metrics = program(state, rows, order, *self._rest, *counts)
            pending.append(metrics)

        def fetch() -> dict[str, np.ndarray]:
            first, *others = [self._layout.fetch(metrics) for metrics in pending]
            return {n: np.concatenate([a, *(o[n] for o in others)], 1) for n, a in first.items()}

        return state, fetch

    @property
    def programs(self) -> list[Callable]:
        """The compiled programs of the parts of an epoch."""
        return [*self._programs.values()]

    def needed(self, batch: int) -> int:
        """Bytes that an epoch would need on each device with another global batch size."""
        *of_device, steps, share = self._index.shape
        steps = ceil_div(steps * share * self._layout.per_group, batch)
        share = batch // self._layout.per_group
        steps = self._steps_of_part((*of_device, steps, share))
        plan = jax.ShapeDtypeStruct((*of_device, steps, share), np.int32)
        read = (plan.shape[0], math.prod(plan.shape[1:]), *self._x.shape[1:])
        rows = jax.ShapeDtypeStruct(read if self._streams else self._x.shape, np.float32)
        args = _shapes((self._state, rows, plan, *self._rest, *self._counts[0]))
        return memory.of_program(self._compiled(*args))


def _shapes(tree: PyTree) -> PyTree:
    """Shapes and dtypes of arrays."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


def _steps_of_part(steps: int, wanted: int) -> int:
    """The steps of each part: about as many as wanted, but never a last part of a single step.

    XLA unrolls a loop of one step and fuses it differently, which would change the bits.
    """
    part = min(steps, max(2, wanted))
    while part > 1 and steps % part == 1:
        part += 1
    return part


def _ahead(read: Callable[[int], Any], steps: int, part: int) -> Iterator[Any]:
    """The result of `read` for each part; a second thread reads ahead while a part is in use."""
    if steps == part:
        yield read(0)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="feed") as pool:
        reading: Iterator[Any] = (pool.submit(read, first) for first in range(0, steps, part))
        for current, _ in itertools.pairwise(itertools.chain(reading, [None])):
            yield current.result()
