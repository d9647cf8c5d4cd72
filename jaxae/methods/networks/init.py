"""Initial weights, as in the three frameworks of the reference systems."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxae.registry import Registry
from jaxae.types import Array, Initializer


class Init(NamedTuple):
    """Initialisers of a layer: `kernel`, and `bias`, a function of the fan-in; zeros by default."""

    kernel: Initializer
    bias: Callable[[int], Initializer] = lambda fan_in: nn.initializers.zeros


def _torch_bias(fan_in: int) -> Initializer:
    """U(-b, b), b = 1 / sqrt(fan_in): torch's kaiming_uniform with a = sqrt(5)."""
    bound = 1.0 / math.sqrt(fan_in)
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(
        key, shape, dtype, -bound, bound
    )


def _torch_kernel(key, shape, dtype=jnp.float32) -> Array:
    """As `_torch_bias`; the fan-in is the product of all axes but the last.

    That holds for a transposed kernel [kh, kw, out, in] too, where torch counts the *output*
    channels.
    """
    return _torch_bias(math.prod(shape[:-1]))(key, shape, dtype)


INITS: Registry[Init] = Registry(
    "initializer",
    Init,
    {
        "glorot": Init(nn.initializers.glorot_uniform()),
        "lecun": Init(nn.initializers.lecun_normal()),
        "torch": Init(_torch_kernel, _torch_bias),
    },
)


class Activation(NamedTuple):
    """An activation, and its range of values `span` = (low, high)."""

    apply: Callable[[Array], Array]
    span: tuple[float, float] = (-math.inf, math.inf)

    def __call__(self, x: Array) -> Array:
        """Apply it."""
        return self.apply(x)


ACTIVATIONS: Registry[Activation] = Registry(
    "activation",
    Activation,
    {
        "relu": Activation(nn.relu, (0.0, math.inf)),
        "leaky_relu": Activation(lambda x: nn.leaky_relu(x, 0.2)),
        "elu": Activation(nn.elu, (-1.0, math.inf)),
        "tanh": Activation(jnp.tanh, (-1.0, 1.0)),
        "sigmoid": Activation(nn.sigmoid, (0.0, 1.0)),
        "linear": Activation(lambda x: x),
    },
)
