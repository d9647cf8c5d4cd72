"""The three maps of a convolution as patches and matrix products, without any convolution: for CPU.

Arrays are [C, H, W, B] throughout: x [C, H, W, B], y [D, P, Q, B], k [kh, kw, C, D]. With the batch
last, taps, phases and shifts are blocks of contiguous memory and every product has one long,
contiguous axis. These choices were measured on an AVX-512 CPU:

* each `_dot` states its operands in the order that XLA multiplies fastest;
* patches of large kernels are gathered in two stages, columns then rows: as fast as all taps at
  once, and less to compile; for small kernels all at once is faster;
* with stride 1 the transpose of a convolution is a convolution, so the gather, or the scatter, is
  done on the side with fewer channels;
* if more than a tenth of all taps would fall on padding, as with 5 x 5 kernels on 7 x 7 maps, the
  output is computed in bands of rows, each with the kernel rows that overlap the input;
* the scatter of a transposed convolution with stride s is done for each of its s x s phases, as a
  sum of shifted blocks, so that no work is spent on dilated zeros.
"""

import functools
import operator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from jaxae.ops.forms import keep_layout
from jaxae.ops.geometry import Geometry, ceil_div

Array = jax.Array

_MAX_TAPS_AT_ONCE = 9  # the largest kernel that is gathered in one stage


def forward(geo: Geometry, x: Array, k: Array) -> Array:
    """(x, k) -> y."""
    parts = [_forward(b.geo, x[:, b.rows_in], k[b.taps]) for b in _bands(geo)]
    return jnp.concatenate(parts, axis=1).astype(x.dtype)


def input_gradient(geo: Geometry, y: Array, k: Array) -> Array:
    """(y, k) -> x."""
    parts = [
        _widen(_input_gradient(b.geo, y[:, b.rows_out], k[b.taps]), 1, b.rows_in, geo.in_size[0])
        for b in _bands(geo)
    ]
    return functools.reduce(operator.add, parts).astype(y.dtype)


def kernel_gradient(geo: Geometry, x: Array, y: Array) -> Array:
    """(x, y) -> k."""
    taps = geo.kernel_size[0]
    parts = [
        _widen(_kernel_gradient(b.geo, x[:, b.rows_in], y[:, b.rows_out]), 0, b.taps, taps)
        for b in _bands(geo)
    ]
    return functools.reduce(operator.add, parts).astype(y.dtype)


class _Band(NamedTuple):
    """Output rows for which the same kernel rows overlap the input."""

    rows_out: slice
    taps: slice
    rows_in: slice
    geo: Geometry  # of this band; without padding above and below if there are several


def _bands(geo: Geometry) -> list[_Band]:
    """The bands; a single one if several would save less than a tenth of the work."""
    (height, _), (taps, _), (stride, _) = geo.in_size, geo.kernel_size, geo.strides
    top, rows = geo.padding[0][0], geo.out_size[0]
    spans = [(max(0, top - stride * p), min(taps, height + top - stride * p)) for p in range(rows)]
    if min(b - a for a, b in spans) < 1 or sum(b - a for a, b in spans) > 0.9 * rows * taps:
        return [_Band(slice(0, rows), slice(0, taps), slice(0, height), geo)]
    bands = []
    for first, last in sorted({(spans.index(m), rows - spans[::-1].index(m)) for m in spans}):
        a, b = spans[first]
        rows_in = slice(stride * first + a - top, stride * (last - 1) + b - top)
        band = geo._replace(
            in_size=(rows_in.stop - rows_in.start, geo.in_size[1]),
            kernel_size=(b - a, geo.kernel_size[1]),
            padding=((0, 0), geo.padding[1]),
        )
        bands.append(_Band(slice(first, last), slice(a, b), rows_in, band))
    return bands


def _widen(a: Array, axis: int, rows: slice, size: int) -> Array:
    """Pad `a` with zeros, so that it fills `rows` of an axis of `size`."""
    pads = [(0, 0, 0)] * a.ndim
    pads[axis] = (rows.start, size - rows.stop, 0)
    return lax.pad(a, jnp.zeros((), a.dtype), pads)


def _forward(geo: Geometry, x: Array, k: Array) -> Array:
    channels, depth = k.shape[2:]
    if geo.is_full_window:
        columns = x.transpose(1, 2, 0, 3).reshape(-1, x.shape[-1])
        return _long_weights_first(k, columns).reshape(depth, 1, 1, -1)
    if geo.has_mirror and depth < channels:
        return _product_then_scatter(geo.mirror(), x, _flip(k))
    return _gather_then_product(geo, x, k)


def _input_gradient(geo: Geometry, y: Array, k: Array) -> Array:
    channels, depth = k.shape[2:]
    if geo.is_full_window:
        x = _dot(k.reshape(-1, depth), y.reshape(depth, -1), 1, 0)
        return x.reshape(*geo.in_size, channels, -1).transpose(2, 0, 1, 3)
    if geo.has_mirror and depth < channels:
        return _gather_then_product(geo.mirror(), y, _flip(k))
    return _product_then_scatter(geo, y, k)


def _kernel_gradient(geo: Geometry, x: Array, y: Array) -> Array:
    channels, depth = x.shape[0], y.shape[0]
    if geo.is_full_window:
        columns = x.transpose(1, 2, 0, 3).reshape(-1, x.shape[-1])
        return _rows_of_both(columns, y.reshape(depth, -1)).reshape(*geo.in_size, channels, depth)
    if geo.has_mirror and depth < channels:
        return _flip(_gather_then_contract(geo.mirror(), y, x))
    return _gather_then_contract(geo, x, y)


def _flip(k: Array) -> Array:
    """The kernel of the mirrored stride-1 convolution."""
    return jnp.flip(k, (0, 1)).swapaxes(2, 3)


def _dot(a: Array, b: Array, axis_a: int, axis_b: int) -> Array:
    """A matrix product; shorter operands are accumulated in, and returned as, float32."""
    # This also makes bfloat16 products fast on a CPU: 600 against 130 GFLOP/s on a core.
    precise = jnp.promote_types(a.dtype, jnp.float32)
    return lax.dot_general(a, b, (((axis_a,), (axis_b,)), ((), ())), preferred_element_type=precise)


def _weights_first(k: Array, patches: Array) -> Array:
    """[..., D], [K, M] -> [D, M]; the leading axes of `k`, flattened, are K."""
    depth = k.shape[-1]
    if k.dtype != jnp.float32:
        # With a transposed left operand bfloat16 would not use the matrix units. XLA does not fold
        # this transposition into the product, because its operand is not a matrix.
        rows = k.transpose(k.ndim - 1, *range(k.ndim - 1)).reshape(depth, -1)
        return _dot(rows, patches, 1, 0)
    return _dot(k.reshape(-1, depth), patches, 0, 0)  # 160 against 130 GFLOP/s


def _long_weights_first(k: Array, columns: Array) -> Array:
    """`_weights_first` for a K much larger than M, as in a full window."""
    if k.dtype != jnp.float32:
        return _weights_first(k, columns)
    # The caller must not transpose the result either: [128, 32] of K = 3136 .45 -> .12 ms.
    return keep_layout(_dot(keep_layout(k.reshape(-1, k.shape[-1]).T), columns, 1, 0))


def _rows_of_both(a: Array, b: Array) -> Array:
    """[N, M], [D, M] -> [N, D]: products of rows; those of `b` are few and short."""
    if a.dtype != jnp.float32:
        return _dot(a, b, 1, 1)
    return keep_layout(_dot(a, keep_layout(b.T), 1, 0))


def _gather_then_product(geo: Geometry, x: Array, k: Array) -> Array:
    patches = _patches(geo, x)
    rows, *size, batch = patches.shape
    y = _weights_first(k, patches.reshape(rows, -1))
    return y.reshape(-1, *size, batch)


def _gather_then_contract(geo: Geometry, x: Array, y: Array) -> Array:
    patches = _patches(geo, x)
    rows, depth = patches.shape[0], y.shape[0]
    k = _dot(patches.reshape(rows, -1), y.reshape(depth, -1), 1, 1)
    return k.reshape(*geo.kernel_size, -1, depth)


def _product_then_scatter(geo: Geometry, y: Array, k: Array) -> Array:
    depth, *size, batch = y.shape
    taps = _dot(k.reshape(-1, depth), y.reshape(depth, -1), 1, 0)
    return _scatter(geo, taps.reshape(*geo.kernel_size, -1, *size, batch))


def _patches(geo: Geometry, x: Array) -> Array:
    """[C, H, W, B] -> [kh kw C, P, Q, B]: the inputs of each output."""
    (height, width), (kh, kw), (sh, sw) = geo.in_size, geo.kernel_size, geo.strides
    (top, _), (left, _) = geo.padding
    rows, cols = geo.out_size
    below, right = (rows - 1) * sh + kh - height - top, (cols - 1) * sw + kw - width - left
    pads = ((0, 0, 0), (top, below, 0), (left, right, 0), (0, 0, 0))
    x = lax.pad(x, jnp.zeros((), x.dtype), pads)

    def row(x, i):
        return x[:, i : i + (rows - 1) * sh + 1 : sh]

    def column(x, j):
        return x[:, :, j : j + (cols - 1) * sw + 1 : sw]

    if kh * kw <= _MAX_TAPS_AT_ONCE:
        taps = [column(row(x, i), j) for i in range(kh) for j in range(kw)]
        return jnp.concatenate(taps, axis=0)
    x = jnp.concatenate([column(x, j) for j in range(kw)], axis=0)
    return jnp.concatenate([row(x, i) for i in range(kh)], axis=0)


def _scatter(geo: Geometry, taps: Array) -> Array:
    """The transpose of `_patches`: [kh, kw, C, P, Q, B] -> [C, H, W, B].

    Row p of y reads row h = s u + v of x through tap i if h + top = s p + i: the rows of a phase v
    are a sum of blocks, each shifted by (i - v - top) / s rows.
    """
    kh, kw, channels, rows, cols, batch = taps.shape
    (height, width), (sh, sw) = geo.in_size, geo.strides
    (top, _), (left, _) = geo.padding
    high, wide = ceil_div(height, sh), ceil_div(width, sw)

    def shifted(i, j, down, right):
        ends = (high - rows - down, wide - cols - right)  # negative numbers crop
        pads = ((0, 0, 0), (down, ends[0], 0), (right, ends[1], 0), (0, 0, 0))
        return lax.pad(taps[i, j], jnp.zeros((), taps.dtype), pads)

    def phase(v, w):
        blocks = [
            shifted(i, j, (i - v - top) // sh, (j - w - left) // sw)
            for i in range((v + top) % sh, kh, sh)
            for j in range((w + left) % sw, kw, sw)
        ]
        return sum(blocks) if blocks else jnp.zeros((channels, high, wide, batch), taps.dtype)

    phases = [jnp.stack([phase(v, w) for w in range(sw)], axis=3) for v in range(sh)]
    x = jnp.stack(phases, axis=2).reshape(channels, high * sh, wide * sw, batch)
    return x[:, :height, :width]
