"""What a device does with the members that it holds, and how it is compiled."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxae import members, parallel, tuning
from jaxae.types import (
    Array,
    Batch,
    Inferred,
    Key,
    Learner,
    Metrics,
    PyTree,
    Settings,
    TrainState,
)


def programs(learner: Learner, platform: str) -> tuple[Callable, Callable]:
    """What a device does with its members: train them for an epoch, measure their valid rows.

    Args:
      learner: built without a mapped axis.
      platform: "cpu", where members go one by one, or one on which they go side by side.

    Returns:
      `(state [K, ...], rows [N, *S], plan [K, T, B], counts [K], keys [K], settings of [K]) ->
      (state, metrics of [K, T])`, of which the first `counts` count, and
      `(variables [K, ...], rows, valid [K, C, chunk], settings) -> losses [K, C * chunk]`.
    """
    one_by_one = platform == "cpu"

    def epoch(
        state: TrainState, rows: Array, plan: Array, counts: Array, keys: Key, settings: Settings
    ) -> tuple[TrainState, Metrics]:
        flat = rows.reshape(len(rows), -1)  # a row is then gathered as one piece

        def course(
            state: TrainState, plan: Array, count: Array, key: Key, settings: Settings
        ) -> tuple[TrainState, Metrics]:
            slot = jnp.arange(plan.shape[-1], dtype=jnp.int32)

            def step(i: Array, carry: tuple) -> tuple:
                state, kept = carry
                x = flat[plan[i]].reshape(len(slot), *rows.shape[1:])
                state, found = learner.step(state, Batch(x, slot), key, settings)
                return state, {name: kept[name].at[i].set(found[name]) for name in kept}

            x = jnp.zeros((len(slot), *rows.shape[1:]))
            _, found = jax.eval_shape(learner.step, state, Batch(x, slot), key, settings)
            nothing = {name: jnp.zeros(len(plan), leaf.dtype) for name, leaf in found.items()}
            # A loop that ends where the member's rows do: the others' steps cost it nothing.
            return lax.fori_loop(0, count, step, (state, nothing))

        return members.each(course, state, plan, counts, keys, settings, one_by_one=one_by_one)

    def losses(variables: PyTree, rows: Array, valid: Array, settings: Settings) -> Array:
        def of_member(variables: PyTree, valid: Array, settings: Settings) -> Array:
            def of_rows(index: Array) -> Array:
                seen = Inferred(rows[index], learner.infer(variables, rows[index]))
                return jax.vmap(learner.loss, in_axes=(0, None))(seen, settings)

            return lax.map(of_rows, valid).ravel()

        return members.each(of_member, variables, valid, settings, one_by_one=one_by_one)

    return epoch, losses


def compiled(learner: Learner, devices: parallel.Devices) -> tuple[Callable, Callable]:
    """The programs on devices, as their learner trains and scores fastest."""
    platform = devices[0].platform
    epoch, losses = programs(learner, platform)
    training = tuning.training_options(learner.tuning, learner.dtype, platform, len(devices))
    how = learner.tuning, learner.dtype, platform

    def of_training(program: Any, args: tuple) -> Callable:
        return tuning.compiled(program.lower(*args), training)

    def of_scoring(program: Any, args: tuple) -> Callable:
        return tuning.compiled_scorer(program, args, *how)

    return (
        _mapped(epoch, devices, (0, None, 0, 0, 0, 0), (0, 0), of_training, donate=(0,)),
        _mapped(losses, devices, (0, None, 0, 0), (0,), of_scoring),
    )


def _mapped(
    fun: Callable,
    devices: parallel.Devices,
    in_axes: tuple,
    outs: tuple,
    compiled: Callable[[Any, tuple], Callable],
    donate: tuple[int, ...] = (),
) -> Callable:
    """`fun` of what each device holds, compiled at its first call."""
    program: list[Callable] = []
    mapped = parallel.mapped(fun, devices, in_axes, outs, donate)

    def call(*args: PyTree) -> PyTree:
        if not program:
            program.append(compiled(mapped, args))
        return program[0](*args)

    return call
