import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxae.errors import UserError
from jaxae.stats import conformal
from jaxae.stats.conformal.drift import EPSILONS, JUMP

STREAMS, N, STEPS = 1000, 19, 120
KEYS = jax.random.split(jax.random.key(0), STREAMS)


def scores(kind, seed, steps=STEPS):
    """Of normals: calibration [STREAMS, N] and streams [STREAMS, steps]."""
    generator = np.random.default_rng(seed)
    draw = {"continuous": generator.normal, "discrete": lambda size: generator.poisson(1, size)}
    drawn = draw[kind](size=(STREAMS, N + steps)).astype(np.float32)
    return drawn[:, :N], drawn[:, N:]


KINDS = pytest.mark.parametrize("kind", ["continuous", "discrete"])
online = jax.jit(jax.vmap(conformal.stream_p_values))


@cache
def calm(kind):
    """P-values of streams without drift."""
    return online(KEYS, *scores(kind, 3))


logs = jax.jit(jax.vmap(lambda p: conformal.bet(p).log))


# P-values of a stream.


@KINDS
def test_p_values_of_a_stream_are_uniform_and_independent(kind):
    p = np.asarray(calm(kind))
    assert ((p > 0) & (p <= 1)).all()
    assert stats.kstest(p.ravel(), "uniform").pvalue > 1e-3
    means = p.mean(axis=1)  # of dependent ones it would vary more
    assert means.std() == pytest.approx(math.sqrt(1 / 12 / STEPS), rel=0.1)
    assert abs(np.corrcoef(p[:, :-1].ravel(), p[:, 1:].ravel())[0, 1]) < 0.01


def test_a_row_of_a_stream_is_ranked_among_all_before_it():
    calibration, stream = (values[0] for values in scores("discrete", 4, steps=30))
    p = np.asarray(jax.jit(conformal.stream_p_values)(KEYS[0], calibration, stream))
    for t, score in enumerate(stream):
        before = np.concatenate([calibration, stream[:t]])
        low, high = (before > score).sum(), 1 + (before >= score).sum()
        assert low / (1 + len(before)) < p[t] <= high / (1 + len(before)) + 1e-6
    alone = conformal.stream_p_values(KEYS[0], np.zeros(0, np.float32), stream)
    assert alone.shape == (30,)


# The martingale.


def test_wealth_is_the_mean_of_what_each_gambler_wins_before_it_is_dealt_out():
    p = np.random.default_rng(0).uniform(0.001, 1, 50).astype(np.float32)
    each, expected = np.ones(len(EPSILONS)), []
    for bet in EPSILONS.astype(np.float64) * p[:, None].astype(np.float64) ** (EPSILONS - 1.0):
        each = each * bet
        expected.append(math.log(each.mean()))
        each = (1 - JUMP) * each + JUMP * each.mean()
    found = conformal.bet(p)
    np.testing.assert_allclose(found.log, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.each, np.log(each), rtol=1e-4, atol=1e-4)


def test_the_game_is_fair_whatever_the_gamblers_have():
    """The mean wealth after one row, over uniform p, is that before it."""
    each = np.random.default_rng(0).normal(size=len(EPSILONS)).astype(np.float32)
    v = (np.arange(2000) + 0.5) / 2000  # p = v^16 spreads what is won near p = 0
    after = jax.jit(jax.vmap(lambda p: conformal.bet(p[None], each)))(jnp.float32(v**16))
    for wealth in (np.exp(after.log[:, 0]), np.exp(after.each).mean(axis=1)):
        mean = np.mean(wealth.astype(np.float64) * 16 * v**15)
        assert mean == pytest.approx(np.exp(each).mean(), rel=2e-3)


def test_a_stream_goes_on_where_it_stood():
    p = np.random.default_rng(1).uniform(0.01, 1, 40).astype(np.float32)
    whole, first = conformal.bet(p), conformal.bet(p[:15])
    rest = conformal.bet(p[15:], first.each)
    joined = np.concatenate([first.log, rest.log])
    np.testing.assert_allclose(joined, whole.log, rtol=1e-5, atol=1e-5)


@KINDS
@pytest.mark.parametrize("delta", [0.05, 0.2])
def test_without_drift_an_alarm_is_rarer_than_delta(kind, delta):
    alarms = int((np.asarray(logs(calm(kind))).max(axis=1) >= -math.log(delta)).sum())
    assert stats.binomtest(alarms, STREAMS, delta, "greater").pvalue > 1e-3
    assert alarms > 0


@KINDS
def test_drift_sounds_the_alarm_soon(kind):
    calibration, stream = scores(kind, 6)
    stream[:, 80:] += 3
    reached = np.asarray(logs(online(KEYS, calibration, stream))) >= -math.log(0.01)
    assert reached[:, :80].any(axis=1).mean() <= 0.02
    assert reached[:, :96].any(axis=1).mean() > 0.95


def test_what_is_no_p_value_is_refused_and_0_is_a_large_win():
    with pytest.raises(UserError, match=r"1 of 2 p-values are not in \[0, 1\], the first 3"):
        conformal.bet(np.float32([0.5, 3]))
    log = conformal.bet(np.float32([0, 0.5])).log
    assert np.isfinite(log).all()
    assert log[0] > 50
