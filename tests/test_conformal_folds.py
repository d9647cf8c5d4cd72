import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxae.errors import UserError
from jaxae.stats import conformal

SPLITS, N = 1000, 20


def rows(kind, seed):
    """Rows of N training normals and one new normal, in every split: [SPLITS, N + 1]."""
    generator = np.random.default_rng(seed)
    if kind == "continuous":
        return generator.normal(size=(SPLITS, N + 1)).astype(np.float32)
    return generator.integers(-2, 3, size=(SPLITS, N + 1)).astype(np.float32)


def at_most(flagged, bound):
    """Whether so many of all splits are no evidence of a rate above the bound."""
    return stats.binomtest(int(flagged), SPLITS, bound, "greater").pvalue > 1e-3


def distance(x, train, used):
    """A model and its score: the distance to the mean of those training rows that it uses."""
    return jnp.abs(x - jnp.sum(train * used) / jnp.sum(used))


# Folds.


def test_cross_conformal_p_values_are_counted_fold_by_fold():
    generator = np.random.default_rng(0)
    for folds, n in ((2, 9), (5, 5)):
        fold = np.arange(n) % folds
        held_out = generator.integers(0, 4, n).astype(np.float32)
        scores = generator.integers(-1, 5, (folds, 30)).astype(np.float32)
        scores[:, -2:] = np.inf, -np.inf
        reach = sum(
            (held_out[fold == k][None] >= scores[k][:, None]).sum(axis=1) for k in range(folds)
        )
        found = conformal.cv_plus_p_values(held_out, fold, scores)
        np.testing.assert_array_equal(found, (1 + reach).astype(np.float32) / np.float32(n + 1))


def test_folds_of_one_model_are_a_split():
    generator = np.random.default_rng(1)
    held_out, scores = (generator.normal(size=n).astype(np.float32) for n in (12, 7))
    np.testing.assert_array_equal(
        conformal.cv_plus_p_values(held_out, np.arange(12) % 3, np.stack([scores] * 3)),
        conformal.split_p_values(held_out, scores),
    )


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
@pytest.mark.parametrize("folds", [pytest.param(2, marks=pytest.mark.slow), 5, N])
def test_cross_conformal_p_values_keep_their_bound(kind, folds):
    fold = np.arange(N) % folds

    @jax.jit
    @jax.vmap
    def scored(x):
        used = jnp.asarray(fold[None] != np.arange(folds)[:, None])  # [K, N]
        return jax.vmap(lambda u: distance(x, x[:N], u))(used)  # [K, N + 1]

    p = np.array([
        conformal.cv_plus_p_values(by_fold[fold, np.arange(N)], fold, by_fold[:, N:])[0]
        for by_fold in np.asarray(scored(rows(kind, folds)))
    ])  # fmt: skip
    for alpha in (0.05, 0.1, 0.2):
        flagged = (p <= alpha).sum()
        assert at_most(flagged, conformal.cv_plus_bound(alpha, N, folds))
        if kind == "continuous":
            assert flagged > SPLITS * alpha / 2  # the bound is no reason to flag nothing


def test_the_bound_of_folds():
    assert conformal.cv_plus_bound(0.05, 100, 100) == pytest.approx(0.1)
    for folds in (2, 5, 10, 50):
        bound = conformal.cv_plus_bound(0.05, 100, folds)
        assert 0.1 < bound <= 0.1 + math.sqrt(2 / 100)
    assert conformal.cv_plus_bound(0.9, 10, 2) == 1
    for folds in (1, 11):
        with pytest.raises(UserError, match=f"{folds} folds of 10 rows"):
            conformal.cv_plus_bound(0.1, 10, folds)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"held_out": np.float32([1, np.nan, 0])}, "1 of 3 values of held_out are NaN"),
        ({"scores": np.full((2, 4), np.nan, np.float32)}, "8 of 8 values of scores"),
        ({"fold": np.array([0, 1, 2])}, "fold 2 has no scores; folds are numbered 0 ... 1"),
        ({"fold": np.array([-1, 1, 0])}, "fold -1 has no scores"),
        ({"held_out": np.zeros(0, np.float32), "fold": np.zeros(0, int)}, "no calibration"),
    ],
)
def test_folds_that_make_no_sense_are_refused(change, words):
    given = {"held_out": np.zeros(3, np.float32), "fold": np.array([0, 1, 0])}
    given["scores"] = np.zeros((2, 4), np.float32)
    assert conformal.cv_plus_p_values(**given).shape == (4,)
    with pytest.raises(UserError, match=words):
        conformal.cv_plus_p_values(**given | change)


# Bootstrap samples.


def bags(seed, members):
    """Which rows each bootstrap sample holds [members, N], every row being left out somewhere."""
    generator = np.random.default_rng(seed)
    while True:
        drawn = generator.integers(0, N, (members, N))
        held = (drawn[..., None] == np.arange(N)).any(axis=1)
        if not held.all(axis=0).any():
            return held


def test_members_judge_by_those_that_did_not_see_a_row():
    generator, in_bag = np.random.default_rng(0), bags(0, 9)
    training = generator.integers(0, 4, (9, N)).astype(np.float32)
    scores = generator.integers(-1, 5, (9, 15)).astype(np.float32)
    reach = sum(
        np.median(training[~in_bag[:, i], i]) >= np.median(scores[~in_bag[:, i]], axis=0)
        for i in range(N)
    )
    found = conformal.jackknife_after_bootstrap_p_values(training, in_bag, scores)
    np.testing.assert_array_equal(found, (1 + reach).astype(np.float32) / np.float32(N + 1))


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_bootstrapped_ensembles_keep_twice_their_alpha(kind):
    x = rows(kind, 3)
    in_bag = np.stack([bags(seed, 15) for seed in range(SPLITS)])

    @jax.jit
    @jax.vmap
    def p_value(x, in_bag):
        by_member = jax.vmap(lambda used: distance(x, x[:N], used))(in_bag)
        return conformal.jackknife_after_bootstrap_p_values(
            by_member[:, :N], in_bag, by_member[:, N:]
        )[0]

    p = np.asarray(p_value(x, in_bag))
    for alpha in (0.05, 0.1, 0.2):
        assert at_most((p <= alpha).sum(), 2 * alpha)
    assert (p <= 0.1).sum() > SPLITS * (0.05 if kind == "continuous" else 0)


def test_a_row_that_every_member_saw_is_refused_and_where_it_is_not_seen_counts_against_a_flag():
    in_bag = np.array([[True, False, True], [True, True, False]])
    scores = np.float32([[5], [5]])
    p_values = conformal.jackknife_after_bootstrap_p_values
    with pytest.raises(UserError, match=r"1 training rows, the first is row 0, .* all 2 members"):
        p_values(np.zeros((2, 3), np.float32), in_bag, scores)
    hidden = jax.jit(p_values)(np.zeros((2, 3), np.float32), in_bag, scores)
    assert hidden.tolist() == [0.5]  # (1 + the row) / (3 + 1)


def test_bagged_scores_that_are_nan_are_refused():
    training, scores = np.zeros((2, 3), np.float32), np.full((2, 1), np.nan, np.float32)
    with pytest.raises(UserError, match="2 of 2 values of scores are NaN"):
        conformal.jackknife_after_bootstrap_p_values(training, np.zeros((2, 3), bool), scores)
