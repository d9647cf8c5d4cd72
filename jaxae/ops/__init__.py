"""Convolution and transposed convolution in the fastest formulation of each platform.

Usable on its own: it needs only JAX and jaxtyping. `blur` smooths rows, see there. In convolutions
three known issues of XLA make the obvious program slow:

* jax-ml/jax #12868: on CPU a convolution inside a loop body (`lax.scan`, `while_loop`) is many
  times slower than the same convolution outside of it.
* jax-ml/jax #23783 and #31662, openxla/xla #34273: a strided transposed convolution, written as a
  convolution over a dilated input, and above all the weight gradient that automatic differentiation
  derives from it (again a convolution over a dilated input) is far slower than it need be, on CPU
  and on GPU.

But a convolution is bilinear, and there are only three maps:

    forward(x, k) = y        input_gradient(y, k) = x        kernel_gradient(x, y) = k

all transposes of one another: `<forward(x, k), y> = <x, input_gradient(y, k)> =
<k, kernel_gradient(x, y)>`. A transposed convolution is `input_gradient`, and the derivatives of
each map are the other two, to any order. So each is a `jax.custom_vjp` that calls the others, and
no derivative is left to automatic differentiation of a dilated input. Each map has two forms:

* `native` (GPU, TPU): one `lax.conv_general_dilated`. Only `input_gradient` dilates its input;
  `kernel_gradient` is a plain convolution, with a dilated window at most. Where `vmap` maps both
  operands, as over the members of an ensemble, the matrix form stands in for a grouped convolution.
* `matrix` (CPU): gather patches, one matrix product, scatter. It contains no convolution, so it
  runs at full speed inside a loop. Inside `calling_library`, large forward convolutions are left to
  the library that XLA can call for them; see `jaxae.ops.onednn`.

The form is chosen when the program is lowered for a platform, so one traced or exported function
has the right form everywhere. Reverse-mode derivatives of any order and `vmap` work; forward mode
(`jvp`, `jacfwd`) raises JAX's `TypeError` for functions with a custom VJP.

There are two layouts: "BHWC", and "CHWB", in which the matrix form computes. A network that stays
in "CHWB" from its first convolution to its last (`batch_last` and `batch_first` convert) trains far
faster on a CPU; the native form names the axes and leaves the memory layout to XLA.
"""

import functools

import jax
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Float

from jaxae.ops import matrix, native, onednn
from jaxae.ops.geometry import (
    Formulation,
    Geometry,
    Layout,
    Padding,
    Size,
    ceil_div,
    resolve,
    transposed_size,
)
from jaxae.ops.matrix import keep_layout
from jaxae.ops.onednn import calling as calling_library

__all__ = [
    "Formulation", "Geometry", "Layout", "Padding", "Size", "batch_first", "batch_last",
    "calling_library", "ceil_div", "conv", "conv_transpose", "forward", "input_gradient",
    "keep_layout", "kernel_gradient", "resolve",
]  # fmt: skip

Array = jax.Array


def conv(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "kh kw c D"],
    strides: Size = (1, 1),
    padding: Padding = "SAME",
    *,
    layout: Layout = "BHWC",
    form: Formulation = "auto",
) -> Float[Array, "d P Q e"]:
    """Two-dimensional convolution (cross-correlation), as `flax.linen.Conv` computes it.

    `y[b, p, q, d] = sum_ijc x[b, s p + i - lo, s q + j - lo, c] kernel[i, j, c, d]`

    Args:
      x: [B, H, W, C], or [C, H, W, B] in layout "CHWB".
      kernel: [kh, kw, C, D], of the same dtype.
      strides: of the two spatial axes.
      padding: "SAME", "VALID" or ((lo, hi), (lo, hi)).
      layout: of `x` and of the result.
      form: forces a formulation; "auto" = the platform's.

    Returns:
      [B, P, Q, D] or [D, P, Q, B].

    Raises:
      ValueError: the kernel does not fit into the padded input.
    """
    how = {"layout": layout, "form": _form(form)}
    return forward(resolve(x.shape[1:3], kernel.shape[:2], strides, padding, **how), x, kernel)


def conv_transpose(
    x: Float[Array, "B P Q C"],
    kernel: Float[Array, "kh kw D c"],
    strides: Size = (1, 1),
    padding: Padding = "SAME",
    *,
    output_size: Size | None = None,
    layout: Layout = "BHWC",
    form: Formulation = "auto",
) -> Float[Array, "d H W e"]:
    """Transposed convolution: the exact adjoint of `conv` on inputs of `output_size`.

    `<conv(u, kernel), x> = <u, conv_transpose(x, kernel)>` for every u [B, *output_size, D].

    Args:
      x: [B, P, Q, C], or [C, P, Q, B] in layout "CHWB".
      kernel: [kh, kw, D, C], the layout of Keras' Conv2DTranspose and of Flax' ConvTranspose with
        `transpose_kernel=True`: the kernel of the convolution that this mirrors.
      strides: of the mirrored convolution.
      padding: of the mirrored convolution.
      output_size: (H, W) of the mirrored convolution's input; None = that of Keras and Flax.
      layout: of `x` and of the result.
      form: forces a formulation; "auto" = the platform's.

    Returns:
      [B, H, W, D] or [D, H, W, B].

    Raises:
      ValueError: no convolution maps `output_size` to the size of `x`.
    """
    size, kernel_size = tuple(x.shape[1:3]), kernel.shape[:2]
    output_size = output_size or transposed_size(size, kernel_size, strides, padding)
    geo = resolve(output_size, kernel_size, strides, padding, layout=layout, form=_form(form))
    if geo.out_size != size:
        raise ValueError(f"output_size {output_size} needs an input of {geo.out_size}, not {size}")
    return input_gradient(geo, x, kernel)


def _form(form: Formulation) -> Formulation:
    return "library" if form == "auto" and onednn.is_called() else form


def batch_last(x: Float[Array, "B H W C"]) -> Float[Array, "C H W B"]:
    """From layout "BHWC" to "CHWB"."""
    return x.transpose(3, 1, 2, 0)


def batch_first(x: Float[Array, "C H W B"]) -> Float[Array, "B H W C"]:
    """From layout "CHWB" to "BHWC"."""
    return x.transpose(3, 1, 2, 0)


# The three maps. In layout "BHWC": x [B, H, W, C], y [B, P, Q, D]; always: k [kh, kw, C, D].


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def forward(geo: Geometry, x: Array, k: Array) -> Array:
    """The convolution, (x, k) -> y."""
    return _by_platform(geo, _forward_matrix, native.forward, x, k)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def input_gradient(geo: Geometry, y: Array, k: Array) -> Array:
    """Its transpose in x, (y, k) -> x: the transposed convolution."""
    return _by_platform(geo, _input_gradient_matrix, native.input_gradient, y, k)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def kernel_gradient(geo: Geometry, x: Array, y: Array) -> Array:
    """Its transpose in k, (x, y) -> k."""
    return _by_platform(geo, _kernel_gradient_matrix, native.kernel_gradient, x, y)


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


def _by_platform(geo, by_matrix, by_convolution, a, b):
    """Choose the formulation; nothing else does."""
    by_matrix = functools.partial(by_matrix, geo)
    by_convolution = functools.partial(by_convolution, geo)
    if geo.form == "matrix" or (geo.form != "native" and geo.is_full_window):
        return by_matrix(a, b)  # a full window is one matrix product, everywhere
    if geo.form == "native":
        return by_convolution(a, b)
    by_convolution = _ungrouped(by_convolution, by_matrix)
    return lax.platform_dependent(a, b, cpu=by_matrix, default=by_convolution)


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
        if not all(in_batched):  # one more `vmap` around may map the other operand
            by_both = jax.vmap(by_convolution, in_axes=axes)
            side_by_side = _ungrouped(by_both, side_by_side)
        return side_by_side(a, b), True

    return mapped


# The matrix form computes in "CHWB"; "BHWC" is converted.


def _forward_matrix(geo, x, k):
    if not geo.is_full_window and onednn.suits(geo, x, k):
        return onednn.forward(geo, x, k)
    if geo.layout == "CHWB":
        return matrix.forward(geo, x, k)
    return batch_first(matrix.forward(geo, batch_last(x), k))


def _input_gradient_matrix(geo, y, k):
    if geo.layout == "CHWB":
        return matrix.input_gradient(geo, y, k)
    return batch_first(matrix.input_gradient(geo, batch_last(y), k))


def _kernel_gradient_matrix(geo, x, y):
    if geo.layout == "CHWB":
        return matrix.kernel_gradient(geo, x, y)
    return matrix.kernel_gradient(geo, batch_last(x), batch_last(y))
