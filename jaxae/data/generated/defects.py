"""Defects drawn on a surface, each with the mask of the pixels that it changes.

Their contrast is that of the texture itself or less, so that no threshold on brightness finds them.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from jaxae.data.generated.textures import SIDE, Surface, smooth

Drawn = tuple[Surface, Bool[np.ndarray, "H W"]]  # the surface with its defect, and the mask
Defect = Callable[[np.random.Generator, Surface], Drawn]
_VISIBLE = 0.35  # of a defect's full strength: the mask holds the pixels beyond it


def _blended(surface: Surface, other: Surface, strength: Float[np.ndarray, "H W"]) -> Drawn:
    strength = np.clip(strength, 0, 1)
    return surface + strength[..., None] * (other - surface), strength > _VISIBLE


def _centre(rng: np.random.Generator, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns [H, W] from a random point, `margin` pixels inside of the borders."""
    row, column = np.mgrid[:SIDE, :SIDE] - rng.uniform(margin, SIDE - margin, 2)[:, None, None]
    return row, column


def _region(rng: np.random.Generator, radius: float, ragged: float) -> Float[np.ndarray, "H W"]:
    """The strength of an irregular region of about this radius, soft within two pixels."""
    row, column = _centre(rng, radius)
    flat, angle = rng.uniform(0.6, 1.0), rng.uniform(0, np.pi)
    along = np.cos(angle) * row + np.sin(angle) * column
    beside = (np.cos(angle) * column - np.sin(angle) * row) / flat
    distance = np.hypot(along, beside) - ragged * radius * smooth(rng, 0.35 * radius)
    return np.clip((radius - distance) / 2, 0, 1)


def _tint(rng: np.random.Generator, channels: int, size: float) -> Float[np.ndarray, " C"]:
    """A change of colour, or of brightness of grey images, of this size."""
    change = rng.standard_normal(channels)
    return size * change / np.abs(change).max()


def scratch(rng: np.random.Generator, surface: Surface) -> Drawn:
    """A thin curved line, brighter or darker than what is below it."""
    row, column = _centre(rng, 60.0)
    angle, length = rng.uniform(0, np.pi), rng.uniform(35, 80)
    along = np.cos(angle) * row + np.sin(angle) * column
    beside = np.cos(angle) * column - np.sin(angle) * row
    beside = beside + rng.uniform(-0.006, 0.006) * along**2 + 0.6 * smooth(rng, 6.0)
    width = rng.uniform(1.2, 2.0)
    strength = np.clip(1.5 * (width - np.abs(beside)), 0, 1)
    strength *= np.clip((length - np.abs(along)) / 4, 0, 1)
    target = rng.choice([0.1, 0.9])
    return _blended(surface, surface + 0.5 * (target - surface), strength)


def spot(rng: np.random.Generator, surface: Surface) -> Drawn:
    """Two to five small drops of another colour."""
    strength = np.max([_region(rng, rng.uniform(4, 9), 0.15) for _ in range(rng.integers(2, 6))], 0)
    return _blended(surface, surface + _tint(rng, surface.shape[-1], 0.16), strength)


def stain(rng: np.random.Generator, surface: Surface) -> Drawn:
    """A large ragged region that absorbs light of some colour."""
    strength = _region(rng, rng.uniform(16, 32), 0.3)
    change = _tint(rng, surface.shape[-1], rng.uniform(0.12, 0.22))
    return _blended(surface, surface * (1 + change), strength)


def missing(rng: np.random.Generator, surface: Surface) -> Drawn:
    """A region without structure, of the brightness around it."""
    from scipy.ndimage import gaussian_filter

    flat = gaussian_filter(surface, (9, 9, 0), mode="reflect")
    strength = _region(rng, rng.uniform(9, 18), 0.2)
    return _blended(surface, flat + 0.15 * (surface - flat), strength)


def bent(rng: np.random.Generator, surface: Surface) -> Drawn:
    """A region whose structure is twisted, most in its middle, by up to 40 to 80 degrees."""
    row, column = _centre(rng, 30.0)
    radius, most = rng.uniform(10, 16), np.deg2rad(rng.uniform(40, 80)) * rng.choice([-1, 1])
    angle = most * np.clip(1 - (row**2 + column**2) / (2.2 * radius) ** 2, 0, 1) ** 2
    down = row - np.cos(angle) * row - np.sin(angle) * column
    across = column - np.cos(angle) * column + np.sin(angle) * row
    return _moved(surface, down, across), np.abs(angle) > np.deg2rad(6)


def coarse(rng: np.random.Generator, surface: Surface) -> Drawn:
    """A region whose structure is two and a half times as large."""
    row, column = _centre(rng, 30.0)
    strength = np.clip((rng.uniform(18, 28) - np.hypot(row, column)) / 2, 0, 1)
    return _blended(surface, _moved(surface, 0.6 * row, 0.6 * column), strength)


def _moved(surface: Surface, down: np.ndarray, across: np.ndarray) -> Surface:
    """What lies `down` and `across` [H, W] pixels before each pixel."""
    from scipy.ndimage import map_coordinates

    at = np.mgrid[:SIDE, :SIDE] - np.stack([down, across])
    channels = np.moveaxis(surface, -1, 0)
    return np.stack([map_coordinates(one, at, order=1, mode="mirror") for one in channels], -1)
