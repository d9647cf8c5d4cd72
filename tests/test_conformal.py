import itertools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from jaxae import scoring
from jaxae.errors import UserError
from jaxae.stats import conformal

SPLITS = 1000
split_p_values = jax.jit(conformal.split_p_values)


def brute_force(calibration, scores):
    """The definition, as fractions of whole numbers."""
    reach = (np.asarray(calibration)[None] >= np.asarray(scores)[:, None]).sum(axis=1)
    return (1 + reach).astype(np.float32) / np.float32(1 + len(calibration))


def normals(kind, seed, *shape):
    """Scores of normals, [*shape]."""
    generator = np.random.default_rng(seed)
    scores = {
        "continuous": lambda: generator.normal(size=shape),
        "discrete": lambda: generator.poisson(1.5, size=shape),
        "constant": lambda: np.zeros(shape),
    }[kind]()
    return scores.astype(np.float32)


KINDS = pytest.mark.parametrize("kind", ["continuous", "discrete", "constant"])


def flagged_above(calibration, alpha):
    """The thresholds of many calibration sets: [SPLITS, n] -> [SPLITS]."""
    return np.asarray(
        jax.jit(jax.vmap(lambda c: conformal.fit(c, alpha)["threshold"]))(calibration)
    )


def at_most(frequency, bound, trials=SPLITS):
    """Whether a frequency over independent trials is no evidence of a rate above the bound."""
    return stats.binomtest(round(frequency * trials), trials, bound, "greater").pvalue > 1e-3


# P-values.


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 99]), st.sampled_from([2, 5, 10**6]))
def test_a_p_value_is_the_share_of_ranks_to_the_bit(seed, n, levels):
    generator = np.random.default_rng(seed)
    calibration = generator.integers(0, levels, n).astype(np.float32)
    between = generator.integers(-2, 2 * levels + 2, 30) / 2
    scores = np.concatenate([between, calibration, [np.inf, -np.inf]]).astype(np.float32)
    p = split_p_values(calibration, scores)
    assert p.dtype == jnp.float32
    np.testing.assert_array_equal(p, brute_force(calibration, scores))


def test_p_values_meet_the_alpha_that_they_equal():
    """A product with a rounded inverse would miss many of these."""
    for n in (9, 48, 99, 199):
        calibration = np.arange(n, dtype=np.float32)
        p = split_p_values(calibration, calibration[::-1])
        k = 1 + np.arange(1, n + 1)
        np.testing.assert_array_equal(p, k.astype(np.float32) / np.float32(n + 1))


def test_p_values_fall_as_scores_rise_and_only_order_counts():
    calibration, scores = normals("continuous", 0, 57), np.sort(normals("continuous", 1, 80))
    p = np.asarray(split_p_values(calibration, scores))
    assert (np.diff(p) <= 0).all()
    shuffled = np.random.default_rng(2).permutation(calibration)
    np.testing.assert_array_equal(split_p_values(shuffled, scores), p)
    np.testing.assert_array_equal(split_p_values(8 * calibration, 8 * scores), p)


def test_a_calibration_row_takes_part_in_its_own_rank():
    calibration = normals("continuous", 0, 19)
    p = np.sort(conformal.split_p_values(calibration, calibration))
    np.testing.assert_allclose(p, np.arange(2, 21) / 20, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("calibration", lambda bad, good, key: conformal.split_p_values(bad, good)),
        ("scores", lambda bad, good, key: conformal.split_p_values(good, bad)),
        ("scores", lambda bad, good, key: conformal.stream_p_values(key, good, bad)),
        ("p", lambda bad, good, key: conformal.benjamini_hochberg(bad, 0.1)),
        ("p", lambda bad, good, key: conformal.bet(bad)),
        ("calibration", lambda bad, good, key: scoring.fit_rule("conformal:0.5", bad)),
    ],
)
def test_a_nan_is_refused_where_it_is_seen(name, call):
    bad, good = np.float32([0.5, np.nan, 0.1]), np.float32([0.5, 0.2, 0.1])
    call(good, good, jax.random.key(0))
    with pytest.raises(UserError, match=f"1 of 3 values of {name} are NaN"):
        call(bad, good, jax.random.key(0))


def test_a_nan_that_cannot_be_seen_stays_one():
    good, bad = np.float32([0.5, 0.2, 0.1]), np.float32([0.5, np.nan, 0.1])
    key = jax.random.key(0)
    assert np.isnan(split_p_values(good, bad)).tolist() == [False, True, False]
    assert np.isnan(split_p_values(bad, good)).all()
    stream = jax.jit(lambda *a: conformal.stream_p_values(key, *a))
    assert np.isnan(stream(good, bad)).tolist() == [False, True, True]
    assert np.isnan(jax.jit(lambda s: conformal.fit(s, 0.5))(bad)["threshold"])


def test_no_calibration_scores_are_refused():
    none, scores = np.zeros(0, np.float32), np.zeros(3, np.float32)
    with pytest.raises(UserError, match=r"no calibration scores.*data\.valid_fraction"):
        conformal.split_p_values(none, scores)


@pytest.mark.parametrize("spec", ["quantile:0.9", "max", "conformal:0.1"])
def test_every_decision_gives_p_values_for_any_alpha(spec):
    calibration, scores = normals("discrete", 0, 39), normals("discrete", 1, 60)
    found = conformal.p_values(scoring.fit_rule(spec, calibration), scores)
    assert type(found) is np.ndarray
    np.testing.assert_array_equal(np.float32(found), brute_force(calibration, scores))
    for alpha in (0.05, 0.1, 0.25):
        anew = scoring.fit_rule(f"conformal:{alpha}", calibration)
        np.testing.assert_array_equal(found <= alpha, scoring.decide(anew, scores))


# The rule.


def alphas(n):
    """Shares that are ranks of n + 1 rows, and some just above and below them."""
    ranks = [Fraction(k, n + 1) for k in range(1, n + 1)]
    near = [k + sign * Fraction(1, 10**6) for k in ranks for sign in (-1, 0, 1)]
    return [a for a in near if a >= ranks[0]]


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_above_the_threshold_is_a_p_value_up_to_alpha_in_every_case(n):
    """All calibration sets of n scores in 0, 1, 2; scores on, between and outside of them."""
    calibrations = np.array(list(itertools.product(range(3), repeat=n)), np.float32)
    scores = np.arange(-2, 7).astype(np.float32) / 2
    reach = (calibrations[:, None] >= scores[None, :, None]).sum(axis=2)

    @jax.jit
    @jax.vmap
    def thresholds(calibration):
        return jnp.stack([conformal.fit(calibration, float(a))["threshold"] for a in alphas(n)])

    found = np.asarray(thresholds(calibrations))
    for j, alpha in enumerate(alphas(n)):
        decided = scores[None] > found[:, j, None]
        expected = np.array([Fraction(1 + c, n + 1) <= alpha for c in range(n + 1)])[reach]
        np.testing.assert_array_equal(decided, expected, err_msg=f"alpha {alpha}")


@given(st.integers(1, 400), st.integers(1, 99))
def test_the_rank_is_that_of_the_decimal(n, percent):
    k = percent * (n + 1) // 100
    if k:
        assert conformal.rank_allowed(n, percent / 100) == k
    else:
        with pytest.raises(UserError, match=f"smallest p-value is 1/{n + 1}"):
            conformal.rank_allowed(n, percent / 100)


@pytest.mark.parametrize(("n", "alpha", "least"), [(18, 0.05, 19), (98, 0.01, 99), (5, 0.03, 33)])
def test_an_alpha_out_of_reach_names_what_would_reach_it(n, alpha, least):
    words = f"alpha {alpha:g} .* {n} calibration rows.* give {least} held-out .*data.valid_fraction"
    with pytest.raises(UserError, match=words):
        scoring.fit_rule(f"conformal:{alpha}", normals("continuous", 0, n))
    decision = scoring.fit_rule(f"conformal:{alpha}", normals("continuous", 0, least))
    assert decision.threshold == decision.calibration.max()
    with pytest.raises(UserError, match="too low for") as caught:
        conformal.rank_allowed(least - 1, alpha)
    offered = float(str(caught.value).rpartition(" ")[2])
    assert conformal.rank_allowed(least - 1, offered) == 1


@pytest.mark.parametrize("alpha", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_an_alpha_is_a_share(alpha):
    with pytest.raises(UserError, match="between 0 and 1"):
        conformal.rank_allowed(10, alpha)
    with pytest.raises(UserError, match=f"conformal:{alpha}.*(between 0 and 1|finite)"):
        scoring.rule(f"conformal:{alpha}")


@KINDS
@pytest.mark.parametrize(("n", "alpha"), [(39, 0.1), (19, 0.05), (30, 0.2)])
def test_a_normal_is_flagged_with_a_probability_of_at_most_alpha(kind, n, alpha):
    """In 1,000 splits with one new normal each; without ties not much less often either."""
    calibration, new = normals(kind, 1, SPLITS, n), normals(kind, 2, SPLITS)
    thresholds = flagged_above(calibration, alpha)
    flagged = int((new > thresholds).sum())
    assert at_most(flagged / SPLITS, alpha)
    exact = conformal.rank_allowed(n, alpha) / (n + 1)
    assert alpha - 1 / (n + 1) < exact <= alpha
    if kind == "continuous":
        assert stats.binomtest(flagged, SPLITS, exact).pvalue > 1e-3


@pytest.mark.parametrize(("n", "alpha"), [(99, 0.05), (30, 0.2)])
def test_the_rate_of_one_calibration_set_is_beta_distributed(n, alpha):
    """Uniform scores exceed a threshold t with a probability of 1 - t."""
    calibration = np.random.default_rng(3).random((SPLITS, n), np.float32)
    rates = 1 - flagged_above(calibration, alpha)
    k = math.floor(Fraction(repr(alpha)) * (n + 1))
    assert stats.kstest(rates, stats.beta(k, n + 1 - k).cdf).pvalue > 1e-3
    low, high = conformal.fpr_band(n, alpha, 0.9)
    inside = int(((rates >= low) & (rates <= high)).sum())
    assert stats.binomtest(inside, SPLITS, 0.9).pvalue > 1e-3


def test_the_band_tightens_around_the_mean_as_rows_are_added():
    bands = [conformal.fpr_band(n, 0.05) for n in (19, 99, 999, 9999)]
    assert all(band.low < 0.05 < band.high for band in bands)
    widths = [band.high - band.low for band in bands]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.01
    assert conformal.fpr_band(99, 0.05, 0.99).high > bands[1].high
    with pytest.raises(UserError, match="confidence is 95"):
        conformal.fpr_band(99, 0.05, 95.0)


# What breaks the promise.


def test_a_score_that_was_fitted_on_its_calibration_rows_breaks_the_promise():
    """The distance to the nearest row of a bank: rows of the bank find themselves."""
    rows = np.random.default_rng(0).normal(size=(SPLITS, 61, 2)).astype(np.float32)

    def flagged(rows, bank):
        def nearest(x):
            return jnp.min(jnp.linalg.norm(rows[bank] - x[None], axis=1))

        calibration, new = jax.vmap(nearest)(rows[30:60]), nearest(rows[60])
        return conformal.split_p_values(calibration, new[None])[0] <= 0.1

    inside, apart = (
        jax.jit(jax.vmap(lambda r, b=b: flagged(r, b)))(rows).mean()
        for b in (slice(0, 60), slice(0, 30))
    )
    assert at_most(float(apart), 0.1)
    assert inside > 0.99


# Selection.


def step_up(p, fdr):
    """Benjamini and Hochberg's words, in exact numbers."""
    passed = [q for i, q in enumerate(sorted(p), 1) if q * len(p) <= fdr * i]
    return [q <= max(passed, default=-1) for q in p]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 100), min_size=10, max_size=10), st.sampled_from([5, 7, 10, 29, 50]))
def test_selection_is_exact_where_p_values_meet_their_line(hundredths, percent):
    p = [Fraction(k, 100) for k in hundredths]
    found = conformal.benjamini_hochberg(np.float32([float(q) for q in p]), percent / 100)
    assert found.tolist() == step_up(p, Fraction(percent, 100))


@pytest.mark.parametrize("percent", [5, 7, 10, 29, 50])
def test_p_values_on_the_line_are_selected(percent):
    """Both sides of p N <= fdr i are rounded in float32: an exact tie must not be lost by it."""
    for i in range(1, 101):
        p = np.ones(100, np.float32)
        p[:i] = np.float32(Fraction(percent * i, 10_000))
        assert conformal.benjamini_hochberg(p, percent / 100).sum() == i
        p[:i] = np.float32(Fraction(percent * i, 10_000) * (1 + Fraction(1, 10**5)))
        assert conformal.benjamini_hochberg(p, percent / 100).sum() == 0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 50]))
def test_selection_agrees_with_scipy(seed, n):
    p = np.random.default_rng(seed).beta(0.3, 1, n).astype(np.float32)
    for fdr in (0.01, 0.1, 0.5):
        expected = stats.false_discovery_control(p.astype(np.float64)) <= fdr
        np.testing.assert_array_equal(conformal.benjamini_hochberg(p, fdr), expected)


def test_selection_of_none_and_of_all():
    assert not conformal.benjamini_hochberg(np.ones(5, np.float32), 0.99).any()
    assert conformal.benjamini_hochberg(np.zeros(5, np.float32), 0.01).all()
    assert conformal.benjamini_hochberg(np.float32([0.1]), 0.1).tolist() == [True]
    assert conformal.benjamini_hochberg(np.zeros(0, np.float32), 0.1).shape == (0,)


@pytest.mark.parametrize(
    ("p", "fdr", "words"),
    [([0.1, 1.5], 0.1, "1 of 2 p-values .* first 1.5"), ([-2, 0], 0.1, "first -2"),
     ([0.1], 0.0, "rate is 0"), ([0.1], 10.0, "rate is 10")],
)  # fmt: skip
def test_a_selection_that_means_nothing_is_refused(p, fdr, words):
    with pytest.raises(UserError, match=words):
        conformal.benjamini_hochberg(np.float32(p), fdr)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_the_share_of_false_discoveries_is_kept(kind):
    """In 1,000 splits of 199 calibration rows, 80 normals and 20 anomalies."""
    calibration, new = normals(kind, 1, SPLITS, 199), normals(kind, 2, SPLITS, 100)
    new[:, :20] += 4

    p_values = np.asarray(jax.jit(jax.vmap(conformal.split_p_values))(calibration, new))
    found = np.array([conformal.benjamini_hochberg(p, 0.1) for p in p_values])
    false = found[:, 20:].sum(axis=1) / np.maximum(found.sum(axis=1), 1)
    error = false.std() / math.sqrt(SPLITS)
    assert false.mean() <= 0.1 * 0.8 + 3 * error
    assert found[:, :20].mean() > 0.3
    if kind == "continuous":
        assert false.mean() >= 0.1 * 0.8 - 3 * error - 1 / 200


def test_a_p_value_is_at_most_the_alpha_that_it_equals():
    """3 of 60 is written 0.05, and so it is read by whoever asks for p <= 0.05."""
    calibration = np.arange(59, dtype=np.float32)
    decision = scoring.fit_rule("conformal:0.05", calibration)
    scores = np.arange(50, 62, dtype=np.float32)
    found = conformal.p_values(decision, scores)
    assert 0.05 in found.tolist()
    np.testing.assert_array_equal(found <= 0.05, scoring.decide(decision, scores))
