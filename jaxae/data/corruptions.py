"""Corruptions that turn normal rows into anomalies of a given severity: pure functions of a row.

Each is `(x, severity [], key) -> x-like`, mapped over rows and severities; severity 0 is the
identity. The random numbers of a row depend only on its position in the array, not on which other
rows are corrupted, and all severities of a row share one draw, so a surface over severities is
smooth.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Int

from jaxae.data import sources
from jaxae.devices.tuning import FAST_COMPILE
from jaxae.errors import UserError
from jaxae.ops.blur import gaussian_blur
from jaxae.registry import Registry
from jaxae.rng import Purpose, host_generator, row_keys, stream
from jaxae.types import AnyArray, Key, Scalar, Shape, Source

_CHUNK = 256  # rows corrupted side by side: bounds the memory
_BLUR_RADIUS = 12  # four standard deviations at the largest severity of `blur`, 3 pixels


class Corruption(NamedTuple):
    """A corruption, the kind of rows that it works on, and its severities."""

    apply: Callable[[Array, Array, Key], Array]
    kind: Literal["images", "series", "any"]
    severities: tuple[float, ...]  # a grid from barely visible to severe
    limits: tuple[float, float]  # smallest and largest severity
    unit: str


def _resample(x: Array, rows: Array, columns: Array) -> Array:
    """Read an image [H, W, C] at fractional positions [H, W], bilinearly, 0 outside."""
    return jnp.stack(
        [
            map_coordinates(x[..., channel], [rows, columns], order=1, mode="constant", cval=0.0)
            for channel in range(x.shape[-1])
        ],
        axis=-1,
    )


def _grid(x: Array) -> Sequence[Array]:
    """Row and column of every pixel, each [H, W] float32."""
    rows, columns = (jnp.arange(side, dtype=jnp.float32) for side in x.shape[:2])
    return jnp.meshgrid(rows, columns, indexing="ij")


def rotation(x: Float[Array, "H W C"], degrees: Scalar, key: Key) -> Float[Array, "H W C"]:
    """Rotate an image anticlockwise about its centre; bilinear, 0 outside the image.

    Multiples of 90 degrees move pixels onto pixels, as `numpy.rot90` does for square images.
    """
    rows, columns = _grid(x)
    middle = ((x.shape[0] - 1) / 2, (x.shape[1] - 1) / 2)
    u, v = rows - middle[0], columns - middle[1]
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    return _resample(x, cos * u + sin * v + middle[0], cos * v - sin * u + middle[1])


def negative(x: Float[Array, "H W C"], share: Scalar, key: Key) -> Float[Array, "H W C"]:
    """Blend an image with its negative: (1 - s) x + s (1 - x); s = 1 is the negative."""
    return x + share * (1 - 2 * x)


def noise(x: Float[Array, "*S"], sigma: Scalar, key: Key) -> Float[Array, "*S"]:
    """Add Gaussian noise; images are then clipped to [0, 1], series and vectors are not."""
    noisy = x + sigma * jax.random.normal(key, x.shape)
    return jnp.clip(noisy, 0, 1) if x.ndim == 3 else noisy


def noise_rescaled(x: Float[Array, "H W C"], sigma: Scalar, key: Key) -> Float[Array, "H W C"]:
    """Add Gaussian noise, then stretch each image so that it spans [0, 1] again.

    The stretch greys the background, which makes even weak noise easy to detect.
    """
    noisy = x + sigma * jax.random.normal(key, x.shape)
    low, high = jnp.min(noisy), jnp.max(noisy)
    stretched = (noisy - low) / jnp.where(high > low, high - low, 1.0)
    return jnp.where(sigma > 0, stretched, x)


def blur(x: Float[Array, "H W C"], sigma: Scalar, key: Key) -> Float[Array, "H W C"]:
    """Smooth an image with a Gaussian of `sigma` pixels, borders mirrored."""
    return gaussian_blur(x, sigma, _BLUR_RADIUS)


def occlusion(x: Float[Array, "H W C"], share: Scalar, key: Key) -> Float[Array, "H W C"]:
    """Black out a square at a random place; its side is a share of the image's shorter side."""
    height, width = x.shape[:2]
    side = jnp.round(share * min(height, width))
    top, left = jnp.floor(jax.random.uniform(key, (2,)) * (jnp.array([height, width]) - side + 1))
    rows, columns = _grid(x)
    hidden = (rows >= top) & (rows < top + side) & (columns >= left) & (columns < left + side)
    return jnp.where(hidden[..., None], 0.0, x)


def shift(x: Float[Array, "H W C"], pixels: Scalar, key: Key) -> Float[Array, "H W C"]:
    """Move an image up, down, left or right (drawn per row); uncovered pixels become black."""
    down, right = jnp.array([[1, 0], [-1, 0], [0, 1], [0, -1]])[jax.random.randint(key, (), 0, 4)]
    rows, columns = _grid(x)
    return _resample(x, rows - pixels * down, columns - pixels * right)


def contrast(x: Float[Array, "H W C"], share: Scalar, key: Key) -> Float[Array, "H W C"]:
    """Pull an image towards its mean m: m + (1 - s) (x - m); s = 1 leaves plain grey."""
    return x + share * (jnp.mean(x) - x)


def drift(x: Float[Array, "T C"], amplitude: Scalar, key: Key) -> Float[Array, "T C"]:
    """Add a slow baseline wander: per channel, a sine of half to two periods with random phase."""
    for_rate, for_phase = jax.random.split(key)
    channels = x.shape[1]
    rate = jax.random.uniform(for_rate, (1, channels), minval=0.5, maxval=2.0)
    phase = jax.random.uniform(for_phase, (1, channels))
    time = jnp.linspace(0, 1, x.shape[0])[:, None]
    return x + amplitude * jnp.sin(2 * jnp.pi * (rate * time + phase))


def dropout(x: Float[Array, "T C"], share: Scalar, key: Key) -> Float[Array, "T C"]:
    """Freeze a series, as a stuck sensor does: a random stretch keeps its first value."""
    length = jnp.round(share * x.shape[0])
    start = jnp.floor(jax.random.uniform(key) * (x.shape[0] - length + 1)).astype(jnp.int32)
    time = jnp.arange(x.shape[0])
    frozen = (time >= start) & (time < start + length)
    return jnp.where(frozen[:, None], x[jnp.minimum(start, x.shape[0] - 1)][None], x)


def time_warp(x: Float[Array, "T C"], strength: Scalar, key: Key) -> Float[Array, "T C"]:
    """Vary the speed of a series: 1 + s cos(2 pi k t), k = 1 or 2, either sign.

    The order is kept (s <= 1), both ends stay fixed, values are interpolated linearly.
    """
    last = x.shape[0] - 1
    for_periods, for_sign = jax.random.split(key)
    periods = jax.random.randint(for_periods, (), 1, 3)
    sign = jax.random.rademacher(for_sign, ())
    time = jnp.arange(x.shape[0], dtype=jnp.float32)
    swing = last / (2 * jnp.pi * periods) * jnp.sin(2 * jnp.pi * periods * time / max(last, 1))
    warped_time = jnp.clip(time + strength * sign * swing, 0, last)
    left = jnp.floor(warped_time).astype(jnp.int32)
    weight = (warped_time - left)[:, None]
    return (1 - weight) * x[left] + weight * x[jnp.minimum(left + 1, last)]


_INF = math.inf
CORRUPTIONS: Registry[Corruption] = Registry(
    "corruption",
    Corruption,
    {
        "rotation": Corruption(rotation, "images", (15, 30, 45, 90, 180), (-_INF, _INF), "degrees"),
        "negative": Corruption(negative, "images", (0.1, 0.25, 0.5, 0.75, 1), (0, 1), "share"),
        "noise": Corruption(noise, "any", (0.02, 0.05, 0.1, 0.2, 0.4), (0, _INF), "std"),
        "noise_rescaled": Corruption(
            noise_rescaled, "images", (0.02, 0.05, 0.1, 0.2, 0.4), (0, _INF), "std"
        ),
        "blur": Corruption(
            blur, "images", (0.5, 0.75, 1, 1.5, 2.5), (0, _BLUR_RADIUS / 4), "pixels"
        ),
        "occlusion": Corruption(occlusion, "images", (0.1, 0.2, 0.3, 0.4, 0.5), (0, 1), "share"),
        "shift": Corruption(shift, "images", (1, 2, 3, 4, 6), (0, _INF), "pixels"),
        "contrast": Corruption(contrast, "images", (0.2, 0.4, 0.6, 0.8, 0.95), (0, 1), "share"),
        "drift": Corruption(drift, "series", (0.05, 0.1, 0.2, 0.4, 0.8), (0, _INF), "amplitude"),
        "dropout": Corruption(dropout, "series", (0.05, 0.1, 0.2, 0.3, 0.5), (0, 1), "share"),
        "time_warp": Corruption(time_warp, "series", (0.1, 0.2, 0.4, 0.6, 0.9), (0, 1), "speed"),
    },
)


def takes(x: Source) -> bool:
    """Whether rows can be corrupted: images need values in [0, 1]."""
    return len(x.shape) != 4 or sources.within(sources.span(x), 0.0, 1.0)


def applicable(shape: Shape) -> tuple[str, ...]:
    """The names of the corruptions that work on rows of this shape, in the registry's order."""
    kind = {2: "series", 3: "images"}.get(len(shape))
    return tuple(name for name, c in CORRUPTIONS.items() if c.kind in ("any", kind))


def corrupt(spec: str, x: Float[np.ndarray, " N *S"], seed: int) -> Float[np.ndarray, " N *S"]:
    """Corrupted copies of rows.

    Args:
      spec: "NAME:SEVERITY", for instance "rotation:90".
      x: rows, images in [0, 1].
      seed: row i uses the random numbers of (seed, i), independent of the other rows.

    Raises:
      UserError: the name is unknown or does not work on this shape, or the severity is missing or
        outside its limits.
    """
    name, _, text = spec.partition(":")
    corruption, fitting = CORRUPTIONS[name], applicable(x.shape[1:])
    if name not in fitting:
        raise UserError(
            f"corruption {name!r} works on {corruption.kind}, not on rows of shape {x.shape[1:]}; "
            f"use one of {', '.join(fitting)}"
        )
    low, high = corruption.limits
    try:
        severity = float(text)
    except ValueError:
        severity = math.nan
    if not (math.isfinite(severity) and low <= severity <= high):
        raise UserError(
            f"corruption {spec!r} needs a severity in {corruption.unit} from {low:g} to {high:g}, "
            f"as {name}:{corruption.severities[1]:g}"
        )
    key = stream(seed, Purpose.CORRUPTION)
    return np.asarray(_corrupt(name, jnp.asarray(x, jnp.float32), jnp.float32(severity), key))


@partial(jax.jit, static_argnames="name", compiler_options=FAST_COMPILE)
def _corrupt(name: str, x: Array, severity: Array, key: Key) -> Array:
    def one(row: tuple[Array, Key]) -> Array:
        return CORRUPTIONS[name].apply(row[0], severity, row[1])

    return jax.lax.map(one, (x, row_keys(key, jnp.arange(len(x)))), batch_size=_CHUNK)


def severity_grid(
    names: Sequence[str], x: Float[AnyArray, " N *S"], key: Key, severities: AnyArray
) -> Float[Array, " K L N *S"]:
    """All corruptions at all severities: the rows of a severity surface, to be compiled.

    Args:
      names: K of those that `applicable` gives, unchecked here; static under `jax.jit`.
      x: rows; the result is K * L times as large, so pass only some hundreds.
      key: the key of the stream; a row's draws are the same for every name and severity, and equal
        those of `corrupt` if this is `stream(seed, Purpose.CORRUPTION)`.
      severities: [K, L], one grid for each name; all `Corruption.severities` have equal length.
    """
    keys, levels = row_keys(key, jnp.arange(len(x))), jnp.asarray(severities, jnp.float32)
    surfaces = []
    for i, name in enumerate(names):
        over_rows = jax.vmap(CORRUPTIONS[name].apply, in_axes=(0, None, 0))
        surfaces.append(jax.vmap(over_rows, in_axes=(None, 0, None))(x, levels[i], keys))
    return jnp.stack(surfaces)


def pseudo_anomalies(x: Float[np.ndarray, " N *S"], seed: int) -> Float[np.ndarray, " N *S"]:
    """Anomalies made from normals alone: a part of each row is replaced by a part of another.

    Images [H, W, C]: a patch of a quarter to a half of each side moves from one random place to
    another (after Li et al., "CutPaste", CVPR 2021, who cut from the same image). Series [T, C]: a
    segment of such a length moves to another time. Vectors [F]: a random quarter to half of the
    features are copied in place, since each feature has its own unit.
    """
    generator = host_generator(seed, Purpose.CORRUPTION)
    mixed, order = x.copy(), generator.permutation(len(x))
    for i, donor in zip(order, np.roll(order, 1), strict=True):  # no row is its own donor
        to, source = (_features if x.ndim == 2 else _boxes)(x.shape[1:], generator)
        mixed[(i, *to)] = x[(donor, *source)]
    return mixed


def _share(size: Int[np.ndarray, " A"], generator: np.random.Generator) -> Int[np.ndarray, " A"]:
    """A random quarter to half of each number, at least 1."""
    return generator.integers(np.maximum(size // 4, 1), np.maximum(size // 2, 1) + 1)


def _features(shape: tuple, generator: np.random.Generator) -> tuple[tuple, tuple]:
    picked = generator.permutation(shape[0])[: _share(np.array(shape), generator)[0]]
    return (picked,), (picked,)


def _boxes(shape: tuple, generator: np.random.Generator) -> tuple[tuple, ...]:
    size = np.array(shape[:-1])
    side = _share(size, generator)
    places = (generator.integers(0, size - side + 1) for _ in range(2))
    return tuple(
        tuple(slice(a, a + n) for a, n in zip(place, side, strict=True)) for place in places
    )
