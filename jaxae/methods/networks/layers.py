"""Convolution layers with Flax's parameters and the formulations of `jaxae.ops`."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae import ops
from jaxae.types import Initializer


class _Convolution(nn.Module):
    """The fields of both convolutions; parameters are float32.

    Attributes:
      features: number of output channels.
      kernel_size: (kh, kw).
      strides: of the convolution or, transposed, of the one that it mirrors; so is `padding`.
      padding: "SAME", "VALID" or ((lo, hi), (lo, hi)).
      kernel_init: initialiser of the kernel.
      bias_init: initialiser of the bias [features].
      dtype: of the computation; None = float32's promotion with the input.
      layout: of input and output, "BHWC" or "CHWB": see `ops.batch_last`.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: ops.Padding = "SAME"
    kernel_init: Initializer = nn.initializers.glorot_uniform()
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = None
    layout: ops.Layout = "BHWC"


class Conv(_Convolution):
    """`flax.linen.Conv` in two dimensions: same parameters, same values, see `ops.conv`.

    The kernel is [kh, kw, C, features].
    """

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "d p q e"]:
        """[B, H, W, C] -> [B, P, Q, features], or the same with the batch last."""
        channel_axis = self.layout.index("C")
        shape = (*self.kernel_size, x.shape[channel_axis], self.features)
        x, kernel, bias = _parameters(self, x, shape, self.features)
        y = ops.conv(x, kernel, self.strides, self.padding, layout=self.layout)
        return _add_bias(y, bias, channel_axis)


class ConvTranspose(_Convolution):
    """The adjoint of `Conv`: `flax.linen.ConvTranspose(transpose_kernel=True)`, any output size.

    The kernel is [kh, kw, features, C]. Glorot's bound is symmetric in the two channel axes; an
    initialiser that uses fan-in alone needs `in_axis=-1, out_axis=-2`.

    Attributes:
      output_size: (H, W) of the mirrored convolution's input; None = Flax's.
    """

    output_size: tuple[int, int] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b p q c"]) -> Float[Array, "d h w e"]:
        """[B, P, Q, C] -> [B, H, W, features], or the same with the batch last."""
        channel_axis = self.layout.index("C")
        shape = (*self.kernel_size, self.features, x.shape[channel_axis])
        x, kernel, bias = _parameters(self, x, shape, self.features)
        sizes = {"output_size": self.output_size, "layout": self.layout}
        y = ops.conv_transpose(x, kernel, self.strides, self.padding, **sizes)
        return _add_bias(y, bias, channel_axis)


class _DenseLayer(nn.Module):
    """The fields of dense layers.

    Attributes:
      features: number of outputs, D.
      kernel_init: initialiser of the kernel [F, D].
      bias_init: initialiser of the bias [D].
      dtype: of the product; parameters are float32.
    """

    features: int
    kernel_init: Initializer = nn.initializers.glorot_uniform()
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = None


class Dense(_DenseLayer):
    """`flax.linen.Dense` with the bias added in float32: same parameters, same float32 values."""

    @nn.compact
    def __call__(self, x: Float[Array, "B F"]) -> Float[Array, "B D"]:
        """Apply the layer."""
        x, kernel, bias = _parameters(self, x, (x.shape[-1], self.features), self.features)
        y = x @ kernel if x.dtype == jnp.float32 else _short_product(x, kernel)
        return _add_bias(y, bias, channel_axis=1)


class DenseFromMaps(_DenseLayer):
    """`Dense` of the flattened [B, H, W, C], for maps with the batch on the last axis.

    Same parameters and values; the maps are not transposed.
    """

    @nn.compact
    def __call__(self, x: Float[Array, "C H W B"]) -> Float[Array, "B D"]:
        """Apply the layer; F = H W C."""
        channels, *size, batch = x.shape
        shape = (math.prod(x.shape[:3]), self.features)
        x, kernel, bias = _parameters(self, x, shape, self.features)
        window = kernel.reshape(*size, channels, self.features)
        y = ops.conv(x, window, padding="VALID", layout="CHWB")
        return _add_bias(y.reshape(self.features, batch).T, bias, channel_axis=1)


class DenseToMaps(nn.Module):
    """`Dense` whose outputs are the flattened [B, H, W, C], given as maps with the batch last.

    Same parameters and values; the maps are not transposed.

    Attributes:
      shape: (H, W, C); the others are those of `Dense`, with D = H W C.
    """

    shape: tuple[int, int, int]
    kernel_init: Initializer = nn.initializers.glorot_uniform()
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "B F"]) -> Float[Array, "C H W B"]:
        """Apply the layer."""
        batch, features = x.shape
        outputs = math.prod(self.shape)
        x, kernel, bias = _parameters(self, x, (features, outputs), outputs)
        window = kernel.T.reshape(*self.shape, features)
        x = x.T.reshape(features, 1, 1, batch)
        y = ops.conv_transpose(x, window, padding="VALID", layout="CHWB")
        bias = bias.reshape(self.shape).transpose(2, 0, 1)[..., None]
        return _add(y, bias)


def _parameters(
    layer: nn.Module, x: Array, kernel_shape: tuple[int, ...], outputs: int
) -> tuple[Array, Array, Array]:
    """The input and the layer's kernel, in the dtype of their product, and its bias [outputs]."""
    kernel = layer.param("kernel", layer.kernel_init, kernel_shape, jnp.float32)
    bias = layer.param("bias", layer.bias_init, (outputs,))
    return *nn.dtypes.promote_dtype(x, kernel, dtype=layer.dtype), bias


@jax.custom_vjp
def _short_product(x: Array, kernel: Array) -> Array:
    """The product [B, F] @ [F, D] of bfloat16, summed in float32, then rounded; so its derivatives.

    A CPU's matrix units compute it in this form only; a bfloat16 sum would not use them.
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


def _add_bias(y: Array, bias: Array, channel_axis: int) -> Array:
    """Add a bias [C] along an axis."""
    return _add(y, bias.reshape([-1 if axis == channel_axis else 1 for axis in range(y.ndim)]))


def _add(y: Array, bias: Array) -> Array:
    """Add a bias in float32, then go back to the dtype of `y`.

    This sums the bias's gradient in float32 too. In bfloat16 a sum over a batch's pixels stops
    growing after a few hundred terms, and the gradient would be off by more than half.
    """
    return (y + bias).astype(y.dtype)
