import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import DEVICES, SHAPE, dataset, images, tiny
from sklearn import metrics as sk

from jaxae import evaluation, learners, scoring, train
from jaxae.config import ThresholdConfig
from jaxae.types import Learner, Outputs

DEVICES = DEVICES[:2]
DATA = dataset(images(40, 1), images(30, 2), images(20, 3), 1 - images(20, 4))


def shift_learner():
    """Reconstructs x + variables["by"], so that every error is known."""

    def infer(variables, x):
        none = jnp.zeros(x.shape[0])
        return Outputs(x + variables["by"], x.reshape(x.shape[0], -1), none, none)

    return Learner(None, None, infer)


def fit(learner, variables, score="mae", ensemble=1, **threshold):
    cfg = ThresholdConfig(**threshold)
    return evaluation.fit_detector(
        learner,
        scoring.resolve(score),
        scoring.rule(cfg.rule),
        variables,
        DATA,
        cfg,
        DEVICES,
        ensemble,
    )


@pytest.fixture(scope="module")
def model():
    learner = learners.build(tiny("dense"), SHAPE)
    variables = train.initial_state(learner, SHAPE, 0).variables
    infer = jax.jit(learner.infer)
    errors = {
        name: np.abs(x - np.asarray(infer(variables, x).x_hat)).mean(axis=(1, 2, 3))
        for name, x in (("train", DATA.train.x), ("valid", DATA.valid.x), ("test", DATA.test.x))
    }
    return learner, variables, errors


@pytest.mark.parametrize(
    ("threshold", "normals"),
    [
        ({"on": "valid"}, lambda e: e["valid"]),
        ({"on": "train"}, lambda e: e["train"]),
        ({"on": "train", "rows": 7}, lambda e: e["train"][:7]),
        ({"on": "valid", "rows": 1000}, lambda e: e["valid"]),
    ],
)
def test_the_threshold_is_the_rule_on_the_rows_asked_for(model, threshold, normals):
    learner, variables, errors = model
    for rule, line in (
        ("max", np.max),
        ("quantile:0.8", lambda s: np.quantile(s, 0.8)),
        ("mean_std:2", lambda s: s.mean() + 2 * s.std()),
    ):
        detector, scores = fit(learner, variables, rule=rule, **threshold)
        assert detector.threshold == pytest.approx(line(normals(errors)), rel=1e-5)
        for name in errors:
            np.testing.assert_allclose(getattr(scores, name), errors[name], rtol=1e-5)


def test_a_detector_holds_all_that_judging_a_row_needs(model):
    learner, variables, _ = model
    score = scoring.resolve("mae+mse")
    detector, scores = fit(learner, variables, score="mae+mse")
    judge = evaluation.detector_scorer(learner, score, detector, DEVICES, ensemble=1)
    np.testing.assert_allclose(judge(DATA.test.x), scores.test, rtol=1e-5, atol=1e-5)
    parts = [fit(learner, variables, score=name)[1] for name in ("mae", "mse")]
    expected = sum(
        (np.log(part.test) - np.log(part.valid).mean()) / np.log(part.valid).std() for part in parts
    )
    np.testing.assert_allclose(scores.test, expected, rtol=1e-3, atol=1e-3)


def test_a_score_of_a_learner_is_compiled_once_for_all_who_ask():
    learner = shift_learner()
    one, other = (evaluation.scorer(learner, scoring.SCORES["mae"], DEVICES) for _ in range(2))
    assert one is other
    assert one is not evaluation.scorer(learner, scoring.SCORES["mse"], DEVICES)
    assert one is not evaluation.scorer(shift_learner(), scoring.SCORES["mae"], DEVICES)
    # What was fitted on another number of rows gets a program of its own.
    size = DATA.test.x[0].size
    for rows in (8, 12):
        bank = {"mean": jnp.zeros(size), "bank": jnp.zeros((rows, size))}
        knn = evaluation.scorer(learner, scoring.SCORES["latent_knn"], DEVICES)
        assert np.isfinite(knn({"by": jnp.array(0.1)}, bank, DATA.test.x)).all()


def test_members_of_an_ensemble_are_averaged_with_a_fit_of_their_own():
    by = {"by": jnp.array([0.1, 0.3])}
    learner = shift_learner()
    detector, scores = fit(learner, by, ensemble=2, rule="max")
    np.testing.assert_allclose(scores.test, 0.2, rtol=1e-4)
    assert detector.threshold == pytest.approx(0.2, rel=1e-4)
    judge = evaluation.detector_scorer(learner, scoring.resolve("mae"), detector, DEVICES, 2)
    np.testing.assert_allclose(judge(DATA.test.x), 0.2, rtol=1e-4)
    fitted = fit(learner, by, score="latent_mahalanobis", ensemble=2)[0].fitted
    assert {leaf.shape[0] for leaf in jax.tree.leaves(fitted)} == {2}


def test_one_member_of_many():
    tree = {"a": jnp.arange(6).reshape(3, 2)}
    assert [one["a"].tolist() for one in evaluation.members(tree, 3)] == [[0, 1], [2, 3], [4, 5]]
    assert evaluation.members(tree, 1) == [tree]


def test_a_model_that_says_the_same_of_every_row_has_collapsed():
    def infer(variables, x):
        none = jnp.zeros(x.shape[0])
        return Outputs(0 * x + variables["level"], x.reshape(x.shape[0], -1), none, none)

    with pytest.raises(FloatingPointError, match=r"collapsed.*lower optim\.lr"):
        fit(Learner(None, None, infer), {"level": jnp.float32(0.3)})


def test_a_member_that_has_collapsed_is_found_among_others():
    def infer(variables, x):
        none = jnp.zeros(x.shape[0])
        return Outputs(x * variables["gain"], x.reshape(x.shape[0], -1), none, none)

    learner = Learner(None, None, infer)
    assert fit(learner, {"gain": jnp.array([0.5, 0.9])}, ensemble=2)
    with pytest.raises(FloatingPointError, match="collapsed"):
        fit(learner, {"gain": jnp.array([0.5, 0.0])}, ensemble=2)


def test_scores_that_are_not_numbers_are_refused():
    def infer(variables, x):
        none = jnp.zeros(x.shape[0])
        x_hat = jnp.where(x > 0.999, jnp.nan, x * variables["gain"])
        return Outputs(x_hat, x.reshape(x.shape[0], -1), none, none)

    broken = DATA._replace(valid=DATA.valid._replace(x=0.9 * DATA.valid.x))
    cfg = ThresholdConfig()
    with pytest.raises(FloatingPointError, match=r"\d+ of 40 train scores are not finite"):
        evaluation.fit_detector(
            Learner(None, None, infer),
            scoring.resolve("mse"),
            scoring.rule("max"),
            {"gain": jnp.float32(0.5)},
            broken._replace(train=DATA.train._replace(x=np.ones_like(DATA.train.x))),
            cfg,
            DEVICES,
        )


@pytest.mark.parametrize("ties", [False, True])
def test_evaluation_is_that_of_scikit_learn(ties):
    generator = np.random.default_rng(0)
    labels = generator.random(200) < 0.3
    scores = (generator.normal(size=200) + labels).astype(np.float32)
    scores = np.round(scores) if ties else scores
    threshold = 0.75
    found = evaluation.evaluate(scores, labels, threshold)
    flagged = scores > threshold
    expected = {
        "auroc": sk.roc_auc_score(labels, scores),
        "average_precision": sk.average_precision_score(labels, scores),
        "accuracy": sk.accuracy_score(labels, flagged),
        "precision": sk.precision_score(labels, flagged),
        "recall": sk.recall_score(labels, flagged),
        "f1": sk.f1_score(labels, flagged),
        "fpr": np.mean(flagged[~labels]),
        "precision_normal_positive": sk.precision_score(~labels, ~flagged),
        "recall_normal_positive": sk.recall_score(~labels, ~flagged),
        "best_f1_oracle": max(
            sk.f1_score(labels, scores > cut) for cut in [-np.inf, *np.unique(scores)[:-1]]
        ),
        "n_normal": (~labels).sum(),
        "n_anomaly": labels.sum(),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name
    assert all(isinstance(value, float | int) for value in found.values())
