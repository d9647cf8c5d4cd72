"""A user's own files: tables, folders of images, long series."""

import dataclasses
import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import csv, parquet

from jaxae import data, detectors
from jaxae.cli import main as cli
from jaxae.config import DataConfig, ExperimentConfig, ThresholdConfig
from jaxae.data.arrayfiles import read_npz
from jaxae.data.own import files, windows
from jaxae.detectors import calibration
from jaxae.errors import UserError
from jaxae.ops import ceil_div


def columns(n=60, strange=12, seed=0):
    generator = np.random.default_rng(seed)
    y = np.arange(n) >= n - strange
    return {
        "width": generator.normal(0, 1, n) + 20 * y,
        "height": generator.integers(0, 50, n),
        "colour": np.array(["red", "green", "blue"])[generator.integers(0, 3, n)],
        "machine": np.array([f"m{i % 6}" for i in range(n)]),
        "kind": np.where(y, "scratch", "good"),
    }


PLAIN = {"name": "table.csv", "label": "kind", "ignore": ("colour", "machine")}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = pa.table(columns())
    csv.write_csv(table, "table.csv")
    parquet.write_table(table, "table.parquet")
    return tmp_path


def write_csv(name, **changes):
    csv.write_csv(pa.table(columns() | changes), name)


def test_a_table_is_read_alike_from_both_kinds_of_files(folder):
    one, other = (
        data.raw(DataConfig(**PLAIN | {"name": n})) for n in ("table.csv", "table.parquet")
    )
    for a, b in zip(one[:4], other[:4], strict=True):
        np.testing.assert_array_equal(a, b)
    assert one.schema == other.schema
    assert one.schema.columns == ("width", "height")
    assert one.schema.classes == ("good", "scratch")
    assert one.normal == (0,)


def test_every_anomaly_and_a_share_of_the_normals_are_tested(folder):
    raw = data.raw(DataConfig(**PLAIN))
    assert np.sum(raw.test_class_id == 1) == 12
    assert np.sum(raw.test_class_id == 0) == round(0.2 * 48)
    assert (raw.train_class_id == 0).all()
    values = np.concatenate([raw.x_train, raw.x_test])
    assert len(np.unique(values[:, 0])) == 60


def test_groups_stay_together_in_every_split(folder):
    cfg = DataConfig(**PLAIN | {"ignore": ("colour",), "group": "machine", "test_fraction": 0.4})
    made, rows = data.load(cfg), columns()
    machine = dict(zip(np.float32(rows["width"]).tolist(), rows["machine"], strict=True))
    seen = [
        {machine[value] for value in part.x[:, 0].tolist()}
        for part in (made.train, made.valid, made.test)
    ]
    assert [len(one & other) for one, other in ((seen[0], seen[1]), (seen[0], seen[2]))] == [0, 0]
    assert not seen[1] & seen[2]
    assert len(seen[2]) == 2
    with pytest.raises(UserError, match="held out together"):
        data.load(dataclasses.replace(cfg, split="random"))


def test_a_column_may_say_which_rows_are_tested(folder):
    part = np.array(["Train", "test"])[np.arange(60) % 2]
    write_csv("parts.csv", split=part)
    raw = data.raw(DataConfig(**PLAIN | {"name": "parts.csv"}))
    np.testing.assert_array_equal(raw.x_test[:, 0], columns()["width"][1::2])
    assert raw.schema.columns == ("width", "height")


def test_validation_rows_join_the_training_rows_and_torn_groups_are_counted(folder):
    part = np.array(["Train", "test", "val"])[np.arange(60) % 3]
    write_csv("parts.csv", split=part, patient=np.arange(60) // 4)
    raw = data.raw(DataConfig(**PLAIN | {"name": "parts.csv", "group": "patient"}))
    np.testing.assert_array_equal(raw.x_test[:, 0], columns()["width"][1::3])
    assert raw.schema.columns == ("width", "height")
    assert any("val join the training" in note for note in raw.notes)
    assert any("15 groups have rows in both" in note for note in raw.notes)


def test_texts_become_a_column_for_each_value_and_new_ones_are_none_of_these(folder):
    raw = data.raw(DataConfig(**PLAIN | {"ignore": ("machine",), "one_hot": True}))
    assert raw.schema.features == ["width", "height", "colour=blue", "colour=green", "colour=red"]
    np.testing.assert_array_equal(raw.x_train[:, 2:].sum(axis=1), 1)
    csv.write_csv(
        pa.table({"colour": ["red", "pink"], "height": [1, 2], "width": [3.0, 4]}), "new.csv"
    )
    x, named, *_ = files.rows(folder / "new.csv", raw.schema)
    np.testing.assert_array_equal(x, [[3, 1, 0, 0, 1], [4, 2, 0, 0, 0]])
    assert named == {}


@pytest.mark.parametrize(
    ("text", "shape"), [("a;b;label\n1;2;0\n3;4;1\n5;6;0\n", (2,)), ("1,2,0\n3,4,1\n5,6,0\n", (2,))]
)
def test_csv_files_of_other_habits(text, shape, folder):
    (folder / "other.csv").write_text(text)
    label = "auto" if "label" in text else "column2"
    raw = data.raw(DataConfig(name="other.csv", label=label))
    assert raw.x_train.shape[1:] == shape
    assert len(raw.x_train) + len(raw.x_test) == 3


@pytest.mark.parametrize(
    ("content", "settings", "says"),
    [
        ({"width": [None, 1.0] * 30}, {}, r"missing.*width \(30 rows, first 0\).*--data.ignore"),
        ({"width": [float("inf"), 1.0] * 30}, {}, r"width \(30 rows"),
        ({"kind": ["good", None] * 30}, {}, "data.label lacks 30 values, first in row 1"),
        ({}, {"ignore": ("machine",)}, "'colour' holds text.*--data.one-hot"),
        ({}, {"label": "nothing"}, "data.label names the column 'nothing'; there are width"),
        ({}, {"ignore": ("width", "height", "colour", "machine")}, "no column is left"),
        ({}, {"group": "sort"}, "data.group names"),
        ({"kind": ["defect"] * 60}, {}, "all rows are of the class 0 .defect., which is"),
        ({}, {"window": 0, "size": 9}, "data.size is 9, but data.name .* does not read it"),
        ("", {}, "bad.csv: it is empty"),
        ("a,a,kind\n1,2,3\n", {}, "several columns called a"),
        ("a,kind\n", {}, "no rows"),
        ("a,kind\n1,2,3\n4\n", {}, "not a readable table"),
    ],
)  # fmt: skip
def test_tables_that_cannot_be_used_are_one_line(content, settings, says, folder):
    if isinstance(content, str):
        (folder / "bad.csv").write_text(content)
    else:
        write_csv("bad.csv", **content)
    with pytest.raises(UserError, match=says) as caught:
        data.load(DataConfig(**PLAIN | {"name": "bad.csv"} | settings))
    assert "\n" not in str(caught.value)


def test_damaged_parquet_is_one_line(folder):
    (folder / "bad.parquet").write_bytes((folder / "table.parquet").read_bytes()[:-40])
    with pytest.raises(UserError, match="not a readable table"):
        data.load(DataConfig(**PLAIN | {"name": "bad.parquet"}))


def write_images(root, layout, size=(12, 10), mode="L"):
    generator = np.random.default_rng(0)
    for name, count in layout.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            shape = size if mode == "L" else (*size, 3)
            Image.fromarray(generator.integers(0, 256, shape).astype(np.uint8)).save(
                root / name / f"{i}.png"
            )


def test_a_folder_with_train_and_test_is_read_as_it_says(tmp_path):
    layout = {"train/good": 6, "test/good": 3, "test/hole": 2, "ground_truth/hole": 2}
    write_images(tmp_path / "parts", layout)
    raw = data.raw(DataConfig(name=str(tmp_path / "parts")))
    assert raw.x_train.shape == (6, 12, 10, 1)
    assert raw.x_train.dtype == np.uint8
    assert raw.test_class_id.tolist() == [0, 0, 0, 1, 1]
    assert raw.schema.classes == ("good", "hole")
    with Image.open(tmp_path / "parts/train/good/0.png") as image:
        np.testing.assert_array_equal(raw.x_train[0, ..., 0], np.asarray(image))


def test_images_of_any_size_and_mode_become_one(tmp_path):
    write_images(tmp_path / "mixed", {"good": 5}, size=(90, 70))
    write_images(tmp_path / "mixed", {"hole": 3}, size=(20, 30), mode="RGB")
    Image.fromarray(np.full((9, 9), 65535, np.uint16)).save(tmp_path / "mixed/good/deep.png")
    raw = data.raw(DataConfig(name=f"images:{tmp_path / 'mixed'}"))
    assert raw.x_test.shape[1:] == (128, 128, 3)
    assert data.raw(DataConfig(name=str(tmp_path / "mixed"), size=16)).x_test.shape[1:] == (
        16,
        16,
        3,
    )
    everything = np.concatenate([raw.x_train, raw.x_test])
    assert (everything == 255).all(axis=(1, 2, 3)).sum() == 1  # 16 bits, in full


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n and no more"])
def test_a_damaged_image_is_named(content, tmp_path):
    write_images(tmp_path / "own", {"good": 3, "hole": 2})
    (tmp_path / "own/good/bad.png").write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.png is not a readable image"):
        data.load(DataConfig(name=str(tmp_path / "own")))


def test_an_image_that_was_cut_is_named(tmp_path):
    write_images(tmp_path / "own", {"good": 3, "hole": 2})
    path = tmp_path / "own/good/0.png"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"0\.png is not a readable image"):
        data.load(DataConfig(name=str(tmp_path / "own")))


def test_folders_without_images_or_normals_are_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no images"):
        data.load(DataConfig(name=str(tmp_path / "empty")))
    write_images(tmp_path / "one", {"defect": 3})
    with pytest.raises(UserError, match=r"the class 0 \(defect\), which is not"):
        data.load(DataConfig(name=str(tmp_path / "one")))
    with pytest.raises(UserError, match="does not exist"):
        data.load(DataConfig(name=f"images:{tmp_path / 'nowhere'}"))


def test_a_label_with_one_value_is_no_label(folder, tmp_path):
    write_csv("one.csv", kind=["good"] * 60)
    raw = data.raw(DataConfig(**PLAIN | {"name": "one.csv"}))
    assert not raw.is_labelled
    assert "all rows are of the class 0 (good)" in raw.notes[-1]
    write_images(tmp_path / "one", {"good": 30})
    assert not data.load(DataConfig(name=str(tmp_path / "one"))).is_labelled


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (7, 3), (8, 8), (5, 9)])
def test_windows_stay_in_their_stretch_and_share_no_step_without_a_common_block(window, stride):
    stretches = [(0, 4), (4, 203), (210, 211), (300, 410)]
    starts, blocks = windows.cut(stretches, window, stride, blocks=True)
    owner = {}
    for start, (first, last) in zip(starts, blocks, strict=True):
        assert any(begin <= start and start + window <= end for begin, end in stretches)
        assert 0 <= last - first <= 1
        for step in range(start, start + window):
            owner.setdefault(step, []).append((first, last))
    assert all(
        max(first for first, _ in of) <= min(last for _, last in of) for of in owner.values()
    )
    whole = blocks[blocks[:, 0] == blocks[:, 1], 0]
    assert len(np.unique(whole)) > 3
    assert set(np.unique(blocks)) == set(whole)


@pytest.mark.parametrize("steps", [300, 900, 5000])
def test_few_windows_of_a_series_are_held_out_and_few_are_left_out(steps, tmp_path):
    x = np.arange(steps, dtype=np.float32)  # a value names its step
    y_test = (np.arange(steps // 2) >= steps // 3).astype(int)
    np.savez(tmp_path / "s.npz", x_train=x, x_test=-x[: steps // 2], y_test=y_test)
    dataset = data.load(DataConfig(name=f"series:{tmp_path / 's.npz'}"))
    train, valid = (np.unique(part.x) for part in (dataset.train, dataset.valid))
    assert not np.intersect1d(train, valid).size
    assert 0.05 < len(valid) / steps < 0.31
    assert len(train) + len(valid) > 0.9 * steps
    assert len(dataset.valid.x) >= 8
    window, stride = dataset.schema.window, dataset.schema.stride
    every = (steps - window) // stride + 1
    assert every - len(dataset.train.x) - len(dataset.valid.x) <= 4 * ceil_div(window, stride)


def long_series(path, steps=600, **more):
    x = np.arange(steps, dtype=np.float64)  # a value names its step
    y = np.isin(np.arange(steps), [550, 551])
    csv.write_csv(pa.table({"value": x, "label": y.astype(int)} | more), path)


def steps_of(part):
    return set(part.x.ravel().astype(int).tolist())


def test_no_step_is_in_two_splits_of_a_series(tmp_path):
    long_series(tmp_path / "long.csv")
    made = data.load(DataConfig(name=str(tmp_path / "long.csv"), window=10, stride=3))
    train, valid, test = (steps_of(part) for part in (made.train, made.valid, made.test))
    assert not train & valid
    assert not (train | valid) & test
    assert min(test) >= 480
    flagged = [set(range(int(x[0, 0]), int(x[0, 0]) + 10)) for x in made.test.x[made.test.y]]
    assert flagged
    assert all(window & {550, 551} for window in flagged)
    kept = [set(row.ravel().astype(int)) for row in made.test.x[~made.test.y]]
    assert not any(window & {550, 551} for window in kept)
    steps = made.test.x[..., 0] * made.scaling.scale + made.scaling.shift
    is_anomaly = np.isin(np.round(steps), [550, 551])  # step by step
    np.testing.assert_array_equal(made.test_place_y, is_anomaly, strict=True)


def test_windows_of_a_series_do_not_straddle_groups(tmp_path):
    machine = np.repeat([f"m{i}" for i in range(6)], 100)
    y = (np.arange(600) % 100 == 50).astype(int)
    long_series(tmp_path / "long.csv", machine=machine)
    csv.write_csv(
        pa.table({"value": np.arange(600.0), "label": y, "machine": machine}), tmp_path / "long.csv"
    )
    made = data.load(
        DataConfig(name=f"series:{tmp_path / 'long.csv'}", group="machine", window=10, stride=5)
    )
    for part in (made.train, made.valid, made.test):
        assert all(len(set(row.ravel().astype(int) // 100)) == 1 for row in part.x)


def test_arrays_of_a_series_keep_their_own_split(tmp_path):
    train, test = np.arange(300.0), np.arange(300.0, 400)
    y = np.zeros(100, int)
    y[40] = 1
    np.savez(tmp_path / "s.npz", x_train=train, x_test=test, y_test=y)
    made = data.load(DataConfig(name=f"series:{tmp_path / 's.npz'}", window=20, stride=20))
    assert max(steps_of(made.train) | steps_of(made.valid)) < 300
    assert made.test.y.tolist() == [False, False, True, False, False]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"y_test": np.zeros(3, int)}, r"must be \(50,\), one class per row"),
        (
            {"x_test": np.full(50, np.nan)},
            "x_test holds NaN or infinite values in 50 steps, first in step 0",
        ),
        ({"x_train": np.zeros((9, 2))}, "x_train has 2 channels, x_test 1"),
        ({"x_train": np.zeros(4)}, "no stretch of training steps is as long as a window of 10"),
        ({"x_train": np.zeros((2, 2, 2))}, "a series is numbers"),
    ],
)
def test_series_that_cannot_be_cut_are_one_line(changes, says, tmp_path):
    own_arrays = {
        "x_train": np.arange(90.0),
        "x_test": np.arange(50.0),
        "y_test": np.arange(50) % 2,
    }
    np.savez(tmp_path / "s.npz", **own_arrays | changes)
    with pytest.raises(UserError, match=says):
        data.load(DataConfig(name=f"series:{tmp_path / 's.npz'}", window=10))


def test_windows_that_overlap_are_no_calibration_rows():
    cfg = ExperimentConfig(
        name="s",
        data=DataConfig(name="series:s.csv", window=10, stride=5),
        threshold=ThresholdConfig(rule="conformal:0.1"),
    )
    detectors.check(cfg)  # blocks of steps are, so it is these that the rule promises something of
    assert "windows overlap" in calibration.why_no_guarantee(cfg)
    copies = dataclasses.replace(cfg.data, corruption="noise")  # they have no steps
    with pytest.raises(UserError, match="windows overlap"):
        detectors.check(dataclasses.replace(cfg, data=copies))
    with pytest.raises(UserError, match="is standardised on the held-out windows"):
        detectors.check(dataclasses.replace(cfg, score="mse+row_pca"))
    apart = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, stride=10))
    detectors.check(apart)


@pytest.mark.parametrize(
    "kind", ["table", pytest.param("images", marks=pytest.mark.slow), "series"]
)  # fmt: skip
def test_what_was_trained_on_files_judges_files(kind, folder, capsys):
    args = {"table": "table.csv --data.label kind --data.ignore machine --data.one-hot",
            "images": "own --data.size 8 --model.filters 4 8",
            "series": "long.csv --data.window 12 --data.stride 4"}[kind]  # fmt: skip
    write_images(folder / "own", {"good": 24, "hole": 4})
    long_series("long.csv")
    cli.main(f"train --data.name {args} --train.epochs 2 --run-dir run".split())
    stored, detector = read_npz(folder / "run/scores.npz"), detectors.load(folder / "run/detector")
    cli.main(f"score run {args.split()[0]} --out out.npz".split())
    found = read_npz(folder / "out.npz")
    if kind == "series":  # every step; those near its begin have other windows in the test part
        assert found["row"].tolist() == [*range(600)]
        inner = stored["step_index"] >= stored["step_index"][0] + 12
        tested = found["score"][stored["step_index"]]
        np.testing.assert_array_equal(tested[inner], stored["step_score"][inner], strict=True)
    else:
        assert set(stored["test"].tolist()) <= set(found["score"].tolist())
        assert ("source" in found) == (kind == "images")
        assert kind == "table" or found["source"][0] == "good/0.png"
    assert detector.about.schema.kind == kind
    with pytest.raises(SystemExit) as stop:
        cli.main(["score", "run", "nowhere.csv"])
    assert stop.value.code == 2


def test_what_a_file_holds_is_printed(folder, capsys):
    cli.main(["data", "table.csv", "--data.label", "kind", "--data.ignore", "colour", "machine"])
    said = capsys.readouterr().out
    assert "class 0 (good): 38 + 10 rows, normal" in said
    assert "class 1 (scratch): 0 + 12 rows, anomaly" in said
    assert "ignored: colour, machine" in said
    assert "method dense, score local_ranks+robust_knn+local_compressed, data.scale" in said
    write_csv("twins.csv", width=np.ones(60), height=np.ones(60, int))
    args = ["--data.label", "kind", "--data.ignore", "colour", "machine", "--json"]
    cli.main(["data", "twins.csv", *args])
    said = capsys.readouterr().out
    found = json.loads(said[said.index("{") :])
    assert found["constant"] == ["width", "height"]
    assert found["duplicates"] == {"train": 37, "test": 21, "test_in_train": 22}
    assert found["columns"][0] == {
        "name": "width",
        "role": "feature",
        "missing": 0,
        "holds": "number",
    }


def test_what_is_wrong_with_a_file_is_printed_with_what_was_found(folder, capsys):
    write_csv("gaps.csv", width=[None, 1.0] * 30)
    with pytest.raises(SystemExit) as stop:
        cli.main(["data", "gaps.csv", "--data.label", "kind"])
    assert stop.value.code == 2
    said = capsys.readouterr()
    assert "not numeric: colour (text), machine (text)" in said.out
    assert "missing values: width (30)" in said.out
    assert said.err.count("\n") == 1


ROWS = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
IS_BAD = np.arange(50) >= 44
KINDS = np.where(IS_BAD, "broken", "normal")


def array_folder(path, **arrays):
    path.mkdir()
    for name, array in arrays.items():
        np.save(path / f"{name}.npy", array)
    return path


def as_npz(path, **arrays):
    np.savez(path.with_suffix(".npz"), **arrays)
    return path.with_suffix(".npz")


@pytest.mark.parametrize("save", [as_npz, array_folder])
@pytest.mark.parametrize(
    "stored",
    [
        {"x_train": ROWS},
        {"X": ROWS, "other": IS_BAD},
        {"x_train": ROWS, "x_test": ROWS[:9]},
        {"X": ROWS, "y": np.zeros(50)},
        {"X_train": ROWS, "y_train": np.array(["good"] * 50)},
    ],
)
def test_arrays_without_labels_are_rows_taken_as_normal(save, stored, tmp_path):
    made = data.load(DataConfig(name=str(save(tmp_path / "rows", **stored))))
    assert not made.is_labelled
    assert [len(split.y) for split in made[1:4]] == [45, 5, 5]
    assert not made.test.y.any()
    np.testing.assert_array_equal(made.test.id, made.valid.id)


def test_what_is_not_read_of_arrays_is_said(tmp_path):
    raw = data.raw(DataConfig(name=str(as_npz(tmp_path / "a", X=ROWS, target=IS_BAD))))
    assert "not read: target" in raw.notes[0]
    raw = data.raw(DataConfig(name=str(as_npz(tmp_path / "a", x_train=ROWS, x_test=ROWS))))
    assert "x_test has no labels" in raw.notes[0]
    raw = data.raw(DataConfig(name=str(as_npz(tmp_path / "a", X=ROWS, y=0 * IS_BAD))))
    assert "all rows are of the class 0" in raw.notes[0]


@pytest.mark.parametrize("y", [IS_BAD, IS_BAD.astype(np.float32), KINDS, KINDS.astype("S")])
@pytest.mark.parametrize("save", [as_npz, array_folder])
def test_rows_with_classes_are_split_like_a_table(save, y, tmp_path):
    made = data.load(DataConfig(name=str(save(tmp_path / "rows", X=ROWS, y=y))))
    assert made.is_labelled
    assert len(made.test.y) == 6 + round(0.2 * 44)
    np.testing.assert_array_equal(made.test.y, made.test.class_id == 1)
    np.testing.assert_array_equal(made.test.x[made.test.y], ROWS[IS_BAD])


def test_texts_of_both_parts_are_numbered_together(tmp_path):
    arrays = {"x_train": ROWS[:40], "y_train": KINDS[:40], "x_test": ROWS, "y_test": KINDS}
    made = data.load(DataConfig(name=str(as_npz(tmp_path / "a", **arrays))))
    assert made.schema.classes == ("normal", "broken")
    np.testing.assert_array_equal(made.test.y, IS_BAD)


def test_one_npy_file_is_rows_or_a_series(tmp_path):
    for name, stored in (("c", ROWS), ("fortran", np.asfortranarray(ROWS))):
        np.save(tmp_path / f"{name}.npy", stored)
        raw = data.raw(DataConfig(name=str(tmp_path / f"{name}.npy")))
        np.testing.assert_array_equal(raw.x_train, ROWS)
    np.save(tmp_path / "steps.npy", np.arange(300.0))
    made = data.load(DataConfig(name=str(tmp_path / "steps.npy"), window=10))
    assert made.shape == (10, 1)
    assert not made.is_labelled
    with pytest.raises(UserError, match=r"has the shape \(300,\).*--data.window"):
        data.load(DataConfig(name=str(tmp_path / "steps.npy")))


@pytest.mark.parametrize(
    ("stored", "settings", "says"),
    [
        (
            {"X": ROWS, "y": np.array(["defect"] * 50)},
            {},
            "a.npz.*all rows are of the class 0 .def",
        ),
        ({"X": ROWS}, {"normal": (0,)}, "data.normal is .* no labels"),
        ({"X": ROWS}, {"valid": "test"}, "data.valid is .* no labels"),
        ({"a": ROWS, "b": ROWS}, {}, "lacks x_train .or X.*holds a, b"),
    ],
)
def test_arrays_without_labels_that_cannot_work(stored, settings, says, tmp_path):
    with pytest.raises(UserError, match=says):
        data.load(DataConfig(name=str(as_npz(tmp_path / "a", **stored)), **settings))
