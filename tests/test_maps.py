import dataclasses
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import DEVICES, images
from sklearn.exceptions import NotFittedError

from jaxae import AutoencoderDetector, config, detectors, scoring
from jaxae.devices import members
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.scoring import pooling
from jaxae.types import Inferred, Outputs, Score

POOLED = {"max_error", "patches", "patch_codes"}  # otherwise than by the mean
MEANS = [n for n, score in scoring.SCORES.items() if score.places and n not in POOLED]


def inferred(shape, n=9, seed=0):
    x, x_hat = np.random.default_rng(seed).uniform(size=(2, n, *shape)).astype(np.float32)
    return Inferred(
        jnp.asarray(x), Outputs(jnp.asarray(x_hat), jnp.asarray(x.reshape(n, -1)[:, :3]))
    )


def fitted(score, rows):
    state = score.fit([rows]) if score.fit else {}
    return score.standardise([state], [[rows]])[0] if score.standardise else state


@pytest.mark.parametrize("shape", [(6,), (8, 2), (6, 5, 3)])
@pytest.mark.parametrize("name", MEANS)
def test_the_mean_of_a_map_is_the_score(name, shape):
    score, rows = scoring.resolve(name), inferred(shape)
    state, other = fitted(score, rows), inferred(shape, seed=1)
    maps = jax.vmap(score.places, in_axes=(None, 0))(state, other)
    assert maps.min() >= 0
    found = jax.vmap(score.apply, in_axes=(None, 0))(state, other)
    np.testing.assert_allclose(maps.reshape(len(maps), -1).mean(axis=1), found, rtol=2e-5)
    one = jax.tree.map(lambda leaf: leaf[4], other)  # mapped = looped
    np.testing.assert_allclose(score.places(state, one), maps[4], rtol=2e-5, atol=1e-6)


def test_a_pooling_sees_one_bad_place_that_the_mean_hides():
    rows = inferred((16, 16, 1), 2)
    x_hat = rows.x.at[0].add(0.1).at[1, 3, 4].add(1.0)
    rows = rows._replace(out=rows.out._replace(x_hat=x_hat))
    for spec, worst in (
        ("mse", 0),
        ("mse:mean", 0),
        ("mse:max", 1),
        ("mse:top", 1),
        ("mse:max:0", 1),
    ):
        found = jax.vmap(scoring.resolve(spec).apply, in_axes=(None, 0))({}, rows)
        assert np.argmax(found) == worst, spec
    exact = jax.vmap(scoring.resolve("max_error:max:0").apply, in_axes=(None, 0))({}, rows)
    np.testing.assert_allclose(exact, [0.1, 1.0], rtol=1e-5)


def test_the_map_of_a_sum_adds_maps_in_units_of_their_scores():
    rows = inferred((8, 8, 2))
    both = scoring.resolve("mse+row_pca")
    state = fitted(both, rows)
    one = jax.tree.map(lambda leaf: leaf[0], rows)
    parts = []
    for name in ("mse", "row_pca"):
        places = scoring.SCORES[name].places(state[name].get("score", {}), one)
        parts.append(places / np.exp(state[name]["mean"]))
    np.testing.assert_allclose(both.places(state, one), parts[0] + parts[1], rtol=1e-5)
    largest = scoring.resolve("mse^row_pca").places(state, one)
    np.testing.assert_allclose(largest, np.maximum(*parts), rtol=1e-5)
    without = scoring.row_map(both)(state, one)
    np.testing.assert_allclose(without, (parts[0] + parts[1]).mean(axis=-1), rtol=1e-5)
    np.testing.assert_array_equal(
        scoring.row_map(both, detailed=True)(state, one), both.places(state, one)
    )


@pytest.fixture
def coarse(monkeypatch):
    """A score whose map has cells of 2 x 2 pixels, registered for a test."""

    def places(fitted, row):
        error = jnp.square(row.x - row.out.x_hat).mean(axis=-1)
        return error.reshape(error.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3))

    score = Score(lambda fitted, row: jnp.mean(places(fitted, row)), places=places)
    monkeypatch.setitem(scoring.SCORES, "coarse", score)
    return score


def test_a_coarse_map_is_enlarged_alone_and_beside_others(coarse):
    rows = inferred((8, 8, 2))
    one = jax.tree.map(lambda leaf: leaf[0], rows)
    alone = scoring.row_map(scoring.resolve("coarse"), detailed=True)({}, one)
    assert alone.shape == (8, 8)
    np.testing.assert_allclose(alone.mean(), coarse.apply({}, one), rtol=0.1)
    both = scoring.resolve("mse+coarse")
    state = fitted(both, rows)
    assert both.places(state, one).shape == (8, 8)
    with_mse = pooling.without_channels(scoring.SCORES["mse"].places({}, one), (8, 8, 2))
    expected = with_mse / np.exp(state["mse"]["mean"]) + alone / np.exp(state["coarse"]["mean"])
    np.testing.assert_allclose(both.places(state, one), expected, rtol=1e-5)


@pytest.mark.parametrize("spec", ["mse", "mae", "bce", "row_knn", "row_pca", "mse^row_nearest"])
def test_the_map_of_a_row_that_is_too_far_away_is_finite_and_says_where(spec):
    score, rows = scoring.resolve(spec), inferred((9, 2))
    state = fitted(score, rows)
    x = np.array(rows.x[0])
    x[4, 1] = 1e30
    for x_hat in (np.zeros_like(x), np.full_like(x, 1e29), np.full_like(x, np.nan)):
        row = Inferred(jnp.asarray(x), Outputs(jnp.asarray(x_hat), jnp.zeros(3)))
        detailed = scoring.row_map(score, detailed=True)(state, row)
        found = scoring.row_map(score)(state, row)
        assert np.isfinite(found).all()
        assert (found[4], detailed[4, 1]) == (pooling.LARGEST, pooling.LARGEST)
        assert (np.delete(found, 4) < 1e37).all()
        assert np.argmax(detailed) == 9
    lost = row._replace(x=jnp.full_like(row.x, jnp.nan))
    assert (scoring.row_map(score)(state, lost) == pooling.LARGEST).all()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("latent_knn:max", "has no map"),
        ("mse:median", "unknown pooling"),
        ("mse:top:2", "needs a share of the places"),
        ("mse:max:wide", "needs a standard deviation"),
        ("mse:mean:1", "takes no number"),
    ],
)
def test_a_pooling_that_cannot_work_is_refused(spec, said):
    with pytest.raises(UserError, match=said):
        scoring.resolve(spec)


@pytest.fixture(scope="module")
def ensemble():
    """An ensemble with a joined score, and its rows."""
    x = images(40, 8)
    settings = {"ensemble": 2, "data.split_seed": 0}
    return AutoencoderDetector(epochs=2, anomaly_score="mse+row_knn", settings=settings).fit(x), x


@pytest.mark.slow
def test_the_map_of_an_ensemble_is_the_mean_on_any_devices_mapped_or_looped(ensemble):
    model, x = ensemble
    detector, cfg = model.detector_, config.for_scoring(model.detector_.about.config)
    maps = detectors.score_maps(detector, x)
    assert maps.shape == (40, 8, 8)
    learner = learners.build(cfg, (8, 8, 1))
    for devices in (DEVICES[:1], DEVICES[:4]):
        np.testing.assert_array_equal(detectors.maps_fn(detector, learner, devices)(x), maps)
    alone = [
        detectors.maps_fn(
            detector._replace(
                variables=members.part(detector.variables, i),
                fitted=members.part(detector.fitted, i),
            ),
            learner,
            DEVICES[:1],
        )(x)
        for i in range(2)
    ]
    np.testing.assert_array_equal(np.mean(alone, axis=0), maps)
    for at in (0, 39):
        np.testing.assert_array_equal(detectors.score_maps(detector, x[at : at + 1])[0], maps[at])
    joined = np.concatenate([detectors.score_maps(detector, x[i : i + 13]) for i in (0, 13, 26)])
    np.testing.assert_array_equal(joined[:39], maps[:39])


def test_the_estimator_has_maps_that_survive_pickling(ensemble):
    model, x = ensemble
    maps = model.score_maps(x)
    np.testing.assert_array_equal(maps, detectors.score_maps(model.detector_, x))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).score_maps(x), maps)
    with pytest.raises(ValueError, match="NaN"):
        model.score_maps(np.full_like(x, np.nan))
    with pytest.raises(NotFittedError):
        AutoencoderDetector().score_maps(x)


def test_places_survive_the_disk(ensemble, tmp_path):
    model, x = ensemble
    with_places = model.detector_._replace(places={"state": np.arange(3.0)})
    detectors.save(tmp_path / "detector", with_places)
    loaded = detectors.load(tmp_path / "detector")
    np.testing.assert_array_equal(loaded.places["state"], np.arange(3.0))
    maps = detectors.score_maps(model.detector_, x[:3])
    np.testing.assert_array_equal(detectors.score_maps(loaded, x[:3]), maps)


def test_a_detector_without_a_map_names_scores_that_have_one(ensemble):
    model, x = ensemble
    about = model.detector_.about
    blind = dataclasses.replace(about.config, score="latent_knn")
    with pytest.raises(UserError, match="nothing of single places; use one of mse, mae"):
        detectors.score_maps(
            model.detector_._replace(about=dataclasses.replace(about, config=blind)), x
        )


def test_features_have_maps_by_the_default_score():
    model = AutoencoderDetector(epochs=1).fit(np.random.default_rng(0).normal(size=(40, 5)))
    far = np.zeros((1, 5))
    far[0, 3] = 1e200
    assert np.argmax(model.score_maps(far)) == 3
