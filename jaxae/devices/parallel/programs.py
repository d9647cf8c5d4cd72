"""The programs that devices run together: an epoch of training, and a model's outputs for rows."""

import functools
import hashlib
import itertools
import math
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxae.devices import hosts, members, tuning
from jaxae.devices.parallel.devices import Devices, local_positions
from jaxae.devices.parallel.drivers import driver, mapped
from jaxae.devices.parallel.placing import fetch, place, split_by
from jaxae.ops import ceil_div
from jaxae.types import (
    AXIS,
    Array,
    Batch,
    Key,
    Learner,
    Metrics,
    PyTree,
    Settings,
    Source,
    TrainState,
)


def epoch_fn(
    learner: Learner,
    devices: Devices,
    *,
    own_rows: bool = False,
    own_plans: bool = False,
    groups: int = 1,
) -> Any:
    """An epoch, or part of one, in one dispatch: `pmap(each member: scan(step))` over rows.

    Args:
      learner: built with the mapped axis `AXIS`, or with none where each group is one device.
      devices: to train on.
      own_rows: every device has its own rows [D, N, *S] and a plan that indexes them, as in a
        streaming feed; else all devices have the same rows.
      own_plans: every member has its own plan; else all members see the same rows.
      groups: number of groups of devices, see `Layout`; 1 unless members have their own plans.

    Returns:
      `(state [E, ...], rows [N, *S], plan [D, T, B/D] int32, keys [E], settings [E]) ->
      (state, metrics [E, T])`. `split` the plan and `place` all else; the state is donated.
      If members have their own plans: `(state, rows, plans [D, K, T, b], keys, settings, counts
      [E])`, placed by `Layout`; of each member's metrics [E, T] only the first `counts` are valid.
    """
    has_axis = groups == 1 or len(devices) > groups
    epoch = device_epoch(learner, devices[0].platform, has_axis=has_axis)
    axis = 0 if groups > 1 else None
    ins = (axis, 0 if own_rows else None, 0, axis, axis, *([axis] if own_plans else []))
    return mapped(epoch, devices, ins, (axis, axis), donate=(0,), groups=groups)


def device_epoch(learner: Learner, platform: str, *, has_axis: bool = True) -> Callable:
    """The part of `epoch_fn` that one device computes; `has_axis`: whether `AXIS` is mapped."""
    one_by_one = platform == "cpu"
    tuned = learner.tuning

    def epoch(
        state: TrainState, rows: Array, plan: Array, keys: Key, settings: Settings, *counts: Array
    ) -> tuple[TrainState, Metrics]:
        share = plan.shape[-1]
        flat = rows.reshape(len(rows), -1)  # a row is then gathered in one piece
        first = lax.axis_index(AXIS) * share if has_axis else 0
        slot = first + jnp.arange(share, dtype=jnp.int32)

        def train(
            state: TrainState, key: Key, settings: Settings, plan: Array = plan, *count: Array
        ) -> tuple[TrainState, Metrics]:
            def step(state: TrainState, index: Array) -> tuple[TrainState, Metrics]:
                batch = Batch(flat[index].reshape(share, *rows.shape[1:]), slot)
                return learner.step(state, batch, key, settings)

            if not count:
                return lax.scan(step, state, plan, unroll=tuning.unrolled(tuned, platform))
            if one_by_one:
                return until(count[0], step, state, plan)
            return _through(count[0], step, state, plan, unroll=max(1, tuned.unroll))

        own_plans = (plan, *counts) if counts else ()
        return members.advance(train, state, keys, settings, *own_plans, one_by_one=one_by_one)

    return epoch


_Step = Callable[[PyTree, Array], tuple[PyTree, PyTree]]  # as `lax.scan` takes


def until(count: Array, step: _Step, state: PyTree, xs: Array) -> tuple[PyTree, PyTree]:
    """`lax.scan` over the first `count` of xs [T, ...]; the remaining results [T, ...] are zeros.

    The loop ends after `count` steps, so the remaining ones cost nothing.
    """

    def body(i: Array, carry: tuple) -> tuple:
        state, results = carry
        state, result = step(state, lax.dynamic_index_in_dim(xs, i, keepdims=False))
        return state, members.written(results, result, i)

    _, shapes = jax.eval_shape(functools.partial(lax.scan, step), state, xs)
    zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
    return lax.fori_loop(0, count, body, (state, zeros))


def _through(
    count: Array, step: _Step, state: PyTree, xs: Array, *, unroll: int
) -> tuple[PyTree, PyTree]:
    """The same in a loop of T steps, in which steps after `count` leave the state unchanged.

    For members side by side: a loop whose length depends on data would make an accelerator ask the
    host at every step whether it is done.
    """

    def body(state: PyTree, numbered: tuple[Array, Array]) -> tuple[PyTree, PyTree]:
        i, x = numbered
        new, result = step(state, x)
        return jax.tree.map(lambda a, b: jnp.where(i < count, a, b), new, state), result

    return lax.scan(body, state, (jnp.arange(len(xs)), xs), unroll=unroll)


def compiled_epoch(learner: Learner, devices: Devices, *args: PyTree, **kinds: Any) -> Callable:
    """`epoch_fn`, compiled for these arguments with the learner's `Tuning`.

    Raises:
      UserError: the devices are those of several processes, which have traced different programs.
    """
    platform, count = devices[0].platform, len(devices)
    options = tuning.training_options(learner.tuning, learner.dtype, platform, count)
    lowered = epoch_fn(learner, devices, **kinds).lower(*args)
    if len(local_positions(devices)) < count:
        digest = hashlib.sha256(lowered.as_text().encode()).hexdigest()
        hosts.agree({"program of training": digest, "compiler options": options})
    return tuning.compiled(lowered, options)


RowFn = Callable[[PyTree, Array], PyTree]  # (variables of a member, rows [B, *S]) -> [B, ...]


def blocks(x: Source, devices: Devices, chunk: int) -> Iterator[Array]:
    """Rows [N, *S] as blocks [D, K, chunk, *S] of equal shape on the devices.

    Because shapes are equal, a scorer is compiled once for any number of rows. On a CPU K is
    `tuning.STEPS_PER_DISPATCH` unless rows are large, see `is_padded`; an accelerator computes all
    steps, so there K is the next power of two. The rows of the last block fill as few steps of each
    device as possible; these steps are filled up with row 0, later steps with zeros.
    """
    steps, limit = ceil_div(len(x), len(devices) * chunk), tuning.STEPS_PER_DISPATCH
    if devices[0].platform != "cpu":
        steps = 1 << (steps - 1).bit_length()
    steps = limit if is_padded(x.shape, devices, chunk) else min(steps, limit)
    per_block = len(devices) * steps * chunk
    for start in range(0, len(x), per_block):
        filled = _filled(len(x) - start, (len(devices), steps, chunk))
        index = start + np.arange(len(devices) * filled * chunk)
        index[index >= len(x)] = 0
        by_device = index.reshape(len(devices), filled, chunk)

        def read(positions: np.ndarray, index: np.ndarray = by_device) -> np.ndarray:
            rows = x[index[positions].ravel()]
            rows = rows.reshape(len(positions), *index.shape[1:], *x.shape[1:])
            if len(rows[0]) == steps:
                return rows
            padded = np.zeros((len(positions), steps, *rows.shape[2:]), rows.dtype)
            padded[:, : len(rows[0])] = rows
            return padded

        yield split_by(read, (len(devices), steps, chunk, *x.shape[1:]), devices)


def is_padded(shape: tuple[int, ...], devices: Devices, chunk: int) -> bool:
    """Whether blocks have `tuning.STEPS_PER_DISPATCH` steps even for few rows [N, *S]."""
    per_step = len(devices) * chunk
    padded = 4 * per_step * tuning.STEPS_PER_DISPATCH * math.prod(shape[1:])
    limit = tuning.PADDED_BYTES if shape[0] <= per_step else tuning.PADDED_BYTES_OF_MORE
    return devices[0].platform == "cpu" and padded <= limit


def _filled(left: int, block: tuple[int, ...]) -> int:
    """The steps of a block [D, K, chunk, ...] that contain rows if `left` rows remain."""
    return min(block[1], ceil_div(left, block[0] * block[2]))


def rows_fn(
    fn: RowFn, devices: Devices, learner: Learner | None = None, *, fast_compile: bool = False
) -> Callable:
    """`fn` over a block: `(variables [E, ...], [D, K, chunk, *S], steps) -> [D, E, K, chunk, ...]`.

    It is compiled once for each set of argument shapes. A CPU computes only the first `steps` of K,
    the others are 0; an accelerator computes all, because a loop of unknown length would wait for
    the host after each step.

    Args:
      fn: a function of one member.
      devices: those of all processes.
      learner: `fn` is compiled with its `Tuning` and dtype.
      fast_compile: see `tuning.FAST_COMPILE`.
    """
    platform = devices[0].platform

    def run(variables: PyTree, rows: Array, steps: Array) -> PyTree:
        def member(variables: PyTree) -> PyTree:
            if platform != "cpu" or len(rows) == 1:
                return lax.map(lambda chunk: fn(variables, chunk), rows)
            return until(steps, lambda _, chunk: ((), fn(variables, chunk)), (), rows)[1]

        return members.each(member, variables, one_by_one=platform == "cpu")

    tuned, dtype = (learner.tuning, learner.dtype) if learner else (tuning.Tuning(), "float32")
    programs: dict[tuple, Callable] = {}
    compiling = threading.Lock()  # `jaxae.workflows.precompile` calls this from another thread

    def call(variables: PyTree, rows: Array, steps: int) -> PyTree:
        args = variables, rows, _placed_number(steps, tuple(devices))
        signature = driver(), *((a.shape, a.dtype) for a in jax.tree.leaves(args))
        with compiling:
            if signature not in programs:
                program = mapped(run, devices, (None, 0, None), 0)
                programs[signature] = tuning.compiled_scorer(
                    program, args, tuned, dtype, platform, fast_compile=fast_compile
                )
        return programs[signature](*args)

    return call


@functools.lru_cache(maxsize=64)
def _placed_number(value: int, devices: tuple[jax.Device, ...]) -> Array:
    return place(np.int32(value), devices)


def map_rows(
    run: Callable, variables: PyTree, placed: Iterable[Array], n: int
) -> Callable[[], PyTree]:
    """Begin to apply `rows_fn(...)` to every block; the returned function waits for the results.

    Args:
      run: a result of `rows_fn`.
      variables: those of the members, placed by `place`.
      placed: the rows, as `blocks` yields them.
      n: number of rows before padding.

    Returns:
      A function that returns the results [E, n, ...] on the host.
    """

    def dispatched() -> Iterator[tuple[PyTree, int]]:
        """The results of each block, without waiting, and the steps of it that contain rows."""
        left = n
        for block in placed:
            steps = _filled(left, block.shape)
            left -= math.prod(block.shape[:3])
            yield run(variables, block, steps), steps

    begun = dispatched()
    first = next(begun)

    def wait() -> PyTree:
        # A block is fetched while the next one is computed.
        ahead = itertools.pairwise(itertools.chain([first], begun, [((), 0)]))
        parts = [_in_order(*current) for current, _ in ahead]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1)[:, :n], *parts)

    return wait


def _in_order(results: PyTree, steps: int) -> PyTree:
    """The results of a block's first steps, [D, E, K, chunk, ...], as [E, rows, ...]."""

    def rows(a: np.ndarray) -> np.ndarray:
        return a[:, :, :steps].swapaxes(0, 1).reshape(a.shape[1], -1, *a.shape[4:])

    return jax.tree.map(rows, fetch(results))
