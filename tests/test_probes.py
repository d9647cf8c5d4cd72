"""Problems with known answers, from training to verdict."""

import numpy as np
import pytest
from probes import DEVICES, dataset, edit, images, tiny

from jaxae import detectors, scoring
from jaxae.detectors import evaluation
from jaxae.methods import learners
from jaxae.training import train

DEVICES = DEVICES[:1]


def detect(cfg, data, score="mse", rule="max"):
    """Train, fit the detector, and measure."""
    cfg = edit(cfg, {"score": score, "threshold.rule": rule})
    learner = learners.build(cfg, data.shape)
    course = []
    fitted = train.fit(
        learner,
        data.train.x,
        cfg,
        DEVICES,
        quiet=True,
        on_epoch=lambda epoch, state, found: course.append(found["loss"].item()) or found,
    )
    detector, scores = detectors.fit(learner, fitted.state.variables, data, cfg, DEVICES)
    is_anomaly = scoring.decide(detector.decision, scores.test)
    return course, scores, evaluation.evaluate(scores.test, data.test.y, is_anomaly)


def test_constant_rows_are_learnt_and_are_no_collapse():
    def constant(n):
        return np.full((n, 6), 0.7, np.float32)

    data = dataset(constant(32), constant(16), constant(16), 0 * constant(16))
    cfg = tiny("dense", train__epochs=60, train__noise_std=0.0, optim__lr=0.02)
    course, scores, report = detect(cfg, data)
    assert course[-1] < 1e-4
    np.testing.assert_allclose(scores.valid, scores.valid[0], rtol=1e-4)
    assert report["auroc"] == 1


def test_a_linear_autoencoder_reaches_the_bound_of_principal_components():
    """No linear code of k numbers beats the first k principal components (Baldi, Hornik, 1989)."""
    generator = np.random.default_rng(0)
    scale = np.array([2.0, 1.5, 1.0, 0.3, 0.2, 0.1])
    turn = np.linalg.qr(generator.normal(size=(6, 6)))[0]
    x = (generator.normal(size=(512, 6)) * scale @ turn.T).astype(np.float32)
    x -= x.mean(axis=0)
    bound = np.sum(np.linalg.svd(x, compute_uv=False)[3:] ** 2) / x.size
    cfg = tiny(
        "dense",
        model__latent=3,
        model__hidden=(),
        model__output_activation="linear",
        train__noise_std=0.0,
        train__batch_size=128,
        train__epochs=400,
        optim__lr=5e-3,
    )
    off = generator.normal(size=(64, 3)) @ turn[:, 3:].T  # in the space that no code holds
    data = dataset(x, x[:64], x[:64], off.astype(np.float32))
    _, scores, report = detect(cfg, data)
    assert bound * 0.999 < scores.train.mean() < bound * 1.05
    assert report["auroc"] > 0.9


def test_outliers_that_stand_apart_are_all_found():
    data = dataset(images(64, 1), images(32, 2), images(32, 3), 1 - images(32, 4))
    _, _, report = detect(tiny("dense", train__epochs=40), data)
    assert report["auroc"] == 1
    assert report["recall"] == 1


@pytest.mark.parametrize("score", ["mse", "latent_mahalanobis"])
def test_anomalies_like_the_normals_are_told_apart_by_chance_only(score):
    data = dataset(images(64, 1), images(32, 2), images(400, 3), images(400, 4))
    _, _, report = detect(tiny("dense", train__epochs=5), data, score, "quantile:0.9")
    assert report["auroc"] == pytest.approx(0.5, abs=0.08)  # 4 standard errors
