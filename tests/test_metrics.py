import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from jaxae import metrics

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
    labels = rng.permutation(np.arange(n) < positives)
    scores = rng.integers(0, levels, n) * draw(st.sampled_from([1.0, -0.37, 1e-20, 1e20]))
    scores = scores + draw(st.sampled_from([0, 0, 1])) * labels * np.abs(scores).max() / 4
    return scores.astype(np.float32), labels


def best_f1_by_hand(scores, labels):
    flagged = scores[None] > np.append(scores, -np.inf)[:, None]
    return np.max(2 * (flagged & labels).sum(1) / (flagged.sum(1) + labels.sum()))


@settings(max_examples=40, deadline=None)
@given(rankings())
def test_threshold_free_metrics_agree_with_scikit_learn(ranking):
    scores, labels = ranking
    close = {"rtol": 0, "atol": 1e-6}
    np.testing.assert_allclose(
        metrics.auroc(scores, labels), sk.roc_auc_score(labels, scores), **close
    )
    np.testing.assert_allclose(
        metrics.average_precision(scores, labels),
        sk.average_precision_score(labels, scores),
        **close,
    )
    np.testing.assert_allclose(
        metrics.best_f1(scores, labels), best_f1_by_hand(scores, labels), **close
    )
    fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    for asked in (0.5, 0.95, 1.0):
        expected = fpr[np.argmax(tpr >= asked)]
        np.testing.assert_allclose(metrics.fpr_at_tpr(scores, labels, asked), expected, **close)


@settings(max_examples=40, deadline=None)
@given(rankings())
def test_equal_error_threshold_realises_its_error_rates_and_no_cut_is_closer(ranking):
    scores, labels = ranking
    point = metrics.equal_error(scores, labels)
    at = metrics.confusion(scores, labels, point.threshold)
    np.testing.assert_allclose(at.f1, point.f1, rtol=0, atol=1e-6)
    np.testing.assert_allclose((at.fpr + 1 - at.recall) / 2, point.eer, rtol=0, atol=1e-6)
    fpr, tpr, _ = sk.roc_curve(labels, scores, drop_intermediate=False)
    gap = abs(float(at.fpr) - (1 - float(at.recall)))
    assert gap <= np.abs(fpr - (1 - tpr)).min() + 1e-6


@settings(max_examples=40, deadline=None)
@given(rankings(), st.integers(0, 63))
def test_decisions_agree_with_scikit_learn_in_both_conventions(ranking, at):
    scores, labels = ranking
    threshold = scores[at]  # a score itself: the tie with the threshold must not be flagged
    flagged = scores > threshold
    ours = metrics.confusion(scores, labels, threshold)
    expected = metrics.Confusion(
        accuracy=sk.accuracy_score(labels, flagged),
        precision=sk.precision_score(labels, flagged, zero_division=0),
        recall=sk.recall_score(labels, flagged),
        f1=sk.f1_score(labels, flagged),
        fpr=flagged[~labels].mean(),
    )
    np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6)
    normal = [
        f(~labels, ~flagged, zero_division=0)
        for f in (sk.precision_score, sk.recall_score, sk.f1_score)
    ]
    np.testing.assert_allclose(
        metrics.normal_as_positive(scores, labels, threshold), normal, rtol=0, atol=1e-6
    )


@settings(max_examples=20, deadline=None)
@given(rankings(), st.integers(0, 2**32 - 1))
def test_order_of_rows_and_monotone_transforms_do_not_matter(ranking, seed):
    scores, labels = ranking
    order = np.random.default_rng(seed).permutation(len(scores))
    for metric in THRESHOLD_FREE:
        jax.tree.map(
            np.testing.assert_array_equal,
            metric(scores, labels),
            metric(scores[order], labels[order]),
        )
    ranks = np.unique(scores, return_inverse=True)[1].astype(np.float32)
    assert metrics.auroc(scores, labels) == metrics.auroc(ranks**3 - 7, labels)
    np.testing.assert_allclose(
        metrics.auroc(scores, labels) + metrics.auroc(-scores, labels), 1, atol=1e-6
    )


def test_mapped_equals_looped():
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 9, (4, 64)).astype(np.float32)
    labels = rng.random(64) < 0.3
    for metric in THRESHOLD_FREE:
        mapped = jax.vmap(metric, in_axes=(0, None))(scores, jnp.asarray(labels))
        looped = jax.tree.map(lambda *v: jnp.stack(v), *[metric(s, labels) for s in scores])
        jax.tree.map(np.testing.assert_array_equal, mapped, looped)
    thresholds = jnp.arange(-1.0, 10.0)
    mapped = jax.vmap(metrics.confusion, in_axes=(None, None, 0))(scores[0], labels, thresholds)
    looped = [metrics.confusion(scores[0], labels, t) for t in thresholds]
    jax.tree.map(
        np.testing.assert_array_equal, mapped, jax.tree.map(lambda *v: jnp.stack(v), *looped)
    )


def test_known_answers():
    labels = np.array([False, False, True, True])
    assert metrics.auroc(np.zeros(4), labels) == 0.5
    assert metrics.auroc(np.arange(4.0), labels) == 1
    assert metrics.auroc(-np.arange(4.0), labels) == 0
    assert metrics.average_precision(np.zeros(4), labels) == 0.5
    assert metrics.best_f1(np.arange(4.0), labels) == 1
    assert metrics.fpr_at_tpr(np.zeros(4), labels) == 1
    point = metrics.equal_error(np.arange(4.0), labels)
    assert (point.threshold, point.f1, point.eer) == (1, 1, 0)
    # The highest score is a threshold too: it flags nothing.
    nothing = metrics.confusion(np.arange(4.0), labels, 3.0)
    assert (nothing.precision, nothing.recall, nothing.f1, nothing.fpr) == (0, 0, 0, 0)
    assert metrics.normal_as_positive(np.arange(4.0), labels, -1.0).precision == 0


def test_ties_between_signed_zeros_count_as_ties():
    assert metrics.auroc(np.float32([0.0, -0.0]), [False, True]) == 0.5


@pytest.mark.parametrize("metric", THRESHOLD_FREE)
def test_undefined_metrics_are_nan(metric):
    def all_nan(result):
        return all(np.isnan(leaf) for leaf in jax.tree.leaves(result))

    scores = np.arange(4.0)
    assert all_nan(metric(np.array([0, np.nan, 2, 3]), [False, True, False, True]))
    assert all_nan(metric(scores, np.zeros(4, bool)))
    if metric not in (metrics.average_precision, metrics.best_f1):
        assert all_nan(metric(scores, np.ones(4, bool)))


def test_confusion_is_nan_exactly_where_it_is_undefined():
    only_normals = metrics.confusion(np.arange(4.0), np.zeros(4, bool), 2.0)
    np.testing.assert_array_equal(only_normals, [0.75, 0, np.nan, np.nan, 0.25])
    only_anomalies = metrics.confusion(np.arange(4.0), np.ones(4, bool), 2.0)
    np.testing.assert_allclose(only_anomalies, [0.25, 1, 0.25, 0.4, np.nan], rtol=1e-6)
    labels = np.array([True, False])
    for scores, threshold in (([np.nan, 0.0], 0.0), ([1.0, 0.0], np.nan)):
        assert np.isnan(metrics.confusion(np.array(scores), labels, threshold)).all()
        assert np.isnan(metrics.normal_as_positive(np.array(scores), labels, threshold)).all()


@pytest.mark.parametrize("positives", [3, 2**19])
def test_a_million_rows_stay_exact(positives):
    # Scores on a grid of 10,000 levels, so that ties are everywhere; counted by hand in int64.
    n, rng = 2**20, np.random.default_rng(1)
    labels = rng.permutation(n) < positives
    scores = rng.integers(0, 10_000, n) + 2_000 * labels
    anomalies, normals = (np.bincount(scores[c], minlength=12_000) for c in (labels, ~labels))
    wins = np.sum(anomalies * (2 * (np.cumsum(normals) - normals) + normals), dtype=np.int64)
    tp, fp = np.cumsum(anomalies[::-1]), np.cumsum(normals[::-1])
    precision = np.sum(anomalies[::-1] * tp / np.maximum(tp + fp, 1)) / positives
    expected = wins / (2 * positives * (n - positives))
    np.testing.assert_allclose(metrics.auroc(scores, labels), expected, rtol=1e-6)
    np.testing.assert_allclose(metrics.average_precision(scores, labels), precision, rtol=1e-6)


def test_more_rows_than_are_exact_are_refused():
    scores = jax.ShapeDtypeStruct((metrics.MAX_ROWS + 1,), jnp.float32)
    labels = jax.ShapeDtypeStruct(scores.shape, bool)
    with pytest.raises(ValueError, match="exact up to"):
        jax.eval_shape(metrics.auroc, scores, labels)
