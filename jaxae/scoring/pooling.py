"""How the places of a score map become one number, and maps of one shape.

To add a pooling, enter a `Pooling` in `POOLINGS`, or call `POOLINGS.add` from outside the package.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxae.errors import UserError
from jaxae.ops.blur import gaussian_blur
from jaxae.registry import Registry
from jaxae.types import Argument, Scalar, Shape

LARGEST = np.finfo(np.float32).max
FAR = 1e18  # squares of values beyond it are infinite in float32


class Pooling(NamedTuple):
    """How a map without channels becomes the score of its row.

    Attributes:
      apply: `(map [*P], number) -> []`; without `number` if it takes none.
      argument: the number after its name, whose example is the default; None: it takes none.
    """

    apply: Callable[..., Scalar]
    argument: Argument | None = None


def _smooth_max(places: Float[Array, "*P"], sigma: float) -> Scalar:
    """The maximum after smoothing with a Gaussian of standard deviation `sigma`, in places."""
    smooth = gaussian_blur(places[..., None], sigma, radius=math.ceil(4 * sigma))
    return jnp.max(smooth)


def _top(places: Float[Array, "*P"], share: float) -> Scalar:
    """The mean of the largest values, a share of all, at least one."""
    count = max(1, round(share * places.size))
    return jnp.mean(jax.lax.top_k(places.ravel(), count)[0])


POOLINGS: Registry[Pooling] = Registry(
    "pooling",
    Pooling,
    {
        "mean": Pooling(jnp.mean),
        "max": Pooling(_smooth_max, Argument("a standard deviation in places", 1.0, -1e-9, 64)),
        "top": Pooling(_top, Argument("a share of the places", 0.02, 0, 1)),
    },
)


@functools.lru_cache(maxsize=64)
def resolve(spec: str) -> Callable[[Array], Scalar]:
    """The pooling of a specification: "mean", "max", "max:2" or "top:0.05".

    Raises:
      UserError: the name is unknown, or its number is superfluous or out of range.
    """
    name, colon, number = spec.partition(":")
    entry = POOLINGS[name]
    if entry.argument is None:
        if colon:
            raise UserError(f"pooling {spec!r} takes no number; write {name!r}")
        return entry.apply
    meaning, example, low, high = entry.argument
    try:
        value = float(number) if colon else example
    except ValueError:
        value = math.nan
    if not low < value < high:
        raise UserError(
            f"pooling {spec!r} needs {meaning} after {name}, as in {name}:{example:g}, between "
            f"{max(low, 0):g} and {high:g}"
        )
    return lambda places: entry.apply(places, value)


def without_channels(places: Float[Array, "*P"], shape: Shape) -> Float[Array, "*Q"]:
    """A map of a row of this shape, averaged over its channels if it has them.

    Images [H, W, C] and series [T, C] have channels; the features of vectors are places.
    """
    return jnp.mean(places, axis=-1) if places.ndim == len(shape) > 1 else places


def enlarged(places: Float[Array, "*P"], shape: Shape) -> Float[Array, "*Q"]:
    """A map without channels, linearly interpolated to the places of a row of this shape."""
    places = without_channels(places, shape)
    size = shape[:-1] if len(shape) > 1 else shape
    return places if places.shape == size else jax.image.resize(places, size, "linear")


def bounded(places: Float[Array, "*P"], x: Float[Array, "*S"]) -> Float[Array, "*P"]:
    """A map of the row x, in its places, without infinite values and NaN.

    Values beyond `FAR` (or NaN, of which `data.input` makes rows that are too far away) have
    `LARGEST`. One such value may spoil the reconstruction of all others: beside it, places without
    a finite value have 0. Without it, they have `LARGEST` too.
    """
    is_far = ~(jnp.abs(x) < FAR)
    is_far = jnp.any(is_far, axis=-1) if is_far.ndim > places.ndim else is_far
    other = jnp.where(jnp.any(is_far), 0, LARGEST)
    return jnp.where(is_far, LARGEST, jnp.where(places <= LARGEST, places, other))
