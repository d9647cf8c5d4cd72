"""Wrappers of learners, `Learner -> Learner`, much as optax transforms gradients.

A wrapper changes what a learner's `step` receives, for every method; no method knows of it.
"""

import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxae import rng
from jaxae.data.augmentations import Augmentation
from jaxae.errors import UserError
from jaxae.registry import Registry
from jaxae.types import Batch, Key, Learner, Metrics, Scalar, Settings, Shape, TrainState

# Both larger than every step's number.
_AUGMENTATION, _CROPS = (
    2**32 - int(purpose) for purpose in (rng.Purpose.AUGMENTATION, rng.Purpose.CROPS)
)


def augmented(learner: Learner, variants: Iterable[tuple[Augmentation, float]]) -> Learner:
    """The learner, trained on random variants of its rows, new ones at every step.

    A variant is both input and target: the network learns that it is normal. Its random numbers are
    addressed by the member's key, the step, the row's slot in the global batch, and the
    augmentation's position in the list.

    Args:
      learner: a learner.
      variants: augmentations, each with its `most`, applied one after the other.
    """
    variants = tuple(variants)

    def varied(x: Array, key: Key) -> Array:
        for i, (augmentation, most) in enumerate(variants):
            x = augmentation.apply(x, most, jax.random.fold_in(key, i))
        return x

    def step(
        state: TrainState, batch: Batch, key: Key, settings: Settings
    ) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(jax.random.fold_in(key, _AUGMENTATION), state.step)
        x = jax.vmap(varied)(batch.x, rng.row_keys(step_key, batch.slot))
        return learner.step(state, batch._replace(x=x), key, settings)

    return learner._replace(step=step)


def crop_shape(shape: Shape, side: int) -> Shape:
    """The shape of a crop of rows of a shape: a side that is shorter than `side` is taken whole.

    Raises:
      UserError: a crop would be a whole row.
    """
    crop = (*(min(side, n) for n in shape[:-1]), shape[-1])
    if crop == shape:
        raise UserError(
            f"train.crop is {side}, but rows of shape {list(shape)} are no larger; use "
            "--train.crop 0"
        )
    return crop


def cropped(learner: Learner, side: int, count: int) -> Learner:
    """The learner, trained on random crops of its rows, new ones at every step.

    A step of B rows trains on `count` B crops, so that its memory does not depend on the size of
    the rows. Every place at which a crop fits into its row is equally likely. It is addressed by
    the member's key, the step, the row's slot in the global batch, and the number of the crop; crop
    c of slot s has slot `count` s + c.

    Args:
      learner: a learner whose parameters do not depend on the shape of its rows [H, W, C] or
        [T, C].
      side: pixels on each side of a crop, or steps; a shorter side of a row is taken whole.
      count: crops of each row.
    """

    def crop(x: Array, key: Key) -> Array:
        shape = crop_shape(x.shape, side)
        places = jnp.array([n - s + 1 for n, s in zip(x.shape, shape, strict=True)])
        return jax.lax.dynamic_slice(x, jax.random.randint(key, places.shape, 0, places), shape)

    def crops(x: Array, key: Key) -> Array:
        return jax.vmap(crop, in_axes=(None, 0))(x, rng.row_keys(key, jnp.arange(count)))

    def step(
        state: TrainState, batch: Batch, key: Key, settings: Settings
    ) -> tuple[TrainState, Metrics]:
        step_key = jax.random.fold_in(jax.random.fold_in(key, _CROPS), state.step)
        x = jax.vmap(crops)(batch.x, rng.row_keys(step_key, batch.slot))
        slot = count * batch.slot[:, None] + jnp.arange(count, dtype=batch.slot.dtype)[None]
        rows = Batch(x.reshape(-1, *x.shape[2:]), slot.reshape(-1))
        return learner.step(state, rows, key, settings)

    return learner._replace(step=step)


# The factor of the learning rate, by the completed share, in [0, 1], of steps after the warm-up.
SCHEDULES: Registry[Callable[[Array], Array | float]] = Registry(
    "schedule",
    Callable,  # type: ignore[arg-type]
    {
        "constant": lambda done: 1.0,
        "cosine": lambda done: 0.5 * (1.0 + jnp.cos(jnp.pi * done)),
    },
)


def scheduled(learner: Learner, schedule: Callable, warmup: float) -> Learner:
    """The learner with scheduled learning rates: at step t, `lr` and `lr_...` times f(t).

    With N steps in all, w = warmup N and t = 0, 1, ...:
      f(t) = min(1, (t + 1) / max(w, 1)) schedule(max(0, t - w) / (N - w)).

    Args:
      learner: a learner.
      schedule: one of `SCHEDULES`.
      warmup: the share of all steps in which the rates rise, at least 0 and below 1.

    Raises:
      UserError: the learner has no setting `lr` or `lr_...`.
    """
    names = [name for name in learner.settings if name == "lr" or name.startswith("lr_")]
    if not names:
        raise UserError(
            "optim.schedule and optim.warmup need a method with a setting lr; leave them at "
            "'constant' and 0.0"
        )

    def factor(step: Scalar, steps: Scalar) -> Scalar:
        rising = warmup * steps
        done = jnp.clip((step - rising) / (steps - rising), 0.0, 1.0)
        return jnp.minimum(1.0, (step + 1.0) / jnp.maximum(rising, 1.0)) * schedule(done)

    def step(
        state: TrainState, batch: Batch, key: Key, settings: Settings
    ) -> tuple[TrainState, Metrics]:
        now = factor(state.step.astype(jnp.float32), settings["steps"])
        return learner.step(state, batch, key, settings | {n: settings[n] * now for n in names})

    return learner._replace(step=step, settings=learner.settings | {"steps": math.nan})
