"""A dense autoencoder: the encoder's widths, the code, and the widths mirrored."""

import math
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxae.models.init import ACTIVATIONS, INITS
from jaxae.models.layers import Dense
from jaxae.types import Array, Shape


class MLP(nn.Module):
    """Dense layers [B, F] -> [B, widths[-1]]; `final` is the activation of the last one."""

    widths: tuple[int, ...]
    activation: str
    final: str
    initializer: str
    dtype: Any

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Apply the layers."""
        init = INITS[self.initializer]
        for i, width in enumerate(self.widths):
            last = i == len(self.widths) - 1
            x = Dense(
                width, dtype=self.dtype, kernel_init=init.kernel, bias_init=init.bias(x.shape[-1])
            )(x)
            x = ACTIVATIONS[self.final if last else self.activation](x)
        return x


class DenseAutoencoder(nn.Module):
    """x [B, *S] -> code [B, L] -> reconstruction [B, *S].

    Attributes:
      shape: S of one row, any rank; rows are flattened.
      hidden: widths between input and code; the decoder has them in reverse.
      latent: L.
      activation: between layers (see `jaxae.models.init.ACTIVATIONS`).
      code_activation: on the code.
      output_activation: on the reconstruction.
      initializer: initial weights (see `jaxae.models.init.INITS`).
      dtype: of activations; parameters are float32 and so are the outputs.
    """

    shape: Shape
    hidden: tuple[int, ...]
    latent: int
    activation: str = "relu"
    code_activation: str = "linear"
    output_activation: str = "sigmoid"
    initializer: str = "glorot"
    dtype: Any = jnp.float32

    def setup(self):
        """Name the two halves."""
        size = math.prod(self.shape)
        common = {
            "activation": self.activation,
            "initializer": self.initializer,
            "dtype": self.dtype,
        }
        self.encoder = MLP((*self.hidden, self.latent), final=self.code_activation, **common)
        self.decoder = MLP((*reversed(self.hidden), size), final=self.output_activation, **common)

    def encode(self, x: Array) -> Array:
        """[B, *S] -> code [B, L]."""
        return self.encoder(x.reshape(x.shape[0], -1))

    def decode(self, z: Array) -> Array:
        """Code [B, L] -> reconstruction [B, *S] float32."""
        return self.decoder(z).reshape(z.shape[0], *self.shape).astype(jnp.float32)

    def __call__(self, x: Array) -> tuple[Array, Array]:
        """[B, *S] -> (reconstruction [B, *S], code [B, L])."""
        z = self.encode(x)
        return self.decode(z), z.astype(jnp.float32)
