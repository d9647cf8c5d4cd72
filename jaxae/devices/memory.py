"""What devices can hold, asked before they are filled."""

import contextlib
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxae.errors import UserError
from jaxae.types import Source, TrainState

_WORTH_SAYING = 1e9  # bytes
SHARE = 0.25  # of what there is, that resident rows may take
_CGROUPS = Path("/sys/fs/cgroup")


def check(state: TrainState, devices: Sequence[Any]) -> None:
    """Refuse a state of training that the devices could not hold, and say what a large one needs.

    Args:
      state: shapes and dtypes suffice; its parameters count once more, for their gradients.
      devices: each holds the whole state; host devices share the memory of the machine.

    Raises:
      UserError: the memory is too small, whatever else lies in it.
    """
    sizes = [leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves((state, state.params))]
    needed, has = sum(sizes), held(devices[0])
    needed *= len(devices) if devices[0].platform == "cpu" else 1
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    words = f"{parameters:,} parameters with gradients and moments take {needed / 1e9:.1f} GB"
    if has and needed > has:
        raise UserError(
            f"{words}, of {has / 1e9:.1f} GB that there are; lower model.latent, model.hidden, "
            "model.filters or ensemble, or train fewer --members of a grid at once"
        )
    if needed > _WORTH_SAYING:
        print(words)


def of_rows(x: Source, devices: Sequence[Any]) -> int:
    """Bytes of rows as float32 in the memory that `held` is of: host devices have one each."""
    own = sum(device.process_index == devices[0].process_index for device in devices)
    copies = own if devices[0].platform == "cpu" else 1
    return 4 * math.prod(x.shape) * copies


def held(device: Any) -> int:
    """Bytes that a device has: an accelerator its own, a CPU the machine's; 0 = it does not say.

    Of the machine's counts what this process may take, where a scheduler has put it into a control
    group with less.
    """
    if device.platform == "cpu":
        names = "SC_PHYS_PAGES", "SC_PAGE_SIZE"
        known = set(names) <= os.sysconf_names.keys()
        machine = [math.prod(map(os.sysconf, names))] if known else []
        return min([*machine, *_granted()], default=0)
    return (device.memory_stats() or {}).get("bytes_limit", 0)


def _granted(proc: Path = Path("/proc/self/cgroup"), root: Path = _CGROUPS) -> list[int]:
    """The limits of the control groups (version 2) that this process is in."""
    with contextlib.suppress(OSError, ValueError):
        line = next(text for text in proc.read_text().splitlines() if text.startswith("0::"))
        own = root / line.removeprefix("0::").strip("/")
        files = [folder / "memory.max" for folder in (own, *own.parents)]
        texts = [file.read_text().strip() for file in files if file.is_file()]
        return [int(text) for text in texts if text.isdecimal()]
    return []


def of_program(program: Any) -> int:
    """Bytes that a compiled program takes on each device while it runs; 0 = it does not say.

    Arguments, results that take no argument's place, and what is kept in between.
    """
    try:
        found = program.memory_analysis()
    except (AttributeError, NotImplementedError, jax.errors.JaxRuntimeError):
        return 0
    if found is None:
        return 0
    own = found.output_size_in_bytes - found.alias_size_in_bytes + found.temp_size_in_bytes
    return int(found.argument_size_in_bytes + own)


def refuse_program(program: Any, devices: Sequence[Any]) -> None:
    """Refuse a program that takes more than there is before it runs.

    Raises:
      MemoryError: says how much of how much.
    """
    needed, room = of_program(program), _room(devices)
    if room and needed > room:
        raise MemoryError(f"{needed / 1e9:.1f} GB on each device, of {room / 1e9:.1f} GB")


def _room(devices: Sequence[Any]) -> float:
    """Bytes for each device; host devices of a process share what it has. 0 = unknown."""
    own = sum(device.process_index == devices[0].process_index for device in devices)
    return held(devices[0]) / (own if devices[0].platform == "cpu" else 1)


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that a device had no memory left."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


class Advice(contextlib.AbstractContextManager):
    """Where memory ends while a batch trains, the error names one that would fit.

    Args:
      batch: the global batch.
      needed: a global batch -> bytes that training takes with it on each device; 0 = unknown.
      devices: that train, which a batch is a multiple of.

    Raises:
      UserError: in place of what says that memory is exhausted.
    """

    def __init__(self, batch: int, needed: Callable[[int], int], devices: Sequence[Any]):
        self._batch, self._needed, self._devices = batch, needed, devices

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or not is_exhausted(error):
            return
        fits = self._fitting()
        none = "no batch fits: make the model smaller, or read rows with --train.feed streaming"
        remedy = f"{fits} would fit" if fits else none
        problem = (str(error) or "out of memory").splitlines()[0]
        raise UserError(
            f"train.batch_size {self._batch} takes more memory than there is ({problem}); {remedy}"
        ) from None

    def _fitting(self) -> int:
        unit = len(self._devices)
        if jax.process_count() > 1:  # nothing is compiled by one of them
            return _rounded(self._batch // 2, unit)
        needed = _or_infinite(self._needed)
        whole, room = needed(self._batch), _room(self._devices) or math.inf
        # What should have fitted met something else in memory: half as much is safe to name.
        limit = whole / 2 if whole <= room else room
        return largest_batch(needed, self._batch, whole, unit, limit)


def _or_infinite(needed: Callable[[int], int]) -> Callable[[int], float]:
    def found(batch: int) -> float:
        try:
            return float(needed(batch))
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if is_exhausted(error):
                return math.inf
            raise

    return found


def largest_batch(
    needed: Callable[[int], float], batch: int, taken: float, unit: int, room: float
) -> int:
    """The largest batch that is known to fit, smaller than one that does not; 0 = none.

    It is halved until its program says that it takes no more than there is, and then enlarged along
    the line through both sizes, if the program there says the same.

    Args:
      needed: batch -> bytes.
      batch: one that is too large.
      taken: the bytes of that one; may be infinite.
      unit: what a batch is a multiple of.
      room: bytes that there are.
    """
    above, below = batch, _rounded(batch // 2, unit)
    while below and (least := needed(below)) > room:
        above, taken = below, least
        below = _rounded(below // 2, unit)
    if not below or math.isinf(taken) or math.isinf(room) or taken <= least:
        return below
    slope = (taken - least) / (above - below)
    between = _rounded(int(below + (room - least) / slope), unit)
    return between if below < between < above and needed(between) <= room else below


def _rounded(batch: int, unit: int) -> int:
    """Down to a number that is easily said and that the devices divide."""
    step = max(1, 1 << max(0, batch.bit_length() - 4))
    batch -= batch % step
    return batch - batch % unit
