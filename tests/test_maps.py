import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import images

from jaxae import AutoencoderDetector, detectors, scoring
from jaxae.errors import UserError
from jaxae.scoring import pooling
from jaxae.types import Inferred, Outputs

MEANS = [n for n, score in scoring.SCORES.items() if score.places and n != "max_error"]


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
        parts.append(pooling.without_channels(places, one.x.shape) / np.exp(state[name]["mean"]))
    np.testing.assert_allclose(both.places(state, one), parts[0] + parts[1], rtol=1e-5)
    largest = scoring.resolve("mse^row_pca").places(state, one)
    np.testing.assert_allclose(largest, np.maximum(*parts), rtol=1e-5)


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


def test_maps_of_a_detector_show_where_and_survive_the_disk(tmp_path):
    x = images(40, 8)
    model = AutoencoderDetector(epochs=2, anomaly_score="mse:max").fit(x)
    detector = model.detector_
    marked = x[:3].copy()
    marked[:, 2:4, 5:7] = 1 - marked[:, 2:4, 5:7]
    maps = detectors.score_maps(detector, marked)
    assert maps.shape == (3, 8, 8)
    assert np.isfinite(maps).all()
    detectors.save(tmp_path / "detector", detector._replace(places={"state": np.arange(3.0)}))
    loaded = detectors.load(tmp_path / "detector")
    np.testing.assert_array_equal(loaded.places["state"], np.arange(3.0))
    np.testing.assert_array_equal(detectors.score_maps(loaded, marked), maps)
    blind = AutoencoderDetector(epochs=1, anomaly_score="latent_knn").fit(x).detector_
    with pytest.raises(UserError, match="nothing of single places"):
        detectors.score_maps(blind, x)
