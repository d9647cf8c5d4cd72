import jax.numpy as jnp
import numpy as np
import pytest
from probes import DEVICES, images
from sklearn import metrics as sk

from jaxae import scoring
from jaxae.data import sources
from jaxae.detectors import evaluation
from jaxae.devices import members, tuning
from jaxae.errors import UserError
from jaxae.types import Learner, Outputs

pytestmark = pytest.mark.device

DEVICES = DEVICES[:2]
X = images(40, 3)


def shift_learner():
    """Reconstructs x + variables["by"], so that every error is known."""

    def infer(variables, x):
        return Outputs(x + variables["by"], x.reshape(x.shape[0], -1))

    def loss(row, settings):
        return settings["weight"] * scoring.mae(row.x, row.out.x_hat)

    return Learner(None, None, infer, loss)


def by(*shifts):
    """The variables of members that shift by so much."""
    return {"by": jnp.array(shifts)}


class Lazy:
    """Rows that do not lie in memory."""

    dtype = np.dtype(np.float32)

    def __init__(self, x):
        self._x, self.shape = x, x.shape

    def __len__(self):
        return len(self._x)

    def __getitem__(self, index):
        return self._x[index]


def test_a_score_of_a_learner_is_compiled_once_for_all_who_ask():
    learner = shift_learner()
    for spec in ("mae", "mse+mae", "blurred_energy+latent_knn"):
        one, other = (evaluation.scorer(learner, scoring.resolve(spec), DEVICES) for _ in range(2))
        assert one is other
        assert one is not evaluation.scorer(learner, scoring.SCORES["mse"], DEVICES)
        assert one is not evaluation.scorer(learner, scoring.resolve(spec), DEVICES[:1])
        assert one is not evaluation.scorer(shift_learner(), scoring.resolve(spec), DEVICES)
    # What was fitted on another number of rows gets a program of its own.
    size = X[0].size
    for rows in (8, 12):
        bank = {"mean": jnp.zeros((1, size)), "bank": jnp.zeros((1, rows, size))}
        knn = evaluation.scorer(learner, scoring.SCORES["latent_knn"], DEVICES)
        assert np.isfinite(knn(by(0.1), bank, X)).all()


def test_every_member_scores_every_row():
    scorer = evaluation.scorer(shift_learner(), scoring.SCORES["mae"], DEVICES)
    for shifts in ([0.1], [0.1, 0.3, 0.2]):
        found = scorer(by(*shifts), {}, X)
        np.testing.assert_allclose(found, np.repeat([shifts], len(X), axis=0).T, rtol=1e-4)


def test_every_member_says_its_own_of_every_row():
    found = evaluation.inference(shift_learner(), DEVICES)(by(0.1, 0.3), X)
    expected = X[None] + np.float32([0.1, 0.3]).reshape(2, 1, 1, 1, 1)
    np.testing.assert_array_equal(found.x_hat, expected)
    np.testing.assert_array_equal(found.z, np.stack([X.reshape(len(X), -1)] * 2))
    assert found.extra == {}


def test_blocks_are_all_rows_in_order_as_often_as_asked(monkeypatch):
    monkeypatch.setattr(tuning, "BLOCK", 16)
    outputs = evaluation.inference(shift_learner(), DEVICES)
    one = members.pick(by(0.1, 0.3), 1)
    for x, sizes in ((X, [40]), (Lazy(X), [16, 16, 8])):
        blocks = evaluation.Blocks(outputs, one, x)
        for _ in range(2):
            found = list(blocks)
            assert [len(block.x) for block in found] == sizes
            np.testing.assert_array_equal(np.concatenate([block.x for block in found]), X)
            x_hat = np.concatenate([block.out.x_hat for block in found])
            np.testing.assert_array_equal(x_hat, X + np.float32(0.3))
            assert all(block.out.z.shape == (len(block.x), X[0].size) for block in found)


def test_the_loss_is_each_members_own_over_all_rows_wherever_they_lie():
    weight = {"weight": jnp.array([1.0, 10.0])}
    assert not sources.is_resident(Lazy(X))
    for x in (X, X[:7], Lazy(X)):
        measure = evaluation.loss_fn(shift_learner(), x, DEVICES)
        for shifts in ((0.1, 0.3), (0.2, 0.2)):  # of one epoch after another
            expected = [shifts[0], 10 * shifts[1]]
            np.testing.assert_allclose(measure(by(*shifts), weight)(), expected, rtol=1e-4)


def test_truth_and_decisions_that_are_not_bool_are_refused():
    scores, y = np.arange(4, dtype=np.float32), np.arange(4) > 1
    for truth, decisions in ((y.astype(int), y), (y, y.astype(int))):
        with pytest.raises(UserError, match="must be bool"):
            evaluation.evaluate(scores, truth, decisions)


@pytest.mark.parametrize("ties", [False, True])
def test_evaluation_is_that_of_scikit_learn(ties):
    generator = np.random.default_rng(0)
    y = generator.random(200) < 0.3
    scores = (generator.normal(size=200) + y).astype(np.float32)
    scores = np.round(scores) if ties else scores
    flagged = scores > 0.75
    found = evaluation.evaluate(scores, y, flagged)
    expected = {
        "auroc": sk.roc_auc_score(y, scores),
        "average_precision": sk.average_precision_score(y, scores),
        "accuracy": sk.accuracy_score(y, flagged),
        "precision": sk.precision_score(y, flagged),
        "recall": sk.recall_score(y, flagged),
        "f1": sk.f1_score(y, flagged),
        "fpr": np.mean(flagged[~y]),
        "precision_normal_positive": sk.precision_score(~y, ~flagged),
        "recall_normal_positive": sk.recall_score(~y, ~flagged),
        "best_f1_oracle": max(
            sk.f1_score(y, scores > cut) for cut in [-np.inf, *np.unique(scores)[:-1]]
        ),
        "n_normal": (~y).sum(),
        "n_anomaly": y.sum(),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=1e-6), name
    assert all(isinstance(value, float | int) for value in found.values())


def test_decisions_are_measured_as_they_are_whatever_the_scores():
    y = np.arange(8) >= 4
    found = evaluation.evaluate(np.zeros(8, np.float32), y, y)
    assert found["auroc"] == 0.5
    assert (found["accuracy"], found["recall"], found["fpr"]) == (1, 1, 0)


@pytest.mark.parametrize("scores", [[0.0, np.nan, 2.0, 3.0], [np.nan] * 4])
def test_scores_that_are_no_numbers_have_no_worth(scores):
    found = evaluation.evaluate(np.float32(scores), np.arange(4) >= 2, np.arange(4) >= 1)
    assert {found.pop("n_normal"), found.pop("n_anomaly")} == {2}
    assert len(found) > 10
    assert set(found.values()) == {None}


def test_what_a_class_without_rows_leaves_undefined_is_none():
    found = evaluation.evaluate(np.arange(4.0), np.zeros(4, bool), np.arange(4) > 2)
    assert found["auroc"] is None
    assert found["recall"] is None
    assert (found["fpr"], found["n_anomaly"]) == (0.25, 0)
