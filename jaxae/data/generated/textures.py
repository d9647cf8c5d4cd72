"""Surfaces of procedural textures, each image another piece of the same material.

Everything is computed in float64, so that machines whose last digits differ give the same pixels.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from jaxae.registry import Registry

SIDE = 256  # pixels
Surface = Float[np.ndarray, "H W C"]  # values about 0 ... 1, without light and camera
Texture = Callable[[np.random.Generator], Surface]


def smooth(rng: np.random.Generator, *sigma: float) -> Float[np.ndarray, "H W"]:
    """Gaussian noise of variance 1, blurred by `sigma` pixels (down, across), periodic."""
    down, across = sigma if len(sigma) == 2 else sigma * 2
    at = [np.fft.fftfreq(SIDE)[:, None] * down, np.fft.rfftfreq(SIDE) * across]
    blur = np.exp(-2 * np.pi**2 * (at[0] ** 2 + at[1] ** 2))
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((SIDE, SIDE))) * blur, (SIDE, SIDE))
    return noise / noise.std()


def _coordinates(
    rng: np.random.Generator, turn: float = 2.0, waves: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns [H, W] of a piece at a random place, turned by some degrees, and uneven."""
    angle = np.deg2rad(rng.uniform(-turn, turn))
    row, column = np.mgrid[:SIDE, :SIDE] + rng.uniform(0, 1000, 2)[:, None, None]
    down = np.cos(angle) * row + np.sin(angle) * column + waves * smooth(rng, 24.0)
    across = np.cos(angle) * column - np.sin(angle) * row + waves * smooth(rng, 24.0)
    return down, across


def _threads(rng: np.random.Generator, number: np.ndarray, spread: float) -> np.ndarray:
    """A random value for each thread, wire or grain of these numbers [H, W]."""
    low = int(number.min())
    return spread * rng.standard_normal(int(number.max()) - low + 1)[number - low]


def _mixed(share: np.ndarray, *colours: tuple[float, ...]) -> Surface:
    """From the first colour (share 0) to the second (1)."""
    first, second = (np.array(colour) for colour in colours)
    return first + np.clip(share, 0, 1)[..., None] * (second - first)


def weave(rng: np.random.Generator) -> Surface:
    """Twill of blue warp and pale weft threads of uneven brightness."""
    down, across = (one / 8 for one in _coordinates(rng))
    weft, warp = np.floor(down).astype(int), np.floor(across).astype(int)
    is_warp = (warp - weft) % 4 < 2
    off = np.where(is_warp, across - warp, down - weft) - 0.5
    along = np.where(is_warp, down - weft, across - warp)
    uneven = np.where(is_warp, _threads(rng, warp, 0.05), _threads(rng, weft, 0.05))
    fibres = 0.06 * np.where(is_warp, smooth(rng, 4.0, 0.6), smooth(rng, 0.6, 4.0))
    shade = np.sqrt(1 - (1.8 * off) ** 2) * (0.92 + 0.08 * np.sin(np.pi * along))
    colour = _mixed(is_warp, (0.72, 0.70, 0.64), (0.30, 0.38, 0.55))
    return colour * (shade * (1 + uneven + fibres))[..., None]


def grid(rng: np.random.Generator) -> Surface:
    """Bright mesh of crossing wires on a dark ground, grey."""
    down, across = _coordinates(rng)
    ground = 0.22 + 0.025 * smooth(rng, 1.5) + 0.02 * smooth(rng, 12.0)
    for position in ((down + across) / 28, (down - across) / 28):
        wire = np.round(position).astype(int)
        off = np.abs(position - wire) * 28 / np.sqrt(2) / (3.2 + _threads(rng, wire, 0.15))
        steel = 0.45 + 0.35 * np.sqrt(np.clip(1 - off**2, 0, 1)) + 0.03 * smooth(rng, 2.0)
        inside = np.clip(2.5 * (1.2 - off), 0, 1)
        ground = ground + inside * (steel * (1 + _threads(rng, wire, 0.03)) - ground)
    return ground[..., None]


def stone(rng: np.random.Generator) -> Surface:
    """Granite: grains of three minerals, a few of them large."""
    from scipy.spatial import KDTree

    seeds = rng.uniform(-12, SIDE + 12, (1400, 2))
    ragged = np.stack([1.5 * smooth(rng, 1.2), 1.5 * smooth(rng, 1.2)])
    _, grain = KDTree(seeds).query(np.moveaxis(np.mgrid[:SIDE, :SIDE] + ragged, 0, -1))
    minerals = np.array([(0.30, 0.29, 0.30), (0.62, 0.58, 0.56), (0.66, 0.50, 0.45)])
    kind = rng.choice(3, len(seeds), p=(0.25, 0.45, 0.3))
    colour = minerals[kind] * (1 + 0.1 * rng.standard_normal((len(seeds), 1)))
    return colour[grain] * (1 + 0.06 * smooth(rng, 1.0) + 0.04 * smooth(rng, 10.0))[..., None]


def wood(rng: np.random.Generator) -> Surface:
    """Veneer: wavy year rings, fibres, and dark pores along them."""
    _, across = _coordinates(rng, waves=2.0)
    rings = (across + 7 * smooth(rng, 70.0, 14.0)) / 17
    late = (rings - np.floor(rings)) ** 3  # the dark end of each ring
    late *= 1 + _threads(rng, np.floor(rings).astype(int), 0.2)
    fibres = 0.05 * smooth(rng, 22.0, 0.8) + 0.03 * smooth(rng, 40.0, 3.0)
    pores = np.clip(smooth(rng, 7.0, 0.7) - 1.9, 0, 1)
    share = 0.25 + 0.6 * late + fibres + 0.5 * pores
    return _mixed(share, (0.80, 0.62, 0.42), (0.36, 0.22, 0.12))


TEXTURES: Registry[Texture] = Registry(
    "texture", Callable, {"weave": weave, "grid": grid, "stone": stone, "wood": wood}
)


def photograph(rng: np.random.Generator, surface: Surface) -> Float[np.ndarray, "H W C"]:
    """The surface as a camera sees it: sharpness, uneven light, exposure and noise."""
    from scipy.ndimage import gaussian_filter

    sharp = gaussian_filter(surface, (rng.uniform(0.5, 0.7), rng.uniform(0.5, 0.7), 0))
    angle = rng.uniform(0, 2 * np.pi)
    row, column = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    light = 1 + rng.uniform(0, 0.12) * (np.cos(angle) * row + np.sin(angle) * column)
    light *= rng.uniform(0.95, 1.05) * (1 + 0.02 * smooth(rng, 60.0))
    return sharp * light[..., None] + 0.012 * rng.standard_normal(surface.shape)
