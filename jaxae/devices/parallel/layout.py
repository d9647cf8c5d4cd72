"""Layouts: which members each device trains."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Int

from jaxae.devices.parallel.devices import Devices
from jaxae.devices.parallel.placing import fetch, place, split
from jaxae.ops import ceil_div
from jaxae.types import AnyArray, PyTree

# The rows of each step of an epoch: [B, T, b], or [E, B, T, b] if every member has its own. A group
# has B devices, and each device b rows of a step.
Plan = Int[np.ndarray, "... B T b"]


class Layout:
    """Members [E] on groups of devices: each group trains its own members.

    Within a group every device holds all of the group's members, and their batches are split over
    its devices. A single run has one group, on which its state is replicated. A grid has several,
    which do not wait for each other within an epoch: arrays [E, ...] are stored as [D, K, ...], K
    members on each device.

    Args:
      devices: D of them, group by group.
      steps: per epoch, of each member [E]; read only if there are several groups.
      groups: number of groups; divides D.
    """

    def __init__(self, devices: Devices, steps: Sequence[int] = (), groups: int = 1):
        self.devices, self.groups = devices, groups
        self.per_group = len(devices) // groups
        self.axis = 0 if groups > 1 else None  # of arrays of members, see `mapped`
        self._shares = share_out(steps, groups) if groups > 1 else None  # members [G, K], or -1

    def place(self, tree: PyTree, empty: int | None = None) -> PyTree:
        """Put arrays [E, ...] on the devices that train their members.

        Places without a member get a copy of another one, or `empty`.
        """
        if self._shares is None:
            return place(tree, self.devices)
        order = np.repeat(self._shares, self.per_group, axis=0)  # by each device

        def arranged(leaf: AnyArray) -> AnyArray:
            if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = np.asarray(leaf)
            placed = leaf[np.maximum(order, 0)]
            if empty is not None:
                placed[order < 0] = empty
            return placed

        return split(jax.tree.map(arranged, tree), self.devices)

    def by_device(self, plan: Plan) -> Int[np.ndarray, "D ... T b"]:
        """The plan of each device: [D, T, b] for all its members, or [D, K, T, b] for each."""
        if plan.ndim == 3:
            return plan
        order = np.arange(len(plan))[None] if self._shares is None else np.maximum(self._shares, 0)
        by_group = plan[order].swapaxes(1, 2)
        return by_group.reshape(-1, *by_group.shape[2:])

    def fetch(self, tree: PyTree) -> PyTree:
        """Placed arrays as arrays on the host, in the order of the members."""
        if self._shares is None:
            return fetch(tree)
        return jax.tree.map(lambda leaf: self._in_order(leaf[:: self.per_group]), fetch(tree))

    def saved(self, tree: PyTree) -> PyTree:
        """Placed arrays as a checkpoint stores them: in the order of the members."""
        return tree if self.groups == 1 else self.fetch(tree)

    def fetch_split(self, values: jax.Array) -> np.ndarray:
        """What each device computed for its part of a plan [D, K, n], on the host as [E, B n]."""
        by_device = fetch(values)
        by_group = by_device.reshape(self.groups, self.per_group, *by_device.shape[1:])
        by_member = by_group.swapaxes(1, 2)
        return self._in_order(by_member.reshape(*by_member.shape[:2], -1))

    def _in_order(self, leaf: AnyArray) -> np.ndarray:
        """[G, K, ...] -> [E, ...]."""
        leaf = np.asarray(leaf).reshape(-1, *leaf.shape[2:])
        if self._shares is None:
            return leaf
        return leaf[np.argsort(self._shares, axis=None)[(self._shares < 0).sum() :]]


def share_out(steps: Sequence[int], groups: int) -> Int[np.ndarray, "G K"]:
    """Assign members to groups: the longest first, each to the group with the fewest steps so far.

    Args:
      steps: per epoch, of each member [E].
      groups: number of groups G.

    Returns:
      Numbers of members, -1 for places without a member; K = ceil(E / G).
    """
    places = ceil_div(len(steps), groups)
    shares: list[list[int]] = [[] for _ in range(groups)]
    for member in np.argsort(steps, kind="stable")[::-1].tolist():
        free = [group for group in shares if len(group) < places]
        min(free, key=lambda group: sum(steps[other] for other in group)).append(member)
    return np.array([group + [-1] * (places - len(group)) for group in shares])
