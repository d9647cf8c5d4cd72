"""Detectors of other libraries with thresholds, p-values and metrics of this one."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import OneClassSVM

import jaxae
from jaxae.errors import UserError
from jaxae.workflows import baselines

X = np.random.default_rng(0).normal(size=(300, 4))
NEW = np.random.default_rng(1).normal(size=(2000, 4))
FAR = np.full((20, 4), 9.0)


class Memory(BaseEstimator):
    """Knows its rows by heart: 0 for them, far more for all others."""

    def fit(self, X, y=None):
        self.known_ = {row.tobytes() for row in X}
        return self

    def decision_function(self, X):
        norms = np.linalg.norm(X, axis=1)
        return np.array(
            [0.0 if x.tobytes() in self.known_ else 1.0 + n for x, n in zip(X, norms, strict=True)]
        )


DETECTORS = {
    "forest": IsolationForest(random_state=0),
    "factor": LocalOutlierFactor(novelty=True),
    "machine": OneClassSVM(),
    "mixture": GaussianMixture(),
    "pipeline": make_pipeline(StandardScaler(), LocalOutlierFactor(novelty=True)),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_outliers_of_any_detector_are_outliers(name):
    detector = jaxae.wrap(DETECTORS[name]).fit(X)
    assert (detector.predict(FAR) == -1).all()
    assert detector.score_samples(FAR).max() < np.median(detector.score_samples(NEW))
    assert detector.labels_.sum() == pytest.approx(30, abs=1)
    own = detector.estimator_.score_samples(NEW)
    np.testing.assert_allclose(detector.score_samples(NEW), own, rtol=1e-5)


@pytest.mark.parametrize("name", ["forest", "factor"])
def test_new_inliers_are_flagged_as_often_as_is_asked(name):
    assert (jaxae.wrap(DETECTORS[name]).fit(X).predict(NEW) == -1).mean() == pytest.approx(
        0.1, abs=0.04
    )
    detector = jaxae.wrap(DETECTORS[name], alpha=0.05, valid_fraction=0.5).fit(NEW[1000:])
    assert (detector.predict(NEW[:1000]) == -1).mean() < 0.08  # of 500 rows: two more deviations
    np.testing.assert_array_equal(detector.predict(NEW) == -1, detector.p_values(NEW) <= 0.05)


def test_what_a_detector_knows_by_heart_does_not_set_its_threshold():
    detector = jaxae.wrap(Memory(), higher_is_anomalous=True).fit(X)
    assert (detector.predict(NEW) == -1).mean() == pytest.approx(0.1, abs=0.04)
    np.testing.assert_array_equal(detector.score_samples(X), -detector.decision_scores_)


def test_selected_rows_are_the_far_ones():
    detector = jaxae.wrap(IsolationForest(random_state=0), alpha=0.01, valid_fraction=0.5).fit(
        np.random.default_rng(2).normal(size=(1000, 4))
    )
    chosen = detector.select(np.concatenate([NEW[:200], FAR]), fdr=0.2)
    assert chosen[200:].all()
    assert chosen[:200].sum() <= 15
    with pytest.raises(UserError, match=r"alpha=0\.05"):
        jaxae.wrap(IsolationForest(random_state=0)).fit(X).select(NEW, 0.1)


def test_metrics_have_intervals_and_the_truth_is_asked_for():
    detector = jaxae.wrap(IsolationForest(random_state=0)).fit(X)
    rows, y = np.concatenate([NEW, FAR]), np.arange(2020) >= 2000
    found = detector.evaluate(rows, y)
    low, high = found["auroc_interval"]
    assert low <= found["auroc"] <= high
    assert found["auroc"] > 0.99
    assert found == detector.evaluate(rows, y.astype(int))
    assert detector.evaluate(rows, ~y)["warnings"]
    with pytest.raises(UserError, match="y == -1"):
        detector.evaluate(rows, np.where(y, -1, 1))
    with pytest.raises(UserError, match=r"give \[N\]"):
        detector.evaluate(rows, y[1:])


def test_the_same_seed_gives_the_same_and_the_given_detector_is_left_alone():
    given = IsolationForest(random_state=0)
    one, other = (jaxae.wrap(given).fit(X) for _ in range(2))
    np.testing.assert_array_equal(one.decision_scores_, other.decision_scores_)
    assert not hasattr(given, "estimators_")
    assert clone(one).get_params()["estimator__n_estimators"] == 100


def test_a_protocol_takes_it_as_a_baseline(monkeypatch):
    monkeypatch.setattr(baselines, "BASELINES", type(baselines.BASELINES)(
        "baseline", baselines.BASELINES.entry_type, dict(baselines.BASELINES)
    ))  # fmt: skip
    wrapped = jaxae.wrap(IsolationForest())
    baselines.BASELINES.add("forest", wrapped.baseline)
    baselines.check(["forest"])
    found = baselines.scores("forest", X, NEW[:50], 3)
    np.testing.assert_array_equal(found, baselines.scores("forest", X, NEW[:50], 3))
    assert not np.array_equal(found, baselines.scores("forest", X, NEW[:50], 4))
    known = baselines.scores("isolation_forest", X, NEW[:50], 3)
    np.testing.assert_allclose(found, known, rtol=1e-6)


class Unknown(BaseEstimator):
    def fit(self, X, y=None):
        return self

    def decision_function(self, X):
        return np.full(len(X), self.value) if hasattr(self, "value") else X[:, 0]


class Constant(Unknown):
    value = 1.0


class NaNs(Unknown):
    value = np.nan


class Matrix(Unknown):
    def decision_function(self, X):
        return X


@pytest.mark.parametrize(
    ("estimator", "settings", "words"),
    [
        (Unknown(), {}, "set higher_is_anomalous=True or False"),
        (IsolationForest, {}, "the class IsolationForest; call it first"),
        (np.ones(3), {}, "ndarray has no fit"),
        (StandardScaler(), {}, "neither score_samples nor decision_function"),
        (LocalOutlierFactor(), {}, "needs novelty=True"),
        (IsolationForest(), {"contamination": 0.7}, "contamination is 0.7"),
        (IsolationForest(), {"alpha": 2}, "alpha is 2"),
        (IsolationForest(), {"alpha": 0.1, "valid_fraction": 3}, "valid_fraction is 3"),
        (IsolationForest(), {"alpha": 0.001}, "alpha|0.001"),
        (Matrix(), {"higher_is_anomalous": True}, r"not \[N\]"),
    ],
)
def test_what_cannot_be_decided_is_one_line(estimator, settings, words):
    with pytest.raises(UserError, match=words) as raised:
        jaxae.wrap(estimator, **settings).fit(X)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("estimator", "words"), [(Constant(), "scores all rows"), (NaNs(), "not finite")]
)
def test_scores_that_say_nothing_are_refused(estimator, words):
    with pytest.raises(FloatingPointError, match=words):
        jaxae.wrap(estimator, higher_is_anomalous=True).fit(X)


@pytest.mark.parametrize("rows", [X[:2], np.full((5, 3), np.nan), X[0], X.astype(str)])
def test_rows_that_are_none_are_refused(rows):
    with pytest.raises(ValueError):  # noqa: PT011 - scikit-learn's words
        jaxae.wrap(IsolationForest()).fit(rows)


def test_masked_rows_are_refused():
    with pytest.raises(UserError, match="masked"):
        jaxae.wrap(IsolationForest()).fit(np.ma.masked_greater(X, 1))


def test_detectors_of_pyod_mean_outliers_by_high_values():
    knn = pytest.importorskip("pyod.models.knn", reason="needs the pyod extra")
    detector = jaxae.wrap(knn.KNN()).fit(X)
    assert (detector.predict(FAR) == -1).all()
