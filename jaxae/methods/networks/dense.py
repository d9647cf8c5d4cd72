"""A dense autoencoder: an encoder, the code, and a decoder with the widths in reverse."""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxae.methods.networks.init import ACTIVATIONS, INITS
from jaxae.methods.networks.layers import Dense
from jaxae.types import Shape


class MLP(nn.Module):
    """Dense layers; `final` is the activation of the last one."""

    widths: tuple[int, ...]
    activation: str
    final: str
    initializer: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B F"]) -> Float[Array, "B D"]:
        """Apply the layers; D is the last width."""
        init = INITS[self.initializer]
        for i, width in enumerate(self.widths):
            last = i == len(self.widths) - 1
            x = Dense(
                width, dtype=self.dtype, kernel_init=init.kernel, bias_init=init.bias(x.shape[-1])
            )(x)
            x = ACTIVATIONS[self.final if last else self.activation](x)
        return x


class Autoencoder(nn.Module):
    """The fields of every autoencoder, x [B, *S] -> code [B, L] -> reconstruction [B, *S].

    Attributes:
      shape: S of one row.
      latent: L.
      activation: between layers (see `jaxae.methods.networks.init.ACTIVATIONS`).
      code_activation: on the code.
      output_activation: on the reconstruction.
      initializer: initial weights (see `jaxae.methods.networks.init.INITS`).
      dtype: of activations; parameters are float32 and so are the outputs.
    """

    shape: Shape
    latent: int
    activation: str
    code_activation: str
    output_activation: str
    initializer: str
    dtype: Any

    def __call__(
        self, x: Float[Array, " B *S"]
    ) -> tuple[Float[Array, " B *S"], Float[Array, "B L"]]:
        """Rows to reconstructions and codes, both in float32."""
        z = self.encode(x)
        return self.decode(z), z.astype(jnp.float32)


class DenseAutoencoder(Autoencoder):
    """A dense autoencoder of rows of any rank, which are flattened.

    Attributes:
      hidden: widths between input and code; the decoder has them in reverse.
    """

    hidden: tuple[int, ...]

    def setup(self):
        """Build the encoder and the decoder."""

        def half(widths: tuple[int, ...], final: str) -> MLP:
            return MLP(widths, self.activation, final, self.initializer, self.dtype)

        self.encoder = half((*self.hidden, self.latent), self.code_activation)
        self.decoder = half((*reversed(self.hidden), math.prod(self.shape)), self.output_activation)

    def encode(self, x: Float[Array, " B *S"]) -> Float[Array, "B L"]:
        """Rows to codes."""
        return self.encoder(x.reshape(x.shape[0], -1))

    def decode(self, z: Float[Array, "B L"]) -> Float[Array, " B *S"]:
        """Codes to reconstructions, in float32."""
        return self.decoder(z).reshape(z.shape[0], *self.shape).astype(jnp.float32)
