"""How one function runs on every device with its share: the only module that knows.

`pmap` is the default. `shard_map` under `jit` is what JAX develops further; both compute the same,
and a learner that runs inside one runs inside the other. Arrays lie as
`jaxae.devices.parallel.placing` puts them, for both.
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

Axes = tuple[
    int | None, ...
]  # of each argument or result: 0 = split over the devices, None = whole


def _pmapped(fun: Callable, devices: Devices, ins: Axes, outs: Axes, donate: tuple) -> Any:
    # An argument that is on all devices is whole for each; a result that is, is the first's.
    return jax.pmap(
        fun,
        axis_name=AXIS,
        in_axes=ins,
        out_axes=outs if len(outs) > 1 else outs[0],
        donate_argnums=donate,
        devices=devices,
    )


def _sharded(fun: Callable, devices: Devices, ins: Axes, outs: Axes, donate: tuple) -> Any:
    def of_share(*args: PyTree) -> PyTree:
        """`fun` sees its share without the axis that `shard_map` leaves, of length 1."""
        own = [
            jax.tree.map(lambda a: a.reshape(a.shape[1:]), arg) if axis == 0 else arg
            for arg, axis in zip(args, ins, strict=True)
        ]
        found = fun(*own)
        parts = found if len(outs) > 1 else (found,)
        given = tuple(
            jax.tree.map(lambda a: a[None], part) if axis == 0 else part
            for part, axis in zip(parts, outs, strict=True)
        )
        return given if len(outs) > 1 else given[0]

    def specs(axes: Axes) -> tuple:
        return tuple(PartitionSpec(AXIS) if axis == 0 else PartitionSpec() for axis in axes)

    sharded = jax.shard_map(
        of_share,
        mesh=Mesh(np.array(devices), (AXIS,)),
        in_specs=specs(ins),
        out_specs=specs(outs) if len(outs) > 1 else specs(outs)[0],
        check_vma=False,  # a state that every device computes alike is not seen to be alike
    )
    return jax.jit(sharded, donate_argnums=donate)


DRIVERS: dict[str, Callable[..., Any]] = {"pmap": _pmapped, "shard_map": _sharded}
_using = {"driver": "pmap"}


def use(name: str) -> None:
    """Run what is built from now on in this process with another driver."""
    if name not in DRIVERS:
        raise unknown("driver", name, DRIVERS)
    _using["driver"] = name


def start(cfg: ExperimentConfig) -> None:
    """Have the devices, and what drives them, that a configuration asks for; see `initialize`."""
    initialize(cfg.devices, cfg.deterministic)
    use(cfg.driver)


def driver() -> str:
    """The name of the driver in use."""
    return _using["driver"]


def mapped(
    fun: Callable, devices: Devices, ins: Axes, outs: Axes, donate: tuple[int, ...] = ()
) -> Any:
    """`fun` on every device at once, with a mapped axis `AXIS`; it can be lowered and called.

    Args:
      fun: of what one device has.
      devices: of all processes.
      ins: of each argument 0 where its leading axis [D] is split, None where it is whole.
      outs: of each result the same; one that is whole must be the same on every device.
      donate: positions of arguments whose memory may be used again.
    """
    return DRIVERS[driver()](fun, devices, ins, outs, donate)
