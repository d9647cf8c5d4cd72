"""Where arrays lie: whole on every device, or split over them, in one process or in many.

In many processes an array is made of what each of them holds; nothing is sent to make it, and rows
that lie on another process's devices are never read.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxae.devices.parallel.devices import Devices, here
from jaxae.types import AXIS, PyTree


def _sharding(devices: Devices, *spec: str) -> NamedSharding:
    return NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(*spec))


def _alone(devices: Devices) -> bool:
    return len(here(devices)) == len(devices)


def place(tree: PyTree, devices: Devices) -> PyTree:
    """The tree on every device, shapes unchanged; all processes have the same."""
    sharding = _sharding(devices)
    if _alone(devices):
        return jax.device_put(tree, sharding)
    return jax.tree.map(lambda leaf: _replicated(leaf, sharding), tree)


def _replicated(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
        return leaf
    leaf = at_home(leaf)
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = _replicated(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    values = np.asarray(leaf)
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def placed_like(abstract: PyTree, devices: Devices) -> PyTree:
    """Shapes and dtypes with the sharding that `place` gives: a template to restore into."""
    sharding = _sharding(devices)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), abstract
    )


def split(tree: PyTree, devices: Devices) -> PyTree:
    """Arrays [D, ...] with one slice on each device, shapes unchanged."""
    sharding = _sharding(devices, AXIS)
    if _alone(devices):
        return jax.device_put(tree, sharding)
    return jax.tree.map(
        lambda a: jax.make_array_from_callback(np.shape(a), sharding, lambda index: a[index]), tree
    )


def split_by(read: Callable[[np.ndarray], np.ndarray], shape: tuple, devices: Devices) -> jax.Array:
    """An array [D, ...] of which each process makes the slices of its own devices.

    Args:
      read: positions of devices [K] -> their slices [K, ...], in one call.
      shape: of the whole array.
      devices: D of them, of all processes.
    """
    own = np.array(here(devices), int)
    values = read(own)
    sharding = _sharding(devices, AXIS)
    if len(own) == len(devices):
        return jax.device_put(values, sharding)
    return jax.make_array_from_process_local_data(sharding, values, shape)


def at_home(tree: PyTree) -> PyTree:
    """A tree that lies whole on every device as this process has it alone; others are given back.

    What one process computes by itself takes it so.
    """

    def own(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return leaf.addressable_data(0)
        return leaf

    return jax.tree.map(own, tree)


def on_one(tree: PyTree) -> PyTree:
    """What lies whole on every device as the first has it; other leaves are given back."""

    def first(leaf: Any) -> Any:
        whole = isinstance(leaf, jax.Array) and leaf.is_fully_replicated
        return leaf.addressable_data(0) if whole else leaf

    return jax.tree.map(first, tree)


def fetch(tree: PyTree) -> PyTree:
    """A tree of arrays, whole or split over the devices of all processes, on every host."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    if all(leaf.is_fully_addressable or leaf.is_fully_replicated for leaf in leaves):
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)
