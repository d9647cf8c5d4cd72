"""Which devices there are, and which of them train."""

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
    """Whether JAX has devices already, and has read XLA_FLAGS: their number is fixed then."""
    known: Any = jax.config
    before = known.jax_num_cpu_devices
    try:
        known.update("jax_num_cpu_devices", max(before, 0) + 1)
    except RuntimeError:
        return True
    known.update("jax_num_cpu_devices", before)
    return False


def initialize(count: int = 0, deterministic: bool = False) -> None:
    """Make one host device per CPU core, or `count`; call it before JAX starts.

    Accelerators are left as they are, and so is what XLA_FLAGS says of host devices. A device that
    works alone still has every core for its matrix products: see `choose`.

    Args:
      count: of host devices.
      deterministic: have GPUs compute the same bits whenever they run a program: XLA then takes
        no operation whose order may differ, and no kernel by its speed of the moment. CPUs and TPUs
        do so anyway.

    Raises:
      UserError: a GPU is asked to be deterministic when it has started already.
    """
    if deterministic and _GPU_FLAG not in (flags := os.environ.get("XLA_FLAGS", "")):
        os.environ["XLA_FLAGS"] = f"{flags} {_GPU_FLAG}=true".strip()
        if _has_started() and jax.local_devices()[0].platform in ("gpu", "cuda", "rocm"):
            raise UserError(f"deterministic comes too late for this GPU; set XLA_FLAGS={_GPU_FLAG}")
    if "force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with contextlib.suppress(RuntimeError):  # JAX has started already: its devices stay
        jax.config.update("jax_num_cpu_devices", max(tuning.cores(), count))


@contextlib.contextmanager
def on_host() -> Iterator[None]:
    """Have the CPU compute, beside an accelerator, what is not placed on any device.

    Initial states, fitted rules and scores, corruptions and metrics are brief: an accelerator would
    compile a program for each, and wait for the host between them. A CPU alone does so anyway, and
    where JAX_PLATFORMS leaves the CPU out they stay on the accelerator.
    """
    beside = None
    if jax.local_devices()[0].platform != "cpu":
        with contextlib.suppress(RuntimeError):
            beside = jax.local_devices(backend="cpu")[0]
    with jax.default_device(beside) if beside else contextlib.nullcontext():
        yield


def everywhere() -> list[jax.Device]:
    """All devices of all processes: what rows are scored on."""
    return jax.devices(jax.local_devices()[0].platform)


def here(devices: Devices) -> list[int]:
    """The positions of those that belong to this process."""
    return [i for i, d in enumerate(devices) if d.process_index == jax.process_index()]


def choose(count: int, batch_size: int, on_cpu: int = 0) -> list[jax.Device]:
    """The devices to train on; as many of every process.

    Args:
      count: how many; 0 = as many as divide the batch.
      batch_size: of the global batch.
      on_cpu: where `count` is 0 and there are host devices only, use at most this many, but one of
        every process; 0 = all.

    Raises:
      UserError: more devices than there are, or such as the processes cannot share. (`jaxae.data.
        index_plan` refuses a batch that they do not divide.)
    """
    local, processes = jax.local_devices(), jax.process_count()
    if count % processes:
        raise UserError(
            f"devices is {count}, but there are {processes} processes, which have the same share; "
            f"set --devices to a multiple of {processes}"
        )
    each = count // processes
    if not count:
        most = len(local)
        if local[0].platform == "cpu" and on_cpu:
            most = max(1, min(on_cpu // processes, most))
        fitting = [n for n in range(1, most + 1) if batch_size % (n * processes) == 0]
        each = max(fitting, default=1)  # the plan says what is wrong with the batch
    if each > len(local):
        raise UserError(
            f"devices is {count}, but JAX sees {len(local) * processes} ({local[0].platform}); "
            "lower --devices"
        )
    of_process = ([d for d in everywhere() if d.process_index == p] for p in range(processes))
    return [device for devices in of_process for device in devices[:each]]
