"""A convolutional autoencoder whose decoder mirrors the encoder's shapes, odd or even."""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae import ops
from jaxae.errors import UserError
from jaxae.methods.networks.dense import Autoencoder
from jaxae.methods.networks.init import ACTIVATIONS, INITS
from jaxae.methods.networks.layers import Conv, ConvTranspose, DenseFromMaps, DenseToMaps
from jaxae.ops import batch_first, batch_last


def _padding(padding: str, spatial: int) -> ops.Padding:
    """A configuration's padding for `spatial` axes: same, valid or a number of pixels."""
    if padding in ("same", "valid"):
        return "SAME" if padding == "same" else "VALID"
    pixels = int(padding)
    # A series has one real axis; the dummy second axis is not padded.
    return ((pixels, pixels), (pixels, pixels) if spatial == 2 else (0, 0))


class ConvAutoencoder(Autoencoder):
    """A convolutional autoencoder of images [H, W, C] or series [T, C].

    Encoder: strided convolutions, then a dense layer to the code. Decoder: a dense layer, then
    transposed convolutions, each the adjoint of its encoder layer, so that 28 -> 14 -> 7 becomes
    7 -> 14 -> 28 and 17 -> 9 -> 5 becomes 5 -> 9 -> 17. With `latent = 0` the code is the flattened
    last feature map, and there are no dense layers. Encoder and decoder keep the batch on the last
    axis between their first and last convolutions: see `jaxae.ops`.

    Attributes:
      filters: channels of each encoder layer.
      kernels: kernel size of each layer.
      strides: stride of each layer.
      paddings: "same", "valid" or a number of pixels, for each layer.
      head_kernel: 0 = each transposed convolution has as many outputs as its encoder layer has
        inputs, and the last one gives the image; k = each has as many outputs as its encoder layer,
        and a k x k convolution after them gives the image.
      encoder_activation: after the last encoder convolution.
      expand_activation: after the decoder's dense layer.
    """

    filters: tuple[int, ...]
    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    paddings: tuple[str, ...]
    head_kernel: int
    encoder_activation: str
    expand_activation: str

    def setup(self):
        """Build the encoder, then a decoder that mirrors its sizes."""
        geometry, init = self._geometry(), INITS[self.initializer]

        def weights(*fan_in: int) -> dict[str, Any]:
            bias_init = init.bias(math.prod(fan_in))
            return {"kernel_init": init.kernel, "bias_init": bias_init, "dtype": self.dtype}

        channels = (self.shape[-1], *self.filters)
        self.convs = [
            Conv(
                self.filters[i],
                geo.kernel_size,
                geo.strides,
                geo.padding,
                **weights(*geo.kernel_size, channels[i]),
            )
            for i, geo in enumerate(geometry)
        ]
        outs = self.filters if self.head_kernel else channels[:-1]
        self.deconvs = [
            ConvTranspose(
                outs[i],
                geo.kernel_size,
                geo.strides,
                geo.padding,
                geo.in_size,
                **weights(*geo.kernel_size, outs[i]),
            )
            for i, geo in reversed(list(enumerate(geometry)))
        ]
        if self.head_kernel:
            kernel = self._pair(self.head_kernel)
            options = weights(*kernel, self.filters[0])
            self.head = Conv(self.shape[-1], kernel, (1, 1), "SAME", **options)
        self.code_shape = (*geometry[-1].out_size, self.filters[-1])
        if self.latent:
            self.to_code = DenseFromMaps(self.latent, **weights(*self.code_shape))
            self.expand = DenseToMaps(self.code_shape, **weights(self.latent))

    def _pair(self, n: int) -> ops.Size:
        return (n, n) if len(self.shape) == 3 else (n, 1)

    def _image_size(self) -> ops.Size:
        return self.shape[:2] if len(self.shape) == 3 else (self.shape[0], 1)

    def _geometry(self) -> list[ops.Geometry]:
        """The geometry of each encoder layer."""
        size, geometry = self._image_size(), []
        for k, s, p in zip(self.kernels, self.strides, self.paddings, strict=True):
            padding = _padding(p, len(self.shape) - 1)
            try:
                geometry.append(ops.resolve(size, self._pair(k), self._pair(s), padding))
            except ValueError:
                raise UserError(
                    f"model.kernels {self.kernels} are too large for rows of shape {self.shape}; "
                    "use smaller kernels or padding same"
                ) from None
            if k > 2 * max(size) + 1:
                raise UserError(
                    f"model.kernels {self.kernels}: a kernel of {k} on maps of {size[0]} x "
                    f"{size[1]} would cover mostly padding; use smaller kernels"
                )
            size = geometry[-1].out_size
        return geometry

    def encode(self, x: Float[Array, " B *S"]) -> Float[Array, "B L"]:
        """Rows to codes."""
        x = batch_last(x.reshape(x.shape[0], *self._image_size(), self.shape[-1]))
        for i, conv in enumerate(self.convs):
            last = i == len(self.convs) - 1
            x = ACTIVATIONS[self.encoder_activation if last else self.activation](conv(x))
        if self.latent:
            return ACTIVATIONS[self.code_activation](self.to_code(x))
        x = batch_first(x)
        return x.reshape(x.shape[0], -1)

    def decode(self, z: Float[Array, "B L"]) -> Float[Array, " B *S"]:
        """Codes to reconstructions, in float32."""
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
