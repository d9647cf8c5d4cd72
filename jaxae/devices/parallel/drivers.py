"""How one function runs on every device: the only module that knows `pmap` and `shard_map`.

`pmap` is the default. JAX continues to develop `shard_map` under `jit`; both compute the same bits
from arrays that `jaxae.devices.parallel.placing` has placed.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from jaxae.config import ExperimentConfig
from jaxae.devices.parallel.devices import Devices, initialize
from jaxae.errors import unknown
from jaxae.types import AXIS, PyTree

# For each argument or result: 0 = split over the devices, None = replicated.
Axes = int | None | tuple[int | None, ...]
_GROUPS = "groups"  # the axis of groups of devices, see `Layout`; no function reduces over it


def _pmapped(
    fun: Callable, devices: Devices, ins: Axes, outs: Axes, donate: tuple, groups: int
) -> Any:
    # `pmap` has one axis, and cannot split random keys over several processes.
    if 1 < groups < len(devices) or (groups > 1 and jax.process_count() > 1):
        return _sharded(fun, devices, ins, outs, donate, groups)
    return jax.pmap(
        fun,
        axis_name=AXIS if groups == 1 else _GROUPS,
        in_axes=ins,
        out_axes=outs,
        donate_argnums=donate,
        devices=devices,
    )


def _sharded(
    fun: Callable, devices: Devices, ins: Axes, outs: Axes, donate: tuple, groups: int
) -> Any:
    axes = (_GROUPS, AXIS) if groups > 1 else (AXIS,)  # as arrays are placed: see `placing`

    def on_shard(*args: PyTree) -> PyTree:
        """Calls `fun` without the split axis, which `shard_map` keeps with length 1."""
        squeezed = of_split(ins, lambda a: a.reshape(a.shape[1:]), args)
        return of_split(outs, lambda a: a[None], fun(*squeezed))

    def of_split(split: Axes, change: Callable, trees: PyTree) -> PyTree:
        def changed(axis: int | None, tree: PyTree) -> PyTree:
            return tree if axis is None else jax.tree.map(change, tree)

        return jax.tree.map(changed, split, trees, is_leaf=lambda axis: axis is None)

    def specs(split: Axes) -> PyTree:
        spec = {0: PartitionSpec(axes), None: PartitionSpec()}
        return jax.tree.map(spec.get, split, is_leaf=lambda axis: axis is None)

    sharded = jax.shard_map(
        on_shard,
        mesh=Mesh(np.array(devices).reshape(groups, -1) if groups > 1 else np.array(devices), axes),
        in_specs=specs(ins),
        out_specs=specs(outs),
        check_vma=False,  # JAX cannot see that all devices compute the same state
    )
    return jax.jit(sharded, donate_argnums=donate)


DRIVERS: dict[str, Callable[..., Any]] = {"pmap": _pmapped, "shard_map": _sharded}
_using = {"driver": "pmap"}


def use(name: str) -> None:
    """Choose the driver for all functions that this process builds from now on."""
    if name not in DRIVERS:
        raise unknown("driver", name, DRIVERS)
    _using["driver"] = name


def start(cfg: ExperimentConfig) -> None:
    """Set up the devices and the driver of a configuration; see `initialize`."""
    initialize(cfg.devices, cfg.deterministic)
    use(cfg.driver)


def driver() -> str:
    """The name of the driver in use."""
    return _using["driver"]


def mapped(
    fun: Callable,
    devices: Devices,
    ins: Axes,
    outs: Axes,
    donate: tuple[int, ...] = (),
    groups: int = 1,
) -> Any:
    """`fun` on every device at once, with a mapped axis `AXIS`; it can be lowered and called.

    Args:
      fun: takes the arguments of one device.
      devices: those of all processes.
      ins: for each argument, 0 if its leading axis [D] is split, None if it is replicated.
      outs: for each result, or the only one; a replicated one must be the same on every device.
      donate: positions of the arguments whose memory may be reused.
      groups: number of groups of devices. `AXIS` is mapped over the devices of a group; if several
        groups have one device each, there may be no `AXIS`.
    """
    return DRIVERS[driver()](fun, devices, ins, outs, donate, groups)
