"""ALOCC's two networks: a refiner that reconstructs, and a discriminator of real and fake images.

Sabokrou et al., "Adversarially Learned One-Class Classifier for Novelty Detection", CVPR 2018,
in the configuration of FastEstimator's MNIST tutorial: 5 x 5 kernels, batch normalisation with
momentum 0.99 and epsilon 1e-3, LeakyReLU 0.2 in the downsampling layers, ReLU in the upsampling
ones.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxae.methods.networks.init import ACTIVATIONS
from jaxae.methods.networks.layers import Conv, ConvTranspose, Dense, DenseFromMaps, DenseToMaps
from jaxae.ops import batch_first, batch_last
from jaxae.types import Shape

Perturb = Callable[[Array], Array]  # codes [B, ...] -> noisy ones
KERNEL, STRIDES = (5, 5), (2, 2)
# Keras's TruncatedNormal(stddev=0.02) is the deviation before truncation at two deviations.
_DOWN_INIT = nn.initializers.truncated_normal(0.02)
_UP_INIT = nn.initializers.normal(0.02)
_leaky = ACTIVATIONS["leaky_relu"]


def _norm(axis: str | None, dtype: Any, train: bool) -> nn.BatchNorm:
    return nn.BatchNorm(
        use_running_average=not train,
        axis=0,  # of the channels: the batch is on the last axis
        momentum=0.99,
        epsilon=1e-3,
        dtype=dtype,
        axis_name=axis,
    )


class Refiner(nn.Module):
    """R: images [B, H, W, C] in [-1, 1] -> (refined images, code [B, L]).

    The code is the encoder's last feature map, flattened, which has more values than an MNIST
    image. With a bottleneck it is `bottleneck` linear features of that map, each normalised to mean
    0 and variance 1 over a training batch, so that the network cannot reduce the effect of noise on
    the code by scaling its features up.

    Attributes:
      shape: [H, W, C].
      filters: channels of the encoder.
      up_filters: channels of the decoder's layers before the image.
      bottleneck: L; 0 = none.
      dtype: of activations.
      axis: mapped axis over which batch statistics are averaged; None = no averaging.
    """

    shape: Shape
    filters: tuple[int, ...] = (32, 64, 128)
    up_filters: tuple[int, ...] = (32, 16)
    bottleneck: int = 0
    dtype: Any = jnp.float32
    axis: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], train: bool, perturb: Perturb | None = None
    ) -> tuple[Float[Array, "B H W C"], Float[Array, "B L"]]:
        """Refine a batch, with batch statistics in training and running ones otherwise.

        `perturb` is applied to the decoder's input only; the code is returned without it.
        """
        sizes = []
        x = batch_last(x)
        for features in self.filters:
            sizes.append(x.shape[1:3])
            x = Conv(features, KERNEL, STRIDES, "SAME", kernel_init=_DOWN_INIT, dtype=self.dtype)(x)
            x = _leaky(_norm(self.axis, self.dtype, train)(x))
        x, z = self._code(x, train, perturb)
        common = {"kernel_init": _UP_INIT, "dtype": self.dtype}
        ups = (*self.up_filters, self.shape[-1])
        for i, (features, size) in enumerate(zip(ups, reversed(sizes), strict=True)):
            x = ConvTranspose(features, KERNEL, STRIDES, "SAME", size, **common)(x)
            x = x if i == len(ups) - 1 else nn.relu(_norm(self.axis, self.dtype, train)(x))
        refined = jnp.tanh(batch_first(x).astype(jnp.float32))
        return refined, z.reshape(z.shape[0], -1).astype(jnp.float32)

    def _code(self, x: Array, train: bool, perturb: Perturb | None) -> tuple[Array, Array]:
        """The decoder's input for a feature map [C, H, W, B], and the code [B, ...]."""
        if not self.bottleneck:
            z = batch_first(x)
            return (batch_last(perturb(z)) if perturb else x), z
        channels, *size, _ = x.shape
        z = DenseFromMaps(self.bottleneck, dtype=self.dtype)(x)
        common = {"dtype": self.dtype, "axis_name": self.axis}
        z = nn.BatchNorm(not train, momentum=0.9, use_bias=False, use_scale=False, **common)(z)
        x = DenseToMaps((*size, channels), dtype=self.dtype)(perturb(z) if perturb else z)
        return nn.relu(_norm(self.axis, self.dtype, train)(x)), z


class Discriminator(nn.Module):
    """D: images [B, H, W, C] in [-1, 1] -> log-odds [B] that they are real.

    Attributes:
      filters: channels; batch normalisation on all but the last layer.
      spectral: divide every kernel by its largest singular value instead of normalising batches
        (Miyato et al., "Spectral normalization for generative adversarial networks", ICLR 2018):
        the rows of a batch are independent, in training too, and the log-odds have bounded slopes.
      dtype: of activations.
      axis: mapped axis over which batch statistics are averaged.
    """

    filters: tuple[int, ...] = (16, 32, 64, 128)
    spectral: bool = False
    dtype: Any = jnp.float32
    axis: str | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, " B"]:
        """The log-odds of each row of a batch."""

        def normalised(layer: nn.Module, x: Array) -> Array:
            return nn.SpectralNorm(layer)(x, update_stats=train) if self.spectral else layer(x)

        x = batch_last(x)
        common = {"kernel_init": _DOWN_INIT, "dtype": self.dtype}
        for i, features in enumerate(self.filters):
            x = normalised(Conv(features, KERNEL, STRIDES, "SAME", **common), x)
            if i < len(self.filters) - 1 and not self.spectral:
                x = _norm(self.axis, self.dtype, train)(x)
            x = _leaky(x)
        x = batch_first(x)
        x = normalised(Dense(1, dtype=self.dtype), x.reshape(x.shape[0], -1))
        return x[:, 0].astype(jnp.float32)
