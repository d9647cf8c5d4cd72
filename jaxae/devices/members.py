"""The leading axis [E] of everything that members of an ensemble, or of a grid, have of their own.

It is always there, E = 1 included; the functions of a `Learner` see one member, without it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxae.types import Key, PyTree


def keys(key: Key, size: int) -> Key:
    """One key for each member, [E]: the number of a member folded in where there are several."""
    if size == 1:
        return key[None]
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(size))


def count(tree: PyTree) -> int:
    """E."""
    return jax.tree.leaves(tree)[0].shape[0]


def pick(tree: PyTree, member: int) -> PyTree:
    """What belongs to one member, without the leading axis."""
    return jax.tree.map(lambda leaf: leaf[member], tree)


def only(tree: PyTree, member: int) -> PyTree:
    """What belongs to one member, as [1, ...]."""
    return jax.tree.map(lambda leaf: leaf[member : member + 1], tree)


def stack(trees: list[PyTree]) -> PyTree:
    """What belongs to each member, as one tree with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def each(fun: Callable, *trees: PyTree, one_by_one: bool) -> PyTree:
    """`fun` of every member's part of trees [E, ...].

    Args:
      fun: of what belongs to one member.
      *trees: with a leading axis [E] on every leaf.
      one_by_one: with `lax.map`, which is faster on a CPU; else with `vmap`, which fills an
        accelerator that one small model leaves idle.
    """
    if count(trees) == 1:
        alone = jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[1:]), trees)
        return jax.tree.map(lambda leaf: leaf[None], fun(*alone))
    if one_by_one:
        return lax.map(lambda parts: fun(*parts), trees)
    return jax.vmap(fun)(*trees)
