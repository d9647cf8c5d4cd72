"""Leaving out anomalies among rows that are taken as normal."""

import dataclasses

import numpy as np
import pytest

from jaxae import detectors
from jaxae.config import DataConfig, ExperimentConfig, ThresholdConfig
from jaxae.data import splits, trimming
from jaxae.data.raw_data import Raw
from jaxae.detectors import calibration
from jaxae.errors import UserError


def contaminated(n=200, bad=20, seed=0):
    """Rows on a plane in six dimensions, and the positions of those beside it."""
    generator = np.random.default_rng(seed)
    plane = np.random.default_rng(9).normal(size=(1, 6))
    x = generator.normal(size=(n, 1)) @ plane + generator.normal(0, 0.05, (n, 6))
    where = np.sort(generator.choice(n, bad, replace=False))
    x[where] += generator.normal(0, 1, (bad, 6))
    return x, where


def raw(x):
    empty = np.zeros((0, *x.shape[1:]), x.dtype)
    return Raw(x, None, empty, np.zeros(0, np.int32))


def test_the_rows_that_are_left_out_are_the_anomalies():
    x, bad = contaminated()
    kept = trimming.kept(x, np.arange(200), 0.1, 0)
    assert len(kept) == 180
    assert (np.diff(kept) > 0).all()
    assert len(np.intersect1d(kept, bad)) <= 2


@pytest.mark.parametrize("unit", [1e-12, 1.0, 1e9])
def test_units_do_not_matter(unit):
    x, _ = contaminated()
    kept = trimming.kept(x, np.arange(200), 0.1, 0)
    again = trimming.kept((x * unit + unit), np.arange(200), 0.1, 0)
    np.testing.assert_array_equal(again, kept)


def test_one_value_of_any_size_is_left_out():
    x, _ = contaminated(bad=0)
    x[7, 2] = 1e20
    assert 7 not in trimming.kept(x, np.arange(200), 0.01, 0)


def test_rows_that_are_not_in_memory_are_read_in_blocks(tmp_path, monkeypatch):
    x, _ = contaminated()
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr("jaxae.devices.tuning.BLOCK", 64)
    on_disk = np.load(tmp_path / "x.npy", mmap_mode="r")
    rows = np.arange(10, 200)
    np.testing.assert_array_equal(
        trimming.kept(on_disk, rows, 0.1, 0), trimming.kept(x, rows, 0.1, 0)
    )


@pytest.mark.parametrize("shape", [(12, 3), (9, 9, 2)])
def test_series_and_images_are_rows_too(shape):
    x = np.random.default_rng(0).normal(1, 0.1, (40, *shape)).astype(np.float32)
    x[5] = np.random.default_rng(1).normal(1, 3, shape)
    assert 5 not in trimming.kept(x, np.arange(40), 0.03, 0)


def test_what_is_left_out_is_neither_trained_on_nor_held_out():
    x, bad = contaminated()
    cfg = DataConfig(contamination=0.1, scale="standard")
    data = splits.make(raw(x), cfg)
    assert data.left_out == 20
    assert len(data.train.id) + len(data.valid.id) == 180
    assert len(np.intersect1d(np.concatenate([data.train.id, data.valid.id]), bad)) <= 2
    plain = splits.make(raw(x), dataclasses.replace(cfg, contamination=0.0))
    assert (plain.left_out, len(plain.train.id)) == (0, 180)
    assert data.digest != plain.digest


def test_the_test_rows_of_labelled_data_stay():
    x, bad = contaminated()
    y = np.zeros(200, np.int32)
    test = np.concatenate([x[:50], x[bad]]), np.repeat(np.int32([0, 1]), [50, len(bad)])
    data = splits.make(Raw(x, y, *test), DataConfig(contamination=0.1, scale="minmax"))
    assert (data.left_out, len(data.test.y)) == (20, 50 + len(bad))
    assert len(np.intersect1d(data.train.id, bad)) <= 2


def test_too_few_rows_are_refused():
    with pytest.raises(UserError, match=r"data\.contamination 0\.5 of 12 rows"):
        trimming.kept(contaminated(12, 0)[0], np.arange(12), 0.5, 0)


def test_chosen_rows_calibrate_no_guarantee():
    cfg = ExperimentConfig("mine", data=DataConfig(contamination=0.1))
    assert "data.contamination" in calibration.why_no_guarantee(cfg)
    conformal = dataclasses.replace(cfg, threshold=ThresholdConfig(rule="conformal:0.1"))
    with pytest.raises(UserError, match="would have no guarantee"):
        detectors.check(conformal)
