"""A convolutional autoencoder whose decoder retraces the encoder's shapes, odd or even."""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxae.errors import UserError
from jaxae.models.init import ACTIVATIONS, INITS
from jaxae.models.layers import Conv, ConvTranspose, DenseFromMaps, DenseToMaps
from jaxae.ops import batch_first, batch_last
from jaxae.types import Array, Shape

Size = tuple[int, int]
Padding = str | tuple[tuple[int, int], ...]


def resolve_padding(padding: str, spatial: int) -> Padding:
    """A configuration's padding for `spatial` axes: same, valid or a number of pixels."""
    if padding in ("same", "valid"):
        return padding.upper()
    pixels = int(padding)
    # A series has one real axis; the dummy axis beside it is not padded.
    return ((pixels, pixels), (pixels, pixels) if spatial == 2 else (0, 0))


def output_size(size: Size, kernel: Size, strides: Size, padding: Padding) -> Size:
    """Height and width after a convolution."""
    if padding == "SAME":
        return tuple(-(-n // s) for n, s in zip(size, strides, strict=True))
    pads = ((0, 0), (0, 0)) if padding == "VALID" else padding
    return tuple(
        (n + sum(p) - k) // s + 1 for n, k, s, p in zip(size, kernel, strides, pads, strict=True)
    )


class ConvAutoencoder(nn.Module):
    """x [B, H, W, C] or [B, T, C] -> code [B, L] -> reconstruction of x's shape.

    Encoder: strided convolutions, then a dense layer to the code. Decoder: a dense layer, then
    transposed convolutions, each the adjoint of its encoder layer, so that 28 -> 14 -> 7 comes back
    as 7 -> 14 -> 28 and 17 -> 9 -> 5 as 5 -> 9 -> 17. With `latent = 0` the last feature map, flat,
    is the code and both dense layers are left out. Between its first and its last convolution a
    half keeps the batch on the last axis: see `jaxae.ops`.

    Attributes:
      shape: S of one row, [H, W, C] or [T, C].
      filters: channels of each encoder layer.
      kernels: kernel size of each layer.
      strides: stride of each layer.
      paddings: "same", "valid" or a number of pixels, for each layer.
      latent: L; 0 for a purely convolutional model.
      head_kernel: 0 = the last transposed convolution makes the image, and each has as many outputs
        as its encoder layer has inputs; k = each has as many outputs as its encoder layer, and a
        k x k convolution makes the image.
      activation: between layers; `encoder_activation` follows the last encoder convolution,
        `code_activation` the code, `expand_activation` the decoder's dense layer.
      encoder_activation: see `activation`.
      code_activation: see `activation`.
      expand_activation: see `activation`.
      output_activation: on the reconstruction.
      initializer: initial weights (see `jaxae.models.init.INITS`).
      dtype: of activations; parameters are float32 and so are the outputs.
    """

    shape: Shape
    filters: tuple[int, ...] = (32, 64)
    kernels: tuple[int, ...] = (3, 3)
    strides: tuple[int, ...] = (2, 2)
    paddings: tuple[str, ...] = ("same", "same")
    latent: int = 32
    head_kernel: int = 0
    activation: str = "relu"
    encoder_activation: str = "relu"
    code_activation: str = "linear"
    expand_activation: str = "relu"
    output_activation: str = "sigmoid"
    initializer: str = "glorot"
    dtype: Any = jnp.float32

    def setup(self):
        """Lay the encoder out, remember the sizes it passes, and retrace them."""
        if len(self.shape) not in (2, 3):
            raise UserError(
                f"a conv model needs rows of shape [H, W, C] or [T, C], not {self.shape}; "
                "use method dense"
            )
        geometry = self._geometry()
        init, depth = INITS[self.initializer], len(self.filters)
        channels = (self.shape[-1], *self.filters)
        common = {"dtype": self.dtype, "kernel_init": init.kernel, "layout": "CHWB"}
        self.convs = [
            Conv(
                self.filters[i],
                kernel,
                strides,
                padding,
                bias_init=init.bias(math.prod(kernel) * channels[i]),
                **common,
            )
            for i, (_, kernel, strides, padding) in enumerate(geometry)
        ]
        outs = self.filters if self.head_kernel else channels[:-1]
        self.deconvs = [
            ConvTranspose(
                outs[i],
                kernel,
                strides,
                padding,
                output_size=size,
                bias_init=init.bias(math.prod(kernel) * outs[i]),
                **common,
            )
            for i, (size, kernel, strides, padding) in reversed(list(enumerate(geometry)))
        ]
        if self.head_kernel:
            kernel = self._pair(self.head_kernel)
            self.head = Conv(
                self.shape[-1],
                kernel,
                (1, 1),
                "SAME",
                bias_init=init.bias(math.prod(kernel) * self.filters[0]),
                **common,
            )
        size, kernel, strides, padding = geometry[-1]
        self.code_shape = (*output_size(size, kernel, strides, padding), self.filters[depth - 1])
        if self.latent:
            width = math.prod(self.code_shape)
            dense = {"dtype": self.dtype, "kernel_init": init.kernel}
            self.to_code = DenseFromMaps(self.latent, bias_init=init.bias(width), **dense)
            self.expand = DenseToMaps(self.code_shape, bias_init=init.bias(self.latent), **dense)

    def _pair(self, n: int) -> Size:
        return (n, n) if len(self.shape) == 3 else (n, 1)

    def _geometry(self) -> list[tuple[Size, Size, Size, Padding]]:
        """Of each encoder layer: input size, kernel, strides and padding."""
        size = self.shape[:2] if len(self.shape) == 3 else (self.shape[0], 1)
        geometry = []
        for k, s, p in zip(self.kernels, self.strides, self.paddings, strict=True):
            layer = (size, self._pair(k), self._pair(s), resolve_padding(p, len(self.shape) - 1))
            geometry.append(layer)
            size = output_size(*layer)
            if min(size) < 1:
                raise UserError(
                    f"model.kernels {self.kernels} leave nothing of rows of shape {self.shape}; "
                    "use smaller kernels or padding same"
                )
        return geometry

    def encode(self, x: Array) -> Array:
        """[B, *S] -> code [B, L]."""
        size = self.shape[:2] if len(self.shape) == 3 else (self.shape[0], 1)
        x = batch_last(x.reshape(x.shape[0], *size, self.shape[-1]))
        for i, conv in enumerate(self.convs):
            last = i == len(self.convs) - 1
            x = ACTIVATIONS[self.encoder_activation if last else self.activation](conv(x))
        if self.latent:
            return ACTIVATIONS[self.code_activation](self.to_code(x))
        x = batch_first(x)
        return x.reshape(x.shape[0], -1)

    def decode(self, z: Array) -> Array:
        """Code [B, L] -> reconstruction [B, *S] float32."""
        if self.latent:
            x = ACTIVATIONS[self.expand_activation](self.expand(z))
        else:
            x = batch_last(z.reshape(z.shape[0], *self.code_shape))
        for i, deconv in enumerate(self.deconvs):
            makes_image = i == len(self.deconvs) - 1 and not self.head_kernel
            x = deconv(x)
            x = x if makes_image else ACTIVATIONS[self.activation](x)
        if self.head_kernel:
            x = self.head(x)
        x = batch_first(ACTIVATIONS[self.output_activation](x))
        return x.reshape(x.shape[0], *self.shape).astype(jnp.float32)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """[B, *S] -> (reconstruction [B, *S], code [B, L])."""
        z = self.encode(x)
        return self.decode(z), z.astype(jnp.float32)
