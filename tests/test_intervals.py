import functools
import json
import time

import jax
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from jaxae.errors import UserError
from jaxae.rng import Purpose, stream
from jaxae.stats import curve, intervals, metrics
from jaxae.stats.intervals import bounds, one_run, two_runs

KEY = stream(0, Purpose.RESAMPLING)


def rankings(n=40, m=15, runs=2, levels=9, seed=0):
    """Scores [runs, N] with ties, y [N] and decisions [runs, N], classes shuffled."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n + m) < m)
    scores = (rng.integers(0, levels, (runs, n + m)) + 3 * y).astype(np.float32)
    return scores, y, scores > levels / 2


def same(one, other, **tolerance):
    jax.tree.map(functools.partial(np.testing.assert_allclose, **tolerance), one, other)


# Resamples


def resample(scores, y, flagged, resamples, key=KEY):
    """Average precision and F1 of every resample and run, [2, B, R]."""
    order, n, m = np.argsort(y, kind="stable"), int((~y).sum()), int(y.sum())
    curves = [curve.sweep(s[order], y[order]) for s in scores]
    samples = two_runs.resamples_of_rows(key, n, m, resamples)
    measured = [two_runs.measure(rows, curves, flagged[:, order], n) for rows in samples]
    return np.stack(measured, axis=1)


@pytest.mark.parametrize("levels", [1, 3, 9, 10**6])
def test_a_resample_is_measured_as_its_rows_are(levels):
    scores, y, flagged = rankings(levels=levels)
    order = np.argsort(y, kind="stable")
    drawn = resample(scores, y, flagged, 6)
    for number, rows_of_sample in enumerate(two_runs.draw(KEY, np.arange(6), 40, 15)):
        taken = order[rows_of_sample]
        truth = y[taken]
        for run in (0, 1):
            s, flags = scores[run, taken], flagged[run, taken]
            got = drawn[:, number, run]
            ours = [metrics.average_precision(s, truth), metrics.confusion(flags, truth).f1]
            theirs = [sk.average_precision_score(truth, s), sk.f1_score(truth, flags)]
            np.testing.assert_allclose(got, ours, rtol=0, atol=1e-6)
            np.testing.assert_allclose(got, theirs, rtol=0, atol=1e-6)


def test_a_draw_keeps_the_classes_and_takes_every_row_equally_often():
    drawn = two_runs.draw(KEY, np.arange(3000), 7, 3)
    assert drawn.shape == (3000, 10)
    assert (drawn[:, :7] < 7).all()
    assert (drawn[:, 7:] >= 7).all()
    for part, size in ((drawn[:, :7], 7), (drawn[:, 7:] - 7, 3)):
        counts = np.bincount(np.ravel(part), minlength=size)
        assert len(counts) == size
        assert stats.chisquare(counts).pvalue > 1e-4


def test_how_many_resamples_are_counted_at_once_changes_nothing(monkeypatch):
    scores, y, flagged = rankings(runs=1)
    whole = resample(scores, y, flagged, 50)
    monkeypatch.setattr(two_runs, "_AT_ONCE", 7 * y.size)
    same(whole, resample(scores, y, flagged, 50), rtol=0, atol=0)
    same(resample(scores, y, flagged, 20), whole[:, :20], rtol=0, atol=0)
    other = resample(scores, y, flagged, 50, stream(1, Purpose.RESAMPLING))
    assert (other[0] != whole[0]).any()


def test_only_the_order_of_scores_matters():
    scores, y, flagged = rankings()
    plain = intervals.compare(scores, y, flagged, KEY, resamples=100)
    cubed = intervals.compare(scores**3 - 7, y, flagged, KEY, resamples=100)
    same(plain, cubed, rtol=0, atol=0)
    plain, negated = (intervals.report(s, y, flagged[0]) for s in (scores[0], -scores[0]))
    assert plain == intervals.report(scores[0] ** 3 - 7, y, flagged[0])
    # Of what the labels say the opposite is found, as often.
    low, high = negated["auroc_interval"]
    np.testing.assert_allclose(plain["auroc_interval"], [1 - high, 1 - low], atol=1e-12)


def test_signed_zeros_tie():
    scores, y = np.float32([[0.0, -0.0, 0.0, -0.0]]), np.array([False, False, True, True])
    assert resample(scores, y, scores > 0, 1)[0] == 0.5
    assert curve.sweep(scores[0], y).score.tolist() == [0]


@pytest.mark.slow
@pytest.mark.optimised
def test_a_million_rows():
    rng = np.random.default_rng(0)
    y = np.arange(2**20) < 2**12
    scores = (rng.normal(size=(2, y.size)) + 2 * y).astype(np.float32)
    for found in intervals.compare(scores, y, scores > 2, KEY, resamples=40):
        assert found.interval.low < found.value < found.interval.high
        assert found.interval.high - found.interval.low < 0.05


@pytest.mark.slow
@pytest.mark.optimised
def test_two_thousand_resamples_of_ten_thousand_rows_take_two_seconds_at_most():
    rng = np.random.default_rng(0)
    y = np.arange(10_000) < 1000
    scores = (rng.normal(size=(1, y.size)) + y).astype(np.float32)

    def taken():
        # Of processors, not of the clock: others may use them too.
        start = time.process_time()
        resample(scores, y, scores > 1, 2000)
        return time.process_time() - start

    taken()
    assert min(taken() for _ in range(3)) < 2


# DeLong


def delong(scores, y):
    return two_runs.delong([curve.sweep(s, y) for s in scores.astype(np.float32)], y)


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
    scores, y, _ = rankings(n, m, 2, levels)
    expected = by_hand(scores, y)
    d = np.array([1, -1])
    areas = [sk.roc_auc_score(y, s) for s in scores]
    found = delong(scores, y)
    np.testing.assert_allclose(found.value, d @ areas, atol=1e-6)
    sd = np.sqrt(d @ expected @ d)
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(d @ areas) / sd), rel=1e-3)
    reach = np.clip(d @ areas + np.array([-1, 1]) * 1.959964 * sd, -1, 1)
    np.testing.assert_allclose(found.interval, reach, atol=1e-5)


def test_delongs_variance_keeps_its_digits_with_many_rows():
    rng = np.random.default_rng(0)
    y = np.arange(2**17) < 2**12
    scores = (rng.normal(size=(2, y.size)) + 3 * y).astype(np.float32)
    of_anomalies, of_normals = np.zeros(y.sum()), np.zeros((~y).sum())
    for sign, s in zip((1, -1), scores, strict=True):
        a, b = s[y], s[~y]
        of_anomalies += sign * np.searchsorted(np.sort(b), a) / len(b)
        of_normals -= sign * np.searchsorted(np.sort(a), b) / len(a)
    parts = (of_anomalies, of_normals)
    sd = np.sqrt(sum(part.var(ddof=1) / len(part) for part in parts))
    reach = np.ptp(delong(scores, y).interval) / 2
    np.testing.assert_allclose(reach, 1.959964 * sd, rtol=1e-4)


# Perfect results


@pytest.mark.parametrize("m", [61, 82])
def test_a_perfect_result_is_known_at_any_number_of_rows(m):
    y = np.arange(m + 3) >= 3
    assert (resample(y[None].astype(np.float32), y, y[None], 9) == 1).all()


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
    assert bounds.hopeless(n, m).f1 == pytest.approx(f1)


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


def test_perfect_results_on_more_rows_say_more():
    lows = [intervals.flawless(k, k) for k in (2, 10, 100, 10_000)]
    for values in zip(*lows, strict=True):
        assert 0 < values[0] < values[1] < values[2] < values[3] < 1


@pytest.mark.slow
@pytest.mark.optimised
def test_two_perfect_runs_may_still_differ():
    y = np.arange(55) < 15
    scores = np.stack([y, 2 * y]).astype(np.float32)
    paired = intervals.compare(scores, y, scores > 0.5, KEY, resamples=100)
    low = intervals.flawless(40, 15)
    for found, end in zip(paired, low, strict=True):
        np.testing.assert_allclose(found.interval, [end - 1, 1 - end], rtol=1e-5)
        np.testing.assert_allclose([found.value, found.p_value], [0, 1], atol=1e-6)
    opposite = delong(scores * [[1], [-1]], y)
    assert opposite.value == 1
    assert np.isnan(opposite.p_value)
    np.testing.assert_allclose(opposite.interval, [1 - np.hypot(*[1 - low.auroc] * 2), 1], 1e-5)


# Two runs


def test_a_comparison_turned_round_changes_its_sign_only():
    scores, y, flagged = rankings()
    there = intervals.compare(scores, y, flagged, KEY, resamples=100)
    back = intervals.compare(scores[::-1], y, flagged[::-1], KEY, resamples=100)
    for one, other in zip(there, back, strict=True):
        np.testing.assert_allclose(one.value, -other.value, atol=1e-7)
        np.testing.assert_allclose(one.interval.low, -other.interval.high, atol=1e-6)
        np.testing.assert_allclose(one.interval.high, -other.interval.low, atol=1e-6)
        np.testing.assert_allclose(one.p_value, other.p_value, rtol=1e-5)


def test_a_run_does_not_differ_from_itself():
    scores, y, flagged = rankings(runs=1)
    twice, flags = (np.concatenate([part, part]) for part in (scores, flagged))
    for found in intervals.compare(twice, y, flags, KEY, resamples=100):
        assert (found.value, *found.interval, found.p_value) == (0, 0, 0, 1)


def test_p_is_small_where_the_interval_excludes_zero():
    sides = []
    for seed in range(12):
        scores, y, flagged = rankings(runs=2, levels=12, seed=seed)
        scores[1] -= y * np.float32(seed / 4)
        found = intervals.compare(scores, y, flagged, KEY, resamples=100).average_precision
        excluded = found.interval.low > 0 or found.interval.high < 0
        slack = 2 / 101
        assert found.p_value < 0.05 + slack if excluded else found.p_value > 0.05 - slack
        sides.append(bool(excluded))
    assert set(sides) == {True, False}


# What nominal 95 % are, on binormal scores: N(0, 1) and N(mu, 1) have AUROC = Phi(mu / sqrt 2)


def shift(area):
    return float(np.sqrt(2) * stats.norm.ppf(area))


def noise(times):
    """Four standard deviations of a count's share near .95 or .05, out of so many."""
    return 4 * np.sqrt(0.05 * 0.95 / times)


def binormal(rng, n, m, area, shared):
    """Scores of two runs that have a share of their variance in common, normals first, and y."""
    y = np.arange(n + m) >= n
    common, own = rng.normal(size=n + m), rng.normal(size=(2, n + m))
    scores = shared**0.5 * common + (1 - shared) ** 0.5 * own + y * shift(area)
    return scores.astype(np.float32), y


def rejected_without_a_difference(n, m, area, times, resamples):
    """Shares of comparisons with p < .05: DeLong's of AUROC, and the bootstrap's of AP and F1."""
    rng, rejected = np.random.default_rng(7), np.zeros(3)
    for key in jax.random.split(jax.random.key(7), times):
        scores, y = binormal(rng, n, m, area, shared=0.5)
        found = intervals.compare(scores, y, scores > 1, key, resamples=resamples)
        rejected += [difference.p_value < 0.05 for difference in found]
    return rejected / times


@pytest.mark.slow
@pytest.mark.optimised
def test_equal_runs_are_told_apart_as_rarely_as_stated():
    found = rejected_without_a_difference(60, 60, 0.8, times=300, resamples=200)
    np.testing.assert_allclose(found, 0.05, atol=noise(300))


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.optimised
@pytest.mark.parametrize(("n", "m", "area"), [(50, 50, 0.7), (200, 50, 0.9), (300, 300, 0.9)])
def test_equal_runs_are_told_apart_as_rarely_as_stated_at_many_sizes(n, m, area):
    found = rejected_without_a_difference(n, m, area, times=800, resamples=500)
    np.testing.assert_allclose(found, 0.05, atol=noise(800))


# What a person is told


Y = np.arange(8) < 3
GOOD = np.arange(8.0)


@pytest.mark.parametrize(
    ("scores", "y", "says"),
    [
        (np.where(Y, np.nan, GOOD), Y, "3 rows have a NaN score, the first is row 0"),
        (GOOD, np.zeros(8, bool), "8 normal and 0 anomalous rows"),
        (GOOD, np.arange(8) < 1, "7 normal and 1 anomalous rows"),
        (GOOD, Y[:7], "scores are [2, 8] and the truth is [7]"),
        (np.zeros(0), np.zeros(0, bool), "scores are [2, 0]"),
        (GOOD, Y.astype(int), "truth is int64; it must be bool"),
    ],
)
def test_rows_that_have_no_interval(scores, y, says):
    scores = np.stack([scores, scores])
    with pytest.raises(UserError) as caught:
        intervals.compare(scores, y, scores > 0, KEY)
    assert "\n" not in str(caught.value)
    assert says in str(caught.value)


def test_too_many_rows_are_refused():
    y = np.arange(bounds.MAX_ROWS + 1) < 9
    with pytest.raises(UserError, match="sample of at most 1048576"):
        bounds.checked(np.zeros((1, y.size), np.float32), y)


def test_runs_and_decisions_that_do_not_match():
    two = np.stack([GOOD, GOOD])
    for scores, flagged, says in (
        (two, two[:, :7] > 1, r"decisions bool \[2, 7\]; give both of two runs"),
        (two, (two > 1).astype(int), r"decisions int64 \[2, 8\]"),
        (np.stack([GOOD] * 3), np.stack([Y] * 3), r"scores are \[3, 8\]"),
        (GOOD, Y, r"scores are \[8\]"),
    ):
        with pytest.raises(UserError, match=says):
            intervals.compare(scores, Y, flagged, KEY)


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
    swept = curve.sweep(scores, y)
    hits, false = int(flagged[y].sum()), int(flagged[~y].sum())
    return bounds.PerMetric(
        one_run.auroc(swept),
        one_run.average_precision(swept),
        one_run.f1(int((~y).sum()), int(y.sum()), hits, false),
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


def test_perfect_scores_and_scores_without_a_difference():
    y = np.arange(55) < 15
    low = intervals.flawless(40, 15)
    found = intervals.report(y.astype(np.float32), y, y)
    assert found == {f"{name}_interval": [end, 1.0] for name, end in low._asdict().items()}
    found = intervals.report(-y.astype(np.float32), y, ~y)
    assert found["auroc_interval"] == [0, 1 - low.auroc]
    assert found["f1_interval"] == [0, bounds.hopeless(40, 15).f1]
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
    value, low, high = metrics.auroc(scores, y), *found["auroc_interval"]
    assert value - 2e-3 < low < value < high < value + 2e-3


# Of 1,000 each: with few anomalies the AUROC's are too narrow; the others keep closer.
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
