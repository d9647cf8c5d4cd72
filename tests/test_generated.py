"""The generated textures and their defects: each mask is what its defect changes, and no more."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from jaxae.config import DataConfig
from jaxae.data import DATASETS, generated
from jaxae.data.generated import defects, textures


@pytest.fixture(scope="module")
def surfaces():
    rng = np.random.default_rng(0)
    return {name: surface(rng) for name, surface in textures.TEXTURES.items()}


@pytest.mark.parametrize("texture", textures.TEXTURES)
@pytest.mark.parametrize("kind", generated._ORDERED | generated._GRAINY)
def test_a_mask_holds_what_its_defect_changes(kind, texture, surfaces):
    surface = surfaces[texture]
    drawn, mask = getattr(defects, kind)(np.random.default_rng(1), surface)
    change = np.abs(drawn - surface).mean(axis=-1)
    assert 10 < mask.sum() < 0.08 * mask.size
    assert change[mask].mean() > 0.02
    assert change[~mask].sum() < 0.4 * change.sum()
    assert roc_auc_score(mask.ravel(), change.ravel()) > 0.97


def test_images_depend_on_the_seed_and_their_number_alone(monkeypatch):
    for name, value in (("TRAIN", 3), ("GOOD", 2), ("EACH", 1)):
        monkeypatch.setattr(generated, name, value)
    loader = DATASETS["defects"]
    raw, again, other = (loader(DataConfig(split_seed=seed)) for seed in (1, 1, 2))
    assert raw.x_train.shape == (3, 256, 256, 3)
    np.testing.assert_array_equal(raw.x_test, again.x_test)
    np.testing.assert_array_equal(raw.test_place_y, again.test_place_y)
    assert (raw.x_train != other.x_train).any(axis=(1, 2, 3)).all()
    np.testing.assert_array_equal(raw.test_place_y.any(axis=(1, 2)), raw.test_class_id > 0)
    monkeypatch.setattr(generated, "TRAIN", 1)
    fewer = loader(DataConfig(split_seed=1))
    np.testing.assert_array_equal(fewer.x_test[:2], raw.x_train[1:])


@pytest.mark.slow
@pytest.mark.parametrize("texture", textures.TEXTURES)
def test_neither_brightness_nor_colour_shows_the_defects(texture):
    raw = generated.load(texture, 0)
    usual = raw.x_train.mean(axis=(0, 1, 2))
    unusual = np.linalg.norm(raw.x_test - usual, axis=-1)
    assert roc_auc_score(raw.test_place_y.ravel(), unusual.ravel()) < 0.7
