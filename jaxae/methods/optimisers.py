"""Optimisers by name, with a learning rate that may differ from member to member."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxae.registry import Registry
from jaxae.types import PyTree

Rate = Array | float


def keras_adam(lr: Rate, eps: float) -> optax.GradientTransformation:
    """Adam with "epsilon hat" (Kingma and Ba, 2015, end of section 2), as TensorFlow and Keras do.

    update = -lr sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps), b1 = 0.9, b2 = 0.999. In the
    first steps this epsilon weighs about 30 times as much as that of `optax.adam`, so weights with
    tiny gradients, such as those of pixels that are almost always black, start slowly.
    """
    b1, b2 = 0.9, 0.999

    def init(params: PyTree) -> optax.ScaleByAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(grads: PyTree, state: optax.ScaleByAdamState, params: PyTree = None) -> tuple:
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)
        rate = lr * jnp.sqrt(1 - b2**count) / (1 - b1**count)
        updates = jax.tree.map(lambda m, v: -rate * m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


# (learning rate, epsilon, decoupled weight decay) -> transformation.
OPTIMISERS = Registry(
    "optimiser",
    Callable,
    {
        "adam": lambda lr, eps, decay: optax.adam(lr, eps=eps),
        "keras_adam": lambda lr, eps, decay: keras_adam(lr, eps),
        "adamw": lambda lr, eps, decay: optax.adamw(lr, eps=eps, weight_decay=decay),
        "rmsprop": lambda lr, eps, decay: optax.rmsprop(lr, decay=0.9, eps=eps),  # as in Keras
        "sgd": lambda lr, eps, decay: optax.sgd(lr),
    },
)


def optimiser(cfg: Any, lr: Rate) -> optax.GradientTransformation:
    """The optimiser of an `OptimConfig`, with a learning rate.

    Weight decay is added to the gradient (L2), as `torch.optim.Adam` does; `adamw` decouples it.

    Raises:
      UserError: unknown name; the message lists them.
    """
    tx = OPTIMISERS[cfg.name](lr, cfg.eps, cfg.weight_decay)
    if cfg.weight_decay and cfg.name != "adamw":
        tx = optax.chain(optax.add_decayed_weights(cfg.weight_decay), tx)
    return tx
