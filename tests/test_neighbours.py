"""Scores by neighbours of transformed rows, against NumPy and by their properties."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import rankdata

from jaxae import scoring
from jaxae.scoring import apply_rows
from jaxae.types import Inferred, Outputs

RNG = np.random.default_rng(0)
TRAIN = (RNG.normal(size=(300, 4)) * [1, 10, 0.1, 3] + [0, 5, 0, -2]).astype(np.float32)
TRAIN[:, 3] = np.exp(TRAIN[:, 3])
NEW = np.concatenate([TRAIN[:5] * 1.01, TRAIN[:20] + 0.3, TRAIN[:5] * 8]).astype(np.float32)
NAMES = ("robust_knn", "local_compressed", "local_ranks")


def inferred(x):
    x = jnp.asarray(x)
    return Inferred(x, Outputs(x_hat=x, z=x, extra={}))


def scored(name, train, new):
    score = scoring.resolve(name)
    fitted = score.fit([inferred(block) for block in np.array_split(train, 2) if len(block)])
    return np.asarray(jax.jit(apply_rows, static_argnums=0)(score, fitted, inferred(new)))


def robust(train, x):
    low, middle, high = np.quantile(train, (0.25, 0.5, 0.75), axis=0)
    return (x - middle) / ((high - low) / 1.349)


def compressed(train, x):
    steep = [np.arcsinh(3 * (rows - train.mean(0)) / train.std(0)) for rows in (train, x)]
    return (steep[1] - steep[0].mean(0)) / steep[0].std(0)


def ranks(train, x):
    n = len(train)
    below = (train[None] < x[:, None]).sum(1)
    at_most = (train[None] <= x[:, None]).sum(1)
    beyond = np.maximum(x - train.max(0), 0) - np.maximum(train.min(0) - x, 0)
    return ndtri(np.clip((below + at_most) / 2 / n, 0.5 / n, 1 - 0.5 / n)) + beyond / train.std(0)


def distances(one, other):
    return np.linalg.norm(one[:, None] - other[None], axis=2)


def local(train, new):
    spacing = np.sort(distances(train, train), axis=1)[:, 1:6].mean(1)
    apart = distances(new, train)
    nearest = np.argsort(apart, axis=1)[:, :5]
    far = np.take_along_axis(apart, nearest, axis=1).mean(1)
    return far / np.sqrt(spacing[nearest].mean(1))


EXPECTED = {
    "robust_knn": lambda t, x: np.sort(distances(robust(t, x), robust(t, t)), 1)[:, :10].mean(1),
    "local_compressed": lambda t, x: local(compressed(t, t), compressed(t, x)),
    "local_ranks": lambda t, x: local(ranks(t, t), ranks(t, x)),
}


@pytest.mark.parametrize("name", NAMES)
def test_they_are_what_numpy_computes(name):
    train, new = TRAIN.astype(float), NEW.astype(float)
    np.testing.assert_allclose(scored(name, TRAIN, NEW), EXPECTED[name](train, new), rtol=2e-4)


@pytest.mark.parametrize("name", NAMES)
def test_units_of_a_column_do_not_matter(name):
    shift, scale = np.float32([0, 8, 2, 0]), np.float32([4, 0.5, 2, 64])
    other = scored(name, TRAIN * scale + shift, NEW * scale + shift)
    np.testing.assert_allclose(scored(name, TRAIN, NEW), other, rtol=1e-3)


def test_ranks_do_not_see_an_increasing_map_of_a_column():
    within = NEW[:5].clip(TRAIN.min(0), TRAIN.max(0))
    one, other = (
        scored("local_ranks", *(np.stack([x[:, 3], x[:, 0]], 1) for x in rows))
        for rows in ((TRAIN, within), (cubed(TRAIN), cubed(within)))
    )
    np.testing.assert_allclose(one, other, rtol=1e-4)


def cubed(x):
    return np.concatenate([x[:, :3], x[:, 3:] ** 3], axis=1)


@pytest.mark.parametrize("name", ["robust_knn", "local_compressed"])  # ranks hide what is between
def test_outliers_in_a_sparse_and_in_a_dense_place_are_found(name):
    rng = np.random.default_rng(1)
    dense, sparse = rng.normal(size=(200, 2)) * 0.1, 5 + rng.normal(size=(200, 2))
    train = np.concatenate([dense, sparse]).astype(np.float32)
    usual = np.concatenate([rng.normal(size=(50, 2)) * 0.1, 5 + rng.normal(size=(50, 2))])
    score = scored(name, train, usual.astype(np.float32))
    strange = scored(name, train, np.float32([[2, 2], [1.5, -1], [9, 9]]))
    assert strange.min() > np.quantile(score, 0.97)
    ratio = score[50:].mean() / score[:50].mean()
    assert ratio > 3 if name == "robust_knn" else ratio < 4  # local ones adapt to the place


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "train",
    [
        np.zeros((1, 3), np.float32),
        np.ones((4, 3), np.float32),
        np.repeat(np.eye(3, dtype=np.float32), 40, axis=0),
        np.float32([[0, 0, 1e-3], [1, 1e6, 0], [0, 0, 0]]),
    ],
    ids=["one row", "equal rows", "repeated rows", "extreme scales"],
)
def test_scores_of_degenerate_training_rows_are_finite_and_0_for_equal_rows(name, train):
    score = scored(name, train, np.concatenate([train[:1], train[:1] + 1]))
    assert np.isfinite(score).all()
    assert score[0] <= score[1]
    if len(train) != 3:
        assert score[0] == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_alone_has_the_score_that_it_has_among_others(name):
    together = scored(name, TRAIN, NEW)
    alone = [scored(name, TRAIN, row[None])[0] for row in NEW[::7]]
    np.testing.assert_allclose(together[::7], alone, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_training_rows_does_not_matter(name):
    np.testing.assert_allclose(scored(name, TRAIN, NEW), scored(name, TRAIN[::-1], NEW), rtol=1e-5)


def test_ranks_of_many_rows_are_those_of_a_thousand_of_them():
    many = np.sort(np.random.default_rng(2).normal(size=(5000, 1)).astype(np.float32), axis=0)
    fitted = scoring.SCORES["local_ranks"].fit([inferred(many)])
    assert fitted["columns"]["knots"].shape == (1024, 1)
    bank = (np.asarray(fitted["bank"]) + np.asarray(fitted["mean"]))[:, 0]
    expected = ndtri((rankdata(many) - 0.5) / len(many))
    inner = np.abs(expected) < 2.5
    np.testing.assert_allclose(bank[inner], expected[inner], atol=0.05)
