"""Decisions about pixels: set by the rule on whole held-out maps, counted, saved, streamed."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image
from probes import DEVICES, dataset, images, initial, masked, tiny, write_masked

from jaxae import data, detectors
from jaxae.cli import main as cli
from jaxae.cli.score import score_file
from jaxae.config import DataConfig
from jaxae.detectors import pixels
from jaxae.devices import tuning
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.reports import by_pixel
from jaxae.reports.studies import places
from jaxae.reports.studies.context import Context
from jaxae.stats.pixels import by_pixel as metrics_of
from jaxae.storage import checkpoint
from jaxae.types import Dataset

SIDE = 16


@pytest.fixture(scope="module")
def rows():
    x, mask = masked(12, 3, SIDE)
    made = dataset(images(20, 0, SIDE), images(19, 1, SIDE), images(10, 2, SIDE), x)
    truth = np.concatenate([np.zeros((10, SIDE, SIDE), bool), mask])
    return made._replace(test_place_y=truth, dtype="float32")


def fitted(rows: Dataset, **settings):
    cfg = tiny("dense", **{"score": "mse"} | settings)
    learner = learners.build(cfg, rows.shape)
    detector, _ = detectors.fit(
        learner, initial(learner, rows.shape).variables, rows, cfg, DEVICES[:1]
    )
    return detector, (detector, learner, rows, DEVICES[:1])


@pytest.mark.parametrize(
    ("rule", "images_flagged"),
    [("max", 0), ("quantile:0.75", 5), ("conformal:0.2", 3), ("mean_std:-9", 19)],
)
def test_the_rule_counts_images_and_flags_their_pixels(rows, rule, images_flagged):
    detector, _ = fitted(rows, threshold__rule=rule)
    maps = detectors.score_maps(detector, rows.valid.x)
    threshold = pixels.decision_of(detector).threshold
    np.testing.assert_array_equal(detector.places["pixels"]["highest"], maps.max(axis=(1, 2)))
    flagged = (maps > threshold).sum(axis=(1, 2))
    assert (flagged > 0).sum() == images_flagged
    np.testing.assert_array_equal(detector.places["pixels"]["flagged"], flagged)
    expected = by_pixel.to_expect(detector)
    assert expected["pixel_threshold"] == threshold
    assert expected["pixel_false_alarm_rate"] == flagged.mean() / SIDE**2
    guaranteed = {"conformal:0.2": 4 / 20}  # the rank of the threshold among 19, and a new image
    assert expected["map_false_alarm_rate"] == guaranteed.get(rule, images_flagged / 19)
    for name in ("pixel", "map"):
        low, high = expected[f"{name}_false_alarm_rate_interval"]
        assert low <= expected[f"{name}_false_alarm_rate"] <= high
    np.testing.assert_array_equal(
        pixels.flagged(detector, rows.test.x),
        detectors.score_maps(detector, rows.test.x) > threshold,
    )


def test_the_report_has_the_metrics_of_all_test_maps(rows):
    detector, parts = fitted(rows, threshold__rule="mean_std:-9")
    arrays = pixels.tested(*parts)
    of_raw = pixels.judged(detector, rows.test.x, rows.test_place_y)
    jax.tree.map(np.testing.assert_array_equal, arrays, of_raw)
    maps = detectors.score_maps(detector, rows.test.x)
    decided = maps > pixels.decision_of(detector).threshold
    report = by_pixel.make(detector, arrays)
    for name, value in metrics_of(maps, rows.test_place_y, decided)._asdict().items():
        assert report[f"pixel_{name}"] == pytest.approx(value, rel=1e-6), name
    assert 0 < report["pixel_f1"] < 1
    assert report["n_anomalous_pixels"] == rows.test_place_y.sum()


def test_some_maps_at_a_time_give_the_same_bits(rows, monkeypatch):
    detector, parts = fitted(rows)
    arrays = pixels.tested(*parts)
    monkeypatch.setattr(tuning, "FEED_BYTES", 3 * 4 * SIDE**2)
    again, parts = fitted(rows)
    jax.tree.map(np.testing.assert_array_equal, detector.places, again.places)
    jax.tree.map(np.testing.assert_array_equal, arrays, pixels.tested(*parts))


def test_maps_of_mapped_rows_are_enlarged_to_the_pixels(tmp_path):
    root = write_masked(tmp_path, SIDE)
    rows = data.load(DataConfig(name=f"images:{root}", input="smooth", valid_fraction=0.3))
    assert rows.shape[:2] == (SIDE // 2, SIDE // 2)
    assert rows.test_place_y.shape == (12, SIDE, SIDE)
    detector, parts = fitted(rows, data__input="smooth")
    assert pixels.tested(*parts)["pixel_y"].tolist() == [0] * 6 + [16] * 6
    raw = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 1)).astype(np.uint8)
    assert pixels.flagged(detector, raw).shape == (2, SIDE, SIDE)


def test_who_decides_about_pixels(rows):
    cfg = tiny("dense", score="mse")
    bare = rows._replace(test_place_y=None)
    assert pixels.are_decided(cfg, rows)
    assert not pixels.are_decided(cfg, bare)  # small, and nobody asks
    assert pixels.are_decided(cfg, bare._replace(shape=(64, 48, 3), is_labelled=False))
    assert not pixels.are_decided(dataclasses.replace(cfg, score="latent_mahalanobis"), rows)
    assert not pixels.are_decided(cfg, bare._replace(shape=(640, 3)))


@pytest.fixture(scope="module")
def of_files(tmp_path_factory):
    """A folder of images and the folder of a detector of them."""
    root = tmp_path_factory.mktemp("files")
    images = write_masked(root / "images", SIDE)
    rows = data.load(DataConfig(name=f"images:{images}", valid_fraction=0.3))
    detectors.save(root / "detector", fitted(rows, threshold__rule="quantile:0.5")[0])
    return images / "test", root / "detector"


def test_heatmaps_outline_the_flagged_pixels_of_every_image(of_files, tmp_path, capsys):
    images, folder = of_files
    cli.main(["score", str(folder), str(images), "--heatmaps", str(tmp_path / "maps")])
    assert "12 heatmaps in" in capsys.readouterr().out
    detector = detectors.load(folder)
    for path in sorted(images.rglob("*.png")):
        x = np.asarray(Image.open(path))[None, ..., None]
        picture = np.asarray(Image.open(tmp_path / "maps" / path.relative_to(images)))
        flagged = pixels.flagged(detector, x)[0]
        yellow = (picture == (255, 255, 0)).all(axis=-1)
        assert picture.shape == (SIDE, SIDE, 3)
        assert not (yellow & ~flagged).any()
        assert yellow.any() == flagged.any()
    assert any(
        pixels.flagged(detector, np.full((1, SIDE, SIDE, 1), k, np.uint8)).any() for k in (0, 255)
    )


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("full", "is not empty; name another folder, or --overwrite"),
        ("no/where", "No such file or directory"),
        ("{images}/maps", "whose images are scored; move it"),
    ],
)
def test_heatmaps_that_must_not_be_written_are_refused(folder, says, of_files, tmp_path):
    images, of_detector = of_files
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    out = tmp_path / folder.format(images=images)
    with pytest.raises(UserError, match=says):
        score_file(of_detector, images, heatmaps=out)
    assert not (images / "maps").exists()


def test_a_saved_detector_flags_the_same_pixels(rows, tmp_path):
    detector, _ = fitted(rows)
    detectors.save(tmp_path, detector)
    flagged = pixels.flagged(detectors.load(tmp_path), rows.test.x)
    np.testing.assert_array_equal(flagged, pixels.flagged(detector, rows.test.x))
    assert flagged.any()


def test_heatmaps_show_masks_and_flagged_pixels_of_the_most_anomalous_images(rows, tmp_path):
    cfg = tiny("dense", score="mse", threshold__rule="quantile:0.75")
    learner = learners.build(cfg, rows.shape)
    variables = initial(learner, rows.shape).variables
    detector, scores = detectors.fit(learner, variables, rows, cfg, DEVICES[:1])
    unused = object.__new__(checkpoint.Manager), tmp_path
    context = Context(cfg, rows, learner, DEVICES[:1], detector, scores, *unused)
    assert places.shows_pixels(context)
    found = places.heatmaps(context).arrays
    first = np.argsort(-scores.test, kind="stable")[:4]
    np.testing.assert_array_equal(found["mask"][:4], rows.test_place_y[first])
    assert not found["mask"][4:].any()  # two normal ones
    assert found["place_threshold"] == np.float32(pixels.decision_of(detector).threshold)
    np.testing.assert_array_equal(found["flagged"], found["map"] > found["place_threshold"])
    assert found["flagged"].any()
    assert not found["flagged"].all()
