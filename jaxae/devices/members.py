"""The leading axis [E] of all arrays that differ between members of an ensemble or a grid.

Arrays have this axis even if E = 1; the functions of a `Learner` see one member, without it.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxae.types import Array, Key, PyTree


def keys(key: Key, size: int) -> Key:
    """A key for each member, [E]; if there are several, its number is folded into its key."""
    if size == 1:
        return key[None]
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(size))


def count(tree: PyTree) -> int:
    """E."""
    return jax.tree.leaves(tree)[0].shape[0]


def pick(tree: PyTree, member: int) -> PyTree:
    """One member of a tree [E, ...], without the leading axis."""
    return jax.tree.map(lambda leaf: leaf[member], tree)


def part(tree: PyTree, number: int, size: int = 1) -> PyTree:
    """Part `number`, from 0, of a tree [E, ...] in parts of `size` members, as [size, ...]."""
    return jax.tree.map(lambda leaf: leaf[number * size : (number + 1) * size], tree)


def stack(trees: list[PyTree]) -> PyTree:
    """The members' trees, stacked as one tree [E, ...]."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def each(fun: Callable, *trees: PyTree, one_by_one: bool) -> PyTree:
    """Apply `fun` to every member of trees [E, ...].

    Args:
      fun: takes the trees of one member.
      *trees: with a leading axis [E] on every leaf.
      one_by_one: use `lax.map`, which is faster on a CPU; else `vmap`, which keeps an accelerator
        busy where one small model would not.
    """
    if count(trees) == 1:
        alone = jax.tree.map(lambda leaf: leaf.reshape(leaf.shape[1:]), trees)
        return jax.tree.map(lambda leaf: leaf[None], fun(*alone))
    if one_by_one:
        return lax.map(lambda parts: fun(*parts), trees)
    return jax.vmap(fun)(*trees)


def advance(fun: Callable, states: PyTree, *trees: PyTree, one_by_one: bool) -> PyTree:
    """`each` for a `fun` that returns a new state and a result: those of all members.

    One by one, each new state overwrites the old one. `lax.map` would allocate and copy all states,
    which took a third of the time of a grid with short epochs (Zen 5).
    """
    if count(states) == 1 or not one_by_one:
        return each(fun, states, *trees, one_by_one=one_by_one)

    def advanced(states: PyTree, xs: tuple) -> tuple[PyTree, PyTree]:
        i, *parts = xs
        old = jax.tree.map(lambda a: lax.dynamic_index_in_dim(a, i, keepdims=False), states)
        new, result = fun(old, *parts)
        return written(states, new, i), result

    return lax.scan(advanced, states, (jnp.arange(count(states)), *trees))


def written(tree: PyTree, part: PyTree, i: Array | int) -> PyTree:
    """A tree [T, ...] with `part` in place of its i-th elements."""
    return jax.tree.map(lambda a, b: lax.dynamic_update_index_in_dim(a, b, i, 0), tree, part)
