"""Convolution layers with Flax's parameters and the formulations of `jaxae.ops`."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae import ops
from jaxae.types import Initializer


class Conv(nn.Module):
    """`flax.linen.Conv` in two dimensions: same parameters, same values, see `ops.conv`.

    Parameters are float32: `kernel` [kh, kw, C, features] and `bias` [features].

    Attributes:
      features: number of output channels.
      kernel_size: (kh, kw).
      strides: of the two spatial axes.
      padding: "SAME", "VALID" or ((lo, hi), (lo, hi)).
      kernel_init: initialiser of the kernel.
      bias_init: initialiser of the bias.
      dtype: of the computation; None = float32's promotion with the input.
      layout: of input and output, "BHWC" or "CHWB": see `ops.batch_last`.
      form: forces a formulation; "auto" = the platform's.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: ops.Padding = "SAME"
    kernel_init: Initializer = nn.initializers.glorot_uniform()
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = None
    layout: ops.Layout = "BHWC"
    form: ops.Formulation = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "d p q e"]:
        """[B, H, W, C] -> [B, P, Q, features], or the same with the batch last."""
        shape = (*self.kernel_size, x.shape[self.layout.index("C")], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,))
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        y = ops.conv(x, kernel, self.strides, self.padding, layout=self.layout, form=self.form)
        return _add_bias(y, bias, self.layout.index("C"))


class ConvTranspose(nn.Module):
    """The adjoint of `Conv`: `flax.linen.ConvTranspose(transpose_kernel=True)`, any output size.

    Parameters are float32: `kernel` [kh, kw, features, C] and `bias` [features].

    Attributes:
      features: number of output channels.
      kernel_size: (kh, kw).
      strides: of the mirrored convolution.
      padding: of the mirrored convolution.
      output_size: (H, W) of the mirrored convolution's input; None = Flax's.
      kernel_init: initialiser of the kernel. Glorot's bound is symmetric in the two channel axes;
        one that uses fan-in alone must be told `in_axis=-1, out_axis=-2`.
      bias_init: initialiser of the bias.
      dtype: of the computation; None = float32's promotion with the input.
      layout: of input and output, "BHWC" or "CHWB": see `ops.batch_last`.
      form: forces a formulation; "auto" = the platform's.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    padding: ops.Padding = "SAME"
    output_size: tuple[int, int] | None = None
    kernel_init: Initializer = nn.initializers.glorot_uniform()
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = None
    layout: ops.Layout = "BHWC"
    form: ops.Formulation = "auto"

    @nn.compact
    def __call__(self, x: Float[Array, "b p q c"]) -> Float[Array, "d h w e"]:
        """[B, P, Q, C] -> [B, H, W, features], or the same with the batch last."""
        shape = (*self.kernel_size, self.features, x.shape[self.layout.index("C")])
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        bias = self.param("bias", self.bias_init, (self.features,))
        x, kernel = nn.dtypes.promote_dtype(x, kernel, dtype=self.dtype)
        y = ops.conv_transpose(
            x,
            kernel,
            self.strides,
            self.padding,
            output_size=self.output_size,
            layout=self.layout,
            form=self.form,
        )
        return _add_bias(y, bias, self.layout.index("C"))


class Dense(nn.Module):
    """`flax.linen.Dense` with the bias added in float32: same parameters, same float32 values.

    Attributes:
      features: number of outputs.
      kernel_init: initialiser of the kernel [F, features].
      bias_init: initialiser of the bias [features].
      dtype: of the product; parameters are float32.
    """

    features: int
    kernel_init: Initializer = nn.initializers.glorot_uniform()
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "B F"]) -> Float[Array, "B D"]:
        """Apply the layer; D = features."""
        x, kernel, bias = _dense_parameters(self, x, (x.shape[-1], self.features))
        y = x @ kernel if x.dtype == jnp.float32 else _short_product(x, kernel)
        return _add_bias(y, bias, channel_axis=1)


class DenseFromMaps(nn.Module):
    """`Dense` of the flattened [B, H, W, C], for maps with the batch on the last axis.

    Same parameters and values; the maps are not transposed.

    Attributes:
      features: number of outputs.
      kernel_init: initialiser of the kernel [H W C, features].
      bias_init: initialiser of the bias [features].
      dtype: of the product; parameters are float32.
    """

    features: int
    kernel_init: Initializer = nn.initializers.glorot_uniform()
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "C H W B"]) -> Float[Array, "B D"]:
        """Apply the layer; D = features."""
        channels, *size, batch = x.shape
        shape = (math.prod(x.shape[:3]), self.features)
        x, kernel, bias = _dense_parameters(self, x, shape)
        window = kernel.reshape(*size, channels, self.features)
        y = ops.conv(x, window, padding="VALID", layout="CHWB")
        return _add_bias(y.reshape(self.features, batch).T, bias, channel_axis=1)


class DenseToMaps(nn.Module):
    """`Dense` whose outputs are the flattened [B, H, W, C], given as maps with the batch last.

    Same parameters and values; the maps are not transposed.

    Attributes:
      shape: (H, W, C).
      kernel_init: initialiser of the kernel [F, H W C].
      bias_init: initialiser of the bias [H W C].
      dtype: of the product; parameters are float32.
    """

    shape: tuple[int, int, int]
    kernel_init: Initializer = nn.initializers.glorot_uniform()
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Float[Array, "B F"]) -> Float[Array, "C H W B"]:
        """Apply the layer."""
        batch, features = x.shape
        x, kernel, bias = _dense_parameters(self, x, (features, math.prod(self.shape)))
        window = kernel.T.reshape(*self.shape, features)
        x = x.T.reshape(features, 1, 1, batch)
        y = ops.conv_transpose(x, window, padding="VALID", layout="CHWB")
        bias = bias.reshape(self.shape).transpose(2, 0, 1)[..., None]
        return _add(y, bias)


def _dense_parameters(
    layer: nn.Module, x: Array, shape: tuple[int, int]
) -> tuple[Array, Array, Array]:
    """Of a dense layer: the input and the kernel, in the dtype of their product, and the bias."""
    kernel = layer.param("kernel", layer.kernel_init, shape, jnp.float32)
    bias = layer.param("bias", layer.bias_init, shape[1:])
    return *nn.dtypes.promote_dtype(x, kernel, dtype=layer.dtype), bias


@jax.custom_vjp
def _short_product(x: Array, kernel: Array) -> Array:
    """The product [B, F] @ [F, D] of bfloat16, summed in float32, then rounded; so its derivatives.

    On a CPU only so is the product one of the matrix units; a bfloat16 sum would keep it off them.
    """
    return _rounded_dot(x, kernel)


def _rounded_dot(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, preferred_element_type=jnp.float32).astype(a.dtype)


def _short_product_backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    x, kernel = saved
    return _rounded_dot(g, kernel.T), _rounded_dot(ops.as_stated(x.T), g)


_short_product.defvjp(
    lambda x, kernel: (_rounded_dot(x, kernel), (x, kernel)), _short_product_backward
)


def _add_bias(y: Array, bias: Array, channel_axis: int) -> Array:
    """Add a bias [C] along an axis."""
    return _add(y, bias.reshape([-1 if axis == channel_axis else 1 for axis in range(y.ndim)]))


def _add(y: Array, bias: Array) -> Array:
    """Add a bias in float32, then go back to the dtype of `y`.

    The bias's gradient is then summed in float32 too. In bfloat16 a sum over a batch's pixels stops
    growing after a few hundred terms, and the gradient would be off by more than half.
    """
    return (y + bias).astype(y.dtype)
