import functools
import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from jaxae.errors import UserError
from jaxae.rng import Purpose, stream
from jaxae.stats import intervals, metrics
from jaxae.stats.intervals import bounds, headline, placements, resampling, rows, seeds

KEY = stream(0, Purpose.RESAMPLING)


def rankings(n=40, m=15, runs=2, levels=9, seed=0):
    """Scores [runs, N] with ties, y [N] and decisions [runs, N], classes shuffled."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n + m) < m)
    scores = (rng.integers(0, levels, (runs, n + m)) + 3 * y).astype(np.float32)
    return scores, y, scores > levels / 2


def same(one, other, **tolerance):
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), one, other)


def ordered(interval, low=0, high=1):
    return low <= interval.low <= interval.high <= high


# Resamples


@pytest.mark.parametrize("levels", [1, 3, 9, 10**6])
def test_a_resample_is_measured_as_its_rows_are(levels):
    scores, y, flagged = rankings(levels=levels)
    order = np.argsort(y, kind="stable")
    n, m = int((~y).sum()), int(y.sum())
    classes = rows.by_class(scores, y, "two")
    drawn = resampling.resample(
        resampling.ranks(classes), rows.decisions(flagged, y), KEY, n, resamples=6
    )
    for number in range(6):
        taken = order[resampling.draw(jax.random.fold_in(KEY, number), n, m)]
        truth = y[taken]
        for run in (0, 1):
            s, flags = scores[run, taken], flagged[run, taken]
            got = [float(values[number, run]) for values in drawn]
            ours = [
                metrics.auroc(s, truth),
                metrics.average_precision(s, truth),
                metrics.confusion(flags, truth).f1,
            ]
            theirs = [
                sk.roc_auc_score(truth, s),
                sk.average_precision_score(truth, s),
                sk.f1_score(truth, flags),
            ]
            np.testing.assert_allclose(got, ours, rtol=0, atol=1e-6)
            np.testing.assert_allclose(got, theirs, rtol=0, atol=1e-6)


def test_a_draw_keeps_the_classes_and_takes_every_row_equally_often():
    drawn = jax.vmap(lambda key: resampling.draw(key, 7, 3))(jax.random.split(KEY, 3000))
    assert drawn.shape == (3000, 10)
    assert (drawn[:, :7] < 7).all()
    assert (drawn[:, 7:] >= 7).all()
    for part, size in ((drawn[:, :7], 7), (drawn[:, 7:] - 7, 3)):
        counts = np.bincount(np.ravel(part), minlength=size)
        assert len(counts) == size
        assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.slow
def test_how_many_resamples_are_counted_at_once_changes_nothing(monkeypatch):
    scores, y, flagged = rankings(runs=1)
    rank = resampling.ranks(rows.by_class(scores, y, "any number of"))
    flags = rows.decisions(flagged, y)
    whole = resampling.resample(rank, flags, KEY, 40, resamples=50)
    monkeypatch.setattr(resampling, "_TABLE", 7 * y.size)
    same(whole, resampling.resample(rank, flags, KEY, 40, resamples=50), rtol=0, atol=0)
    first = resampling.resample(rank, flags, KEY, 40, resamples=20)
    same(first, jax.tree.map(lambda values: values[:20], whole), rtol=0, atol=0)
    other = resampling.resample(rank, flags, stream(1, Purpose.RESAMPLING), 40, resamples=50)
    assert (other.auroc != whole.auroc).any()


@pytest.mark.slow
def test_only_the_order_of_scores_matters():
    scores, y, flagged = rankings(runs=1)
    plain = intervals.bootstrap(scores[0], y, flagged[0], KEY, resamples=100)
    cubed = intervals.bootstrap(scores[0] ** 3 - 7, y, flagged[0], KEY, resamples=100)
    same(plain, cubed, rtol=0, atol=0)
    same(intervals.delong(scores[0], y), intervals.delong(scores[0] ** 3 - 7, y), rtol=0, atol=0)
    # Of what the labels say the opposite is found, as often.
    low, high = intervals.delong(-scores[0], y)
    same(intervals.delong(scores[0], y), intervals.Interval(1 - high, 1 - low), atol=1e-6)


def test_signed_zeros_tie():
    scores = np.float32([[0.0, -0.0, 0.0, -0.0]])
    classes = rows.by_class(scores, np.array([False, False, True, True]), "any number of")
    assert len(np.unique(resampling.ranks(classes))) == 1


@pytest.mark.parametrize("n", [2**10, 2**16, 2**20])
def test_memory_is_bounded_by_rows_and_not_by_resamples(n):
    rank, flagged = (jax.ShapeDtypeStruct((1, n), dtype) for dtype in (jnp.int32, bool))
    run = jax.jit(resampling.resample, static_argnames=("n", "resamples"))
    compiled = run.lower(rank, flagged, KEY, n // 2, 2000).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 100 * max(n, resampling._TABLE)


@pytest.mark.slow
def test_a_million_rows():
    rng = np.random.default_rng(0)
    y = np.arange(2**20) < 2**12
    scores = (rng.normal(size=y.size) + 2 * y).astype(np.float32)
    found = intervals.bootstrap(scores, y, scores > 2, KEY, resamples=40)
    assert found.auroc.low < metrics.auroc(scores, y) < found.auroc.high
    assert found.auroc.high - found.auroc.low < 0.01


@pytest.mark.slow
def test_two_thousand_resamples_of_ten_thousand_rows_take_less_than_a_second():
    rng = np.random.default_rng(0)
    y = np.arange(10_000) < 1000
    scores = (rng.normal(size=y.size) + y).astype(np.float32)

    def taken():
        # Of processors, not of the clock: others may use them too.
        start = time.process_time()
        jax.block_until_ready(intervals.bootstrap(scores, y, scores > 1, KEY, resamples=2000))
        return time.process_time() - start

    taken()
    assert min(taken() for _ in range(3)) < 1


# DeLong


def by_hand(scores, y):
    """Covariance of AUROCs by the definition: all pairs of an anomaly and a normal, in float64."""
    a, b = scores[:, y].astype(float), scores[:, ~y].astype(float)
    wins = (a[:, :, None] > b[:, None]) + 0.5 * (a[:, :, None] == b[:, None])
    return np.cov(wins.mean(2)) / a.shape[1] + np.cov(wins.mean(1)) / b.shape[1]


@pytest.mark.parametrize(
    ("n", "m", "levels"),
    [
        (40, 15, 9),
        *(pytest.param(*size, marks=pytest.mark.slow) for size in [(6, 4, 9), (7, 60, 99)]),
    ],
)
def test_delong_agrees_with_placements_by_hand(n, m, levels):
    scores, y, _ = rankings(n, m, 3, levels)
    expected = by_hand(scores, y)
    np.testing.assert_allclose(intervals.delong_covariance(scores, y), expected, atol=1e-7)
    d = np.array([1, -1, 0])
    areas = [sk.roc_auc_score(y, s) for s in scores]
    found = intervals.delong_difference(scores[:2], y)
    np.testing.assert_allclose(found.value, d @ areas, atol=1e-6)
    sd = np.sqrt(d @ expected @ d)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(d @ areas) / sd), rel=1e-3)
    reach = np.clip(d @ areas + np.array([-1, 1]) * 1.959964 * sd, -1, 1)
    np.testing.assert_allclose(found.interval, reach, atol=1e-5)


def test_delongs_variance_keeps_its_digits_with_many_rows():
    rng = np.random.default_rng(0)
    y = np.arange(2**17) < 2**12
    scores = (rng.normal(size=(1, y.size)) + 3 * y).astype(np.float32)
    a, b = scores[0, y], scores[0, ~y]
    v10 = np.searchsorted(np.sort(b), a) / len(b)
    v01 = np.searchsorted(np.sort(a), b) / len(a)
    expected = v10.var(ddof=1) / len(a) + v01.var(ddof=1) / len(b)
    np.testing.assert_allclose(intervals.delong_covariance(scores, y), [[expected]], rtol=1e-4)


@pytest.mark.slow
def test_delong_and_the_bootstrap_agree_on_many_rows():
    rng = np.random.default_rng(0)
    y = np.arange(2000) < 700
    scores = (rng.normal(size=y.size) + y).astype(np.float32)
    found = intervals.bootstrap(scores, y, scores > 1, KEY, resamples=1000).auroc
    np.testing.assert_allclose(found, intervals.delong(scores, y), atol=4e-3)


# Results without a flaw


def test_a_flawless_result_is_not_certain():
    y = np.arange(55) < 15
    scores, nothing = y.astype(np.float32), np.zeros(55, bool)
    found = intervals.bootstrap(scores, y, y, KEY, resamples=100)
    low = intervals.flawless(40, 15)
    same(found, jax.tree.map(lambda end: intervals.Interval(end, 1), low), rtol=1e-6)
    same(intervals.delong(scores, y), found.auroc)
    # The other way round, nothing is right.
    worst = intervals.bootstrap(-scores, y, nothing, KEY, resamples=100)
    np.testing.assert_allclose(worst.auroc, [0, 1 - low.auroc], rtol=1e-6)
    np.testing.assert_allclose(worst.f1, [0, bounds.hopeless(15)], rtol=1e-6)
    same(intervals.delong(-scores, y), worst.auroc)


@pytest.mark.parametrize("m", [61, 82])
def test_a_flawless_result_is_known_at_any_number_of_rows(m):
    # m * (1 / m) is not 1 in float32 for some of them.
    y = np.arange(m + 3) >= 3
    assert intervals.delong(y.astype(np.float32), y).high == 1
    classes = rows.by_class(y.astype(np.float32), y, "one")
    found = jax.jit(resampling.measure, static_argnums=2)(
        resampling.ranks(classes)[0], jnp.asarray(y), 3
    )
    assert list(found) == [1, 1, 1]


def test_bounds_are_reached_and_no_closer_ones_hold():
    # A share of anomalies is below all normals: then AUROC = 1 - share, and a flawless sample
    # of m has probability (1 - share)^m, which at the bound is the tail.
    n, m, tail = 200, 20, 0.025
    assert intervals.flawless(n, m).auroc ** m == pytest.approx(tail)
    assert intervals.flawless(m, n).auroc ** m == pytest.approx(tail)
    # Of decisions, Clopper and Pearson's own bound of each rate, the tail shared between the two.
    ends = [stats.beta.ppf(tail / 2, k, 1) for k in (n, m)]
    f1 = sk.f1_score([0, 0, 1, 1], [0, 1, 0, 1], sample_weight=_weights(n, m, *ends))
    assert intervals.flawless(n, m).f1 == pytest.approx(f1)
    f1 = sk.f1_score(
        [0, 0, 1, 1], [0, 1, 0, 1], sample_weight=_weights(n, m, 1, stats.beta.ppf(0.975, 1, m))
    )
    assert bounds.hopeless(m) == pytest.approx(f1)


def _weights(n, m, kept, found):
    """Of normals kept and flagged, of anomalies missed and found."""
    return [n * kept, n * (1 - kept), m * (1 - found), m * found]


def test_the_bound_of_average_precision_is_that_of_its_worst_case():
    n, m, tail = 3_000, 1_000, 0.0125
    r, f = tail ** (1 / m), 1 - tail ** (1 / n)
    # Normals on top, then anomalies found, then the other normals, then anomalies lost.
    sizes = np.round(np.array([f * n, r * m, (1 - f) * n, (1 - r) * m]) * 100).astype(int)
    truth = np.repeat([False, True, False, True], sizes)
    worst = sk.average_precision_score(truth, -np.arange(truth.size))
    low = intervals.flawless(n, m).average_precision
    assert worst - (1 - r) < low < worst


def test_flawless_results_on_more_rows_say_more():
    lows = [intervals.flawless(k, k) for k in (2, 10, 100, 10_000)]
    for values in zip(*lows, strict=True):
        assert 0 < values[0] < values[1] < values[2] < values[3] < 1
    assert intervals.flawless(50, 50, 0.99).auroc < intervals.flawless(50, 50, 0.9).auroc


@pytest.mark.slow
def test_two_flawless_runs_may_still_differ():
    y = np.arange(55) < 15
    scores = np.stack([y, 2 * y]).astype(np.float32)
    paired = intervals.compare(scores, y, scores > 0.5, KEY, resamples=100)
    low = intervals.flawless(40, 15)
    for found, end in zip(paired, low, strict=True):
        np.testing.assert_allclose(found.interval, [end - 1, 1 - end], rtol=1e-5)
        np.testing.assert_allclose([found.value, found.p_value], [0, 1], atol=1e-6)
    # Of 0, and of means that another processor sums in another order.
    same(intervals.delong_difference(scores, y), paired.auroc, rtol=1e-5, atol=1e-6)
    opposite = intervals.delong_difference(scores * [[1], [-1]], y)
    assert opposite.value == 1
    assert np.isnan(opposite.p_value)
    np.testing.assert_allclose(opposite.interval, [1 - np.hypot(*[1 - low.auroc] * 2), 1], 1e-5)


# Two runs


def test_a_comparison_turned_round_changes_its_sign_only():
    scores, y, flagged = rankings()
    there = intervals.compare(scores, y, flagged, KEY, resamples=100)
    back = intervals.compare(scores[::-1], y, flagged[::-1], KEY, resamples=100)
    delongs = [intervals.delong_difference(s, y) for s in (scores, scores[::-1])]
    for one, other in (*zip(there, back, strict=True), delongs):
        np.testing.assert_allclose(one.value, -other.value, atol=1e-7)
        np.testing.assert_allclose(one.interval.low, -other.interval.high, atol=1e-6)
        np.testing.assert_allclose(one.interval.high, -other.interval.low, atol=1e-6)
        np.testing.assert_allclose(one.p_value, other.p_value, rtol=1e-5)


def test_a_run_does_not_differ_from_itself():
    scores, y, flagged = rankings(runs=1)
    twice, flags = (np.concatenate([part, part]) for part in (scores, flagged))
    paired = intervals.compare(twice, y, flags, KEY, resamples=100)
    for found in (*paired, intervals.delong_difference(twice, y)):
        assert (found.value, *found.interval, found.p_value) == (0, 0, 0, 1)


def test_p_is_small_where_the_interval_excludes_zero():
    sides = []
    for seed in range(12):
        scores, y, flagged = rankings(runs=2, levels=12, seed=seed)
        scores[1] -= y * np.float32(seed / 4)
        found = intervals.compare(scores, y, flagged, KEY, resamples=100).auroc
        excluded = found.interval.low > 0 or found.interval.high < 0
        slack = 2 / 101
        assert found.p_value < 0.05 + slack if excluded else found.p_value > 0.05 - slack
        sides.append(bool(excluded))
    assert set(sides) == {True, False}


# Seeds


def test_spread_is_that_of_the_areas_of_its_seeds():
    scores, y, _ = rankings(runs=4)
    found = intervals.spread(scores, y, KEY, resamples=100)
    areas = [sk.roc_auc_score(y, s) for s in scores]
    np.testing.assert_allclose(found.mean, np.mean(areas), atol=1e-6)
    np.testing.assert_allclose(found.seeds_std, np.std(areas, ddof=1), rtol=1e-4)
    expected = stats.t.interval(0.95, 3, np.mean(areas), stats.sem(areas))
    np.testing.assert_allclose(found.over_seeds, np.clip(expected, 0, 1), atol=1e-5)
    for alone in (found.over_seeds, found.over_rows):
        assert found.over_both.high - found.over_both.low > alone.high - alone.low
    same(found, intervals.spread(scores[::-1], y, KEY, resamples=100), atol=1e-6)


@pytest.mark.slow
def test_seeds_that_agree_have_no_spread_but_that_of_rows():
    scores, y, flagged = rankings(runs=1)
    found = intervals.spread(np.repeat(scores, 3, axis=0), y, KEY, resamples=100)
    alone = intervals.bootstrap(scores[0], y, flagged[0], KEY, resamples=100).auroc
    np.testing.assert_allclose(found.seeds_std, 0, atol=1e-6)
    same(found.over_rows, alone, atol=1e-6)
    # DeLong's, but for t in the place of z.
    np.testing.assert_allclose(found.over_both, intervals.delong(scores[0], y), atol=0.01)


@pytest.mark.slow
def test_one_seed_says_nothing_of_others():
    scores, y, flagged = rankings(runs=1)
    found = intervals.spread(scores, y, KEY, resamples=100)
    assert np.isnan([found.seeds_std, *found.over_seeds, *found.over_both]).all()
    same(found.over_rows, intervals.bootstrap(scores[0], y, flagged[0], KEY, resamples=100).auroc)


@pytest.mark.slow
def test_seeds_without_a_flaw():
    y = np.arange(55) < 15
    found = intervals.spread(np.stack([y, 2 * y]).astype(np.float32), y, KEY, resamples=100)
    for interval in (found.over_rows, found.over_both):
        np.testing.assert_allclose(interval, [intervals.flawless(40, 15).auroc, 1], rtol=1e-6)


@pytest.mark.slow
def test_students_t():
    degrees = np.float32([1, 2, 4.5, 30, 300, 10**6])
    for confidence in (0.5, 0.99):
        found = jax.vmap(functools.partial(seeds.student, confidence))(degrees)
        np.testing.assert_allclose(found, stats.t.ppf((1 + confidence) / 2, degrees), rtol=3e-3)


# What nominal 95 % are, on binormal scores: N(0, 1) and N(mu, 1) have AUROC = Phi(mu / sqrt 2)


def shift(area):
    return float(np.sqrt(2) * stats.norm.ppf(area))


def simulated(one, times, at_once=50):
    keys = jax.random.split(jax.random.key(7), times)
    return jax.device_get(jax.jit(lambda k: jax.lax.map(one, k, batch_size=at_once))(keys))


def covers(interval, value):
    return np.mean((interval.low <= value) & (value <= interval.high))


def noise(times):
    """Four standard deviations of a count's share near .95 or .05, out of so many."""
    return 4 * np.sqrt(0.05 * 0.95 / times)


def binormal(key, n, m, area, runs=1, shared=0.0):
    """Scores of runs that have a share of their variance in common."""

    def of(key, size):
        common = jax.random.normal(key, (1, size))
        own = jax.random.normal(jax.random.fold_in(key, 1), (runs, size))
        common = jnp.broadcast_to(common, own.shape)
        return shared**0.5 * common + (1 - shared) ** 0.5 * own

    normals, anomalies = (of(jax.random.fold_in(key, i), k) for i, k in ((2, n), (3, m)))
    return rows.Classes(normals, anomalies + shift(area))


# Nominal .95 of logit DeLong and of the percentiles as they are, the latter by simulation of 2,000:
# few anomalies and a high area make both too narrow.
SIZES = [
    (50, 50, 0.7, 0.955, 0.946),
    (50, 50, 0.9, 0.955, 0.937),
    (50, 50, 0.98, 0.932, 0.886),
    (200, 20, 0.7, 0.937, 0.926),
    (200, 20, 0.9, 0.916, 0.896),
    (200, 20, 0.98, 0.896, 0.834),
]


@pytest.mark.parametrize(
    ("n", "m", "area", "expected", "_"),
    [SIZES[0], *(pytest.param(*size, marks=pytest.mark.slow) for size in SIZES[1:])],
)
def test_coverage_of_delong(n, m, area, expected, _):
    def one(key):
        normals, anomalies = binormal(key, n, m, area)
        return placements._interval(rows.Classes(normals[0], anomalies[0]), 0.95)

    assert abs(covers(simulated(one, 1000), area) - expected) < noise(1000) + 0.01


def coverage_of_percentiles(n, m, area, times, resamples):
    def one(key):
        classes = binormal(key, n, m, area)
        flagged = jnp.concatenate(classes, axis=1) > 1
        return resampling.of_runs(classes, flagged, key, resamples, 0.95)[2]

    found = simulated(one, times, at_once=10)
    found = jax.tree.map(lambda end: end[:, 0], found)
    recall, fpr = stats.norm.sf([1 - shift(area), 1])
    f1 = 2 * m * recall / (m * recall + n * fpr + m)
    return covers(found.auroc, area), covers(found.f1, f1)


@pytest.mark.slow
def test_coverage_of_the_bootstrap():
    found = coverage_of_percentiles(50, 50, 0.7, times=300, resamples=200)
    np.testing.assert_allclose(found, 0.94, atol=noise(300))


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m", "area", "_", "expected"), SIZES)
def test_coverage_of_the_bootstrap_at_many_sizes(n, m, area, _, expected):
    auroc, f1 = coverage_of_percentiles(n, m, area, times=800, resamples=500)
    assert abs(auroc - expected) < noise(800) + 0.01
    assert abs(f1 - 0.937) < noise(800)


def rejected_without_a_difference(n, m, area, times, resamples):
    """Shares of comparisons with p < .05: DeLong's, and the bootstrap's of AUROC, AP and F1."""

    def one(key):
        classes = binormal(key, n, m, area, runs=2, shared=0.5)
        flagged = jnp.concatenate(classes, axis=1) > 1
        of_runs = resampling.of_runs(classes, flagged, key, resamples, 0.95)
        paired = [resampling._difference(0.95, *each).p_value for each in zip(*of_runs)]  # noqa: B905
        return [placements._difference(classes, 0.95).p_value, *paired]

    return [float(np.mean(p < 0.05)) for p in simulated(one, times, at_once=10)]


@pytest.mark.slow
def test_equal_runs_are_told_apart_as_rarely_as_stated():
    found = rejected_without_a_difference(60, 60, 0.8, times=300, resamples=200)
    np.testing.assert_allclose(found, 0.05, atol=noise(300))


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m", "area"), [(50, 50, 0.7), (200, 50, 0.9), (300, 300, 0.9)])
def test_equal_runs_are_told_apart_as_rarely_as_stated_at_many_sizes(n, m, area):
    found = rejected_without_a_difference(n, m, area, times=800, resamples=500)
    np.testing.assert_allclose(found, 0.05, atol=noise(800))


def coverage_of_spread(runs, n, m, area, times, between=0.3):
    centre = shift(area)

    def one(key):
        normals, anomalies = binormal(key, n, m, area, runs, shared=0.8)
        moved = between * jax.random.normal(jax.random.fold_in(key, 9), (runs, 1))
        classes = rows.Classes(normals, anomalies + jnp.broadcast_to(moved, anomalies.shape))
        return seeds.of_seeds(classes, key, 40, 0.95)

    found = simulated(one, times, at_once=20)
    expected = stats.norm.cdf(centre / np.sqrt(2 + between**2))
    return [covers(i, expected) for i in (found.over_seeds, found.over_rows, found.over_both)]


@pytest.mark.slow
def test_only_both_sources_together_cover_the_mean_over_seeds_and_rows():
    over_seeds, over_rows, over_both = coverage_of_spread(5, 50, 50, 0.85, times=400)
    assert abs(over_both - 0.95) < noise(400)
    assert max(over_seeds, over_rows) < 0.95 - noise(400) / 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("runs", "n", "m", "area"), [(3, 50, 50, 0.98), (5, 200, 20, 0.85), (5, 300, 300, 0.9)]
)
def test_coverage_over_both_at_many_sizes(runs, n, m, area):
    assert abs(coverage_of_spread(runs, n, m, area, times=1000)[2] - 0.95) < noise(1000)


# What a person is told


Y = np.arange(8) < 3
GOOD = np.arange(8.0)


@pytest.mark.parametrize(
    ("scores", "y", "says"),
    [
        (np.where(Y, np.nan, GOOD), Y, "3 rows have a NaN score, the first is row 0"),
        (np.zeros(0), np.zeros(0, bool), "scores are [0]"),
        (GOOD, np.zeros(8, bool), "8 normal and 0 anomalous rows"),
        (GOOD, np.arange(8) < 1, "7 normal and 1 anomalous rows"),
        (GOOD, Y[:7], "scores are [8] and the truth is [7]"),
        (GOOD[:, None, None], Y, "scores are [8, 1, 1]"),
        (GOOD, Y.astype(int), "truth is int64; it must be bool"),
        (GOOD.astype(complex), Y, "scores are complex128"),
    ],
)
def test_rows_that_have_no_interval(scores, y, says):
    every = (
        lambda: intervals.delong(scores, y),
        lambda: intervals.bootstrap(scores, y, np.zeros(scores.shape, bool), KEY),
        lambda: intervals.delong_covariance(scores[None], y),
        lambda: intervals.delong_difference(np.stack([scores, scores]), y),
        lambda: intervals.spread(scores[None], y, KEY),
    )
    for call in every:
        with pytest.raises(UserError) as told:
            call()
        assert "\n" not in str(told.value)
    with pytest.raises(UserError) as told:
        every[0]()
    assert says in str(told.value)


def test_too_many_rows_are_refused():
    y = np.arange(rows.MAX_ROWS + 1) < 9
    with pytest.raises(UserError, match="sample of at most 1048576"):
        intervals.delong(np.zeros(y.size, np.float32), y)


def test_numbers_out_of_range():
    for confidence in (0.0, 1.0, 95.0, -1.0, np.nan):
        for call in (
            lambda c: intervals.delong(GOOD, Y, c),
            lambda c: intervals.delong_difference(np.stack([GOOD, GOOD]), Y, c),
            lambda c: intervals.bootstrap(GOOD, Y, Y, KEY, confidence=c),
            lambda c: intervals.spread(GOOD[None], Y, KEY, confidence=c),
        ):
            with pytest.raises(UserError, match="confidence is"):
                call(confidence)
    with pytest.raises(UserError, match="give at least 40"):
        intervals.bootstrap(GOOD, Y, Y, KEY, resamples=39)
    assert ordered(intervals.bootstrap(GOOD, Y, Y, KEY, resamples=40).f1)


def test_runs_and_decisions_that_do_not_match():
    with pytest.raises(UserError, match="decisions \\[7\\]; give one decision for each score"):
        intervals.bootstrap(GOOD, Y, Y[:7], KEY)
    with pytest.raises(UserError, match="decisions are int64"):
        intervals.bootstrap(GOOD, Y, Y.astype(int), KEY)
    with pytest.raises(UserError, match="two runs as \\[2, N\\]"):
        intervals.compare(np.stack([GOOD] * 3), Y, np.stack([Y] * 3), KEY)


# Beside the headline numbers: closed forms on the host


def test_a_report_can_be_written():
    scores, y, flagged = rankings(runs=1)
    found = intervals.report(scores[0], y, flagged[0])
    assert json.loads(json.dumps(found)) == found
    measured = {
        "auroc": sk.roc_auc_score(y, scores[0]),
        "average_precision": sk.average_precision_score(y, scores[0]),
        "f1": sk.f1_score(y, flagged[0]),
    }
    assert set(found) == {f"{name}_interval" for name in measured}
    for name, value in measured.items():
        low, high = found[f"{name}_interval"]
        assert 0 <= low < value < high <= 1
    none = dict.fromkeys(found)
    assert intervals.report(np.where(y, np.nan, scores[0]), y, flagged[0]) == none
    assert intervals.report(scores[0], np.zeros_like(y), flagged[0]) == none
    for wrong in (y.astype(int), y[:7], y[None]):
        with pytest.raises(UserError, match="two bool"):
            intervals.report(scores[0], wrong, flagged[0])


def estimates(scores, y, flagged):
    counts = headline.by_score(scores, y)
    hits, false = int(flagged[y].sum()), int(flagged[~y].sum())
    return rows.PerMetric(
        headline.auroc(counts),
        headline.average_precision(counts),
        headline.f1(int((~y).sum()), int(y.sum()), hits, false),
    )


@pytest.mark.parametrize("levels", [2, 9, 10**6])
def test_estimates_are_those_of_scikit_learn(levels):
    scores, y, flagged = rankings(levels=levels, runs=1)
    found = estimates(scores[0], y, flagged[0])
    assert found.auroc.value == pytest.approx(sk.roc_auc_score(y, scores[0]), abs=1e-12)
    expected = sk.average_precision_score(y, scores[0])
    assert found.average_precision.value == pytest.approx(expected, abs=1e-12)
    assert found.f1.value == pytest.approx(sk.f1_score(y, flagged[0]), abs=1e-12)
    assert found.auroc.variance == pytest.approx(by_hand(scores, y), rel=1e-9)


@pytest.mark.parametrize("levels", [9, 10**6])
def test_variances_are_those_of_many_resamples(levels):
    scores, y, flagged = rankings(400, 200, runs=1, levels=levels)
    scores, flagged = scores[0], flagged[0]
    rng, parts = np.random.default_rng(0), (np.flatnonzero(~y), np.flatnonzero(y))
    drawn = []
    for _ in range(600):
        taken = np.concatenate([rng.choice(part, len(part)) for part in parts])
        drawn.append([of.value for of in estimates(scores[taken], y[taken], flagged[taken])])
    expected = np.std(drawn, axis=0)
    found = [np.sqrt(of.variance) for of in estimates(scores, y, flagged)]
    np.testing.assert_allclose(found, expected, rtol=0.12)  # four deviations of such a std


def test_scores_without_a_flaw_or_without_a_difference():
    y = np.arange(55) < 15
    low = intervals.flawless(40, 15)
    found = intervals.report(y.astype(np.float32), y, y)
    assert found == {f"{name}_interval": [end, 1.0] for name, end in low._asdict().items()}
    found = intervals.report(-y.astype(np.float32), y, ~y)
    assert found["auroc_interval"] == [0, 1 - low.auroc]
    assert found["f1_interval"] == [0, bounds.hopeless(15)]
    tied = intervals.report(np.zeros(55), y, np.ones(55, bool))
    np.testing.assert_allclose(tied["auroc_interval"], 0.5)
    np.testing.assert_allclose(tied["average_precision_interval"], 15 / 55)


def test_a_report_of_a_million_rows_takes_no_time():
    rng = np.random.default_rng(0)
    y = np.arange(2**20) < 2**12
    scores = (rng.normal(size=y.size) + 3 * y).astype(np.float32)
    start = time.process_time()
    found = intervals.report(scores, y, scores > 3)
    assert time.process_time() - start < 3
    np.testing.assert_allclose(found["auroc_interval"], intervals.delong(scores, y), atol=1e-5)


# Of 1,000 each: with few anomalies the AUROC's are too narrow, see SIZES; the others keep closer.
@pytest.mark.parametrize(
    ("n", "m", "area", "expected"),
    [
        (200, 20, 0.98, (0.896, 0.955, 0.965)),
        *(
            pytest.param(*size, marks=pytest.mark.slow)
            for size in [
                (50, 50, 0.7, (0.955, 0.935, 0.955)),
                (50, 50, 0.98, (0.932, 0.95, 0.96)),
                (200, 20, 0.9, (0.916, 0.945, 0.955)),
                (1000, 100, 0.9, (0.945, 0.94, 0.95)),
            ]
        ),
    ],
)
def test_coverage_of_the_intervals_of_a_report(n, m, area, expected):
    rng, y = np.random.default_rng(1), np.arange(n + m) >= n
    mu = shift(area)
    at = np.linspace(-9, 9 + mu, 20_001)
    tp, fp = m * stats.norm.sf(at - mu), n * stats.norm.sf(at)
    precision = np.trapezoid(stats.norm.pdf(at - mu) * tp / (tp + fp), at)
    recall, false = stats.norm.sf([1 - mu, 1])
    truth = np.array([area, precision, 2 * m * recall / (m * recall + n * false + m)])
    covered = np.zeros(3)
    for _ in range(1000):
        scores = rng.normal(size=n + m) + mu * y
        ends = np.array([*intervals.report(scores, y, scores > 1).values()])
        covered += (ends[:, 0] <= truth) & (truth <= ends[:, 1])
    np.testing.assert_allclose(covered / 1000, expected, atol=noise(1000))
