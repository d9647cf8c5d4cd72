"""Convolution and transposed convolution, in the form that is fastest on each platform.

Usable on its own: it needs only JAX and jaxtyping. `blur` smooths rows, see there. In convolutions
three known issues of XLA make the obvious program slow:

* jax-ml/jax #12868: on CPU a convolution inside a loop body (`lax.scan`, `while_loop`) is many
  times slower than the same convolution outside of it.
* jax-ml/jax #23783 and #31662, openxla/xla #34273: a strided transposed convolution, written as a
  convolution over a dilated input, and above all the weight gradient that automatic differentiation
  derives from it (again a convolution over a dilated input) is far slower than necessary, on CPU
  and on GPU.

But a convolution is bilinear, and there are only three maps:

    forward(x, k) = y        input_gradient(y, k) = x        kernel_gradient(x, y) = k

all transposes of one another: `<forward(x, k), y> = <x, input_gradient(y, k)> =
<k, kernel_gradient(x, y)>`. A transposed convolution is `input_gradient`, and the derivatives of
each map are the other two, to any order. So each is a `jax.custom_vjp` that calls the others, and
automatic differentiation never sees a dilated input. Each map has two forms:

* `convolution` (GPU, TPU): one `lax.conv_general_dilated`. Only `input_gradient` dilates its input;
  `kernel_gradient` is a plain convolution, with a dilated window at most. Where `vmap` maps both
  operands, as over the members of an ensemble, the matrix form replaces a grouped convolution.
* `matrix` (CPU): gather patches, one matrix product, scatter. It contains no convolution, so it
  runs at full speed inside a loop.

The form is chosen when the program is lowered for a platform, so one traced or exported function
has the right form everywhere; `using` traces in another form, see `forms`. Reverse-mode derivatives
of any order and `vmap` work; forward mode (`jvp`, `jacfwd`) raises JAX's `TypeError` for functions
with a custom VJP.

Images have the batch last, [C, H, W, B], as the matrix form needs: `batch_last` and
`batch_first` convert. A network that stays in this layout from its first convolution to its last
trains far faster on a CPU; convolutions name the axes and leave the memory layout to XLA.
"""

import functools

import jax
from jax.custom_batching import custom_vmap
from jaxtyping import Float

from jaxae.ops import convolution, matrix
from jaxae.ops.forms import by_platform, calling_library, current, keep_layout, using
from jaxae.ops.geometry import Geometry, Padding, Size, ceil_div, resolve

__all__ = [
    "Geometry", "Padding", "Size", "batch_first", "batch_last", "by_platform", "calling_library",
    "ceil_div", "conv", "conv_transpose", "current", "keep_layout", "resolve", "using",
]  # fmt: skip

Array = jax.Array


def conv(
    x: Float[Array, "C H W B"],
    kernel: Float[Array, "kh kw C D"],
    strides: Size = (1, 1),
    padding: Padding = "SAME",
) -> Float[Array, "D P Q B"]:
    """Two-dimensional convolution (cross-correlation), as `flax.linen.Conv` computes it.

    `y[d, p, q, b] = sum_ijc x[c, s p + i - lo, s q + j - lo, b] kernel[i, j, c, d]`

    Args:
      x: images with the batch last.
      kernel: of the same dtype.
      strides: of the two spatial axes.
      padding: "SAME", "VALID" or ((lo, hi), (lo, hi)).

    Raises:
      ValueError: the kernel does not fit into the padded input.
    """
    return forward(resolve(x.shape[1:3], kernel.shape[:2], strides, padding), x, kernel)


def conv_transpose(
    y: Float[Array, "D P Q B"],
    kernel: Float[Array, "kh kw C D"],
    strides: Size = (1, 1),
    padding: Padding = "SAME",
    *,
    output_size: Size,
) -> Float[Array, "C H W B"]:
    """Transposed convolution: the exact adjoint of `conv` on inputs of `output_size`.

    `<conv(u, kernel), y> = <u, conv_transpose(y, kernel)>` for every u [C, *output_size, B].

    Args:
      y: images with the batch last.
      kernel: that of the mirrored convolution, as in Keras' Conv2DTranspose and in Flax'
        ConvTranspose with `transpose_kernel=True`.
      strides: of the mirrored convolution.
      padding: of the mirrored convolution.
      output_size: (H, W) of the mirrored convolution's input.

    Raises:
      ValueError: no convolution maps `output_size` to the size of `y`.
    """
    size = tuple(y.shape[1:3])
    geo = resolve(output_size, kernel.shape[:2], strides, padding)
    if geo.out_size != size:
        raise ValueError(f"output_size {output_size} needs an input of {geo.out_size}, not {size}")
    return input_gradient(geo, y, kernel)


def batch_last(x: Float[Array, "B H W C"]) -> Float[Array, "C H W B"]:
    """Move the batch of images to the last axis."""
    return x.transpose(3, 1, 2, 0)


def batch_first(x: Float[Array, "C H W B"]) -> Float[Array, "B H W C"]:
    """Move the batch of images to the first axis."""
    return x.transpose(3, 1, 2, 0)


# The three maps: x [C, H, W, B], y [D, P, Q, B], k [kh, kw, C, D].


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def forward(geo: Geometry, x: Array, k: Array) -> Array:
    """The convolution, (x, k) -> y."""
    return _in_form(geo, _forward_on_cpu, convolution.forward, x, k)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def input_gradient(geo: Geometry, y: Array, k: Array) -> Array:
    """The transpose of `forward` in x, (y, k) -> x: the transposed convolution."""
    return _in_form(geo, matrix.input_gradient, convolution.input_gradient, y, k)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def kernel_gradient(geo: Geometry, x: Array, y: Array) -> Array:
    """The transpose of `forward` in k, (x, y) -> k."""
    return _in_form(geo, matrix.kernel_gradient, convolution.kernel_gradient, x, y)


def _save_both(geo, a, b, fun):
    return fun(geo, a, b), (a, b)


forward.defvjp(
    functools.partial(_save_both, fun=forward),
    lambda geo, xk, y: (input_gradient(geo, y, xk[1]), kernel_gradient(geo, xk[0], y)),
)
input_gradient.defvjp(
    functools.partial(_save_both, fun=input_gradient),
    lambda geo, yk, x: (forward(geo, x, yk[1]), kernel_gradient(geo, x, yk[0])),
)
kernel_gradient.defvjp(
    functools.partial(_save_both, fun=kernel_gradient),
    lambda geo, xy, k: (input_gradient(geo, xy[1], k), forward(geo, xy[0], k)),
)


def _in_form(geo, by_matrix, by_convolution, a, b):
    """Choose between the matrix form and the convolution."""
    by_matrix = functools.partial(by_matrix, geo)
    by_convolution = functools.partial(by_convolution, geo)
    if geo.form in ("native", "portable"):
        return by_convolution(a, b)
    if geo.form == "matrix" or geo.is_full_window:
        return by_matrix(a, b)  # a full window is one matrix product on every platform
    return by_platform(a, b, cpu=by_matrix, default=_ungrouped(by_convolution, by_matrix))


def _forward_on_cpu(geo, x, k):
    if convolution.suits_library(geo, x, k):
        return convolution.forward_by_library(geo, x, k)
    return matrix.forward(geo, x, k)


def _ungrouped(by_convolution, by_matrix):
    """`by_convolution`, but in the matrix form where `vmap` maps both operands.

    XLA has no batched convolution: `vmap` over kernels, as over the members of an ensemble, gives a
    grouped convolution. On a GPU that is slow, and the kernel gradient of S0 for 50 members takes
    600 MB of windows; matrix products can be batched.
    """
    mapped = custom_vmap(by_convolution)

    @mapped.def_vmap
    def rule(axis_size, in_batched, a, b):
        del axis_size
        axes = tuple(0 if batched else None for batched in in_batched)
        side_by_side = jax.vmap(by_matrix, in_axes=axes)
        if not all(in_batched):  # an outer `vmap` may map the other operand
            by_both = jax.vmap(by_convolution, in_axes=axes)
            side_by_side = _ungrouped(by_both, side_by_side)
        return side_by_side(a, b), True

    return mapped
