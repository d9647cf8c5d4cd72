"""Devices: the only file that knows `pmap`.

A state has no device axis: it is replicated, so that it has one shape on any number of devices and
moves between machines as it is. Only the plan of an epoch and the rows to score are split. `pmap`
says what each device does with its share and gives the axis its name; `NamedSharding` says where
arrays lie before and after, which `pmap` leaves to `jax.device_put`.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxae import members, tuning
from jaxae.errors import UserError
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

Devices = Sequence[jax.Device]


def initialize(count: int = 0) -> None:
    """Make one host device per CPU core, or `count`; call it before JAX starts.

    Accelerators are left as they are, and so is what XLA_FLAGS says of host devices. A device that
    works alone still has every core for its matrix products: see `choose`.
    """
    if "force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with contextlib.suppress(RuntimeError):  # JAX has started already: its devices stay
        jax.config.update("jax_num_cpu_devices", max(tuning.cores(), count))


def choose(count: int, batch_size: int, on_cpu: int = 0) -> list[jax.Device]:
    """The devices to train on.

    Args:
      count: how many; 0 = as many local devices as divide the batch.
      batch_size: of the global batch.
      on_cpu: where `count` is 0 and there are host devices only, use at most this many; 0 = all.

    Raises:
      UserError: more devices than there are. (`jaxae.data.index_plan` refuses a batch that they do
        not divide.)
    """
    local = jax.local_devices()
    if not count:
        most = min(on_cpu or len(local), len(local)) if local[0].platform == "cpu" else len(local)
        count = max(n for n in range(1, most + 1) if batch_size % n == 0)
    if count > len(local):
        raise UserError(
            f"devices is {count}, but JAX sees {len(local)} ({local[0].platform}); lower --devices"
        )
    return local[:count]


def _sharding(devices: Devices, *spec: str) -> NamedSharding:
    return NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(*spec))


def place(tree: PyTree, devices: Devices) -> PyTree:
    """The tree on every device, shapes unchanged."""
    return jax.device_put(tree, _sharding(devices))


def placed_like(abstract: PyTree, devices: Devices) -> PyTree:
    """Shapes and dtypes with the sharding that `place` gives: a template to restore into."""
    sharding = _sharding(devices)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), abstract
    )


def split(tree: PyTree, devices: Devices) -> PyTree:
    """Arrays [D, ...] with one slice on each device, shapes unchanged."""
    return jax.device_put(tree, _sharding(devices, AXIS))


def epoch_fn(learner: Learner, devices: Devices) -> Callable:
    """One epoch in one dispatch: `pmap(each member: scan(step))` over resident rows.

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

    return jax.pmap(
        epoch,
        axis_name=AXIS,
        in_axes=(None, None, 0, None, None),
        out_axes=(None, None),
        donate_argnums=(0,),
        devices=devices,
    )


def compiled_epoch(learner: Learner, devices: Devices, *args: PyTree) -> Callable:
    """`epoch_fn`, compiled for these arguments as its learner trains fastest."""
    platform, count = devices[0].platform, len(devices)
    options = tuning.training_options(learner.tuning, learner.dtype, platform, count)
    lowered = epoch_fn(learner, devices).lower(*args)  # type: ignore[attr-defined]
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
        yield split(x[index].reshape(len(devices), steps, chunk, *x.shape[1:]), devices)


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

    mapped = jax.pmap(run, axis_name=AXIS, in_axes=(None, 0), devices=devices)
    options = tuning.scoring_options(dtype, platform)
    programs: dict[tuple, Callable] = {}

    def call(variables: PyTree, rows: Array) -> PyTree:
        shapes = tuple((a.shape, a.dtype) for a in jax.tree.leaves((variables, rows)))
        if shapes not in programs:
            programs[shapes] = tuning.compiled(mapped.lower(variables, rows), options)
        return programs[shapes](variables, rows)

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
            parts.append(jax.device_get(done))
    parts.append(jax.device_get(ahead))
    return jax.tree.map(lambda *leaves: _in_order(leaves)[:, :n], *parts)


def _in_order(leaves: Sequence[np.ndarray]) -> np.ndarray:
    """What devices found of blocks, [D, E, K, chunk, ...] each, as [E, rows, ...]."""
    flat = [a.swapaxes(0, 1).reshape(a.shape[1], -1, *a.shape[4:]) for a in leaves]
    return np.concatenate(flat, axis=1)
