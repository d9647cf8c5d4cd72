"""Losses between a row and its reconstruction.

Both are flattened first: on a CPU, indexing the output of a flat layer by row and column needs a
division for every pixel.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.devices.reductions import of_vector as mean
from jaxae.registry import Registry
from jaxae.types import LossFn, Scalar


def mse(x: Float[Array, "*S"], x_hat: Float[Array, "*S"]) -> Scalar:
    """Mean squared error of one row, mean((x - x_hat)^2) in [0, inf)."""
    return mean(jnp.square(x.ravel() - x_hat.ravel()))


def mae(x: Float[Array, "*S"], x_hat: Float[Array, "*S"]) -> Scalar:
    """Mean absolute error of one row, mean(|x - x_hat|) in [0, inf)."""
    return mean(jnp.abs(x.ravel() - x_hat.ravel()))


def bce(x: Float[Array, "*S"], x_hat: Float[Array, "*S"]) -> Scalar:
    """Binary cross-entropy of one row, -mean(x log p + (1 - x) log(1 - p)).

    p is `x_hat` clipped to [1e-7, 1 - 1e-7] as in Keras, so value and gradient are finite; beyond
    the clip the gradient is 0. Both arguments are in [0, 1]; the result is in [0, inf) and, if x
    has grey values, not 0 at x_hat = x.
    """
    x, p = x.ravel(), jnp.clip(x_hat.ravel(), 1e-7, 1 - 1e-7)
    # `log1p(-p)` would take twice as long, and the error of 1 - p is at most 6e-8.
    return -mean(x * jnp.log(p) + (1 - x) * jnp.log(1 - p))


LOSSES: Registry[LossFn] = Registry("loss", Callable, {"mse": mse, "mae": mae, "bce": bce})
