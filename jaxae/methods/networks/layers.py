"""Layers with the same parameters as in Flax, and the convolutions of `jaxae.ops`."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae import ops
from jaxae.types import Initializer

# Of so many values of a row's maps the weights are far larger than a few rows: the product reads
# them as they lie. Rows of 256 x 256, batch 4, 17 million weights: 1.16 times as fast (Zen 5).
_LONG = 1 << 14


class _Layer(nn.Module, kw_only=True):
    """A layer with a kernel and a bias, both float32.

    Attributes:
      kernel_init: initialiser of the kernel.
      bias_init: initialiser of the bias [D].
      dtype: of the computation; None = float32's promotion with the input.
    """

    kernel_init: Initializer = nn.initializers.glorot_uniform()
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = None


class Conv(_Layer):
    """`flax.linen.Conv` in two dimensions with the batch last: same parameters, same values.

    The kernel is [kh, kw, C, features].

    Attributes:
      features: number of output channels.
      kernel_size: (kh, kw).
      strides: of the two spatial axes.
      padding: "SAME", "VALID" or ((lo, hi), (lo, hi)).
    """

    features: int
    kernel_size: ops.Size
    strides: ops.Size
    padding: ops.Padding

    @nn.compact
    def __call__(self, x: Float[Array, "C H W B"]) -> Float[Array, "D P Q B"]:
        """Apply the layer."""
        shape = (*self.kernel_size, x.shape[0], self.features)
        x, kernel, bias = _parameters(self, x, shape, self.features)
        return _add(ops.conv(x, kernel, self.strides, self.padding), bias.reshape(-1, 1, 1, 1))


class ConvTranspose(_Layer):
    """The adjoint of `Conv`: `flax.linen.ConvTranspose(transpose_kernel=True)`, any output size.

    The kernel is [kh, kw, features, C]. Glorot's bound is symmetric in the two channel axes; an
    initialiser that uses fan-in alone needs `in_axis=-1, out_axis=-2`.

    Attributes:
      features: number of output channels.
      kernel_size: of the convolution that it mirrors, as are `strides` and `padding`.
      output_size: (H, W) of that convolution's input.
    """

    features: int
    kernel_size: ops.Size
    strides: ops.Size
    padding: ops.Padding
    output_size: ops.Size

    @nn.compact
    def __call__(self, y: Float[Array, "C P Q B"]) -> Float[Array, "D H W B"]:
        """Apply the layer."""
        shape = (*self.kernel_size, self.features, y.shape[0])
        y, kernel, bias = _parameters(self, y, shape, self.features)
        x = ops.conv_transpose(y, kernel, self.strides, self.padding, output_size=self.output_size)
        return _add(x, bias.reshape(-1, 1, 1, 1))


class Dense(_Layer):
    """`flax.linen.Dense` with the bias added in float32: same parameters, same float32 values.

    Attributes:
      features: number of outputs, D.
    """

    features: int

    @nn.compact
    def __call__(self, x: Float[Array, "B F"]) -> Float[Array, "B D"]:
        """Apply the layer."""
        x, kernel, bias = _parameters(self, x, (x.shape[-1], self.features), self.features)
        return _add(_product(x, kernel), bias[None])


class DenseFromMaps(Dense):
    """`Dense` of the flattened [B, H, W, C], for maps with the batch last.

    Same parameters and values; the maps are not transposed, unless they are smaller than weights.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "C H W B"]) -> Float[Array, "B D"]:
        """Apply the layer; F = H W C."""
        channels, *size, batch = x.shape
        shape = (math.prod(x.shape[:3]), self.features)
        x, kernel, bias = _parameters(self, x, shape, self.features)
        if len(kernel) > _LONG:
            return _add(_product(ops.batch_first(x).reshape(batch, -1), kernel), bias[None])
        y = ops.conv(x, kernel.reshape(*size, channels, self.features), padding="VALID")
        return _add(y.reshape(self.features, batch).T, bias[None])


class DenseToMaps(_Layer):
    """`Dense` whose outputs are the flattened [B, H, W, C], given as maps with the batch last.

    Same parameters and values; the maps are not transposed, unless they are smaller than weights.

    Attributes:
      shape: (H, W, C); D = H W C.
    """

    shape: tuple[int, int, int]

    @nn.compact
    def __call__(self, x: Float[Array, "B F"]) -> Float[Array, "C H W B"]:
        """Apply the layer."""
        batch, features = x.shape
        outputs = math.prod(self.shape)
        x, kernel, bias = _parameters(self, x, (features, outputs), outputs)
        if outputs > _LONG:
            y = _add(_product(x, kernel), bias[None])
            return ops.batch_last(y.reshape(batch, *self.shape))
        window, y = kernel.T.reshape(*self.shape, features), x.T.reshape(features, 1, 1, batch)
        x = ops.conv_transpose(y, window, padding="VALID", output_size=self.shape[:2])
        return _add(x, bias.reshape(self.shape).transpose(2, 0, 1)[..., None])


def _parameters(
    layer: nn.Module, x: Array, kernel_shape: tuple[int, ...], outputs: int
) -> tuple[Array, Array, Array]:
    """The input and the layer's kernel, in the dtype of their product, and its bias [outputs]."""
    kernel = layer.param("kernel", layer.kernel_init, kernel_shape, jnp.float32)
    bias = layer.param("bias", layer.bias_init, (outputs,))
    return *nn.dtypes.promote_dtype(x, kernel, dtype=layer.dtype), bias


def _product(x: Array, kernel: Array) -> Array:
    return x @ kernel if x.dtype == jnp.float32 else _short_product(x, kernel)


@jax.custom_vjp
def _short_product(x: Array, kernel: Array) -> Array:
    """The bfloat16 product [B, F] @ [F, D], summed in float32, then rounded, like its derivatives.

    A CPU uses its matrix units only in this form; it would not use them for a bfloat16 sum.
    """
    return _rounded_dot(x, kernel)


def _rounded_dot(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32).astype(a.dtype)


def _short_product_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    return _rounded_dot(g, kernel.T), _rounded_dot(ops.keep_layout(x.T), g)


_short_product.defvjp(
    lambda x, kernel: (_rounded_dot(x, kernel), (x, kernel)), _short_product_backward
)


def _add(y: Array, bias: Array) -> Array:
    """Add a bias in float32, then convert to the dtype of `y`.

    The bias's gradient is thus summed in float32 too. In bfloat16 a sum over a batch's pixels stops
    growing after a few hundred terms, and the gradient would be wrong by more than half.
    """
    return (y + bias).astype(y.dtype)
