"""Fixed feature maps of a row: what a model sees in place of the pixels.

A map is a pure function of one row with nothing fitted, chosen by `data.input` and kept with the
detector. Reconstruction errors are then those of the mapped values: a bright stroke counts no more
than a faint one, and an edge that is off by a pixel hardly at all. To add a map, enter an `Input`
in `INPUTS`, or call `INPUTS.add` from outside the package.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxae.errors import UserError
from jaxae.ops.blur import gaussian_blur
from jaxae.registry import Registry
from jaxae.types import Shape

ORIENTATIONS = 8
_SIDE_BY_SIDE = 256  # rows mapped together: bounds the memory of intermediate values


class Input(NamedTuple):
    """A feature map and the rows that it takes.

    Attributes:
      apply: of one row [*S] with values in [0, 1] -> [*S'], values in [0, 1] too.
      side: smallest height and width of the images [H, W, C] that it takes; 0 = rows of any shape.
    """

    apply: Callable[[Array], Array]
    side: int = 0


def _pooled(x: Float[Array, "H W C"]) -> Float[Array, "h w C"]:
    """Means of 2 x 2 pixels; a last odd row or column is left out."""
    h, w, c = (x.shape[0] // 2, x.shape[1] // 2, x.shape[2])
    return x[: 2 * h, : 2 * w].reshape(h, 2, w, 2, c).mean(axis=(1, 3))


def _normalised(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """Divide x by sqrt(|x|): in [0, 1] as x is, because |x| is at least its largest value."""
    return x / jnp.sqrt(jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(x))), 1e-6))


def _smooth(x: Float[Array, "H W C"]) -> Float[Array, "h w C"]:
    """sqrt(pool(blur(x))): a Gaussian of 1 pixel, means of 2 x 2 pixels.

    The root keeps the sign: a row to judge may lie outside [0, 1], and must not look black.
    """
    pooled = _pooled(gaussian_blur(x, 1.0, radius=4))
    return jnp.sign(pooled) * jnp.sqrt(jnp.abs(pooled))


def _gradients(x: Float[Array, "H W C"]) -> Float[Array, "H W K"]:
    """How strongly, and in which of eight directions, x rises.

    With the gradient g of x after a blur of 1 pixel, r_k = max(0, g . d_k)^2 / |g|: the length of
    the gradient, divided smoothly among the directions d_k = (cos, sin)(2 pi k / 8), as histograms
    of oriented gradients do in bins (Dalal and Triggs, CVPR 2005).
    """
    smooth = gaussian_blur(x, 1.0, radius=4)
    padded = jnp.pad(smooth, ((1, 1), (1, 1), (0, 0)), mode="edge")
    dy = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    dx = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    length = jnp.sqrt(dx**2 + dy**2) + 1e-6
    angles = 2 * np.pi * np.arange(ORIENTATIONS) / ORIENTATIONS
    along = [dx * float(np.cos(a)) + dy * float(np.sin(a)) for a in angles]
    return jnp.concatenate([jnp.square(jnp.maximum(a, 0)) / length for a in along], axis=-1)


def _fine_gradients(x: Float[Array, "H W C"]) -> Float[Array, "h w K"]:
    """Normalised sqrt(pool(r)): a direction for every 2 x 2 pixels."""
    return _normalised(jnp.sqrt(_pooled(_gradients(x))))


def _gradient_cells(x: Float[Array, "H W C"]) -> Float[Array, "h w K"]:
    """Normalised sqrt(pool(pool(blur(r)))): histograms of directions in cells of 4 x 4 pixels.

    The blur of 1 pixel spreads a gradient over neighbouring cells, so that one on a border does
    not jump between cells.
    """
    cells = _pooled(_pooled(gaussian_blur(_gradients(x), 1.0, radius=4)))
    return _normalised(jnp.sqrt(jnp.maximum(cells, 0)))


INPUTS: Registry[Input] = Registry(
    "input",
    Input,
    {
        "none": Input(lambda x: x),
        "smooth": Input(_smooth, 2),
        "smooth_normalised": Input(lambda x: _normalised(_smooth(x)), 2),
        "gradients": Input(_fine_gradients, 2),
        "gradient_cells": Input(_gradient_cells, 4),
    },
)


def shape_of(name: str, shape: Shape) -> Shape:
    """S' of rows of shape S.

    Raises:
      UserError: an unknown map, or rows that it does not take.
    """
    feature_map = INPUTS[name]
    side = feature_map.side
    if side and (len(shape) != 3 or min(shape[:2]) < side):
        raise UserError(
            f"data.input {name!r} takes images [H, W, C] of {side} x {side} pixels or more, "
            f"and the rows are of shape {list(shape)}; use --data.input none"
        )
    return tuple(jax.eval_shape(feature_map.apply, jax.ShapeDtypeStruct(shape, jnp.float32)).shape)


def mapped(name: str, x: Float[np.ndarray, " N *S"]) -> Float[np.ndarray, "N ..."]:
    """`Input.apply` of each of the scaled rows; the caller checks that they are in [0, 1].

    Raises:
      UserError: see `shape_of`.
    """
    if name == "none":
        return x
    shape = shape_of(name, x.shape[1:])
    if not len(x):
        return np.zeros((0, *shape), np.float32)
    return np.asarray(_mapped(name, x))


@functools.partial(jax.jit, static_argnames="name")
def _mapped(name: str, x: Array) -> Array:
    return jax.lax.map(INPUTS[name].apply, x, batch_size=_SIDE_BY_SIDE)
