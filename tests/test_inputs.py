import jax.numpy as jnp
import numpy as np
import pytest
from probes import edit, images, tiny
from scipy import ndimage

from jaxae import data, detectors
from jaxae.config import DataConfig
from jaxae.data import inputs
from jaxae.data.arrayfiles import read_npz
from jaxae.errors import UserError
from jaxae.workflows import experiment

MAPS = [name for name in inputs.INPUTS if name != "none"]


@pytest.mark.parametrize("name", MAPS)
def test_maps_keep_to_the_unit_interval_and_see_one_row_at_a_time(name):
    x = np.concatenate([images(6), np.zeros((1, 8, 8, 1)), np.ones((1, 8, 8, 1))]).astype("float32")
    found = inputs.mapped(name, x)
    assert found.shape == (8, *inputs.shape_of(name, (8, 8, 1)))
    assert np.isfinite(found).all()
    assert found.min() >= 0
    assert found.max() <= 1 + 1e-6
    one_by_one = np.stack([np.asarray(inputs.INPUTS[name].apply(jnp.asarray(row))) for row in x])
    np.testing.assert_allclose(found, one_by_one, atol=1e-6)


def test_a_row_far_below_black_does_not_look_black():
    dark = np.full((1, 8, 8, 1), -1e6, np.float32)
    assert np.abs(inputs.mapped("smooth", dark)).min() > 100
    assert np.abs(inputs.mapped("smooth_normalised", dark)).max() > 1


def test_smooth_is_what_scipy_makes_of_it():
    x = images(3, side=9)
    blurred = np.stack([ndimage.gaussian_filter(row[..., 0], 1.0) for row in x])
    pooled = blurred[:, :8, :8].reshape(3, 4, 2, 4, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(inputs.mapped("smooth", x)[..., 0], np.sqrt(pooled), atol=1e-5)
    flat = inputs.mapped("smooth_normalised", x).reshape(3, -1)
    norm = np.linalg.norm(np.sqrt(pooled).reshape(3, -1), axis=1)
    np.testing.assert_allclose(np.linalg.norm(flat, axis=1), np.sqrt(norm), rtol=1e-5)


@pytest.mark.parametrize("name", ["gradients", "gradient_cells"])
def test_gradients_know_their_direction(name):
    ramp = np.tile(np.linspace(0, 1, 12, dtype=np.float32), (12, 1))[None, :, :, None]
    rising = inputs.mapped(name, ramp).mean(axis=(0, 1, 2))
    assert rising.argmax() == 0  # to the right
    for quarter in (1, 2, 3):
        turned = np.rot90(ramp, -quarter, axes=(1, 2)).copy()
        found = inputs.mapped(name, turned).mean(axis=(0, 1, 2))
        np.testing.assert_allclose(found, np.roll(rising, 2 * quarter), atol=1e-4)
    assert rising[[3, 4, 5]].max() < 1e-3  # nothing rises to the left


@pytest.mark.parametrize("name", MAPS)
def test_faint_images_lie_closer_to_bright_ones(name):
    x = images(4)
    apart = np.abs(inputs.mapped(name, x) - inputs.mapped(name, 0.25 * x)).max()
    assert apart < 0.51  # of 0.75 before


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("smooth", (12,), r"images \[H, W, C\]"),
        ("gradients", (9, 1), r"the shape \[9, 1\]"),
        ("gradients", (1, 9, 1), "2 x 2 pixels"),
        ("gradient_cells", (3, 9, 1), "4 x 4 pixels"),
        ("edges", (8, 8, 1), "unknown input 'edges'"),
    ],
)
def test_rows_that_a_map_does_not_take(name, shape, says):
    with pytest.raises(UserError, match=says):
        inputs.shape_of(name, shape)


def npz(folder, scale=1.0):
    x, test = scale * images(40), scale * images(12, seed=1)
    np.savez(
        folder / "x.npz", x_train=x, x_test=np.concatenate([test, scale - test]),
        y_test=np.arange(24) // 12,
    )  # fmt: skip
    return f"npz:{folder / 'x.npz'}"


def test_rows_outside_of_the_unit_interval_are_refused(tmp_path):
    cfg = DataConfig(name=npz(tmp_path, 5.0), input="smooth")
    with pytest.raises(UserError, match=r"takes rows in \[0, 1\]"):
        data.load(cfg)
    made = data.load(edit(tiny(), {"data": cfg, "data.scale": "minmax"}).data)
    assert (made.shape, made.raw_shape) == ((4, 4, 1), (8, 8, 1))
    assert made.train.x.shape[1:] == made.test.x.shape[1:] == made.shape


@pytest.mark.slow
def test_a_detector_maps_raw_rows_itself(tmp_path):
    cfg = tiny(data__name=npz(tmp_path), data__input="gradients", model__output_activation="linear",
               train__noise_clip=False, run_dir=str(tmp_path / "run"))  # fmt: skip
    experiment.run(cfg)
    detector = detectors.load(tmp_path / "run/detector")
    assert detector.about.shape == (8, 8, 1)
    stored = read_npz(tmp_path / "run/scores.npz")
    raw = read_npz(tmp_path / "x.npz")["x_test"]
    np.testing.assert_array_equal(detectors.judge(detector, raw).score, stored["test"])
    with pytest.raises(UserError, match="detector takes"):
        detectors.judge(detector, raw[:, :4, :4])


def test_studies_do_not_corrupt_maps(tmp_path):
    cfg = tiny(data__name=npz(tmp_path), data__input="smooth", studies=("severity",))
    with pytest.raises(UserError, match=r"went through data\.input"):
        experiment.run(edit(cfg, {"run_dir": str(tmp_path / "run")}))
