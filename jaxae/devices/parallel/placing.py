"""Placing arrays: replicated on every device or split over them, in one process or in many.

Each process supplies the part of an array that lies on its own devices; nothing is sent between
processes, and no process reads rows for the devices of another.
"""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxae.devices.parallel.devices import Devices, local_positions
from jaxae.types import AXIS, PyTree


def _sharding(devices: Devices, *spec: str) -> NamedSharding:
    return NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec(*spec))


def place(tree: PyTree, devices: Devices) -> PyTree:
    """Replicate a tree, equal in all processes, on every device; shapes are unchanged."""
    return _put(tree, devices, _sharding(devices))


def _put(tree: PyTree, devices: Devices, sharding: NamedSharding) -> PyTree:
    """Put on each device of this process its part of every leaf, as the sharding says."""

    def across(leaf: Any) -> jax.Array:
        if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
            return leaf
        leaf = local_copy(leaf)
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            data = across(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        values = np.asarray(leaf)
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    is_here = len(local_positions(devices)) == len(devices)
    return jax.device_put(tree, sharding) if is_here else jax.tree.map(across, tree)


def placed_like(abstract: PyTree, devices: Devices) -> PyTree:
    """Shapes and dtypes, sharded as by `place`: a template for `checkpoint.restore`."""
    sharding = _sharding(devices)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), abstract
    )


def split(tree: PyTree, devices: Devices) -> PyTree:
    """Put one slice of arrays [D, ...] on each device; shapes are unchanged."""
    return _put(tree, devices, _sharding(devices, AXIS))


def split_by(read: Callable[[np.ndarray], np.ndarray], shape: tuple, devices: Devices) -> jax.Array:
    """An array [D, ...]; each process reads the slices for its own devices.

    Args:
      read: positions of devices [K] -> their slices [K, ...]; called once.
      shape: the shape of the whole array.
      devices: the D devices of all processes.
    """
    values = read(np.array(local_positions(devices), int))
    return jax.make_array_from_process_local_data(_sharding(devices, AXIS), values, shape)


def local_copy(tree: PyTree) -> PyTree:
    """Replicated leaves as the first device of this process has them; others are unchanged."""

    def local(leaf: Any) -> Any:
        is_replicated = isinstance(leaf, jax.Array) and leaf.is_fully_replicated
        return leaf.addressable_data(0) if is_replicated else leaf

    return jax.tree.map(local, tree)


def fetch(tree: PyTree) -> PyTree:
    """Copy a tree of arrays, replicated or split over all processes' devices, to every host."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    if all(leaf.is_fully_addressable or leaf.is_fully_replicated for leaf in leaves):
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(tree, tiled=True)
