"""Distributing members with different numbers of steps over devices."""

from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Int

from jaxae.devices import parallel
from jaxae.ops import ceil_div
from jaxae.types import AnyArray, PyTree


def padded(parts: Sequence[np.ndarray], multiple: int) -> Int[np.ndarray, "E T ..."]:
    """Arrays of unequal length as [E, T, ...], filled up with zeros, which are never used."""
    longest = ceil_div(max(map(len, parts)), multiple) * multiple
    out = np.zeros((len(parts), longest, *parts[0].shape[1:]), np.int32)
    for row, part in zip(out, parts, strict=True):
        row[: len(part)] = part
    return out


class Lanes:
    """Arrays of members [E, ...] as [D, K, ...], one slice on each device, and back."""

    def __init__(self, steps: Sequence[int], devices: parallel.Devices):
        self.devices = devices
        self._at = share_out(steps, len(devices))
        self._empty = self._at < 0

    def out(self, tree: PyTree, empty: int | None = None) -> PyTree:
        """Put arrays on the devices; places without a member get a copy of another, or `empty`."""

        def arrange(leaf: AnyArray) -> AnyArray:
            placed = leaf[np.maximum(self._at, 0)]
            if empty is not None:
                placed[self._empty] = empty
            return placed

        return parallel.split(jax.tree.map(arrange, tree), self.devices)

    def back(self, tree: PyTree) -> PyTree:
        """Fetch arrays to the host, in the order of the members."""
        order = np.argsort(self._at, axis=None)[self._empty.sum() :]

        def gather(leaf: AnyArray) -> np.ndarray:
            return np.asarray(leaf).reshape(-1, *leaf.shape[2:])[order]

        return jax.tree.map(gather, tree)


def share_out(steps: Sequence[int], devices: int) -> Int[np.ndarray, "D K"]:
    """Assign members to devices: longest first, each to the device with the fewest steps so far.

    Args:
      steps: the steps in an epoch of each member [E].
      devices: their number D.

    Returns:
      Indices of members, -1 where a place stays empty; K = ceil(E / D).
    """
    places = ceil_div(len(steps), devices)
    taken: list[list[int]] = [[] for _ in range(devices)]
    for member in np.argsort(steps, kind="stable")[::-1].tolist():
        free = [lane for lane in taken if len(lane) < places]
        min(free, key=lambda lane: sum(steps[other] for other in lane)).append(member)
    return np.array([lane + [-1] * (places - len(lane)) for lane in taken])
