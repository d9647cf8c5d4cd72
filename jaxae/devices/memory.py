"""Memory: what devices have, what a state, rows or a program need, and which batch would fit."""

import contextlib
import math
import os
import resource
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxae.errors import UserError
from jaxae.types import Source, TrainState

_WORTH_SAYING = 1e9  # bytes; the size of a larger state is printed
SHARE = 0.25  # the part of the memory that resident rows may take
_CGROUPS = Path("/sys/fs/cgroup")


def check(state: TrainState, devices: Sequence[Any]) -> None:
    """Refuse a training state that does not fit on the devices; print the size of a large one.

    Args:
      state: shapes and dtypes suffice; parameters count twice, because of their gradients.
      devices: each holds the whole state; host devices share the memory of the machine.

    Raises:
      UserError: the memory is too small even for the state alone.
    """
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((state, state.params))]
    needed, available = sum(sizes), held(devices[0])
    needed *= len(devices) if devices[0].platform == "cpu" else 1
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    size = f"{parameters:,} parameters with gradients and moments need {needed / 1e9:.1f} GB"
    if available and needed > available:
        raise UserError(
            f"{size}, but the memory has {available / 1e9:.1f} GB; lower model.latent, "
            "model.hidden, model.filters or ensemble, or train fewer --members of a grid at once"
        )
    if needed > _WORTH_SAYING:
        print(size)


def of_rows(x: Source, devices: Sequence[Any]) -> int:
    """Bytes that rows take as float32: on a CPU, every host device has a copy of them."""
    return 4 * math.prod(x.shape) * _sharing(devices)


def _sharing(devices: Sequence[Any]) -> int:
    """How many devices share the memory that `held` returns: on a CPU, all of this process."""
    if devices[0].platform != "cpu":
        return 1
    return sum(device.process_index == devices[0].process_index for device in devices)


def held(device: Any) -> int:
    """Bytes of memory of a device: for a CPU, those of the machine; 0 = unknown."""
    if device.platform == "cpu":
        return of_machine()
    return (device.memory_stats() or {}).get("bytes_limit", 0)


def of_machine() -> int:
    """Bytes of memory of this machine; 0 = unknown.

    A scheduler may have put this process into a control group with a lower limit.
    """
    names = "SC_PHYS_PAGES", "SC_PAGE_SIZE"
    is_known = set(names) <= os.sysconf_names.keys()
    machine = [math.prod(map(os.sysconf, names))] if is_known else []
    return min([*machine, *_granted()], default=0)


def _granted(proc: Path = Path("/proc/self/cgroup"), root: Path = _CGROUPS) -> list[int]:
    """The limits of the control groups (version 2) that this process is in."""
    with contextlib.suppress(OSError, ValueError):
        line = next(text for text in proc.read_text().splitlines() if text.startswith("0::"))
        group = root / line.removeprefix("0::").strip("/")
        files = [folder / "memory.max" for folder in (group, *group.parents)]
        texts = [file.read_text().strip() for file in files if file.is_file()]
        return [int(text) for text in texts if text.isdecimal()]
    return []


def of_program(program: Any) -> int:
    """Bytes that a compiled program takes on each device while it runs; 0 = unknown.

    Arguments, results that do not reuse an argument's memory, and intermediate values.
    """
    try:
        sizes = program.memory_analysis()
    except (AttributeError, NotImplementedError, jax.errors.JaxRuntimeError):
        return 0
    if sizes is None:
        return 0
    results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return int(sizes.argument_size_in_bytes + results + sizes.temp_size_in_bytes)


def traffic(program: Any) -> int:
    """Bytes that a step of a compiled epoch reads and writes, as XLA counts them; 0 = unknown.

    XLA counts the body of a loop once. What stays in a cache counts too.
    """
    with contextlib.suppress(AttributeError, NotImplementedError, jax.errors.JaxRuntimeError):
        return int((program.cost_analysis() or {}).get("bytes accessed", 0))
    return 0


def peak(devices: Sequence[Any]) -> int:
    """The most bytes of memory that were in use so far: of this process on a CPU, else of a device.

    0 = unknown.
    """
    if devices[0].platform != "cpu":
        return (devices[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def refuse_program(program: Any, devices: Sequence[Any]) -> None:
    """Raise a `MemoryError`, before it runs, if a program needs more than each device has."""
    needed, room = of_program(program), _room(devices)
    if room and needed > room:
        raise MemoryError(f"{needed / 1e9:.1f} GB on each device, of {room / 1e9:.1f} GB")


def _room(devices: Sequence[Any]) -> float:
    """Bytes available to each device; 0 = unknown."""
    return held(devices[0]) / _sharing(devices)


def is_exhausted(error: BaseException) -> bool:
    """Whether an error means that a device ran out of memory."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


class Advice(contextlib.AbstractContextManager):
    """On out-of-memory while training, raise a UserError that suggests a batch size.

    Args:
      batch: the global batch size.
      needed: global batch size -> bytes that training needs on each device; 0 = unknown.
      devices: those that train; their number divides every batch size.

    Raises:
      UserError: instead of an error for which `is_exhausted` is true.
    """

    def __init__(self, batch: int, needed: Callable[[int], int], devices: Sequence[Any]):
        self._batch, self._needed, self._devices = batch, needed, devices

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or not is_exhausted(error):
            return
        fitting = self._fitting()
        none = "no batch fits: make the model smaller, or read rows with --train.feed streaming"
        remedy = f"{fitting} would fit" if fitting else none
        problem = (str(error) or "out of memory").splitlines()[0]
        raise UserError(
            f"train.batch_size {self._batch} does not fit into the memory ({problem}); {remedy}"
        ) from None

    def _fitting(self) -> int:
        unit = len(self._devices)
        if jax.process_count() > 1:  # one process cannot compile a program for all
            return _half(self._batch, unit)
        taken, room = self._bytes(self._batch), _room(self._devices) or math.inf
        # If the batch should have fitted, other arrays were in memory: suggest half of it.
        return largest_batch(self._bytes, self._batch, unit, taken / 2 if taken <= room else room)

    def _bytes(self, batch: int) -> float:
        """`needed`, infinite if compiling itself runs out of memory."""
        try:
            return float(self._needed(batch))
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if is_exhausted(error):
                return math.inf
            raise


def largest_batch(needed: Callable[[int], float], batch: int, unit: int, room: float) -> int:
    """A batch size that fits, found by halving one that does not; 0 = none fits.

    Args:
      needed: batch size -> bytes.
      batch: a size that is too large.
      unit: the result is a multiple of it.
      room: bytes available.
    """
    batch = _half(batch, unit)
    while batch and needed(batch) > room:
        batch = _half(batch, unit)
    return batch


def _half(batch: int, unit: int) -> int:
    """Half of a batch size, rounded down to a multiple of `unit`."""
    return batch // 2 // unit * unit
