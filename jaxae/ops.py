"""Convolution and transposed convolution in the fastest formulation of each platform.

Usable on its own: this module needs JAX only. Three facts about XLA, all public and open, make the
obvious program slow:

* jax-ml/jax #12868: on CPU a convolution inside a loop body (`lax.scan`, `while_loop`) is many
  times slower than the same convolution outside of it.
* jax-ml/jax #23783 and #31662, openxla/xla #34273: a strided transposed convolution, written as a
  convolution over a dilated input, and above all its weight gradient as automatic differentiation
  derives it (again a convolution over a dilated input) is far slower than it need be, on CPU and on
  GPU.

The cure is to see that a strided convolution is bilinear, and that there are only three maps:

    forward(x, k) = y        input_gradient(y, k) = x        kernel_gradient(x, y) = k

all of them transposes of one another, `<forward(x, k), y> = <x, input_gradient(y, k)> =
<k, kernel_gradient(x, y)>`. A transposed convolution is `input_gradient`; the derivatives of each
map are the other two, to any order. So each is a `jax.custom_vjp` that calls the others, and no
derivative is left to automatic differentiation of a dilated input. Each map has two formulations:

* `native`: one `lax.conv_general_dilated`; used on GPU and TPU. Only `input_gradient` dilates its
  input; `kernel_gradient` is a plain convolution with a dilated window.
* `matrix`: gather the patches, one matrix product, scatter back; used on CPU. It contains no
  convolution at all, so that it runs at full speed inside a loop.

The platform is chosen when the program is lowered, so that one traced or exported function runs in
the right formulation everywhere. Reverse-mode derivatives of any order and `vmap` work; forward
mode (`jvp`, `jacfwd`) raises JAX's `TypeError` for functions with a custom VJP.
"""

import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

Array = jax.Array
Padding = Literal["SAME", "VALID"] | Sequence[tuple[int, int]]
Formulation = Literal["auto", "matrix", "native"]


class Geometry(NamedTuple):
    """What is static about one convolution; hashable."""

    in_size: tuple[int, int]  # of the convolution's input: the transposed one's output
    kernel_size: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    form: Formulation = "auto"

    @property
    def out_size(self) -> tuple[int, int]:
        """Size of the convolution's output: the transposed one's input."""
        spans = zip(self.in_size, self.kernel_size, self.strides, self.padding, strict=True)
        return tuple((size + lo + hi - k) // s + 1 for size, k, s, (lo, hi) in spans)


def geometry(in_size, kernel_size, strides, padding, form: Formulation = "auto") -> Geometry:
    """Resolve a padding against sizes.

    Raises:
      ValueError: the kernel does not fit into the padded input.
    """
    in_size, kernel_size, strides = tuple(in_size), tuple(kernel_size), tuple(strides)
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(in_size, kernel_size, strides, padding.upper())
    geo = Geometry(in_size, kernel_size, strides, tuple(tuple(p) for p in padding), form)
    if min(geo.out_size) < 1:
        raise ValueError(f"a {kernel_size} kernel does not fit into {in_size} padded by {padding}")
    return geo


def conv(
    x: Array,
    kernel: Array,
    strides: tuple[int, int] = (1, 1),
    padding: Padding = "SAME",
    *,
    form: Formulation = "auto",
) -> Array:
    """Two-dimensional convolution (cross-correlation), as `flax.linen.Conv` computes it.

    `y[b, p, q, d] = sum_ijc x[b, s p + i - lo, s q + j - lo, c] kernel[i, j, c, d]`

    Args:
      x: [B, H, W, C].
      kernel: [kh, kw, C, D].
      strides: of the two spatial axes.
      padding: "SAME", "VALID" or ((lo, hi), (lo, hi)).
      form: forces a formulation; "auto" = the platform's.

    Returns:
      [B, P, Q, D], in the dtype of `x`.
    """
    geo = geometry(x.shape[1:3], kernel.shape[:2], strides, padding, form)
    return forward(geo, x, kernel)


def conv_transpose(
    x: Array,
    kernel: Array,
    strides: tuple[int, int] = (1, 1),
    padding: Padding = "SAME",
    *,
    output_size: tuple[int, int] | None = None,
    form: Formulation = "auto",
) -> Array:
    """Transposed convolution: the exact adjoint of `conv` on inputs of `output_size`.

    `<conv(u, kernel), x> = <u, conv_transpose(x, kernel)>` for every u [B, *output_size, D].

    Args:
      x: [B, P, Q, C].
      kernel: [kh, kw, D, C], the layout of Keras' Conv2DTranspose and of Flax' ConvTranspose with
        `transpose_kernel=True`: the kernel of the convolution that this mirrors.
      strides: of the mirrored convolution.
      padding: of the mirrored convolution.
      output_size: (H, W) of the mirrored convolution's input; None = the size that Keras and Flax
        give: stride times the input for SAME, the largest that VALID needs, else the smallest.
      form: forces a formulation; "auto" = the platform's.

    Returns:
      [B, H, W, D], in the dtype of `x`.

    Raises:
      ValueError: no convolution maps `output_size` to the size of `x`.
    """
    size = tuple(x.shape[1:3])
    if output_size is None:
        output_size = _default_output_size(size, kernel.shape[:2], strides, padding)
    geo = geometry(output_size, kernel.shape[:2], strides, padding, form)
    if geo.out_size != size:
        raise ValueError(
            f"output_size {output_size} would need an input of {geo.out_size}, not {size}"
        )
    return input_gradient(geo, x, kernel)


def _default_output_size(size, kernel_size, strides, padding) -> tuple[int, int]:
    if isinstance(padding, str) and padding.upper() == "SAME":
        return tuple(n * s for n, s in zip(size, strides, strict=True))
    if isinstance(padding, str):
        triples = zip(size, kernel_size, strides, strict=True)
        return tuple((n - 1) * s + max(k, s) for n, k, s in triples)
    spans = zip(size, kernel_size, strides, padding, strict=True)
    return tuple((n - 1) * s + k - lo - hi for n, k, s, (lo, hi) in spans)


# The three maps. `x` is [B, H, W, C], `y` is [B, P, Q, D], `k` is [kh, kw, C, D].


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def forward(geo: Geometry, x: Array, k: Array) -> Array:
    """The convolution, (x, k) -> y."""
    return _by_platform(geo.form, _forward_matrix, _forward_native, geo, x, k)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def input_gradient(geo: Geometry, y: Array, k: Array) -> Array:
    """Its transpose in x, (y, k) -> x: the transposed convolution."""
    return _by_platform(geo.form, _input_gradient_matrix, _input_gradient_native, geo, y, k)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def kernel_gradient(geo: Geometry, x: Array, y: Array) -> Array:
    """Its transpose in k, (x, y) -> k."""
    return _by_platform(geo.form, _kernel_gradient_matrix, _kernel_gradient_native, geo, x, y)


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


def _by_platform(form, matrix, native, geo, a, b):
    """The one place where a formulation is chosen."""
    matrix, native = functools.partial(matrix, geo), functools.partial(native, geo)
    if form == "matrix":
        return matrix(a, b)
    if form == "native":
        return native(a, b)
    return lax.platform_dependent(a, b, cpu=matrix, default=native)


# Native formulation.


def _forward_native(geo, x, k):
    return lax.conv_general_dilated(
        x, k, geo.strides, geo.padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _input_gradient_native(geo, y, k):
    spans = zip(geo.in_size, geo.kernel_size, geo.strides, geo.padding, geo.out_size, strict=True)
    padding = [(n - 1 - lo, size + lo - 1 - (out - 1) * s) for size, n, s, (lo, _), out in spans]
    return lax.conv_general_dilated(
        y,
        jnp.flip(k, (0, 1)),
        (1, 1),
        padding,
        lhs_dilation=geo.strides,
        dimension_numbers=("NHWC", "HWOI", "NHWC"),
    )


def _kernel_gradient_native(geo, x, y):
    spans = zip(geo.in_size, geo.kernel_size, geo.strides, geo.padding, geo.out_size, strict=True)
    padding = [(lo, (out - 1) * s + n - size - lo) for size, n, s, (lo, _), out in spans]
    return lax.conv_general_dilated(
        x,
        y,
        (1, 1),
        padding,
        rhs_dilation=geo.strides,
        dimension_numbers=("CHWN", "IHWO", "HWNC"),
    )


# Matrix formulation.


def _patches(geo: Geometry, x: Array) -> Array:
    """[B, H, W, C] -> [B, P, Q, kh kw C]: what each output sees."""
    (height, width), (kh, kw), (sh, sw) = geo.in_size, geo.kernel_size, geo.strides
    (top, _), (left, _) = geo.padding
    rows, cols = geo.out_size
    below, right = (rows - 1) * sh + kh - height - top, (cols - 1) * sw + kw - width - left
    zero = jnp.zeros((), x.dtype)
    x = lax.pad(x, zero, ((0, 0, 0), (top, below, 0), (left, right, 0), (0, 0, 0)))
    taps = [
        x[:, i : i + (rows - 1) * sh + 1 : sh, j : j + (cols - 1) * sw + 1 : sw]
        for i in range(kh)
        for j in range(kw)
    ]
    return jnp.concatenate(taps, axis=-1)


def _forward_matrix(geo, x, k):
    patches = _patches(geo, x)
    batch, rows, cols, depth = patches.shape
    y = patches.reshape(-1, depth) @ k.reshape(depth, -1)
    return y.reshape(batch, rows, cols, -1)


def _kernel_gradient_matrix(geo, x, y):
    patches = _patches(geo, x)
    depth, channels = patches.shape[-1], y.shape[-1]
    k = _contract_rows(patches.reshape(-1, depth), y.reshape(-1, channels))
    return k.reshape(*geo.kernel_size, -1, channels)


def _contract_rows(a: Array, b: Array) -> Array:
    """a.T @ b for [M, K] and [M, N] with many rows: the narrow operand goes left, twice as fast."""
    rows = (((0,), (0,)), ((), ()))
    if a.shape[1] <= b.shape[1]:
        return lax.dot_general(a, b, rows)
    # The barrier keeps XLA from folding the transposition back into the slower product.
    return lax.optimization_barrier(lax.dot_general(b, a, rows)).T


def _input_gradient_matrix(geo, y, k):
    (kh, kw), channels = geo.kernel_size, k.shape[2]
    batch, rows, cols, depth = y.shape
    taps = y.reshape(-1, depth) @ k.reshape(-1, depth).T
    return _scatter(geo, taps.reshape(batch, rows, cols, kh, kw, channels))


def _scatter(geo: Geometry, taps: Array) -> Array:
    """The transpose of `_patches`: [B, P, Q, kh, kw, C] -> [B, H, W, C].

    Input row h is read by output row p through tap i where h + top = s p + i, so the rows of one
    phase (h + top) mod s take a sum of shifted blocks, without any dilated zeros.
    """
    batch, rows, cols, kh, kw, channels = taps.shape
    (height, width), (sh, sw) = geo.in_size, geo.strides
    (top, _), (left, _) = geo.padding
    high = max(rows + (kh - 1) // sh, -(-(height + top) // sh))
    wide = max(cols + (kw - 1) // sw, -(-(width + left) // sw))
    zero = jnp.zeros((), taps.dtype)

    def shifted(i, j):
        a, b = i // sh, j // sw
        pads = ((0, 0, 0), (a, high - rows - a, 0), (b, wide - cols - b, 0), (0, 0, 0))
        return lax.pad(taps[:, :, :, i, j], zero, pads)

    def phase(p, q):
        blocks = [shifted(i, j) for i in range(p, kh, sh) for j in range(q, kw, sw)]
        return sum(blocks) if blocks else jnp.zeros((batch, high, wide, channels), taps.dtype)

    phases = jnp.stack(
        [jnp.stack([phase(p, q) for q in range(sw)], axis=3) for p in range(sh)], axis=2
    )
    x = phases.reshape(batch, high * sh, wide * sw, channels)
    return x[:, top : top + height, left : left + width]
