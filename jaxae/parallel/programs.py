"""What devices compute together: an epoch of training, and what a model says of rows."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxae import members, tuning
from jaxae.ops import ceil_div
from jaxae.parallel.devices import Devices
from jaxae.parallel.drivers import driver, mapped
from jaxae.parallel.placing import fetch, split_by
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


def epoch_fn(learner: Learner, devices: Devices, *, own_rows: bool = False) -> Any:
    """An epoch, or a part of one, in one dispatch: `pmap(each member: scan(step))` over rows.

    Args:
      learner: built with the axis name of `jaxae.parallel`.
      devices: to train on.
      own_rows: whether every device has rows of its own, [D, N, *S], and a plan that names them,
        as a streaming feed has it; else all have the same.

    Returns:
      `(state [E, ...], rows [N, *S], plan [D, T, B/D] int32, keys [E], settings of [E]) ->
      (state, metrics of [E, T])`. The plan is `split`, all else is `place`d; the state is donated.
    """

    def epoch(
        state: TrainState, rows: Array, plan: Array, keys: Key, settings: Settings
    ) -> tuple[TrainState, Metrics]:
        share = plan.shape[-1]
        flat = rows.reshape(len(rows), -1)  # a row is then gathered as one piece
        slot = lax.axis_index(AXIS) * share + jnp.arange(share, dtype=jnp.int32)

        def course(state: TrainState, key: Key, settings: Settings) -> tuple[TrainState, Metrics]:
            def step(state: TrainState, index: Array) -> tuple[TrainState, Metrics]:
                batch = Batch(flat[index].reshape(share, *rows.shape[1:]), slot)
                return learner.step(state, batch, key, settings)

            return lax.scan(step, state, plan)

        one_by_one = devices[0].platform == "cpu"
        return members.each(course, state, keys, settings, one_by_one=one_by_one)

    rows_axis = 0 if own_rows else None
    ins = (None, rows_axis, 0, None, None)
    return mapped(epoch, devices, ins, (None, None), donate=(0,))


def compiled_epoch(
    learner: Learner, devices: Devices, *args: PyTree, own_rows: bool = False
) -> Callable:
    """`epoch_fn`, compiled for these arguments as its learner trains fastest."""
    platform, count = devices[0].platform, len(devices)
    options = tuning.training_options(learner.tuning, learner.dtype, platform, count)
    lowered = epoch_fn(learner, devices, own_rows=own_rows).lower(*args)
    return tuning.compiled(lowered, options)


RowFn = Callable[[PyTree, Array], PyTree]  # (variables of a member, rows [B, *S]) -> [B, ...]


def blocks(x: Source, devices: Devices, chunk: int = 0) -> Iterator[Array]:
    """Rows [N, *S] as equal blocks [D, K, chunk, *S] on the devices; the last is padded with row 0.

    Equal, so that a scorer is compiled once however many rows there are. `chunk` = 0 takes
    `tuning.chunk_rows`.
    """
    chunk = chunk or tuning.chunk_rows(devices[0].platform)
    steps = min(tuning.STEPS_PER_DISPATCH, ceil_div(len(x), len(devices) * chunk))
    per_block = len(devices) * steps * chunk
    for start in range(0, len(x), per_block):
        index = np.arange(start, start + per_block)
        index[index >= len(x)] = 0
        of_device, shape = index.reshape(len(devices), -1), (steps, chunk, *x.shape[1:])

        def read(own: np.ndarray, at: np.ndarray = of_device, shape: tuple = shape) -> np.ndarray:
            return x[at[own].ravel()].reshape(len(own), *shape)

        yield split_by(read, (len(devices), *shape), devices)


def tight_chunk(n: int, devices: Devices) -> int:
    """The chunk that pads little when the same few rows are mapped again and again."""
    share = ceil_div(n, len(devices))
    return min(tuning.chunk_rows(devices[0].platform), 1 << (share - 1).bit_length())


def rows_fn(fn: RowFn, devices: Devices, dtype: str = "float32") -> Callable:
    """`fn` over one block: `(variables [E, ...], [D, K, chunk, *S]) -> [D, E, K, chunk, ...]`.

    Compiled once for all arguments of the same shapes. `dtype` is what `fn` computes in.
    """
    platform = devices[0].platform

    def run(variables: PyTree, rows: Array) -> PyTree:
        def member(variables: PyTree) -> PyTree:
            return lax.map(lambda chunk: fn(variables, chunk), rows)

        return members.each(member, variables, one_by_one=platform == "cpu")

    options = tuning.scoring_options(dtype, platform)
    programs: dict[tuple, Callable] = {}

    def call(variables: PyTree, rows: Array) -> PyTree:
        shapes = tuple((a.shape, a.dtype) for a in jax.tree.leaves((variables, rows)))
        known = driver(), *shapes
        if known not in programs:
            lowered = mapped(run, devices, (None, 0), (0,)).lower(variables, rows)
            programs[known] = tuning.compiled(lowered, options)
        return programs[known](variables, rows)

    return call


def map_rows(run: Callable, variables: PyTree, placed: Iterable[Array], n: int) -> PyTree:
    """Apply `rows_fn(...)` to every block and give [E, n, ...] back, on the host.

    Args:
      run: what `rows_fn` returned.
      variables: `place`d, with members.
      placed: the `blocks` of the rows.
      n: number of rows before padding.
    """
    parts, ahead = [], None
    for block in placed:  # a block is fetched while the next one is computed
        ahead, done = run(variables, block), ahead
        if done is not None:
            parts.append(fetch(done))
    parts.append(fetch(ahead))
    return jax.tree.map(lambda *leaves: _in_order(leaves)[:, :n], *parts)


def _in_order(leaves: Sequence[np.ndarray]) -> np.ndarray:
    """What devices found of blocks, [D, E, K, chunk, ...] each, as [E, rows, ...]."""
    flat = [a.swapaxes(0, 1).reshape(a.shape[1], -1, *a.shape[4:]) for a in leaves]
    return np.concatenate(flat, axis=1)
