"""What devices can hold, asked before they are filled."""

import math
import os
from collections.abc import Sequence
from typing import Any

import jax

from jaxae.errors import UserError
from jaxae.types import Source, TrainState

_WORTH_SAYING = 1e9  # bytes
SHARE = 0.25  # of what there is, that resident rows may take


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
    """Bytes that a device has: an accelerator its own, a CPU the machine's; 0 = it does not say."""
    if device.platform == "cpu":
        names = "SC_PHYS_PAGES", "SC_PAGE_SIZE"
        return math.prod(map(os.sysconf, names)) if set(names) <= os.sysconf_names.keys() else 0
    return (device.memory_stats() or {}).get("bytes_limit", 0)
