"""The three maps of a convolution as one `lax.conv_general_dilated` each: for GPU and TPU.

On a CPU a compiler option makes XLA call a library, oneDNN, for the forward map, in loops too.
Without the option the same program is the slow convolution that the matrix form avoids, so the form
"library" is for callers that compile with the option. Zen 5, batch 64, two cores, JAX 0.12,
milliseconds by matrices and by the library, including its change of layout: 5 x 5, stride 2, 32 ->
64 channels on 14 x 14 maps 2.50 and 1.52, 64 -> 128 on 7 x 7 2.21 and 1.34, 16 -> 32 on 14 x 14 .78
and .47, 32 -> 64 on 7 x 7 .64 and .39.

Slower, so not used: 3 x 3 kernels (.86 and .84, one channel .08 and .16), maps of 2 x 2 (.61 and
12.4: oneDNN's reference code), input gradients by phases (1.33 and 1.47) and kernel gradients (2.44
and 2.78).
"""

import jax
import jax.numpy as jnp
from jax import lax

from jaxae.ops.geometry import Geometry

_CHANNELS_LAST = ("NHWC", "HWIO", "NHWC")
_FEWEST_TAPS, _FEWEST_CHANNELS, _SMALLEST_MAP = 16, 16, 4


def forward(geo: Geometry, x: jax.Array, k: jax.Array) -> jax.Array:
    """(x, k) -> y."""
    return _convolution(geo, x, k, ("CHWN", "HWIO", "CHWN"), geo.strides, geo.padding)


def input_gradient(geo: Geometry, y: jax.Array, k: jax.Array) -> jax.Array:
    """(y, k) -> x: the only map that dilates its input; cuDNN's "backward data"."""
    spans = zip(geo.in_size, geo.kernel_size, geo.strides, geo.padding, geo.out_size, strict=True)
    padding = [(n - 1 - lo, size + lo - 1 - (out - 1) * s) for size, n, s, (lo, _), out in spans]
    dims = ("CHWN", "HWOI", "CHWN")
    k = jnp.flip(k, (0, 1))
    return _convolution(geo, y, k, dims, (1, 1), padding, lhs_dilation=geo.strides)


def kernel_gradient(geo: Geometry, x: jax.Array, y: jax.Array) -> jax.Array:
    """(x, y) -> k: may dilate the window y, never x."""
    spans = zip(geo.in_size, geo.kernel_size, geo.strides, geo.padding, geo.out_size, strict=True)
    padding = [(lo, (out - 1) * s + n - size - lo) for size, n, s, (lo, _), out in spans]
    # The batch is contracted, as channels usually are; the channels of x act as the batch.
    dims = ("NHWC", "OHWI", "HWNC")
    return _convolution(geo, x, y, dims, (1, 1), padding, rhs_dilation=geo.strides)


def _convolution(geo, x, window, dims, strides, padding, **dilation):
    """Convolve with axes in the order `dims`, or transposed to the only order converters know."""
    order = _CHANNELS_LAST if geo.form == "portable" else dims
    x, window = _transposed(x, dims[0], order[0]), _transposed(window, dims[1], order[1])
    y = lax.conv_general_dilated(x, window, strides, padding, dimension_numbers=order, **dilation)
    return _transposed(y, order[2], dims[2])


def _transposed(a: jax.Array, axes: str, order: str) -> jax.Array:
    return lax.transpose(a, [axes.index(axis) for axis in order])


def suits_library(geo: Geometry, x: jax.Array, k: jax.Array) -> bool:
    """Whether oneDNN supports (x, k) -> y and was measured to be faster."""
    kh, kw, channels, depth = k.shape
    return (
        geo.form == "library"
        and not geo.is_full_window
        and kh * kw >= _FEWEST_TAPS
        and min(geo.out_size) >= _SMALLEST_MAP
        and min(channels, depth) >= _FEWEST_CHANNELS
        and x.dtype == k.dtype == jnp.float32
    )


def forward_by_library(geo: Geometry, x: jax.Array, k: jax.Array) -> jax.Array:
    """(x, k) -> y with channels last, the only layout for which XLA calls oneDNN."""
    return forward(geo._replace(form="portable"), x, k)
