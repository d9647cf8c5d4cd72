"""Random variants of a training row by name: what `train.augment` lists.

Each is `(x, most, key) -> x-like`: how much a row changes is drawn from its key, up to `most`.
Most are corruptions of a random severity.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.data.corruptions import CORRUPTIONS, Corruption, takes
from jaxae.errors import UserError
from jaxae.registry import Registry
from jaxae.types import Key, Source

_DIMS = {"images": (3,), "series": (2,), "any": (1, 2, 3)}
_WORDS = {1: "vectors [F]", 2: "series [T, C]", 3: "images [H, W, C]"}


class Augmentation(NamedTuple):
    """An augmentation and the facts needed to use it.

    Attributes:
      apply: `(x, most, key) -> x-like`; `most` is a Python number.
      dims: numbers of axes of the rows that it works on.
      high: the largest `most`; all are above 0.
      unit: of `most`, in words.
      example: a usual `most`.
      whole: whether `most` is a number of pixels or time steps, fewer than a row has.
      unbounded: whether images may have values outside [0, 1].
    """

    apply: Callable[[Array, float, Key], Array]
    dims: tuple[int, ...]
    high: float
    unit: str
    example: float
    whole: bool = False
    unbounded: bool = False


def _corrupted(corruption: Corruption) -> Augmentation:
    """A corruption of a severity in [0, most), or (-most, most) if severities may be negative."""
    low, high = corruption.limits

    def apply(x: Array, most: float, key: Key) -> Array:
        for_severity, for_rest = jax.random.split(key)
        severity = jax.random.uniform(for_severity, minval=-most if low < 0 else 0.0, maxval=most)
        return corruption.apply(x, severity, for_rest)

    example = corruption.severities[0]
    return Augmentation(apply, _DIMS[corruption.kind], high, corruption.unit, example)


def shift(x: Float[Array, "*S"], most: float, key: Key) -> Float[Array, "*S"]:
    """Move an image by whole pixels along both sides, or a series by whole time steps.

    Each distance is drawn from -most ... most. What is uncovered becomes black in images, and in
    series the value at that end.
    """
    for axis, axis_key in enumerate(jax.random.split(key, x.ndim - 1)):
        by = jax.random.randint(axis_key, (), -int(most), int(most) + 1)
        at = jnp.arange(x.shape[axis]) - by
        if x.ndim == 3:
            at = jnp.where(at < 0, x.shape[axis], at)  # outside; a negative index would wrap
        x = jnp.take(x, at, axis, mode="fill" if x.ndim == 3 else "clip", fill_value=0)
    return x


def flip(x: Float[Array, "H W C"], probability: float, key: Key) -> Float[Array, "H W C"]:
    """Mirror an image left to right, with this probability."""
    # Read by index: XLA would compute what comes before twice for a select of both images. Five
    # augmentations of 128 images of 28 x 28 pixels: 7.4 -> 1.9 ms of one core (AMD EPYC).
    at = jnp.arange(x.shape[1])
    return jnp.take(x, jnp.where(jax.random.uniform(key) < probability, at[::-1], at), 1)


def mask(x: Float[Array, "*S"], most: float, key: Key) -> Float[Array, "*S"]:
    """Set random pixels, time steps or features to 0, each with a probability in [0, most)."""
    for_share, for_places = jax.random.split(key)
    places = x.shape if x.ndim == 1 else (*x.shape[:-1], 1)
    share = jax.random.uniform(for_share, maxval=most)
    return jnp.where(jax.random.uniform(for_places, places) < share, 0.0, x)


AUGMENTATIONS: Registry[Augmentation] = Registry(
    "augmentation",
    Augmentation,
    {
        **{name: _corrupted(corruption) for name, corruption in CORRUPTIONS.items()},
        "shift": Augmentation(shift, (2, 3), math.inf, "whole pixels or time steps", 2, whole=True),
        "flip": Augmentation(flip, (3,), 1, "probability", 0.5, unbounded=True),
        "mask": Augmentation(mask, (1, 2, 3), 1, "share", 0.2, unbounded=True),
    },
)


def resolve(specs: Iterable[str]) -> dict[str, tuple[Augmentation, float]]:
    """The augmentations of `train.augment` by name, each with its `most`, in their order.

    Raises:
      UserError: a name is unknown or listed twice, or a number is missing or outside its limits.
    """
    found: dict[str, tuple[Augmentation, float]] = {}
    for spec in specs:
        name, _, text = spec.partition(":")
        one = AUGMENTATIONS[name]
        if name in found:
            raise UserError(f"train.augment lists {name} twice; keep one of them")
        try:
            most = float(text)
        except ValueError:
            most = math.nan
        if not (0 < most <= one.high and math.isfinite(most) and (most % 1 == 0 or not one.whole)):
            limit = f" and at most {one.high:g}" if math.isfinite(one.high) else ""
            raise UserError(
                f"train.augment {spec!r} needs a number above 0{limit} ({one.unit}), as "
                f"{name}:{one.example:g}"
            )
        found[name] = one, most
    return found


def check_rows(specs: Iterable[str], x: Source) -> None:
    """Refuse augmentations that do not work on rows [N, *S].

    Raises:
      UserError: rows are of another kind, too small, or images with values outside [0, 1].
    """
    shape = x.shape[1:]
    for name, (one, most) in resolve(specs).items():
        if len(shape) not in one.dims:
            kinds = " or ".join(_WORDS[n] for n in one.dims)
            fitting = ", ".join(n for n, other in AUGMENTATIONS.items() if len(shape) in other.dims)
            raise UserError(
                f"train.augment {name} works on {kinds}, not on rows of shape {list(shape)}; use "
                f"{fitting or 'none'}"
            )
        if one.whole and most >= min(shape[:-1]):
            largest = min(shape[:-1]) - 1
            raise UserError(
                f"train.augment {name}:{most:g} is too far for rows of shape {list(shape)}; "
                f"{f'use at most {largest}' if largest else 'leave it out'}"
            )
        if not (one.unbounded or takes(x)):
            raise UserError(
                f"train.augment {name} needs images with values in [0, 1]; use --data.scale minmax"
            )
