import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from jaxae.stats import curve, metrics

THRESHOLD_FREE = (
    metrics.auroc,
    metrics.average_precision,
    metrics.fpr_at_tpr,
    metrics.equal_error,
    metrics.best_f1,
)


@st.composite
def rankings(draw):
    """Many ties or none, any imbalance that leaves both classes; one shape, so one trace."""
    n, positives = 64, draw(st.sampled_from([1, 2, 5, 32, 59, 63]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    levels = draw(st.sampled_from([1, 2, 3, 10, 10**6]))
    y = rng.permutation(np.arange(n) < positives)
    scores = rng.integers(0, levels, n) * draw(st.sampled_from([1.0, -0.37, 1e-20, 1e20]))
    scores = scores + draw(st.sampled_from([0, 0, 1])) * y * np.abs(scores).max() / 4
    return scores.astype(np.float32), y


def best_f1_by_hand(scores, y):
    flagged = scores[None] > np.append(scores, -np.inf)[:, None]
    return np.max(2 * (flagged & y).sum(1) / (flagged.sum(1) + y.sum()))


@settings(max_examples=40, deadline=None)
@given(rankings())
def test_threshold_free_metrics_agree_with_scikit_learn(ranking):
    scores, y = ranking
    close = {"rtol": 0, "atol": 1e-6}
    np.testing.assert_allclose(metrics.auroc(scores, y), sk.roc_auc_score(y, scores), **close)
    assert curve.area(scores, y) == pytest.approx(sk.roc_auc_score(y, scores), abs=1e-12)
    np.testing.assert_allclose(
        metrics.average_precision(scores, y),
        sk.average_precision_score(y, scores),
        **close,
    )
    np.testing.assert_allclose(metrics.best_f1(scores, y), best_f1_by_hand(scores, y), **close)
    fpr, tpr, _ = sk.roc_curve(y, scores, drop_intermediate=False)
    for asked in (0.5, 0.95, 1.0):
        expected = fpr[np.argmax(tpr >= asked)]
        np.testing.assert_allclose(metrics.fpr_at_tpr(scores, y, asked), expected, **close)


@settings(max_examples=40, deadline=None)
@given(rankings())
def test_equal_error_threshold_realises_its_error_rates_and_no_cut_is_closer(ranking):
    scores, y = ranking
    point = metrics.equal_error(scores, y)
    at = metrics.confusion(scores > np.asarray(point.threshold), y)
    np.testing.assert_allclose(at.f1, point.f1, rtol=0, atol=1e-6)
    fpr, tpr, _ = sk.roc_curve(y, scores, drop_intermediate=False)
    gap, gaps = abs(float(at.fpr) - (1 - float(at.recall))), np.abs(fpr - (1 - tpr))
    assert gap <= gaps.min() + 1e-6
    error = (float(at.fpr) + 1 - float(at.recall)) / 2
    closest = (fpr + 1 - tpr)[gaps <= gaps.min() + 1e-6] / 2
    assert np.abs(closest - error).min() <= 1e-6


@settings(max_examples=40, deadline=None)
@given(rankings(), st.integers(0, 63))
def test_decisions_agree_with_scikit_learn_in_both_conventions(ranking, at):
    scores, y = ranking
    flagged = scores > scores[at]
    ours = metrics.confusion(flagged, y)
    expected = metrics.Confusion(
        accuracy=sk.accuracy_score(y, flagged),
        precision=sk.precision_score(y, flagged, zero_division=0),
        recall=sk.recall_score(y, flagged),
        f1=sk.f1_score(y, flagged),
        fpr=flagged[~y].mean(),
        precision_normal_positive=sk.precision_score(~y, ~flagged, zero_division=0),
        recall_normal_positive=sk.recall_score(~y, ~flagged),
    )
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(rankings(), st.integers(0, 2**32 - 1))
def test_order_of_rows_and_monotone_transforms_do_not_matter(ranking, seed):
    scores, y = ranking
    order = np.random.default_rng(seed).permutation(len(scores))
    for metric in THRESHOLD_FREE:
        jax.tree.map(
            np.testing.assert_array_equal,
            metric(scores, y),
            metric(scores[order], y[order]),
        )
    ranks = np.unique(scores, return_inverse=True)[1].astype(np.float32)
    assert metrics.auroc(scores, y) == metrics.auroc(ranks**3 - 7, y)
    np.testing.assert_allclose(metrics.auroc(scores, y) + metrics.auroc(-scores, y), 1, atol=1e-6)


def test_known_answers():
    y = np.array([False, False, True, True])
    assert metrics.auroc(np.zeros(4), y) == 0.5
    assert metrics.auroc(np.arange(4.0), y) == 1
    assert metrics.auroc(-np.arange(4.0), y) == 0
    assert metrics.average_precision(np.zeros(4), y) == 0.5
    assert metrics.best_f1(np.arange(4.0), y) == 1
    assert metrics.fpr_at_tpr(np.zeros(4), y) == 1
    point = metrics.equal_error(np.arange(4.0), y)
    assert (point.threshold, point.f1) == (1, 1)
    nothing = metrics.confusion(np.zeros(4, bool), y)
    assert (nothing.precision, nothing.recall, nothing.f1, nothing.fpr) == (0, 0, 0, 0)
    assert metrics.confusion(np.ones(4, bool), y).precision_normal_positive == 0


def test_ties_between_signed_zeros_count_as_ties():
    assert metrics.auroc(np.float32([0.0, -0.0]), np.array([False, True])) == 0.5


@pytest.mark.parametrize("metric", THRESHOLD_FREE)
def test_undefined_metrics_are_nan(metric):
    def all_nan(result):
        return all(np.isnan(leaf) for leaf in jax.tree.leaves(result))

    scores = np.arange(4.0)
    assert all_nan(metric(np.array([0, np.nan, 2, 3]), np.array([False, True, False, True])))
    assert all_nan(metric(scores, np.zeros(4, bool)))
    if metric not in (metrics.average_precision, metrics.best_f1):
        assert all_nan(metric(scores, np.ones(4, bool)))


def test_confusion_is_nan_exactly_where_it_is_undefined():
    flagged = np.arange(4) > 2
    only_normals = metrics.confusion(flagged, np.zeros(4, bool))
    np.testing.assert_array_equal(only_normals, [0.75, 0, np.nan, np.nan, 0.25, 1, 0.75])
    only_anomalies = metrics.confusion(flagged, np.ones(4, bool))
    np.testing.assert_allclose(only_anomalies, [0.25, 1, 0.25, 0.4, np.nan, 0, np.nan], rtol=1e-6)


@pytest.mark.parametrize(
    ("n", "positives"),
    [(2**21 + 77, 2**20),
     *(pytest.param(2**20, few, marks=pytest.mark.slow) for few in (3, 2**19))],
)  # fmt: skip
def test_a_million_rows_stay_exact(n, positives):
    # Scores on a grid of 10,000 levels, so that ties are everywhere; counted by hand in int64.
    rng = np.random.default_rng(1)
    y = rng.permutation(n) < positives
    levels = rng.integers(0, 10_000, n) + 2_000 * y
    scores = levels.astype(np.float32)
    anomalies, normals = (np.bincount(levels[c], minlength=12_000) for c in (y, ~y))
    wins = np.sum(anomalies * (2 * (np.cumsum(normals) - normals) + normals), dtype=np.int64)
    tp, fp = np.cumsum(anomalies[::-1]), np.cumsum(normals[::-1])
    precision = np.sum(anomalies[::-1] * tp / np.maximum(tp + fp, 1)) / positives
    expected = wins / (2 * positives * (n - positives))
    np.testing.assert_allclose(metrics.auroc(scores, y), expected, rtol=1e-6)
    np.testing.assert_allclose(metrics.average_precision(scores, y), precision, rtol=1e-6)
