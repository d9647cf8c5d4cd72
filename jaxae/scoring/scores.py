"""Anomaly scores of one row and of its places, and sums and maxima of them.

To add one, enter a `Score` in `SCORES`, or call `SCORES.add` from outside the package.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from jaxae.devices import precision
from jaxae.errors import UserError
from jaxae.ops.blur import gaussian_blur
from jaxae.registry import Registry
from jaxae.scoring import neighbours, patches, pooling
from jaxae.scoring.losses import bce, mae, mse
from jaxae.scoring.neighbours import Rows
from jaxae.types import Inferred, LossFn, Scalar, Score

COMPONENTS = 32  # the most principal components, and at most a quarter of the values of a row
_ROWS_AT_ONCE = 256  # bounds the memory of distances to a bank


def _reconstruction_score(loss: LossFn) -> Score:
    """A score that compares a row with its reconstruction and needs no fitting.

    Its map is the loss of every single value.
    """

    def apply(fitted: dict, row: Inferred) -> Scalar:
        return loss(row.x, row.out.x_hat)

    def places(fitted: dict, row: Inferred) -> Array:
        values = jax.vmap(loss)(row.x.reshape(-1, 1), row.out.x_hat.reshape(-1, 1))
        return values.reshape(row.x.shape)

    return Score(apply, places=places)


def _log_odds_score(name: str) -> Score:
    """The negated log-odds, by a discriminator, that the row or its reconstruction is real."""

    def apply(fitted: dict, row: Inferred) -> Scalar:
        return -row.out.extra[name]

    return Score(apply, log_scale=False, needs=frozenset({name}))


def _max_error(x: Array, x_hat: Array) -> Scalar:
    return jnp.max(jnp.abs(x - x_hat))


def _error_at(fitted: dict, row: Inferred) -> Array:
    return jnp.abs(row.x - row.out.x_hat)


def _mean_over_blocks(fun: Callable[..., Array], rows: Rows, *args: Array) -> Array:
    """The mean over all rows; `fun` returns the mean over the rows of a block.

    `fun` must be a module-level function: a new object would be compiled again in every epoch.
    """
    means = [(len(block.x), jax.jit(fun)(block, *args)) for block in rows]
    total = sum(size for size, _ in means)
    return sum(mean * (size / total) for size, mean in means)


def _mean_code(block: Inferred) -> Array:
    return jnp.mean(block.out.z, axis=0)


def _code_covariance(block: Inferred, mean: Array) -> Array:
    centred = block.out.z - mean[None]
    return jnp.matmul(centred.T, centred, precision="highest") / len(centred)


def _mahalanobis_fit(train: Rows) -> dict:
    """Mean and whitening matrix W of training codes; W'W is the regularised precision."""
    mean = _mean_over_blocks(_mean_code, train)
    covariance = _mean_over_blocks(_code_covariance, train, mean)
    # Shrink by 1/1000 towards the mean variance, so that dead units do not dominate the distance.
    eye = jnp.eye(len(covariance))
    variance = jnp.trace(covariance) / len(covariance)
    regular = 0.999 * covariance + (1e-3 * variance + 1e-12) * eye
    return {"mean": mean, "whiten": solve_triangular(jnp.linalg.cholesky(regular), eye, lower=True)}


def _mahalanobis_apply(fitted: dict, row: Inferred) -> Scalar:
    """Distance sqrt((z - m)' P (z - m)) of a code to the training codes, in standard deviations."""
    centred = row.out.z - fitted["mean"]
    return jnp.linalg.norm(jnp.matmul(fitted["whiten"], centred, precision="highest"))


def _centred(rows: Inferred) -> Array:
    """Rows [B, *S], or one [*S], without the mean of each channel over a row's places."""
    lead, shape = rows.out.z.shape[:-1], rows.x.shape[rows.out.z.ndim - 1 :]
    by_place = rows.x.reshape(*lead, -1, shape[-1] if len(shape) > 1 else 1)
    return by_place - jnp.mean(by_place, axis=-2, keepdims=True)


def _row_pca_fit(train: Rows) -> dict:
    """Mean and first principal components [K, F] of the training rows.

    They come from the eigenvectors of the smaller matrix of inner products, X'X or XX'. Components
    beyond the rank of the rows are 0.
    """
    x = jnp.concatenate([block.x.reshape(len(block.x), -1) for block in train])
    mean = jnp.mean(x, axis=0)
    centred = x - mean[None]
    rows, values = centred.shape
    count = max(1, min(COMPONENTS, values // 4, rows - 1))
    tall = rows > values
    inner = centred.T @ centred if tall else centred @ centred.T
    size, vectors = (part[..., ::-1][..., :count] for part in jnp.linalg.eigh(inner))
    axes = jnp.linalg.qr(vectors if tall else centred.T @ vectors)[0]
    is_real = size > 1e-6 * size[0]
    return {"mean": mean, "axes": jnp.where(is_real[:, None], axes.T, 0.0)}


def _row_pca_squares(fitted: dict, row: Inferred) -> Array:
    """The squared error of each value of a row's projection on the principal components."""
    centred, axes = row.x.ravel() - fitted["mean"], fitted["axes"]
    along = jnp.matmul(axes, centred, precision="highest")
    return jnp.square(centred - jnp.matmul(along, axes, precision="highest"))


def _row_pca_apply(fitted: dict, row: Inferred) -> Scalar:
    return jnp.mean(_row_pca_squares(fitted, row))


def _row_pca_places(fitted: dict, row: Inferred) -> Array:
    return _row_pca_squares(fitted, row).reshape(row.x.shape)


def _energy(block: Inferred) -> Array:
    return jnp.mean(jnp.square(block.x))


def _energy_fit(train: Rows) -> dict:
    """E, the mean over training rows of mean(x^2)."""
    return {"energy": _mean_over_blocks(_energy, train)}


def _energy_of(fitted: dict, row: Inferred) -> Array:
    energy = jnp.mean(jnp.square(row.x)) + 0.02 * fitted["energy"]
    return jnp.sqrt(jnp.maximum(energy, 1e-12))


def _blurred_squares(row: Inferred) -> Array:
    return jnp.square(gaussian_blur(row.x - row.out.x_hat, 1.0, radius=4))


def _energy_apply(fitted: dict, row: Inferred) -> Scalar:
    """mean(blur(x - x_hat)^2) / sqrt(mean(x^2) + 0.02 E), the blur with sigma 1 pixel.

    The blur tolerates misplaced edges; the division offsets the larger errors of bright rows.
    Images are blurred over height and width, series over time, vectors not at all.
    """
    return jnp.mean(_blurred_squares(row)) / _energy_of(fitted, row)


def _energy_places(fitted: dict, row: Inferred) -> Array:
    return _blurred_squares(row) / _energy_of(fitted, row)


SCORES: Registry[Score] = Registry(
    "score",
    Score,
    {
        "mse": _reconstruction_score(mse),
        "mae": _reconstruction_score(mae),
        "bce": _reconstruction_score(bce),
        "max_error": _reconstruction_score(_max_error)._replace(places=_error_at),
        "blurred_energy": Score(_energy_apply, _energy_fit, places=_energy_places),
        "latent_mahalanobis": Score(_mahalanobis_apply, _mahalanobis_fit),
        "latent_knn": neighbours.score(lambda rows: rows.out.z),
        "row_knn": neighbours.score(lambda rows: rows.x, of_rows=True),  # needs no model
        # Two, so that a training row, which is its own neighbour, has a distance too.
        "row_nearest": neighbours.score(lambda rows: rows.x, 2, of_rows=True),
        # Of the shape alone: rows without the mean over their places.
        "shape_nearest": neighbours.score(_centred, 2, of_rows=True),
        # Of tables, see `jaxae.workflows.auto`.
        "robust_knn": neighbours.of_columns(neighbours.ROBUST, 10, is_local=False),
        "local_compressed": neighbours.of_columns(neighbours.COMPRESSED, 5, is_local=True),
        "local_ranks": neighbours.of_columns(neighbours.RANKS, 5, is_local=True),
        "row_pca": Score(_row_pca_apply, _row_pca_fit, places=_row_pca_places),
        "patches": patches.score(lambda row: patches.texture(row.x)),  # needs no model
        "patch_codes": patches.score(lambda row: row.out.extra["code"], frozenset({"code"})),
        "d_of_r": _log_odds_score("d_of_r"),
        "d_of_x": _log_odds_score("d_of_x"),
    },
)


def apply_rows(score: Score, fitted: dict, rows: Inferred) -> Float[Array, " N"]:
    """`score.apply` for every row, a few hundred at a time."""
    return lax.map(lambda row: score.apply(fitted, row), rows, batch_size=_ROWS_AT_ONCE)


def resolve(spec: str) -> Score:
    """The score with a name, or several joined by "*", "+" or "^"; equal specs give one object.

    "*" is the geometric mean of scores, in their own units: nothing is standardised. Its map, if
    all of them have one, is the mean of their maps, each divided by its own mean, times the score.

    "+" adds scores and "^" takes the largest of them, after each is standardised: its logarithm
    (log-odds unchanged), minus the mean and divided by the standard deviation over held-out rows.
    The fitted state is `{name: {"score": its own state, if any, "mean": [], "std": []}}`. The map
    is the sum or the maximum of the maps of those scores that have one, each divided by the
    geometric mean of its score over held-out rows: of every value if they all have the row's shape,
    else of every place.

    A name may be followed by how its map is pooled, see `jaxae.scoring.pooling`: "mse:max".

    Args:
      spec: for instance "mse", "blurred_energy+latent_knn", "mse^row_nearest",
        "mse*shape_nearest" or "mse:top:0.05".

    Raises:
      UserError: a name is unknown, or repeated, or has no map to pool.
    """
    sign, names = parts_of(spec)
    parts = tuple((name, _single(name)) for name in names)
    if len(parts) == 1:
        return _exact(parts[0][1])
    if len(set(names)) < len(names):
        raise UserError(f"score {spec!r} names a score twice; name each one once")
    return _exact(_product(parts) if sign == "*" else _joined(parts, sign))


def parts_of(spec: str) -> tuple[str, list[str]]:
    """The sign that joins scores, "+" for a single one, and the specification of each."""
    sign = next((sign for sign in "*^" if sign in spec), "+")
    return sign, spec.split(sign)


def _single(spec: str) -> Score:
    """A single score, with the pooling that its specification names."""
    name, colon, how = spec.partition(":")
    score = SCORES[name]
    if not colon:
        return score
    pool = pooling.resolve(how)
    if score.places is None:
        raise UserError(f"score {name!r} has no map that {how!r} could pool; use {with_maps()}")
    return _pooled(score, pool)


def with_maps() -> str:
    """The names of all scores that have a map, for messages."""
    return ", ".join(name for name, entry in SCORES.items() if entry.places)


@functools.lru_cache(maxsize=64)
def _pooled(score: Score, pool: Callable[[Array], Scalar]) -> Score:
    """A score that pools its map otherwise; the same object for each call."""
    places = score.places
    assert places

    def apply(fitted: dict, row: Inferred) -> Scalar:
        return pool(pooling.without_channels(places(fitted, row), row.x.shape))

    return score._replace(apply=apply)


@functools.lru_cache(maxsize=64)
def _exact(score: Score) -> Score:
    """The score with products in full float32 on every platform; the same object for each call."""
    return score._replace(
        apply=precision.exact(score.apply),
        fit=score.fit and precision.exact(score.fit),
        standardise=score.standardise and precision.exact(score.standardise),
        places=score.places and precision.exact(score.places),
    )


@functools.lru_cache(maxsize=32)
def _joined(parts: tuple[tuple[str, Score], ...], sign: str) -> Score:
    """The sum or the largest of standardised scores; cached so that it is compiled once."""
    join: Callable[[Array, Array], Array] = operator.add if sign == "+" else jnp.maximum

    def fit(train: Rows) -> dict:
        return {name: {"score": part.fit(train) if part.fit else {}} for name, part in parts}

    def standardise(fitted: Sequence[dict], held_out: Sequence[Rows]) -> list[dict]:
        by_part = {
            name: _on_one_scale(part, [state[name]["score"] for state in fitted], held_out)
            for name, part in parts
        }
        return [{name: by_part[name][i] for name in by_part} for i in range(len(fitted))]

    def apply(fitted: dict, row: Inferred) -> Scalar:
        values = (_standardised(part, fitted[name], row) for name, part in parts)
        return functools.reduce(join, values)

    def places(fitted: dict, row: Inferred) -> Array:
        maps = [_in_units(part, fitted[name], row) for name, part in parts if part.places]
        return functools.reduce(join, _of_one_shape(maps, row))

    has_map = any(part.places for _, part in parts)
    needs = frozenset().union(*(part.needs for _, part in parts))
    side = max(part.side for _, part in parts)
    return Score(apply, fit, standardise, False, needs, places if has_map else None, side)


@functools.lru_cache(maxsize=32)
def _product(parts: tuple[tuple[str, Score], ...]) -> Score:
    """The geometric mean of scores that are at least 0; cached so that it is compiled once."""
    for name, part in parts:
        if not part.log_scale:
            raise UserError(f"score {name!r} may be negative, so '*' cannot join it; use '+'")

    def fit(train: Rows) -> dict:
        return {name: part.fit(train) for name, part in parts if part.fit}

    def apply(fitted: dict, row: Inferred) -> Scalar:
        values = (part.apply(fitted.get(name, {}), row) for name, part in parts)
        logs = [jnp.log(jnp.maximum(value, 1e-12)) for value in values]
        return jnp.exp(sum(logs) / len(logs))

    def places(fitted: dict, row: Inferred) -> Array:
        maps = [part.places(fitted.get(name, {}), row) for name, part in parts if part.places]
        maps = [one / jnp.maximum(jnp.mean(one), 1e-12) for one in _of_one_shape(maps, row)]
        return apply(fitted, row) * (sum(maps) / len(maps))

    is_fitted = any(part.fit for _, part in parts)
    has_map = all(part.places for _, part in parts)
    needs = frozenset().union(*(part.needs for _, part in parts))
    return Score(apply, fit if is_fitted else None, needs=needs, places=places if has_map else None)


def _of_one_shape(maps: list[Array], row: Inferred) -> list[Array]:
    """Maps of a row: as they are if all have its shape, else enlarged to its places."""
    shape = row.x.shape
    if all(one.shape == shape for one in maps):
        return maps
    return [pooling.enlarged(one, shape) for one in maps]


def _on_scale(score: Score, value: Array) -> Array:
    return jnp.log(jnp.maximum(value, 1e-12)) if score.log_scale else value


def _on_one_scale(
    score: Score, fitted: Sequence[dict], held_out: Sequence[Rows]
) -> list[dict[str, Any]]:
    """The states of some models, each with mean and standard deviation over all held-out rows."""
    apply = jax.jit(apply_rows, static_argnums=0)
    values = jnp.concatenate(
        [
            _on_scale(score, apply(score, state, block))
            for state, rows in zip(fitted, held_out, strict=True)
            for block in rows
        ]
    )
    std = jnp.std(values)
    scale = {"mean": jnp.mean(values), "std": jnp.where(std > 0, std, 1.0)}
    return [{"score": state, **scale} if state else scale for state in fitted]


def _standardised(score: Score, fitted: dict, row: Inferred) -> Scalar:
    value = _on_scale(score, score.apply(fitted.get("score", {}), row))
    return (value - fitted["mean"]) / fitted["std"]


def _in_units(score: Score, fitted: dict, row: Inferred) -> Array:
    """The map of a score, divided by the geometric mean of the score over held-out rows."""
    assert score.places
    value = score.places(fitted.get("score", {}), row)
    return value / jnp.exp(fitted["mean"]) if score.log_scale else value


def combine(scores: Float[Array, "E N *P"]) -> Float[Array, " N *P"]:
    """The scores or score maps of an ensemble: the mean over its members."""
    return jnp.mean(scores, axis=0)


def row_map(score: Score, detailed: bool = False) -> Callable[[dict, Inferred], Array]:
    """`(fitted, one row) -> its score map`, of a score that has one, in the places of the row.

    Channels are averaged; a `detailed` map keeps them where the score tells them apart.
    """
    places = score.places
    assert places

    def of_row(fitted: dict, row: Inferred) -> Array:
        found, shape = places(fitted, row), row.x.shape
        if not (detailed and found.shape == shape):
            found = pooling.enlarged(found, shape)
        return pooling.bounded(found, row.x)

    return of_row
