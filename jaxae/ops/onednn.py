"""A forward convolution as a call of oneDNN, the library that XLA can use on a CPU.

XLA calls it, in loops too, if a compiler option says so; without the option the same program is the
slow convolution that the matrix form avoids. So this form is used only inside `calling`, whose
caller compiles with the option. Zen 5, batch 64, two cores, JAX 0.12, milliseconds by matrices and
by the library with its change of layout: 5 x 5, stride 2, 32 -> 64 channels on 14 x 14 maps 2.50
and 1.52, 64 -> 128 on 7 x 7 2.21 and 1.34, 16 -> 32 on 14 x 14 .78 and .47, 32 -> 64 on 7 x 7 .64
and .39.

Not used, since they are slower: 3 x 3 kernels (.86 and .84, one channel .08 and .16), maps of 2 x
2 (.61 and 12.4: oneDNN's reference code), input gradients by phases (1.33 and 1.47, 1.33 and 1.77)
and kernel gradients (2.44 and 2.78, 1.87 and 2.53). XLA's other library, YNNPACK, knows
convolutions with a dilated window too, in JAX 0.10 as well (its fusion type for single
convolutions), so that kernel gradients need no patches: batch 128, 32 -> 64 on 14 x 14 3.3 by
matrices and 3.0, 64 -> 128 on 7 x 7 3.1 and 2.7. But with the changes of layout around them ALOCC
trains at .89 of its speed, at .86 with oneDNN's forward passes too, and at .65 to .76 if the whole
network has channels last.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax import lax

from jaxae.ops.geometry import Geometry

_FEWEST_TAPS, _FEWEST_CHANNELS, _SMALLEST_MAP = 16, 16, 4
_CALLING: contextvars.ContextVar[bool] = contextvars.ContextVar("calling", default=False)


@contextlib.contextmanager
def calling() -> Iterator[None]:
    """Trace programs that will be compiled with the option that makes XLA call the library."""
    token = _CALLING.set(True)
    try:
        yield
    finally:
        _CALLING.reset(token)


def is_called() -> bool:
    """Whether a convolution traced now may call the library."""
    return _CALLING.get()


def suits(geo: Geometry, x: jax.Array, k: jax.Array) -> bool:
    """Whether the library was measured to be faster for (x, k) -> y."""
    kh, kw, channels, depth = k.shape
    return (
        geo.form == "library"
        and kh * kw >= _FEWEST_TAPS
        and min(geo.out_size) >= _SMALLEST_MAP
        and min(channels, depth) >= _FEWEST_CHANNELS
        and x.dtype == k.dtype == jnp.float32
    )


def forward(geo: Geometry, x: jax.Array, k: jax.Array) -> jax.Array:
    """(x, k) -> y."""
    batch_last = geo.layout == "CHWB"
    x = x.transpose(3, 1, 2, 0) if batch_last else x
    dims = ("NHWC", "HWIO", "NHWC")  # the only layout for which XLA calls the library
    y = lax.conv_general_dilated(x, k, geo.strides, geo.padding, dimension_numbers=dims)
    return y.transpose(3, 1, 2, 0) if batch_last else y
