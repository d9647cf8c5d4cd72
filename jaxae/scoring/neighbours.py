"""Scores by the nearest training rows, of which the detector keeps a bank.

`score` is the mean distance to them; `of_columns` is that of rows whose columns are transformed,
and may take into account how far apart training rows are there.
"""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import ndtri
from jaxtyping import Array, Float

from jaxae.types import Inferred, Scalar, Score

NEIGHBOURS = 5
_KNOTS = 1024  # sorted values of a column that are kept, at most
_ROWS_AT_ONCE = 256  # bounds the memory of [rows, bank] distances
_LEAST_SPACING = 1e-3  # relative to the mean: repeated rows have none

_STEEP = 3.0  # how many deviations are compressed as one

Columns = Float[Array, "N F"]
Rows = Iterable[Inferred]  # blocks of rows with their outputs


def score(
    features: Callable[[Inferred], Array], neighbours: int = NEIGHBOURS, of_rows: bool = False
) -> Score:
    """The mean Euclidean distance of a row's features from those of its nearest training rows.

    If the features are the row itself (`of_rows`), the map says how much each of its values adds to
    the distance d: S times the mean over neighbours of (difference^2 / d), S the number of values.

    The bank holds the features of the training rows; each of them is its own neighbour at distance
    0. The bank is centred so that the expanded distance loses no digits.
    """

    def fit(train: Rows) -> dict:
        return _centred(_together(features, train))

    def differences(fitted: dict, row: Inferred) -> Array:
        return _nearest(fitted, features(row).ravel(), neighbours)[0]

    def apply(fitted: dict, row: Inferred) -> Scalar:
        return jnp.mean(jnp.linalg.norm(differences(fitted, row), axis=1))

    def places(fitted: dict, row: Inferred) -> Array:
        return _shares(differences(fitted, row)).reshape(row.x.shape)

    return Score(apply, fit, places=places if of_rows else None)


class Transform(NamedTuple):
    """What is done to each value of a row, by the training values of its column."""

    fit: Callable[[Columns], dict]
    apply: Callable[[dict, Float[Array, " F"]], Float[Array, " F"]]


def of_columns(transform: Transform, neighbours: int, is_local: bool) -> Score:
    """The mean distance d to the nearest training rows, all transformed.

    If it is local, the score is d / sqrt(s), with s the mean over these of their own distance to
    five others: halfway between the distance and the ratio d / s of local outlier factors (Breunig
    et al., SIGMOD 2000). That distance is at least a thousandth of its mean over training rows. The
    map divides the score among the values of a row, as that of `score` does.
    """

    def fit(train: Rows) -> dict:
        return _bank(transform, _together(lambda block: block.x, train), is_local)

    def parts(fitted: dict, row: Inferred) -> tuple[Array, Array]:
        point = transform.apply(fitted["columns"], row.x.ravel())
        differences, nearest = _nearest(fitted, point, neighbours)
        spacing = jnp.mean(fitted["spacing"][nearest]) if is_local else jnp.ones(())
        return differences, jnp.sqrt(spacing)

    def apply(fitted: dict, row: Inferred) -> Scalar:
        differences, scale = parts(fitted, row)
        return jnp.mean(jnp.linalg.norm(differences, axis=1)) / scale

    def places(fitted: dict, row: Inferred) -> Array:
        differences, scale = parts(fitted, row)
        return (_shares(differences) / scale).reshape(row.x.shape)

    return Score(apply, fit, places=places)


def _bank(transform: Transform, x: Float[Array, "N F"], is_local: bool) -> dict:
    """The state of the columns, the transformed rows [N, F] and, if local, their spacing [N]."""
    columns = _columns(transform.fit, x)
    bank = _centred(_transformed(transform.apply, columns, x))
    spacing = {"spacing": _spacing(bank["bank"])} if is_local else {}
    return {"columns": columns, **bank, **spacing}


@functools.partial(jax.jit, static_argnums=0)
def _columns(fit: Callable[[Array], dict], x: Array) -> dict:
    return fit(x)


@functools.partial(jax.jit, static_argnums=0)
def _transformed(apply: Callable[[dict, Array], Array], columns: dict, x: Array) -> Array:
    return _by_row(lambda row: apply(columns, row), x)


def _by_row(fun: Callable[[Array], Array], rows: Array) -> Array:
    """`fun` of each row, a few hundred at a time, which are filled up to compile them once."""
    filled = jnp.pad(rows, ((0, -len(rows) % _ROWS_AT_ONCE), (0, 0)))
    return lax.map(fun, filled, batch_size=_ROWS_AT_ONCE)[: len(rows)]


def _together(features: Callable[[Inferred], Array], train: Rows) -> Array:
    """The features [N, F] of all training rows."""
    return jnp.concatenate([features(block).reshape(len(block.x), -1) for block in train])


def _centred(rows: Array) -> dict:
    mean = jnp.mean(rows, axis=0)
    return {"mean": mean, "bank": rows - mean[None]}


def _nearest(fitted: dict, point: Array, count: int) -> tuple[Array, Array]:
    """Differences [K, F] of the nearest rows of a bank from a point [F], and their positions [K].

    |b|^2 - 2 b.p ranks the bank as one matrix product over mapped rows. The distance to the few
    nearest is then computed from their difference, which is exact for duplicates too.
    """
    bank, point = fitted["bank"], point - fitted["mean"]
    rank = jnp.matmul(bank, point, precision="highest") - 0.5 * jnp.sum(bank * bank, axis=1)
    _, nearest = lax.top_k(rank, min(count, len(bank)))
    return bank[nearest] - point[None], nearest


def _shares(differences: Array) -> Array:
    """What each value adds to the mean distance [F]; their mean is that distance."""
    far = jnp.maximum(jnp.linalg.norm(differences, axis=1, keepdims=True), 1e-12)
    share = jnp.mean(jnp.square(differences) / far, axis=0)
    return share.size * share


@jax.jit
def _spacing(bank: Float[Array, "N F"]) -> Float[Array, " N"]:
    """The mean distance of each row to its five nearest others, and at least a little."""
    fitted = {"bank": bank, "mean": jnp.zeros(bank.shape[1])}
    if len(bank) == 1:
        return jnp.ones(1)

    def of(point: Array) -> Scalar:
        # One of these is the row itself, or one that is equal to it.
        differences, _ = _nearest(fitted, point, NEIGHBOURS + 1)
        distances = jnp.linalg.norm(differences, axis=1)
        return (jnp.sum(distances) - jnp.min(distances)) / (len(distances) - 1)

    spacing = _by_row(of, bank)
    return jnp.maximum(spacing, jnp.maximum(_LEAST_SPACING * jnp.mean(spacing), 1e-6))


def _deviation(x: Columns) -> Array:
    """The standard deviation of each column, 1 for constant ones."""
    std = jnp.std(x, axis=0)
    return jnp.where(std > 0, std, 1.0)


def _robust_fit(x: Columns) -> dict:
    low, middle, high = jnp.quantile(x, jnp.array([0.25, 0.5, 0.75]), axis=0)
    quartiles = (high - low) / 1.349  # the standard deviation of Gaussian values
    return {"middle": middle, "scale": jnp.where(quartiles > 0, quartiles, _deviation(x))}


def _robust(state: dict, x: Array) -> Array:
    """(x - median) / (interquartile range / 1.349)."""
    return (x - state["middle"]) / state["scale"]


def _compressed_fit(x: Columns) -> dict:
    state = {"mean": jnp.mean(x, axis=0), "std": _deviation(x)}
    compressed = jax.vmap(_arcsinh, (None, 0))(state, x)
    return state | {"centre": jnp.mean(compressed, axis=0), "spread": _deviation(compressed)}


def _arcsinh(state: dict, x: Array) -> Array:
    return jnp.arcsinh(_STEEP * (x - state["mean"]) / state["std"])


def _compressed(state: dict, x: Array) -> Array:
    """arcsinh(3 (x - mean) / std), standardised: close to logarithms of large deviations."""
    return (_arcsinh(state, x) - state["centre"]) / state["spread"]


def _ranks_fit(x: Columns) -> dict:
    positions = np.linspace(0, len(x) - 1, min(len(x), _KNOTS)).round().astype(int)
    return {"knots": jnp.sort(x, axis=0)[positions], "std": _deviation(x)}


def _ranks(state: dict, x: Array) -> Array:
    """The Gaussian quantile of a value's rank; beyond all others it grows with the distance."""
    knots, std = state["knots"], state["std"]
    below, at_most = jnp.mean(knots < x[None], axis=0), jnp.mean(knots <= x[None], axis=0)
    edge = 0.5 / len(knots)
    rank = ndtri(jnp.clip((below + at_most) / 2, edge, 1 - edge))
    beyond = jnp.maximum(x - knots[-1], 0.0) - jnp.maximum(knots[0] - x, 0.0)
    return rank + beyond / std


ROBUST = Transform(_robust_fit, _robust)
COMPRESSED = Transform(_compressed_fit, _compressed)
RANKS = Transform(_ranks_fit, _ranks)
