"""Listing the devices, and choosing those that train a model."""

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from jaxae.devices import tuning
from jaxae.errors import UserError

Devices = Sequence[jax.Device]
_GPU_FLAG = "--xla_gpu_deterministic_ops"


def _has_started() -> bool:
    """Whether JAX has created its devices and read XLA_FLAGS: their number is then fixed."""
    options: Any = jax.config
    before = options.jax_num_cpu_devices
    try:
        options.update("jax_num_cpu_devices", max(before, 0) + 1)
    except RuntimeError:
        return True
    options.update("jax_num_cpu_devices", before)
    return False


def initialize(count: int = 0, deterministic: bool = False) -> None:
    """Create one host device per CPU core, or `count` if that is more; call it before JAX starts.

    Accelerators are left unchanged, and so is a number of host devices set in XLA_FLAGS. A device
    that trains alone still uses every core for its matrix products: see `choose`.

    Args:
      count: the number of host devices.
      deterministic: make GPUs compute the same bits every time: XLA then uses no operation whose
        order may vary, and no autotuning. CPUs and TPUs are always deterministic.

    Raises:
      UserError: `deterministic` is set, but the GPU has already started.
    """
    if deterministic and _GPU_FLAG not in (flags := os.environ.get("XLA_FLAGS", "")):
        os.environ["XLA_FLAGS"] = f"{flags} {_GPU_FLAG}=true".strip()
        if _has_started() and jax.local_devices()[0].platform in ("gpu", "cuda", "rocm"):
            raise UserError(f"deterministic comes too late for this GPU; set XLA_FLAGS={_GPU_FLAG}")
    if "force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with contextlib.suppress(RuntimeError):  # JAX has already started: its devices stay
        jax.config.update("jax_num_cpu_devices", max(tuning.cores(), count))


@contextlib.contextmanager
def on_host() -> Iterator[None]:
    """On a machine with an accelerator, run computations that are placed on no device on the CPU.

    Initial states, fitted rules and scores, corruptions and metrics take little time, but an
    accelerator would compile a program for each and wait for the host in between. If JAX_PLATFORMS
    does not include the CPU, they run on the accelerator.
    """
    cpu = None
    if jax.local_devices()[0].platform != "cpu":
        with contextlib.suppress(RuntimeError):
            cpu = jax.local_devices(backend="cpu")[0]
    with jax.default_device(cpu) if cpu else contextlib.nullcontext():
        yield


def all_devices() -> list[jax.Device]:
    """The devices of all processes; rows are scored on all of them."""
    return jax.devices(jax.local_devices()[0].platform)


def local_positions(devices: Devices) -> list[int]:
    """The positions, among `devices`, of those that belong to this process."""
    return [i for i, d in enumerate(devices) if d.process_index == jax.process_index()]


def choose(count: int, batch_size: int, on_cpu: int = 0) -> list[jax.Device]:
    """The devices to train on; every process contributes the same number.

    Args:
      count: how many; 0 = the largest number that divides the batch.
      batch_size: the global batch size.
      on_cpu: if `count` is 0 and there are host devices only, use at most this many, but at least
        one of every process; 0 = all.

    Raises:
      UserError: `count` exceeds the devices there are, or is no multiple of the processes.
        (`jaxae.data.index_plan` refuses a batch that is no multiple of the number of devices.)
    """
    local, processes = jax.local_devices(), jax.process_count()
    if count % processes:
        raise UserError(
            f"devices is {count}, but must be the same number for each of {processes} processes; "
            f"set --devices to a multiple of {processes}"
        )
    each = count // processes
    if not count:
        most = len(local)
        if local[0].platform == "cpu" and on_cpu:
            most = max(1, min(on_cpu // processes, most))
        fitting = [n for n in range(1, most + 1) if batch_size % (n * processes) == 0]
        each = max(fitting, default=1)  # `index_plan` will refuse the batch
    if each > len(local):
        raise UserError(
            f"devices is {count}, but JAX sees {len(local) * processes} ({local[0].platform}); "
            "lower --devices"
        )
    of_process = ([d for d in all_devices() if d.process_index == p] for p in range(processes))
    return [device for devices in of_process for device in devices[:each]]
