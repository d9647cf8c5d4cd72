import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxae import scoring
from jaxae.errors import UserError
from jaxae.scoring import tails


def excess(xi, sigma, m, seed, repeats=200):
    drawn = stats.genpareto.rvs(xi, scale=sigma, size=(repeats, m), random_state=seed)
    return jnp.asarray(drawn, jnp.float32)


@pytest.mark.parametrize("xi", [-0.3, 0.0, 0.3, 0.7])
def test_a_tail_is_found_again(xi):
    found, scale = jax.jit(jax.vmap(tails.generalised_pareto))(excess(xi, 2.5, 400, 0))
    error = np.asarray(found) - xi
    assert abs(error.mean()) < 0.05
    # The least that is possible, asymptotically, is (1 + xi) / sqrt(m).
    assert error.std() < 1.3 * (1 + xi) / np.sqrt(400)
    assert np.mean(scale) == pytest.approx(2.5, rel=0.05)


@pytest.mark.slow
def test_a_tail_is_about_as_likely_as_the_likeliest():
    for xi in (-0.2, 0.4):  # nine in ten samples are as close as this
        y = np.asarray(excess(xi, 1.0, 100, 1, repeats=1)[0], np.float64)
        ours = [float(v) for v in tails.generalised_pareto(jnp.asarray(y, jnp.float32))]
        best = stats.genpareto.fit(y, floc=0)
        likelihood, highest = (
            stats.genpareto.logpdf(y, c, scale=scale).sum() for c, scale in (ours, best[::2])
        )
        assert highest - 1 < likelihood < highest + 0.05


TAILED = {
    "exponential": stats.expon(),
    "normal": stats.norm(),
    "uniform": stats.uniform(),
    "heavy": stats.t(4),
}


@pytest.mark.parametrize("name", TAILED)
def test_a_rare_risk_is_met_within_a_factor_of_two(name):
    """At a risk of 1/2,000 with 1,000 scores, where the quantile cannot see it."""
    scores = TAILED[name].rvs(size=(300, 1000), random_state=0).astype(np.float32)
    fit = jax.jit(jax.vmap(lambda s: tails.peaks_over_threshold(s, 5e-4)["threshold"]))
    rates = TAILED[name].sf(np.asarray(fit(scores), np.float64))
    assert 2.5e-4 < rates.mean() < 1e-3


@pytest.mark.slow
def test_a_threshold_rises_as_the_risk_falls_and_follows_the_scores():
    scores = np.random.default_rng(0).gamma(2, size=500).astype(np.float32)
    risks = (0.09, 0.01, 1e-3, 1e-5)
    found = [scoring.fit_rule(f"pot:{risk}", scores).threshold for risk in risks]
    assert found == sorted(found)
    assert found[0] == pytest.approx(np.quantile(scores, 0.91), rel=0.02)
    for scale, shift in ((1e-4, 0), (100, -7)):
        moved = scoring.fit_rule("pot:0.001", (scale * scores + shift).astype(np.float32))
        assert moved.threshold == pytest.approx(scale * found[2] + shift, rel=1e-3)


def test_the_tail_begins_at_the_score_that_a_tenth_exceeds():
    scores = np.random.default_rng(1).gumbel(size=100).astype(np.float32)
    found = scoring.fit_rule("pot:0.0999999", scores).threshold
    assert found == pytest.approx(np.sort(scores)[89], abs=1e-5)


@pytest.mark.slow
def test_a_tail_that_is_mostly_one_tie_has_a_threshold_among_its_scores():
    scores = np.repeat(np.float32([0, 1, 2]), [200, 90, 10])
    assert 1 < scoring.fit_rule("pot:0.01", scores).threshold < 4
    assert np.isfinite(tails.generalised_pareto(jnp.asarray(scores[270:] - 1))).all()


def test_a_nan_leaves_no_threshold():
    scores = jnp.linspace(0, 1, 100).at[7].set(jnp.nan)
    assert np.isnan(tails.peaks_over_threshold(scores, 0.01)["threshold"])
    with pytest.raises(UserError, match="1 of 100 values of calibration are NaN"):
        scoring.fit_rule("pot:0.01", scores)


@pytest.mark.parametrize("levels", [1, 2, 5, 50])
def test_scores_with_ties_have_a_finite_threshold_in_their_tail(levels):
    scores = np.random.default_rng(levels).integers(0, levels, 300).astype(np.float32)
    found = scoring.fit_rule("pot:0.001", scores).threshold
    assert np.isfinite(found)
    assert found >= np.quantile(scores, 0.89)


def test_too_few_scores_have_no_tail():
    scores = np.random.default_rng(0).random(100).astype(np.float32)
    assert scoring.fit_rule("pot:0.001", scores).threshold > np.quantile(scores, 0.9)
    with pytest.raises(UserError, match=r"there are 99 calibration .* at least 100 held-out"):
        scoring.fit_rule("pot:0.001", scores[:99])


@pytest.mark.parametrize("spec", ["pot", "pot:0", "pot:0.1", "pot:0.5"])
def test_a_risk_lies_in_the_tail(spec):
    with pytest.raises(UserError, match="a risk after pot, as in pot:"):
        scoring.rule(spec)
