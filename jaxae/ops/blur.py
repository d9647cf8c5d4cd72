"""Smoothing one row in space or time; used by scores, inputs and corruptions."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def gaussian_blur(x: Float[Array, "*S"], sigma: Array | float, radius: int) -> Float[Array, "*S"]:
    """Convolve an image over height and width, or a series over time, with a Gaussian.

    Borders are mirrored with the edge value repeated, as `scipy.ndimage.gaussian_filter` does by
    default; with `radius >= 4 sigma` the result equals SciPy's.

    Args:
      x: [H, W, C], [T, C], or [F], which has no neighbourhood and is returned unchanged.
      sigma: standard deviation in pixels or samples, may be traced; 0 = no blur.
      radius: the kernel has 2 radius + 1 taps; a Python number, so that shapes stay static.

    Returns:
      Like `x`.
    """
    offsets = np.arange(-radius, radius + 1)
    # Below a tenth of a pixel the kernel is a single tap in float32, so 0 needs no branch.
    taps = jnp.exp(-0.5 * (offsets / jnp.maximum(sigma, 0.05)) ** 2)
    taps = taps / jnp.sum(taps)
    for axis in range(x.ndim - 1):
        # Windows times taps: a fused sum of shifted slices would be recomputed for every tap of the
        # next axis, and a convolution would be slow inside a loop on a CPU.
        windows = jnp.take(jnp.moveaxis(x, axis, -1), _mirrored(x.shape[axis], offsets), axis=-1)
        x = jnp.moveaxis(jnp.matmul(windows, taps, precision="highest"), -1, axis)
    return x


def _mirrored(length: int, offsets: np.ndarray) -> np.ndarray:
    """Positions of the neighbours of every sample, [length, taps], reflected at both ends."""
    at = (np.arange(length)[:, None] + offsets[None]) % (2 * length)
    return np.where(at < length, at, 2 * length - 1 - at)
