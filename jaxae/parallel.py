"""Devices: the only file that knows `pmap`, and the one place where cores are shared out.

A state has no device axis: it is replicated, so that it has one shape on any number of devices and
moves between machines as it is. Only the plan of an epoch and the rows to score are split.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxae.config import cache_dir
from jaxae.errors import UserError
from jaxae.types import AXIS, Array, Batch, Learner, Metrics, PyTree, TrainState

Devices = Sequence[jax.Device]

# Rows of a batch that a host device, one core's worth of work, should have: with fewer, splitting
# the batch costs more than it brings. Every device updates every parameter, of which dense models
# have many for what a row costs them.
_MIN_SHARE, _MIN_SHARE_DENSE = 16, 256
_PARAMETERS_PER_ROW = 2000

# XLA's option on a CPU against YNNPACK, which takes over some sums and products. In bfloat16 it is
# what reaches the matrix units, and in float32 the sums of convolutions win a tenth by it; but
# dense models and all scoring in float32 lose between a tenth and two thirds.
_WITHOUT_YNNPACK = {"xla_cpu_experimental_ynn_fusion_type": ""}
# A dense model is mostly parameters, and without this XLA copies some before it updates them.
_IN_PLACE = {"xla_cpu_copy_insertion_use_region_analysis": True}


def initialize(count: int = 0) -> None:
    """Make one host device per CPU core, or `count`; call it before JAX starts.

    Accelerators are left as they are, and so is what XLA_FLAGS says of host devices. A device that
    works alone still has every core for its matrix products: see `choose`.
    """
    if "force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with contextlib.suppress(RuntimeError):  # JAX has started already: its devices stay
        jax.config.update("jax_num_cpu_devices", max(_cores(), count))


def _cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_devices(method: str, batch_size: int, parameters: int) -> int:
    """How many host devices a method trains on fastest, as measured: results do not depend on it.

    Convolutions also gather and scatter, which one device does on one core: there the batch is
    split, one device per core. Small batches of dense models leave the cores to the matrix products
    of one device.

    Args:
      method: see `jaxae.learners.METHODS`.
      batch_size: of the global batch.
      parameters: how many numbers one model is made of.
    """
    share = _MIN_SHARE
    if method == "dense":
        share = max(_MIN_SHARE_DENSE, parameters // _PARAMETERS_PER_ROW)
    return max(1, batch_size // share)


def compiler_options(method: str, devices: Devices) -> dict[str, object]:
    """What XLA is told when a method's epoch is compiled; nothing where there is an accelerator."""
    if devices[0].platform != "cpu":
        return {}
    # Devices that share the batch have a core each already.
    options = {"xla_cpu_multi_thread_eigen": len(devices) == 1}
    return options | (_WITHOUT_YNNPACK | _IN_PLACE if method == "dense" else {})


def compiled(mapped: Callable, options: dict[str, object], *args: PyTree) -> Callable:
    """What `jax.pmap` returned, compiled for these arguments with options, or without them.

    Without where this version of XLA does not know one: they make programs faster, nothing else.
    """
    lowered = mapped.lower(*args)
    if "bf16" in lowered.as_text():
        options = {k: v for k, v in options.items() if k not in _WITHOUT_YNNPACK}
    try:
        return lowered.compile(compiler_options=options)
    except jax.errors.JaxRuntimeError:
        return lowered.compile()


def cache_compilations() -> None:
    """Keep compiled programs for the next run of the same experiment, unless JAX was told where.

    For commands that people run; benchmarks do not call it. `JAX_ENABLE_COMPILATION_CACHE=0` turns
    it off.
    """
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)


def choose(count: int, batch_size: int, on_cpu: int = 0) -> list[jax.Device]:
    """The devices to train on.

    Args:
      count: how many; 0 = as many local devices as divide the batch.
      batch_size: of the global batch.
      on_cpu: where `count` is 0 and there are host devices only, use at most this many; 0 = all.

    Raises:
      UserError: more devices than there are, or a batch that they do not divide.
    """
    local = jax.local_devices()
    if not count:
        most = min(on_cpu or len(local), len(local)) if local[0].platform == "cpu" else len(local)
        count = max(n for n in range(1, most + 1) if batch_size % n == 0)
    if count > len(local):
        raise UserError(
            f"devices is {count}, but JAX sees {len(local)} ({local[0].platform}); lower --devices"
        )
    if batch_size % count:
        raise UserError(
            f"train.batch_size {batch_size} is not divisible by {count} devices; "
            f"use a multiple of {count}, or another --devices"
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
    """One epoch in one dispatch: `pmap(scan(step))` over resident rows.

    Returns:
      `(state, rows [N, *S], plan [D, T, B/D] int32, key) -> (state, metrics of [T])`. State, rows
      and key are `place`d, the plan is `split`; the state is donated.
    """

    def epoch(
        state: TrainState, rows: Array, plan: Array, key: Array
    ) -> tuple[TrainState, Metrics]:
        share = plan.shape[1]
        flat = rows.reshape(len(rows), -1)  # a row is then gathered as one piece
        slot = lax.axis_index(AXIS) * share + jnp.arange(share, dtype=jnp.int32)

        def step(state: TrainState, index: Array) -> tuple[TrainState, Metrics]:
            batch = Batch(flat[index].reshape(share, *rows.shape[1:]), slot)
            return learner.step(state, batch, key)

        return lax.scan(step, state, plan)

    return jax.pmap(
        epoch,
        axis_name=AXIS,
        in_axes=(None, None, 0, None),
        out_axes=(None, None),
        donate_argnums=(0,),
        devices=devices,
    )


RowFn = Callable[[PyTree, Array], PyTree]  # (variables, rows [B, *S]) -> tree of [B, ...]

# Rows of one inner step: few on a CPU, so that activations stay in its cache.
_CHUNK = {"cpu": 64}
_ACCELERATOR_CHUNK = 1024
_CHUNKS = 16  # inner steps of one dispatch, at most


def chunk_rows(devices: Devices) -> int:
    """Rows to score at a time."""
    return _CHUNK.get(devices[0].platform, _ACCELERATOR_CHUNK)


def blocks(x: np.ndarray, devices: Devices, chunk: int = 0) -> Iterator[Array]:
    """Rows [N, *S] as equal blocks [D, K, chunk, *S] on the devices; the last is padded with row 0.

    Equal, so that a scorer is compiled once however many rows there are. `chunk` = 0 takes
    `chunk_rows`.
    """
    chunk = chunk or chunk_rows(devices)
    steps = min(_CHUNKS, -(-len(x) // (len(devices) * chunk)))
    per_block = len(devices) * steps * chunk
    for start in range(0, len(x), per_block):
        index = np.arange(start, start + per_block)
        index[index >= len(x)] = 0
        yield split(x[index].reshape(len(devices), steps, chunk, *x.shape[1:]), devices)


def tight_chunk(n: int, devices: Devices) -> int:
    """The chunk that pads little when the same few rows are mapped again and again."""
    share = -(-n // len(devices))
    return min(chunk_rows(devices), 1 << (share - 1).bit_length())


def rows_fn(fn: RowFn, devices: Devices) -> Callable:
    """`fn` over one block: `(variables, [D, K, chunk, *S]) -> tree of [D, K, chunk, ...]`.

    Compiled once for all arguments of the same shapes.
    """

    def run(variables: PyTree, rows: Array) -> PyTree:
        return lax.map(lambda chunk: fn(variables, chunk), rows)

    mapped = jax.pmap(run, axis_name=AXIS, in_axes=(None, 0), devices=devices)
    options = _WITHOUT_YNNPACK if devices[0].platform == "cpu" else {}
    programs: dict[tuple, Callable] = {}

    def call(variables: PyTree, rows: Array) -> PyTree:
        shapes = tuple((a.shape, a.dtype) for a in jax.tree.leaves((variables, rows)))
        if shapes not in programs:
            programs[shapes] = compiled(mapped, options, variables, rows)
        return programs[shapes](variables, rows)

    return call


def map_rows(run: Callable, variables: PyTree, placed: Iterable[Array], n: int) -> PyTree:
    """Apply `rows_fn(...)` to every block and give the first `n` rows back, on the host.

    Args:
      run: what `rows_fn` returned.
      variables: `place`d.
      placed: the `blocks` of the rows.
      n: number of rows before padding.
    """
    parts, ahead = [], None
    for block in placed:  # a block is fetched while the next one is computed
        ahead, done = run(variables, block), ahead
        if done is not None:
            parts.append(jax.device_get(done))
    parts.append(jax.device_get(ahead))
    flat = [jax.tree.map(lambda a: a.reshape(-1, *a.shape[3:]), part) for part in parts]
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[:n], *flat)
