"""Methods with one objective: gradient descent on a loss of each row, mostly reconstruction."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxae import rng
from jaxae.devices import reductions, tuning
from jaxae.types import (
    AXIS,
    Batch,
    Inferred,
    Init,
    Key,
    Learner,
    LossFn,
    Metrics,
    Outputs,
    PyTree,
    Scalar,
    Settings,
    Step,
    TrainState,
)

Optimiser = Callable[[Any], optax.GradientTransformation]  # learning rate -> optimiser
Prepare = Callable[[Batch, Key, Settings], PyTree]  # a batch -> arrays [B, ...] with noise drawn
Losses = Callable[[PyTree, PyTree], Array]  # (parameters, prepared arrays) -> [B]


def descent(
    init: Callable[[Key, Array], PyTree],
    prepare: Prepare,
    losses: Losses,
    tx: Optimiser,
    *,
    part: int = 0,
    axis: str | None = AXIS,
) -> tuple[Init, Step]:
    """Gradient descent on mean_b losses(params, prepare(batch))_b: a learner's `init` and `step`.

    Args:
      init: `(key, x [1, *S]) -> parameters`.
      prepare: makes the arguments of `losses` from a batch; draws all random numbers.
      losses: the loss of each row.
      tx: learning rate -> optimiser; the rate is `settings["lr"]`.
      part: see `jaxae.devices.reductions.by_parts`.
      axis: mapped axis over which gradients and metrics are averaged; None outside a map.
    """

    def initial(key: Key, x: Array) -> TrainState:
        params = init(key, x)
        return TrainState(jnp.zeros((), jnp.int32), params, {}, tx(1.0).init(params))

    def step(
        state: TrainState, batch: Batch, key: Key, settings: Settings
    ) -> tuple[TrainState, Metrics]:
        def gradients(rows: PyTree) -> tuple[Array, PyTree]:
            return jax.value_and_grad(lambda p: losses(p, rows).mean())(state.params)

        rows = prepare(batch, jax.random.fold_in(key, state.step), settings)
        value_and_grads = reductions.by_parts(gradients, rows, part, axis)
        value, grads = reductions.over(value_and_grads, axis)
        updates, opt_state = tx(settings["lr"]).update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, {}, opt_state), {"loss": value}

    return initial, step


def reconstruction(
    model: Any,
    tx: Optimiser,
    loss: LossFn,
    *,
    settings: Settings,
    noise_clip: bool = True,
    tuned: tuning.Tuning = tuning.DENSE,
    axis: str | None = AXIS,
) -> Learner:
    """Minimise mean_b loss(x_b, model(x_b + n_b)), n ~ N(0, noise_std^2).

    Args:
      model: a Linen module, `x -> (x_hat, z)` with a method `decode`, without running statistics.
      tx: learning rate -> optimiser.
      loss: of one row; see `jaxae.scoring.LOSSES`.
      settings: "lr" and, for noisy inputs, "noise_std"; the target stays clean.
      noise_clip: clip noisy inputs to [0, 1].
      tuned: the fastest options for it.
      axis: mapped axis over which gradients and metrics are averaged; None outside a map.
    """

    def initial(key: Key, x: Array) -> PyTree:
        return model.init(key, x)["params"]

    def noisy(batch: Batch, key: Key, settings: Settings) -> tuple[Array, Array]:
        if "noise_std" not in settings:
            return batch.x, batch.x
        x_in = rng.add_noise(batch.x, batch.slot, key, settings["noise_std"])
        return batch.x, jnp.clip(x_in, 0.0, 1.0) if noise_clip else x_in

    def losses(params: PyTree, rows: tuple[Array, Array]) -> Array:
        x, x_in = rows
        x_hat, _ = model.apply({"params": params}, x_in)
        return jax.vmap(loss)(x, x_hat)

    def infer(variables: PyTree, x: Float[Array, " B *S"]) -> Outputs:
        return Outputs(*model.apply(variables, x))

    def row_loss(row: Inferred, settings: Settings) -> Scalar:
        return loss(row.x, row.out.x_hat)

    init, step = descent(initial, noisy, losses, tx, part=tuned.part, axis=axis)
    decode = partial(model.apply, method="decode")
    dtype = jnp.dtype(model.dtype).name
    return Learner(init, step, infer, row_loss, settings, decode, dtype, tuned)
