"""Scores of the patches of an image: how far features of each are from those of normal patches.

The features of a patch say which edges and lines of which direction and size it holds, and its
brightness and colour; they need no network. Those of normal patches are kept as a bank, thinned to
a coreset (PatchCore: Roth et al., CVPR 2022; there the features are those of a pretrained network).
A texture is the same everywhere, so a patch is compared with normal patches of all positions.
"""

import math
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float

from jaxae.ops import forms
from jaxae.ops.blur import gaussian_blur
from jaxae.rng import Purpose, row_keys, stream
from jaxae.scoring import pooling
from jaxae.types import Inferred, Scalar, Score

SIDE = 16  # the fewest pixels of height and width
STRIDE = 4  # pixels from patch to patch
LEVELS = 2  # the image, and the image at half its size
POOL = 2.0  # standard deviation of the Gaussian over which energies are averaged, in pixels
SMOOTH = 1.5  # standard deviation of the Gaussian that smooths the map, in patches
BANK = 1024  # patches to compare with
CANDIDATES = 16384  # patches from which they are chosen
WORST = 0.04  # share of the patches whose mean distance is that of the image
_FLOOR = 5e-4  # of a response; below it there is no structure
_REGULAR = 1e-2  # added to the eigenvalues of the features' correlations
_NEIGHBOURS = 3  # of a patch of the bank, to which its distance is measured
_EACH = 512  # the most candidates of a row
_ROWS_AT_ONCE = 128

Features = Callable[[Inferred], Array]  # of one row -> [h, w, D]


def _taps(n: int, stride: int, sigma: float, order: int) -> Float[Array, "m n"]:
    """A Gaussian, or its first or second derivative, at every `stride`-th of n places, mirrored.

    The first has a sum of 1; of the others the absolute values have, far from the borders.
    """
    centres = (jnp.arange(-(-n // stride)) + 0.5) * stride - 0.5
    at = jnp.arange(n)
    mirrored = [at, -1 - at, 2 * n - 1 - at]
    offsets = jnp.stack([where[None] - centres[:, None] for where in mirrored]) / sigma
    bell = jnp.exp(-0.5 * jnp.square(offsets))
    if order == 0:
        taps = jnp.sum(bell, axis=0)
        return taps / jnp.sum(taps, axis=1, keepdims=True)
    factor = [lambda t: -t, lambda t: t * t - 1][order - 1]
    line = np.arange(-np.ceil(6 * sigma), np.ceil(6 * sigma) + 1) / sigma
    total = float(np.abs(factor(line) * np.exp(-0.5 * line**2)).sum())
    return jnp.sum(factor(offsets) * bell, axis=0) / total


def _filtered(
    x: Float[Array, "H W C"], down: int, across: int, sigma: float = 1.0, stride: int = 1
) -> Float[Array, "h w C"]:
    """Derivatives of these orders of an image that a Gaussian smooths, as two matrix products."""
    rows = jnp.tensordot(_taps(x.shape[0], stride, sigma, down), x, 1)
    return jnp.einsum("hwc,vw->hvc", rows, _taps(x.shape[1], stride, sigma, across))


def _responses(x: Float[Array, "H W C"]) -> Float[Array, "H W K"]:
    """First and second derivatives in four directions: edges and lines."""
    dx, dy = _filtered(x, 0, 1), _filtered(x, 1, 0)
    dxx, dyy, dxy = _filtered(x, 0, 2), _filtered(x, 2, 0), _filtered(x, 1, 1)
    edges = [dx, dy, (dx + dy) / np.sqrt(2), (dx - dy) / np.sqrt(2)]
    lines = [dxx, dyy, (dxx + dyy) / 2 + dxy, (dxx + dyy) / 2 - dxy]
    return jnp.concatenate(edges + lines, axis=-1)


def _opponent(x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
    """Brightness and two differences of colours; other numbers of channels stay as they are."""
    if x.shape[-1] != 3:
        return x
    red, green, blue = (x[..., i] for i in range(3))
    differences = [(red - blue) / 2, (2 * green - red - blue) / 4]
    return jnp.stack([(red + green + blue) / 3, *differences], axis=-1)


def texture(x: Float[Array, "H W C"]) -> Float[Array, "h w D"]:
    """Features of patches, every four pixels.

    For each level of a pyramid, direction and channel log(sqrt(blur(r^2))), r the derivatives in
    that direction; and the channels, averaged over a small and a large patch.
    """
    x = _opponent(x)
    means = [_filtered(x, 0, 0, POOL * size, STRIDE) for size in (0.5, 2)]
    energies = []
    for level in range(LEVELS):
        r = _responses(x)
        energy = _filtered(r * r, 0, 0, POOL / 2**level, STRIDE >> level)
        energies.append(0.5 * jnp.log(energy + _FLOOR**2))
        x = _filtered(x, 0, 0, 1.0, 2)
    return jnp.concatenate(energies + means, axis=-1)


def candidates(features: Features, rows: Iterable[Inferred]) -> Float[Array, "K D"]:
    """Features of patches drawn at random from all rows, by address: row and patch.

    Each patch has a random number, and those with the smallest numbers are kept, so that the draw
    does not depend on how rows are divided into blocks.
    """
    of_rows = jax.jit(lambda part, index: _drawn(features, part, index))
    kept: tuple[Array, ...] = ()
    count = 0
    for block in rows:
        for start in range(0, len(block.x), _ROWS_AT_ONCE):
            part = jax.tree.map(lambda leaf, at=start: leaf[at : at + _ROWS_AT_ONCE], block)
            drawn = of_rows(part, count + jnp.arange(len(part.x)))
            count += len(part.x)
            found, numbers = map(jnp.concatenate, zip(kept, drawn, strict=True)) if kept else drawn
            first = jnp.argsort(numbers)[:CANDIDATES]
            kept = found[first], numbers[first]
    return kept[0]


def _drawn(features: Features, rows: Inferred, index: Array) -> tuple[Array, Array]:
    """Features [K, D] of some patches of each row, and their random numbers [K]."""

    def of_row(row_and_key: tuple[Inferred, Array]) -> tuple[Array, Array]:
        row, key = row_and_key
        of_all = features(row)
        of_all = of_all.reshape(-1, of_all.shape[-1])
        numbers = jax.random.uniform(key, (len(of_all),))
        smallest, which = lax.top_k(-numbers, min(_EACH, len(of_all)))
        return of_all[which], -smallest

    keys = row_keys(stream(0, Purpose.BANK), index)
    found, numbers = lax.map(of_row, (rows, keys))
    return found.reshape(-1, found.shape[-1]), numbers.ravel()


def _coreset(points: Float[Array, "K D"], size: int) -> Float[Array, "M D"]:
    """Points that leave no other far away: each is the farthest from those before it.

    Its distances to the nearest are at most twice those of the best choice (Gonzalez, 1985).
    """

    def add(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        far, chosen = state
        at = jnp.argmax(far)
        squares = jnp.sum(jnp.square(points - points[at][None]), axis=1)
        return jnp.minimum(far, squares), chosen.at[i].set(at)

    far = jnp.full(len(points), jnp.inf)
    _, chosen = lax.fori_loop(0, size, add, (far, jnp.zeros(size, jnp.int32)))
    return points[chosen]


_coreset_of = jax.jit(_coreset, static_argnames="size")


def _fit(features: Features, rows: Iterable[Inferred]) -> dict:
    """Mean and whitening matrix of the features of normal patches, and a whitened bank of them."""
    points = candidates(features, rows)
    mean, std = jnp.mean(points, axis=0), jnp.std(points, axis=0) + 1e-6
    unit = (points - mean[None]) / std[None]
    size, axes = jnp.linalg.eigh(unit.T @ unit / len(unit))
    whiten = axes / jnp.sqrt(jnp.maximum(size, 0) + _REGULAR)[None] / std[:, None]
    bank = _coreset_of((points - mean[None]) @ whiten, min(BANK, len(points)))
    between = jnp.sqrt(jnp.maximum(squares(bank, bank), 0))
    nearest = lax.top_k(-between, min(1 + _NEIGHBOURS, len(bank)))[0]  # itself is one of them
    apart = jnp.maximum(-jnp.sum(nearest, axis=1) / _NEIGHBOURS, 1e-6)
    return {"mean": mean, "whiten": whiten, "bank": bank, "apart": apart}


def squares(points: Float[Array, "*P D"], bank: Float[Array, "M D"]) -> Float[Array, "*P M"]:
    """Squared distances by one matrix product; rounding may make the smallest negative."""
    lengths = jnp.sum(jnp.square(points), axis=-1, keepdims=True)
    inner = jnp.matmul(points, bank.T)
    own = jnp.sum(jnp.square(bank), axis=1)
    return lengths - 2 * inner + own.reshape((1,) * (inner.ndim - 1) + (-1,))


def whitened(fitted: dict, features: Float[Array, "h w D"]) -> Float[Array, "h w D"]:
    """The features of patches, decorrelated and in units of their spread over normal patches."""
    return jnp.matmul(features - fitted["mean"][None, None], fitted["whiten"])


def _distances(fitted: dict, features: Float[Array, "h w D"]) -> Float[Array, "h w"]:
    """The distance of each patch to the nearest of the bank, smoothed over neighbouring patches.

    It is divided by the distance of that one to its own neighbours: where normal patches are rare
    and differ, another one is expected to be farther away.
    """
    near = squares(whitened(fitted, features), fitted["bank"])
    apart = jnp.take(fitted["apart"], jnp.argmin(near, axis=-1))
    far = jnp.sqrt(jnp.maximum(jnp.min(near, axis=-1), 0)) / apart
    return gaussian_blur(far[..., None], SMOOTH, radius=math.ceil(4 * SMOOTH))[..., 0]


def score(features: Features, needs: frozenset[str] = frozenset()) -> Score:
    """How far the farthest patches of an image are from normal patches; the map has all patches.

    The score is the mean over the `WORST` share of the map.

    Rows that are mapped are computed one after the other: distances [h, w, bank] of one row are
    as much as a cache holds, and matrix products large enough for all cores.
    """

    def alone(fitted: dict, row: Inferred) -> Array:
        return _distances(fitted, features(row))

    by_row = sequential_vmap(alone)

    def places(fitted: dict, row: Inferred) -> Array:
        return (alone if forms.current() == "portable" else by_row)(fitted, row)

    def apply(fitted: dict, row: Inferred) -> Scalar:
        return pooling.resolve(f"top:{WORST}")(places(fitted, row))

    return Score(apply, lambda rows: _fit(features, rows), needs=needs, places=places, side=SIDE)
