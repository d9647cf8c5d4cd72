"""A fully convolutional autoencoder: depth follows the size of a row, weights do not."""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxae import ops
from jaxae.methods.networks.dense import Autoencoder
from jaxae.methods.networks.init import ACTIVATIONS, INITS
from jaxae.methods.networks.layers import Conv, ConvTranspose, DenseFromMaps, DenseToMaps
from jaxae.types import Shape

SMALLEST = 4  # places on the shorter side of the last map, at least
WIDEST = 4  # channels of the widest layer, as a multiple of those of the first


def depth_of(shape: Shape) -> int:
    """How often maps of a row [H, W, C] or [T, C] are halved: until a side is shorter than 8."""
    return max(1, int(math.log2(max(1, min(shape[:-1]) // SMALLEST))))


def code_places(shape: Shape, depth: int, spatial: bool) -> Shape:
    """The places that have a code in a row [H, W, C] or [T, C]: [h, w] or [t]; 1 if not spatial.

    Each of `depth` layers halves the map, rounding up.
    """
    return tuple(ops.ceil_div(side, 1 << depth) if spatial else 1 for side in shape[:-1])


class _Half(nn.Module):
    """What encoder and decoder have in common; see `FullyConvolutional`."""

    widths: tuple[int, ...]  # channels of all maps, of the row first
    latent: int
    is_series: bool
    pooled: bool
    spatial: bool
    activation: str
    final: str
    initializer: str
    dtype: Any

    def _options(self, fan_in: int) -> dict[str, Any]:
        init = INITS[self.initializer]
        return {
            "kernel_init": init.kernel,
            "bias_init": init.bias(fan_in),
            "dtype": self.dtype,
        }

    def _square(self, n: int) -> ops.Size:
        return (n, 1) if self.is_series else (n, n)

    def _conv(self, x: Array, features: int, side: int, stride: int = 1) -> Array:
        kernel = self._square(side)
        options = self._options(math.prod(kernel) * x.shape[0])
        return Conv(features, kernel, self._square(stride), "SAME", **options)(x)


class _Encoder(_Half):
    """Rows with the batch last -> codes with the batch last."""

    @nn.compact
    def __call__(self, x: Float[Array, "C H W B"]) -> Float[Array, "L h w B"]:
        for width in self.widths[1:]:
            x = self._conv(x, width, 3) if self.pooled else self._conv(x, width, 4, 2)
            x = ACTIVATIONS[self.activation](x)
            x = self._largest(x) if self.pooled else x
        if self.spatial:
            x = self._conv(x, self.latent, 1)
        else:
            options = self._options(math.prod(x.shape[:3]))
            x = DenseFromMaps(self.latent, **options)(x).T[:, None, None]
        return ACTIVATIONS[self.final](x)

    def _largest(self, x: Array) -> Array:
        """The largest value of each 2 x 2 block, or of 2 steps; odd sides repeat their end."""
        high, wide = self._square(2)
        channels, height, width, batch = x.shape
        x = jnp.pad(x, ((0, 0), (0, -height % high), (0, -width % wide), (0, 0)), mode="edge")
        blocks = x.reshape(channels, -(-height // high), high, -(-width // wide), wide, batch)
        return blocks.max(axis=(2, 4))


class _Decoder(_Half):
    """Codes with the batch last -> rows of a size with the batch last."""

    @nn.compact
    def __call__(self, x: Float[Array, "L h w B"], size: ops.Size) -> Float[Array, "C H W B"]:
        sizes = [size]
        for _ in self.widths[1:]:
            strides = self._square(2)
            sizes.append(tuple(ops.ceil_div(n, s) for n, s in zip(sizes[-1], strides, strict=True)))
        if self.spatial:
            x = self._conv(x, self.widths[-1], 1)
        else:
            options = self._options(self.latent)
            x = DenseToMaps((*sizes[-1], self.widths[-1]), **options)(x[:, 0, 0].T)
        for width, size in zip(self.widths[-2::-1], sizes[-2::-1], strict=True):
            x = ACTIVATIONS[self.activation](x)
            x = self._enlarged(x, width, size)
        return ACTIVATIONS[self.final](x)

    def _enlarged(self, x: Array, width: int, size: ops.Size) -> Array:
        if not self.pooled:
            kernel, strides = self._square(4), self._square(2)
            options = self._options(math.prod(kernel) * width)
            return ConvTranspose(width, kernel, strides, "SAME", size, **options)(x)
        for axis, times in enumerate(self._square(2), 1):
            x = jnp.repeat(x, times, axis)
        return self._conv(x[:, : size[0], : size[1]], width, 3)


class FullyConvolutional(Autoencoder):
    """An autoencoder of images [H, W, C] or series [T, C] of any size, with the same weights.

    Encoder: `depth` layers, each of which halves the map, rounding up, then a 1 x 1 convolution to
    `latent` channels, so that the code says something of each place: [B, h, w, L] for h x w places
    of the last map. Decoder: the same sizes in reverse. All weights are shared between places: what
    was learnt on crops applies to whole rows. In `z` [B, h w L] the code is flattened.

    Attributes:
      depth: number of layers that halve the map.
      width: channels of the first layer; each further layer has twice as many, up to `WIDEST`
        times this.
      pooled: False = 4 x 4 convolutions with stride 2, and their transposes; True = 3 x 3
        convolutions with 2 x 2 maximum pooling, and, after nearest-neighbour enlargement, again
        3 x 3 convolutions: more computation.
      spatial: False = one dense code [L] for the whole row; then rows have only the size `shape`.
    """

    depth: int
    width: int
    pooled: bool
    spatial: bool

    def setup(self):
        """Build the encoder and the decoder."""
        widths = (self.shape[-1], *(self.width * min(1 << i, WIDEST) for i in range(self.depth)))

        def half(kind: type[_Half], final: str) -> _Half:
            return kind(
                widths,
                self.latent,
                len(self.shape) == 2,
                self.pooled,
                self.spatial,
                self.activation,
                final,
                self.initializer,
                self.dtype,
            )

        self.encoder = half(_Encoder, self.code_activation)
        self.decoder = half(_Decoder, self.output_activation)

    def __call__(
        self, x: Float[Array, " B *S"]
    ) -> tuple[Float[Array, " B *S"], Float[Array, "B L"]]:
        """Rows of any size to reconstructions and flattened codes, both in float32."""
        z = self.encode(x)
        return self.decode(z, x.shape[1:]), z.astype(jnp.float32)

    def encode(self, x: Float[Array, " B *S"]) -> Float[Array, "B L"]:
        """Rows to flattened codes."""
        x = ops.batch_last(x.reshape(x.shape[0], *_size(x.shape[1:]), x.shape[-1]))
        code = ops.batch_first(self.encoder(x))
        return code.reshape(code.shape[0], -1)

    def decode(self, z: Float[Array, "B L"], shape: Shape = ()) -> Float[Array, " B *S"]:
        """Flattened codes to reconstructions of a shape, `self.shape` by default, in float32."""
        shape = shape or self.shape
        code = (*code_places(shape, self.depth, self.spatial), self.latent)
        maps = ops.batch_last(z.reshape(z.shape[0], *_size(code), code[-1]))
        x = self.decoder(maps, _size(shape))
        return ops.batch_first(x).reshape(z.shape[0], *shape).astype(jnp.float32)


def _size(shape: Shape) -> ops.Size:
    """Height and width; a series [T, C] is an image one pixel wide."""
    return shape[:2] if len(shape) == 3 else (shape[0], 1)
