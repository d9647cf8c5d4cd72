"""The programs of a grid: a device trains and measures the members that it holds."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxae.devices import members, parallel, tuning
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
    """Functions that train a device's members for an epoch and compute losses of their valid rows.

    Args:
      learner: built without a mapped axis.
      platform: "cpu", where members go one by one, or one on which they go side by side.

    Returns:
      `(state [K, ...], rows [N, *S], plan [K, T, B], counts [K], keys [K], settings of [K]) ->
      (state, metrics of [K, T])`, of which the first `counts` are valid, and
      `(variables [K, ...], rows, valid [K, C, chunk], settings) -> losses [K, C * chunk]`.
    """
    one_by_one, unroll = platform == "cpu", max(1, learner.tuning.unroll)

    def epoch(
        state: TrainState, rows: Array, plan: Array, counts: Array, keys: Key, settings: Settings
    ) -> tuple[TrainState, Metrics]:
        flat = rows.reshape(len(rows), -1)  # so that a row is gathered in one piece

        def course(
            state: TrainState, plan: Array, count: Array, key: Key, settings: Settings
        ) -> tuple[TrainState, Metrics]:
            slot = jnp.arange(plan.shape[-1], dtype=jnp.int32)

            def step(state: TrainState, index: Array) -> tuple[TrainState, Metrics]:
                x = flat[index].reshape(len(slot), *rows.shape[1:])
                return learner.step(state, Batch(x, slot), key, settings)

            run = _until if one_by_one else functools.partial(_through, unroll=unroll)
            return run(step, state, plan, count)

        return members.each(course, state, plan, counts, keys, settings, one_by_one=one_by_one)

    def losses(variables: PyTree, rows: Array, valid: Array, settings: Settings) -> Array:
        def of_member(variables: PyTree, valid: Array, settings: Settings) -> Array:
            def of_rows(index: Array) -> Array:
                seen = Inferred(rows[index], learner.infer(variables, rows[index]))
                return jax.vmap(learner.loss, in_axes=(0, None))(seen, settings)

            return lax.map(of_rows, valid).ravel()

        return members.each(of_member, variables, valid, settings, one_by_one=one_by_one)

    return epoch, losses


Step = Callable[[TrainState, Array], tuple[TrainState, Metrics]]


def _until(step: Step, state: TrainState, plan: Array, count: Array) -> tuple[TrainState, Metrics]:
    """The first `count` steps of a plan [T, B]; the other metrics of [T] are undefined.

    The loop ends with the member's own rows, so members with more rows do not slow it down.
    """

    def one(i: Array, carry: tuple) -> tuple:
        state, so_far = carry
        state, metrics = step(state, plan[i])
        return state, {name: so_far[name].at[i].set(metrics[name]) for name in so_far}

    _, shapes = jax.eval_shape(step, state, plan[0])
    zeros = {name: jnp.zeros(len(plan), leaf.dtype) for name, leaf in shapes.items()}
    return lax.fori_loop(0, count, one, (state, zeros))


def _through(
    step: Step, state: TrainState, plan: Array, count: Array, *, unroll: int
) -> tuple[TrainState, Metrics]:
    """The same as `_until` in a loop of T steps; those after `count` change nothing.

    Used when members run side by side: in a loop whose length depends on data, an accelerator would
    have to ask the host at every step whether to stop.
    """

    def one(state: TrainState, xs: tuple[Array, Array]) -> tuple[TrainState, Metrics]:
        i, index = xs
        new, metrics = step(state, index)
        return jax.tree.map(lambda a, b: jnp.where(i < count, a, b), new, state), metrics

    return lax.scan(one, state, (jnp.arange(len(plan)), plan), unroll=unroll)


def compiled(learner: Learner, devices: parallel.Devices) -> tuple[Callable, Callable]:
    """The programs mapped over devices, compiled with the learner's `Tuning`."""
    platform = devices[0].platform
    epoch, losses = programs(learner, platform)
    training = parallel.mapped(epoch, devices, (0, None, 0, 0, 0, 0), (0, 0), donate=(0,))
    measuring = parallel.mapped(losses, devices, (0, None, 0, 0), (0,))
    how = learner.tuning, learner.dtype, platform
    options = tuning.training_options(*how, len(devices))
    return (
        _compiled_once(lambda *args: tuning.compiled(training.lower(*args), options)),
        _compiled_once(lambda *args: tuning.compiled_scorer(measuring, args, *how)),
    )


def _compiled_once(compile_for: Callable[..., Callable]) -> Callable:
    """A program that is compiled for the arguments of its first call."""
    program: list[Callable] = []

    def call(*args: PyTree) -> PyTree:
        if not program:
            program.append(compile_for(*args))
        return program[0](*args)

    return call
