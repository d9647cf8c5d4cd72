"""The three maps of a convolution as one `lax.conv_general_dilated` each: for GPU and TPU."""

import jax
import jax.numpy as jnp
from jax import lax

from jaxae.ops.geometry import Geometry

_ACTIVATIONS = {"BHWC": "NHWC", "CHWB": "CHWN"}  # in the letters of lax
# The batch is contracted, in the place of channels; the channels of x take the place of the batch.
_KERNEL_GRADIENT = {"BHWC": ("CHWN", "IHWO", "HWNC"), "CHWB": ("NHWC", "OHWI", "HWNC")}


def forward(geo: Geometry, x: jax.Array, k: jax.Array) -> jax.Array:
    """(x, k) -> y."""
    dims = (_ACTIVATIONS[geo.layout], "HWIO", _ACTIVATIONS[geo.layout])
    return lax.conv_general_dilated(x, k, geo.strides, geo.padding, dimension_numbers=dims)


def input_gradient(geo: Geometry, y: jax.Array, k: jax.Array) -> jax.Array:
    """(y, k) -> x: the only map that dilates its input; cuDNN's "backward data"."""
    spans = zip(geo.in_size, geo.kernel_size, geo.strides, geo.padding, geo.out_size, strict=True)
    padding = [(n - 1 - lo, size + lo - 1 - (out - 1) * s) for size, n, s, (lo, _), out in spans]
    return lax.conv_general_dilated(
        y,
        jnp.flip(k, (0, 1)),
        (1, 1),
        padding,
        lhs_dilation=geo.strides,
        dimension_numbers=(_ACTIVATIONS[geo.layout], "HWOI", _ACTIVATIONS[geo.layout]),
    )


def kernel_gradient(geo: Geometry, x: jax.Array, y: jax.Array) -> jax.Array:
    """(x, y) -> k: may dilate the window y, never x."""
    spans = zip(geo.in_size, geo.kernel_size, geo.strides, geo.padding, geo.out_size, strict=True)
    padding = [(lo, (out - 1) * s + n - size - lo) for size, n, s, (lo, _), out in spans]
    return lax.conv_general_dilated(
        x,
        y,
        (1, 1),
        padding,
        rhs_dilation=geo.strides,
        dimension_numbers=_KERNEL_GRADIENT[geo.layout],
    )
