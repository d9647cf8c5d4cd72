"""The same rows in other units, with other offsets and of other types of numbers are the same rows;
counts are numbers; and a new value of any size is an anomaly."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probes import edit, images, initial, tiny

from jaxae import AutoencoderDetector, detectors, scoring
from jaxae.cli import main as cli
from jaxae.config import DataConfig
from jaxae.data import splits
from jaxae.data.own import arrays
from jaxae.data.raw_data import fit_scaling, scaled
from jaxae.detectors import explanation, health
from jaxae.errors import UserError
from jaxae.export import exporting, loader
from jaxae.methods import learners
from jaxae.stats import metrics
from jaxae.types import Scaling
from jaxae.workflows import auto, experiment, verification

LARGEST = np.finfo(np.float32).max


def normals(n=120, features=4, seed=0):
    generator = np.random.default_rng(seed)
    plane = np.random.default_rng(9).normal(size=(2, features))
    return generator.normal(size=(n, 2)) @ plane + generator.normal(0, 0.1, (n, features))


def anomalies(n=30, seed=1):
    return normals(n, seed=seed)[:, ::-1] * 1.5


def saved(path, x_train, x_test, y_test, **others):
    np.savez(path, x_train=x_train, x_test=x_test, y_test=y_test, **others)
    return path


# Units and offsets

UNITS = st.sampled_from([1e-13, 1e-7, 1e-3, 1.0, 60.0, 1e5, 1e9])
OFFSETS = st.sampled_from([0.0, -1.0, 1e3, 101325 / 0.02, 1e9])  # in units of the spread


@settings(max_examples=60, deadline=None)
@given(
    how=st.sampled_from(["standard", "minmax"]),
    units=st.lists(UNITS, min_size=4, max_size=4),
    offsets=st.lists(OFFSETS, min_size=4, max_size=4),
    series=st.booleans(),
)
def test_units_and_offsets_leave_the_scaled_rows_as_they_are(how, units, offsets, series):
    x = normals()
    if how == "minmax":  # one scale for all features
        units, offsets = units[:1] * 4, offsets[:1] * 4
    moved = (x + offsets) * units
    if series:
        x, moved = x.reshape(-1, 2, 2), moved.reshape(-1, 2, 2)
    ids = np.arange(len(x))
    expected, found = (scaled(rows, fit_scaling(how, rows, ids)) for rows in (x, moved))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    "dtype", ["f2", "f4", ">f4", ">f8", np.longdouble, "i1", ">i2", "u8", "i8"]
)
def test_the_same_numbers_of_any_type_are_the_same_rows(dtype, tmp_path):
    x = np.abs(np.round(10 * normals())).clip(0, 120)
    y = np.arange(40) % 2
    cfg = DataConfig(scale="standard")
    expected, found = (
        splits.make(arrays.npz(saved(tmp_path / "x.npz", x[:80], x[80:], y).resolve()), cfg)
        for x in (x, np.asfortranarray(x.astype(dtype)))
    )
    assert found.digest == expected.digest
    np.testing.assert_array_equal(found.train.x, expected.train.x, strict=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_whole_numbers_beyond_those_of_float32_keep_their_differences(dtype):
    x = np.random.default_rng(0).integers(0, 64, (90, 3)) * (64 if dtype == np.float32 else 1)
    rows = (2**29 + x).astype(dtype)
    found = scaled(rows, fit_scaling("standard", rows, np.arange(90)))
    np.testing.assert_allclose(found, (x - x.mean(0)) / x.std(0), atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0, 0.1, -1e-12, 1e30, 101325])
def test_only_a_feature_of_equal_values_is_constant(value, dtype):
    x = normals().astype(dtype)
    x[:, 1] = value
    x[:, 2] = value * (1 + (1e-6 if dtype == np.float32 else 1e-12)) or 1e-20
    x[::2, 2] = value
    shift, scale = scaling = fit_scaling("standard", x, np.arange(len(x)))
    assert (shift[1], scale[1]) == (dtype(value), 1)
    found = scaled(x, scaling)
    assert not found[:, 1].any()
    np.testing.assert_allclose(np.abs(found[:, 2]), 1, rtol=0.3)  # two values, equally often
    new = x[:1].copy()
    new[0, 1] += 1  # counts as it is
    assert scaled(new, scaling)[0, 1] == new[0, 1] - dtype(value)


def test_float32_rows_of_usual_size_are_scaled_in_float32():
    """So what was fitted by earlier versions is scaled bit for bit as it was."""
    x = normals().astype(np.float32) + 5
    scaling = fit_scaling("standard", x, np.arange(len(x)))
    mean, std = x.mean(0, np.float64), x.std(0, np.float64)
    expected = (x - mean.astype(np.float32)) / std.astype(np.float32)
    np.testing.assert_array_equal(scaled(x, scaling), expected, strict=True)
    in_float64 = x.astype(np.float64)  # rows of another precision, by an old detector
    np.testing.assert_array_equal(scaled(in_float64, scaling), expected, strict=True)


@pytest.mark.parametrize(
    ("unit", "offset"), [(1e-13, 0.0), (0.02, 101325.0), (1.0, 1e9), (0.001, 0.5), (1e9, 0.0)]
)
def test_units_and_offsets_leave_decisions_and_choices_as_they_are(unit, offset):
    """Also where all values are in [0, 1]: a table is no picture."""
    x, new = normals(), np.concatenate([normals(60, seed=3), anomalies()])
    expected, found = (AutoencoderDetector(epochs=3).fit(rows) for rows in (x, x * unit + offset))
    assert found.detector_.about.config == expected.detector_.about.config
    assert found.detector_.about.config.data.scale == "standard"
    one, other = -expected.score_samples(new), -found.score_samples(new * unit + offset)
    np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-3)
    y = np.arange(90) >= 60
    assert metrics.auroc(other.astype(np.float32), y) == pytest.approx(
        metrics.auroc(one.astype(np.float32), y), abs=2e-3
    )
    np.testing.assert_array_equal(
        found.predict(new * unit + offset)[np.abs(one - expected.threshold_) > 0.01],
        expected.predict(new)[np.abs(one - expected.threshold_) > 0.01],
    )


@pytest.mark.parametrize("scale", ["standard", "minmax"])
def test_a_scaling_that_is_asked_for_is_applied(scale, tmp_path):
    x = np.random.default_rng(0).random((60, 3)) * 1e-6
    path = saved(tmp_path / "x.npz", x[:40], x[40:], np.arange(20) % 2)
    cfg = edit(cli.OPEN, {"data.name": f"npz:{path}", "data.scale": scale})
    settled, dataset = auto.settle(cfg)
    assert settled.data.scale == scale
    assert np.ptp(dataset.train.x) > 0.9


# Counts


def test_counts_are_numbers_and_pixels_are_pixels(tmp_path):
    x, y = np.random.default_rng(0).integers(0, 8, (60, 5)), np.arange(20) % 2
    counts, as_int = (
        arrays.npz(saved(tmp_path / "x.npz", x[:40].astype(to), x[40:].astype(to), y))
        for to in (np.uint8, np.int32)
    )
    made, expected = (splits.make(raw, DataConfig(scale="standard")) for raw in (counts, as_int))
    assert (made.digest, made.dtype) == (expected.digest, expected.dtype)
    assert any("uint8 [40, 5]: taken as numbers" in note for note in counts.notes)
    assert not any("uint8" in note for note in as_int.notes)
    series = arrays.npz(tmp_path / "x.npz", rows="series")
    assert series.x_train.dtype == np.float32
    pixels = np.zeros((60, 4, 5), np.uint8)
    read = arrays.npz(saved(tmp_path / "p.npz", pixels[:40], pixels[40:], y))
    assert read.x_train.dtype == np.uint8
    assert not any("taken as numbers" in note for note in read.notes)


def test_counts_on_disk_are_read_like_counts_in_memory(tmp_path):
    x, y = np.random.default_rng(0).integers(0, 8, (60, 5)).astype(np.uint8), np.arange(20) % 2
    for name, array in {"x_train": x[:40], "x_test": x[40:], "y_test": y}.items():
        np.save(tmp_path / f"{name}.npy", array)
    there, here = arrays.npy(tmp_path), arrays.npz(saved(tmp_path / "x.npz", x[:40], x[40:], y))
    made, expected = (splits.make(raw, DataConfig(scale="standard")) for raw in (there, here))
    np.testing.assert_allclose(made.train.x[:], expected.train.x, rtol=1e-6)
    assert there.notes == here.notes


def test_files_of_two_precisions_are_one_data_set(tmp_path):
    x, y = normals(60), np.arange(20) % 2
    for name, array in {"x_train": x[:40].astype("f4"), "x_test": x[40:], "y_test": y}.items():
        np.save(tmp_path / f"{name}.npy", array)
    made = splits.make(arrays.npy(tmp_path), DataConfig(scale="standard"))
    assert len(made.test.x[:]) == 20


# Extreme values

EXTREMES = (1e12, 1e20, 1e38, -1e38, float(LARGEST), 1e39, -1e300, 1.7e308)
SCORES = ("mse", "mae", "bce", "max_error", "mse+row_knn", "latent_mahalanobis", "blurred_energy",
          "latent_knn")  # fmt: skip


@pytest.fixture(scope="module", params=SCORES)
def fitted(request):
    settings = {"train.noise_std": 0.0}
    if request.param == "bce":
        settings |= {"model.output_activation": "sigmoid", "train.loss": "bce"}
    return AutoencoderDetector(
        epochs=2, anomaly_score=request.param, settings=settings,
        scale="minmax" if request.param == "bce" else "auto",
    ).fit(normals())  # fmt: skip


def with_extremes():
    """Rows, and which have one extreme value, all at once or with small ones between them."""
    x = normals(2 * len(EXTREMES), seed=5)
    x[np.arange(0, len(x), 2), np.arange(len(EXTREMES)) % 4] = EXTREMES
    return x, np.arange(len(x)) % 2 == 0


def test_a_value_of_any_size_is_an_anomaly(fitted):
    x, extreme = with_extremes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = detectors.judge(fitted.detector_, x)
        fitted.predict(x)
        fitted.predict_proba(x)
    assert np.isfinite(found.score).all()
    assert found.is_anomaly[extreme].all()
    n = len(fitted.detector_.decision.calibration)
    np.testing.assert_allclose(found.p_value[extreme], 1 / (n + 1))
    assert (found.score[-4:][extreme[-4:]] == LARGEST).all()  # beyond float32
    alone = detectors.judge(fitted.detector_, x[~extreme])
    np.testing.assert_array_equal(found.score[~extreme], alone.score)


def test_the_value_that_is_extreme_is_explained(fitted):
    x, _ = with_extremes()
    prepared = detectors.prepared(fitted.detector_, x)
    worst = explanation.leading(explanation.explain(fitted.detector_, prepared).map, 1)
    beyond = np.abs(x).max(axis=1) > 1e30
    np.testing.assert_array_equal(worst.index[beyond, 0, 0], np.abs(x[beyond]).argmax(axis=1))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_where_it_is(value):
    detector = AutoencoderDetector(epochs=1).fit(normals(40)).detector_
    x = normals(9)
    x[4, 2] = value
    with pytest.raises(UserError, match="1 rows hold NaN or infinite values, first row 4 in 2;"):
        detectors.judge(detector, x)


def test_an_image_with_an_extreme_value_is_an_anomaly():
    x = images(60)
    detector = AutoencoderDetector(
        epochs=1, settings={"model.filters": (4, 8), "data.input": "smooth_normalised"}
    ).fit(x)
    new = x[:6].astype(np.float64)
    new[::2, 3, 3] = np.array([1e20, 1e38, 1e300]).reshape(3, 1)
    found = detectors.judge(detector.detector_, new)
    assert (found.score[[2, 4]] == LARGEST).all()
    assert found.is_anomaly[::2].all()
    assert np.isfinite(found.score).all()


@pytest.mark.parametrize("value", [1e20, 1e38, 1e300])
def test_an_extreme_value_among_training_rows_is_named(value):
    x = normals()
    x[7, 2] = value
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserError, match=r"feature 2 is 1e\+\d+ in a training row.*remove"):
            fit_scaling("standard", x, np.arange(len(x)))
        with pytest.raises(UserError, match=r"a value is 1e\+\d+ in a training row.*remove"):
            fit_scaling("minmax", x, np.arange(len(x)))
    fit_scaling("standard", x, np.delete(np.arange(len(x)), 7))
    rare = np.zeros((1000, 2))
    rare[3] = 1  # a rare event erases nothing
    assert np.isfinite(fit_scaling("standard", rare, np.arange(1000)).scale).all()


# Exports


def exported(detector, folder):
    detectors.save(folder / "detector", detector)
    return loader.load(exporting.write(folder / "detector", folder / "d.zip"))


@pytest.mark.parametrize("offset", [0.0, 1e9])
def test_an_export_judges_extremes_and_offsets_as_the_detector_does(offset, tmp_path):
    detector = AutoencoderDetector(epochs=2).fit(normals() + offset).detector_
    x, _ = with_extremes()
    x = np.concatenate([x, normals(30, seed=7)]) + offset
    found, expected = exported(detector, tmp_path).judge(x), detectors.judge(detector, x)
    np.testing.assert_allclose(found.score, expected.score, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(found.p_value, expected.p_value)
    np.testing.assert_array_equal(found.is_anomaly, expected.is_anomaly)


def test_an_export_takes_counts(tmp_path):
    x = np.random.default_rng(0).integers(0, 9, (80, 4))
    detector = AutoencoderDetector(epochs=1).fit(x.astype(np.uint8)).detector_
    alone = exported(detector, tmp_path)
    expected = detectors.judge(detector, x.astype(float))
    for to in (np.uint8, np.int64, np.float32):
        np.testing.assert_array_equal(detectors.judge(detector, x.astype(to)).score, expected.score)
        np.testing.assert_allclose(alone.judge(x.astype(to)).score, expected.score, atol=1e-4)


def test_a_detector_that_took_vectors_of_uint8_for_pixels_still_does():
    cfg = tiny("dense", model__output_activation="linear")
    variables = initial(learners.build(cfg, (5,)), (5,)).variables
    decision = scoring.fit_rule("max", np.arange(3, dtype=np.float32))
    identity = Scaling(np.zeros(1, np.float32), np.ones(1, np.float32))
    about = detectors.Description(cfg, (5,), "uint8", None)
    old = detectors.Detector(about, variables, {}, decision, identity)
    x = np.random.default_rng(0).integers(0, 256, (6, 5)).astype(np.uint8)
    new = old._replace(about=detectors.Description(cfg, (5,), "float32", None))
    expected = detectors.judge(new, (x / np.float32(255)).astype(np.float32))
    np.testing.assert_array_equal(detectors.judge(old, x).score, expected.score)
    with pytest.raises(UserError, match="fitted on uint8 rows"):
        detectors.judge(old, x.astype(float))


def test_an_extreme_value_among_held_out_rows_is_named():
    x, cfg = normals(), DataConfig(scale="standard")
    x[splits.of_normals(x, cfg).valid.id[0], 2] = 1e20
    with pytest.raises(UserError, match=r"feature 2 is 1e\+20 in a held-out row, .* remove"):
        detectors.check(tiny("dense"), splits.of_normals(x, cfg))


def test_values_that_hide_the_others_are_warned_of():
    x = normals()
    x[[3, 40, 80], 2] = -999999
    ids = np.arange(len(x))
    standard = scaled(x, fit_scaling("standard", x, ids))
    (line,) = health.overshadowed(standard, ["a", "b", "c", "d"])
    assert line.startswith("feature c: nine in ten")
    assert not [*health.overshadowed(np.float32(np.eye(100, 3)), [])]  # rare events are no marks
    heavy = np.exp(3 * normals())
    assert not [*health.overshadowed(scaled(heavy, fit_scaling("standard", heavy, ids)), [])]


def test_test_rows_with_extreme_values_are_reported(tmp_path):
    x = np.concatenate([normals(80), anomalies(20)])
    x[-1, 0], x[-2, 1], x[-3, 2] = 1e300, -1e38, 1e20
    path = saved(tmp_path / "x.npz", x[:60], x[60:], np.arange(40) >= 20)
    cfg = tiny("dense", data__name=f"npz:{path}", data__scale="standard", score="mse+row_knn",
               model__output_activation="linear", train__noise_clip=False,
               run_dir=str(tmp_path / "run"))  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        report = experiment.run(cfg)
    assert 0.5 < report["auroc"] <= 1
    with np.load(tmp_path / "run" / "scores.npz") as stored:
        np.testing.assert_array_equal(stored["test"][-3:], LARGEST)


def test_a_run_on_rows_on_disk_verifies(tmp_path):
    """Rows in float64 with an offset, which are scaled when they are read."""
    x = np.concatenate([normals(80), anomalies(20)]) + 1e9
    for name, array in {"x_train": x[:60], "x_test": x[60:], "y_test": np.arange(40) // 20}.items():
        np.save(tmp_path / f"{name}.npy", array)
    cfg = tiny("dense", data__name=f"npy:{tmp_path}", data__scale="standard",
               model__output_activation="linear", train__noise_clip=False,
               train__feed="streaming", run_dir=str(tmp_path / "run"))  # fmt: skip
    experiment.run(cfg)
    checks = verification.verify(tmp_path / "run")
    assert all(check.ok for check in checks), checks


@pytest.mark.parametrize(("part", "value"), [("x_train", np.nan), ("x_train", np.inf),
                                             ("x_test", np.nan)])  # fmt: skip
def test_what_is_no_number_on_disk_is_refused(part, value, tmp_path):
    x = normals(100)
    rows = {"x_train": x[:60], "x_test": x[60:], "y_test": np.arange(40) // 20}
    rows[part][7, 2] = value
    for name, array in rows.items():
        np.save(tmp_path / f"{name}.npy", array)
    cfg = tiny("dense", data__name=f"npy:{tmp_path}", data__scale="standard",
               model__output_activation="linear", train__noise_clip=False,
               run_dir=str(tmp_path / "run"))  # fmt: skip
    with pytest.raises(UserError, match="NaN"):
        experiment.run(cfg)
