"""Training methods: each builds a `Learner`, three pure functions over a state of arrays.

To add a method, write a function that returns a `Learner` and name it in `METHODS`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from jaxae import rng
from jaxae.adversarial import ADVERSARIAL, Pair, adversarial
from jaxae.config import ExperimentConfig, OptimConfig
from jaxae.errors import UserError, unknown
from jaxae.models.alocc import Discriminator, Refiner
from jaxae.models.conv import ConvAutoencoder
from jaxae.models.dense import DenseAutoencoder
from jaxae.scoring import LOSSES
from jaxae.types import (
    AXIS,
    Array,
    Batch,
    Key,
    Learner,
    Metrics,
    Outputs,
    PyTree,
    Shape,
    TrainState,
    mean_over,
)

LossFn = Callable[[Array, Array], Array]  # (x [*S], x_hat [*S]) -> []

# Rows that a convolutional model takes at a time on a host device: their activations stay in the
# cache of its core. A device that works alone has every core, whose products want more rows.
_CONV_PART, _ALONE = 32, 4


def optimiser(cfg: OptimConfig, lr: float) -> optax.GradientTransformation:
    """The optimiser of a configuration, at a rate.

    Weight decay is added to the gradient (L2), as `torch.optim.Adam` does; `adamw` decouples it.
    RMSprop decays by 0.9, as Keras has it.
    """
    makers = {
        "adam": lambda: optax.adam(lr, eps=cfg.eps),
        "keras_adam": lambda: keras_adam(lr, cfg.eps),
        "adamw": lambda: optax.adamw(lr, eps=cfg.eps, weight_decay=cfg.weight_decay),
        "rmsprop": lambda: optax.rmsprop(lr, decay=0.9, eps=cfg.eps),
        "sgd": lambda: optax.sgd(lr),
    }
    if cfg.name not in makers:
        raise unknown("optimiser", cfg.name, makers)
    tx = makers[cfg.name]()
    if cfg.weight_decay and cfg.name != "adamw":
        tx = optax.chain(optax.add_decayed_weights(cfg.weight_decay), tx)
    return tx


def keras_adam(lr: float, eps: float) -> optax.GradientTransformation:
    """Adam with "epsilon hat" (Kingma and Ba, 2015, end of section 2), as TensorFlow and Keras do.

    update = -lr sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps), b1 = 0.9, b2 = 0.999. In the
    first steps this epsilon weighs about 30 times more than that of `optax.adam`, so that weights
    with tiny gradients, such as those of pixels that are almost always black, start slowly.
    """
    b1, b2 = 0.9, 0.999

    def init(params: PyTree) -> optax.ScaleByAdamState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(grads: PyTree, state: optax.ScaleByAdamState, params: PyTree = None):
        del params
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)
        rate = lr * jnp.sqrt(1 - b2**count) / (1 - b1**count)
        updates = jax.tree.map(lambda m, v: -rate * m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def reconstruction(
    model: Any,
    tx: optax.GradientTransformation,
    loss: LossFn,
    *,
    noise_std: float = 0.0,
    noise_clip: bool = True,
    part: int = 0,
    axis: str | None = AXIS,
) -> Learner:
    """Minimise mean_b loss(x_b, model(x_b + noise)).

    Args:
      model: a Linen module, `x -> (x_hat, z)`, without running statistics.
      tx: the optimiser.
      loss: of one example; see `jaxae.scoring.LOSSES`.
      noise_std: standard deviation of Gaussian noise on the input; the target stays clean.
      noise_clip: clip noisy inputs to [0, 1].
      part: rows that a host device takes at a time, see `mean_by_parts`, four times as many where
        it works alone; 0 takes a batch as a whole.
      axis: mapped axis over which gradients and metrics are averaged; None outside a map.
    """

    def init(key: Key, x: Array) -> TrainState:
        params = model.init(key, x)["params"]
        return TrainState(jnp.zeros((), jnp.int32), params, {}, tx.init(params))

    def corrupted(batch: Batch, key: Key) -> Array:
        if not noise_std:
            return batch.x
        noisy = rng.add_noise(batch.x, batch.slot, key, noise_std)
        return jnp.clip(noisy, 0.0, 1.0) if noise_clip else noisy

    def step(state: TrainState, batch: Batch, key: Key) -> tuple[TrainState, Metrics]:
        x_in = corrupted(batch, jax.random.fold_in(key, state.step))

        def mean_loss(params: PyTree, rows: tuple[Array, Array]) -> Array:
            x, x_in = rows
            x_hat, _ = model.apply({"params": params}, x_in)
            return jax.vmap(loss)(x, x_hat).mean()

        gradients = partial(jax.value_and_grad(mean_loss), state.params)
        shared = axis and lax.axis_size(axis) > 1
        size = part if shared else _ALONE * part
        value, grads = mean_over(mean_by_parts(gradients, (batch.x, x_in), size), axis)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, {}, opt_state), {"loss": value}

    def infer(variables: PyTree, x: Array) -> Outputs:
        x_hat, z = model.apply(variables, x)
        none = jnp.zeros(x.shape[0], jnp.float32)
        return Outputs(x_hat, z, none, none)

    return Learner(init, step, infer)


def mean_by_parts(fun: Callable[[PyTree], PyTree], rows: PyTree, size: int) -> PyTree:
    """What `fun` says of rows, on a CPU as the mean of what it says of equal parts of them.

    Gradients of a large batch are so accumulated over small ones, whose activations stay in the
    cache; an accelerator takes the batch as a whole, and so does a CPU where no part of between
    `size / 2` and `size` rows divides it.

    Args:
      fun: arrays [B, ...] -> means over B, for any B.
      rows: arrays [B, ...].
      size: rows of a part, at most; 0 = all.
    """
    count = len(jax.tree.leaves(rows)[0])
    part = max((n for n in range(size // 2, size + 1) if n and count % n == 0), default=count)
    if part >= count:
        return fun(rows)

    def accumulated(rows: PyTree) -> PyTree:
        parts = jax.tree.map(lambda a: a.reshape(-1, part, *a.shape[1:]), rows)
        zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(fun, rows))
        add = lambda total, part: (jax.tree.map(jnp.add, total, fun(part)), None)  # noqa: E731
        total, _ = lax.scan(add, zeros, parts)
        return jax.tree.map(lambda a: a * (part / count), total)

    return lax.platform_dependent(rows, cpu=accumulated, default=fun)


def ensemble(learner: Learner, size: int) -> Learner:
    """`size` members trained side by side on the same batches; every leaf gains a leading [E].

    Members differ in initial weights and noise. Accelerators map them with `vmap`, which fills a
    device that one small model leaves idle; a CPU maps them one after another, which is faster
    there. `infer` takes the variables of one member.
    """
    members = jnp.arange(size)

    def init(key: Key, x: Array) -> TrainState:
        keys = jax.vmap(partial(jax.random.fold_in, key))(members)
        return jax.vmap(learner.init, in_axes=(0, None))(keys, x)

    def step(state: TrainState, batch: Batch, key: Key) -> tuple[TrainState, Metrics]:
        def one(member: tuple[TrainState, Array]) -> tuple[TrainState, Metrics]:
            return learner.step(member[0], batch, jax.random.fold_in(key, member[1]))

        stacked = (state, members)
        new, metrics = lax.platform_dependent(
            stacked, cpu=partial(lax.map, one), default=jax.vmap(one)
        )
        return new, jax.tree.map(jnp.mean, metrics)

    return Learner(init, step, learner.infer)


_SHARED = ("latent", "activation", "code_activation", "output_activation", "initializer")
_CONV = (
    "filters",
    "kernels",
    "strides",
    "paddings",
    "head_kernel",
    "encoder_activation",
    "expand_activation",
)


def autoencoder(cfg: ExperimentConfig, shape: Shape) -> DenseAutoencoder | ConvAutoencoder:
    """The Linen module of method dense or conv; `encode` and `decode` are its methods.

    Raises:
      UserError: the method has no single autoencoder, or cannot take rows of this shape.
    """
    fields = {name: getattr(cfg.model, name) for name in _SHARED}
    dtype = jnp.dtype(cfg.model.compute_dtype)
    if cfg.method == "dense":
        return DenseAutoencoder(shape, hidden=cfg.model.hidden, dtype=dtype, **fields)
    if cfg.method != "conv":
        raise UserError(f"method {cfg.method} has no single autoencoder; use dense or conv")
    if len(shape) not in (2, 3):
        raise UserError(
            f"method conv needs rows of shape [H, W, C] or [T, C], not {list(shape)}; "
            "use --method dense"
        )
    fields |= {name: getattr(cfg.model, name) for name in _CONV}
    return ConvAutoencoder(shape, dtype=dtype, **fields)


def _autoencoder(cfg: ExperimentConfig, shape: Shape, axis: str | None) -> Learner:
    return reconstruction(
        autoencoder(cfg, shape),
        optimiser(cfg.optim, cfg.optim.lr),
        LOSSES[cfg.train.loss],
        noise_std=cfg.train.noise_std,
        noise_clip=cfg.train.noise_clip,
        part=_CONV_PART if cfg.method == "conv" else 0,
        axis=axis,
    )


def _alocc(cfg: ExperimentConfig, shape: Shape, axis: str | None) -> Learner:
    if len(shape) != 3:
        raise UserError(
            f"method alocc needs images [H, W, C], not rows of shape {list(shape)}; "
            "use conv or dense"
        )
    dtype = jnp.dtype(cfg.model.compute_dtype)
    nets = Pair(Refiner(shape, dtype=dtype, axis=axis), Discriminator(dtype=dtype, axis=axis))
    tx = Pair(optimiser(cfg.optim, cfg.optim.lr), optimiser(cfg.optim, cfg.optim.lr_discriminator))
    return adversarial(nets, tx, ADVERSARIAL[cfg.variant], noise_std=cfg.train.noise_std, axis=axis)


METHODS: dict[str, Callable[[ExperimentConfig, Shape, str | None], Learner]] = {
    "dense": _autoencoder,
    "conv": _autoencoder,
    "alocc": _alocc,
}


def build(cfg: ExperimentConfig, shape: Shape, axis: str | None = AXIS) -> Learner:
    """The learner that a configuration describes, for rows of a shape.

    Args:
      cfg: see `jaxae.config`.
      shape: S of one row.
      axis: the mapped axis name under `jaxae.parallel`; None for a plain `jax.jit`.

    Raises:
      UserError: unknown method (the message lists them), or rows that the method cannot take.
    """
    if cfg.method not in METHODS:
        raise unknown("method", cfg.method, METHODS)
    learner = METHODS[cfg.method](cfg, shape, axis)
    return ensemble(learner, cfg.ensemble) if cfg.ensemble > 1 else learner
