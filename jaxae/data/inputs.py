"""Fixed feature maps of a row, which replace the pixels as the model's input.

A map is a pure function of one row with nothing fitted, selected by `data.input` and stored with
the detector. Reconstruction errors are then those of the mapped values: a bright stroke counts no
more than a faint one, and an edge displaced by a pixel counts very little. To add a map, enter an
`Input` in `INPUTS`, or call `INPUTS.add` from outside the package.
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
      apply: one row [*S] with values in [0, 1] -> [*S'], also in [0, 1].
      side: smallest height and width of the images [H, W, C] that it takes; 0 = rows of any shape.
    """

    apply: Callable[[Array], Array]
    side: int = 0


def _pooled(x: Float[Array, "H W C"]) -> Float[Array, "h w C"]:
    """Means of 2 x 2 pixels; a last odd row or column is left out."""
    h, w, c = (x.shape[0] // 2, x.shape[1] // 2, x.shape[2])
    return x[: 2 * h, : 2 * w].reshape(h, 2, w, 2, c).mean(axis=(1, 3))


def _normalised(x: Float[Array, "*S"]) -> Float[Array, "*S"]:
    """Divide x by sqrt(|x|); stays in [0, 1], because |x| is at least its largest value."""
    return x / jnp.sqrt(jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(x))), 1e-6))


def _smooth(x: Float[Array, "H W C"]) -> Float[Array, "h w C"]:
    """sqrt(pool(blur(x))): a Gaussian of 1 pixel, means of 2 x 2 pixels.

    The root keeps the sign: a row to judge may be outside [0, 1], and must not become black.
    """
    pooled = _pooled(gaussian_blur(x, 1.0, radius=4))
    return jnp.sign(pooled) * jnp.sqrt(jnp.abs(pooled))


def _gradients(x: Float[Array, "H W C"]) -> Float[Array, "H W K"]:
    """The strength of x's gradient in each of eight directions.

    With the gradient g of x after a blur of 1 pixel, r_k = max(0, g . d_k)^2 / |g|: the length of
    the gradient, divided smoothly among the directions d_k = (cos, sin)(2 pi k / 8); histograms of
    oriented gradients use bins instead (Dalal and Triggs, CVPR 2005).
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
    """Normalised sqrt(pool(r)): directions in cells of 2 x 2 pixels."""
    return _normalised(jnp.sqrt(_pooled(_gradients(x))))


def _gradient_cells(x: Float[Array, "H W C"]) -> Float[Array, "h w K"]:
    """Normalised sqrt(pool(pool(blur(r)))): histograms of directions in cells of 4 x 4 pixels.

    The blur of 1 pixel spreads a gradient over neighbouring cells, so that a gradient on a border
    does not jump between cells.
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
    """The shape S' of mapped rows of shape S.

    Raises:
      UserError: the map is unknown, or does not take rows of this shape.
    """
    feature_map = INPUTS[name]
    side = feature_map.side
    if side and (len(shape) != 3 or min(shape[:2]) < side):
        raise UserError(
            f"data.input {name!r} takes images [H, W, C] of {side} x {side} pixels or more, "
            f"but the rows have the shape {list(shape)}; use --data.input none"
        )
    return tuple(jax.eval_shape(feature_map.apply, jax.ShapeDtypeStruct(shape, jnp.float32)).shape)


def mapped(name: str, x: Float[np.ndarray, " N *S"]) -> Float[np.ndarray, "N ..."]:
    """`Input.apply` for each scaled row; the caller checks that values are in [0, 1].

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
