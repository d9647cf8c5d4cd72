"""Compile for GPUs and TPUs that this machine does not have, with XLA's compilers.

    python -m pip install ".[compilers]"

installs the compilers for NVIDIA's and Google's devices, without drivers. Compiled programs can be
inspected but not run.
"""

import os
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

# What XLA must know about an H100 (SXM), from NVIDIA's description of the Hopper architecture.
_H100 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 shared_memory_per_block_optin: 232448 threads_per_core_limit: 2048
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98 l2_cache_size: 52428800
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 device_memory_size: 84942979072
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability { major: 9 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

# Kind -> platform, and the topology arguments for a number of devices and hosts.
KINDS = {
    "H100": ("cuda", lambda count, hosts: {"topology": f"1x{hosts}x{count // hosts}"}),
    "TPU v5e": ("tpu", lambda count, hosts: {"topology_name": f"v5e:{_square(count)}"}),
}


def _square(count: int) -> str:
    """The shape (rows, columns) of a pod of v5e devices."""
    rows = max(n for n in (1, 2, 4, 8, 16) if n * n <= count)
    return f"{rows}x{count // rows}"


def devices(kind: str, count: int, hosts: int = 1) -> list[Any]:
    """Devices to compile for.

    Args:
      kind: a key of `KINDS`.
      count: 1 to 256; for a TPU 1, 4, 8, 16, 32, 64, 128 or 256.
      hosts: the number of hosts; a TPU host has four devices.

    Raises:
      RuntimeError: the compiler is not installed, or does not support these devices.
    """
    from jax.experimental import topologies

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # do not query the cloud's metadata server
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nothing runs on a TPU in use
    platform, name = KINDS[kind]
    arguments = name(count, hosts)
    if platform == "cuda":
        arguments["target_config"] = _H100
    try:
        found = topologies.get_topology_desc(platform=platform, **arguments)
    except Exception as error:
        raise RuntimeError(
            f"XLA's compiler for {kind} is not available ({str(error).splitlines()[0]}); "
            'python -m pip install ".[compilers]"'
        ) from None
    return list(found.devices)[:count]


def epoch(
    cfg: Any,
    shape: tuple[int, ...],
    devices: Sequence[Any],
    *,
    steps: int = 8,
    own_rows: bool = False,
    count: int = 0,
) -> Any:
    """An epoch of training lowered for devices; `.compile()` compiles it.

    Args:
      cfg: the configuration; its batch size is the global one.
      shape: shape of one row.
      devices: from `devices`, or real ones.
      steps: steps per epoch.
      own_rows: whether each device has its own rows, as with a streaming feed.
      count: number of resident rows; 0 = one batch.
    """
    import jax
    import jax.numpy as jnp
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from jaxae.devices import members, parallel
    from jaxae.methods import learners
    from jaxae.training import train
    from jaxae.types import AXIS

    mesh = Mesh(np.array(devices), (AXIS,))

    def of(leaf: Any, *spec: str) -> Any:
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    learner, batch = learners.build(cfg, shape), cfg.train.batch_size
    # One step per loop iteration, so that the loop's body is one step.
    learner = learner._replace(tuning=learner.tuning._replace(unroll=1))
    share = batch // len(devices)
    state = train.abstract_state(learner, shape, cfg.ensemble)
    keys = jax.eval_shape(lambda: members.keys(jax.random.key(0), cfg.ensemble))
    rate = jax.ShapeDtypeStruct((cfg.ensemble,), jnp.float32)
    settings = dict.fromkeys(learner.settings, rate)
    plan = of(jax.ShapeDtypeStruct((len(devices), steps, share), jnp.int32), AXIS)
    if own_rows:
        rows = jax.ShapeDtypeStruct((len(devices), steps * share, *shape), jnp.float32)
        rows = of(rows, AXIS)
    else:
        rows = of(jax.ShapeDtypeStruct((count or batch, *shape), jnp.float32))
    state, keys, settings = jax.tree.map(of, (state, keys, settings))
    program = parallel.epoch_fn(learner, devices, own_rows=own_rows)
    return program.lower(state, rows, plan, keys, settings)


class Body(NamedTuple):
    """The work of one training step in a compiled program.

    Attributes:
      kernels: operations that are not fused into another one.
      bytes: bytes that they read and write.
      reduced: bytes sent between devices.
      collectives: operations that communicate between devices.
    """

    kernels: int
    bytes: int
    reduced: int
    collectives: int


_LINE = re.compile(r"^\s+(?:ROOT )?(%\S+) = (\(.*?\)|\S+) ([a-z-]+)\((.*)$")
_ARRAY = re.compile(r"(pred|[a-z]+[0-9]+)\[([0-9,]*)\]")
_BITS = {"pred": 8, "bf16": 16}
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"),
    *("partition-id", "replica-id", "opt-barrier"),
}


def body(text: str) -> Body:
    """Read the loop over steps in a compiled program; if there are several loops, the largest.

    Asynchronous pairs of operations (`-start` and `-done`) count once.
    """
    parts = _computations(text)
    names = set(re.findall(r"\bbody=(%[^\s,)]+)", text))
    lines = max((parts[name] for name in names), key=len)
    called = re.findall(r" call\(.*\bto_apply=(%[^\s,)]+)", "\n".join(lines))
    lines = [*lines, *(line for name in called for line in parts[name])]
    found = [m for line in lines if (m := _LINE.match(line))]
    sizes = {m[1]: _bytes(m[2]) for m in found}
    kernels = [m for m in found if m[3] not in _FREE | {"call"} and not m[3].endswith("-done")]
    crossing = [m for m in kernels if m[3].startswith(("all-reduce", "all-gather"))]
    touched = 0
    for m in kernels:
        operands = re.findall(r"%[^\s,()]+", m[4].split("), ")[0])
        touched += sizes[m[1]] + sum(sizes.get(name, 0) for name in operands)
    return Body(len(kernels), touched, sum(sizes[m[1]] for m in crossing), len(crossing))


def _computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation, by its name."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(("%", "ENTRY")) and line.endswith("{"):
            lines = found.setdefault(line.removeprefix("ENTRY ").split(" ", 1)[0], [])
        else:
            lines.append(line)
    return found


def _bytes(types: str) -> int:
    total = 0
    for kind, shape in _ARRAY.findall(types):
        bits = _BITS.get(kind) or int(re.sub(r"\D", "", kind))
        total += int(np.prod([int(n) for n in shape.split(",") if n] or [1])) * bits // 8
    return total
