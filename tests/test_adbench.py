"""The table of detectors over a folder of sets."""

import json

import numpy as np
import pytest

from experiments import adbench
from jaxae.errors import UserError
from jaxae.stats import metrics

RNG = np.random.default_rng(0)


def written(folder, name, x=None, y=None):
    folder.mkdir(exist_ok=True)
    x = np.concatenate([RNG.normal(size=(60, 3)), RNG.normal(size=(8, 3)) + 6]) if x is None else x
    y = (np.arange(len(x)) >= 60).astype(int) if y is None else y
    np.savez(folder / f"{name}.npz", X=x, y=y)
    return folder


def ran(folder, out, capsys, *args):
    adbench.main(["--data.dir", str(folder), "--out", str(out), *args])
    return capsys.readouterr().out


def test_a_folder_becomes_a_table_and_a_page_and_a_repeated_call_goes_on(
    tmp_path, capsys, monkeypatch
):
    folder = written(written(tmp_path / "sets", "one"), "two")
    args = "--detectors", "neighbours", "pca"
    first = ran(folder, tmp_path / "out", capsys, *args, "--seeds", "2")
    assert "2 tables, 2 seeds, trained on normal rows" in first
    assert "neighbours  1.0000  1.0000" in first
    lines = (tmp_path / "out/measured.jsonl").read_text().splitlines()
    assert len(lines) == 2 * 2 * 2
    assert "<table>" in (tmp_path / "out/report.html").read_text()
    rows = json.loads((tmp_path / "out/report.json").read_text())
    assert {row["detector"] for row in rows} == {"neighbours", "pca"}
    monkeypatch.setattr(adbench, "measured", None)  # nothing is measured twice
    assert ran(folder, tmp_path / "out", capsys, *args, "--seeds", "2") == first
    monkeypatch.undo()
    written(folder, "one")  # another set of the same name
    ran(folder, tmp_path / "out", capsys, *args)
    assert len((tmp_path / "out/measured.jsonl").read_text().splitlines()) == 8 + 2


def test_a_split_holds_what_it_says():
    table = adbench.Table("x", np.arange(100.0)[:, None], np.arange(100) >= 80)
    clean = adbench.split(table, 0)
    assert len(clean.train) == 40
    assert (clean.train < 80).all()
    assert clean.y.sum() == 20
    dirty = adbench.split(table, 0, contaminated=0.1)
    assert (dirty.train >= 80).sum() == 4
    assert dirty.y.sum() == 16
    assert not {*dirty.train.ravel()} & {*dirty.test.ravel()}
    most = adbench.split(table, 0, contaminated=0.4)
    assert (most.train >= 80).sum() == 10  # half of the anomalies at most
    np.testing.assert_array_equal(adbench.split(table, 0).train, clean.train)
    assert (adbench.split(table, 1).train != clean.train).any()
    np.testing.assert_array_equal(clean.y, clean.test.ravel() >= 80)


def test_measures_are_those_of_the_scores():
    rows = adbench.split(adbench.Table("x", RNG.normal(size=(200, 3)), np.arange(200) >= 150), 0)
    found = adbench.measured(adbench.Neighbours, rows, 0)
    scores = -adbench.Neighbours(0).fit(rows.train).score_samples(rows.test)
    assert found["auroc"] == pytest.approx(
        metrics.auroc(scores.astype(np.float32), rows.y), abs=1e-6
    )
    assert "flagged" not in found


@pytest.mark.slow
def test_the_default_is_measured_and_flags_a_tenth_of_normals(tmp_path, capsys):
    said = ran(written(tmp_path / "sets", "one"), tmp_path / "out", capsys, "--detectors", "jaxae")
    (row,) = json.loads((tmp_path / "out/report.json").read_text())
    assert float(row["AUROC"]) > 0.99
    assert float(row["normals flagged"].split(",")[0]) < 0.35  # of 30 rows
    assert "[1/1] one [68, 3]: jaxae" in said


@pytest.mark.parametrize(
    ("name", "far", "words"),
    [("jaxae", 0, "all 30 training rows are equal"), ("neighbours", 1e300, "are not finite")],
)
def test_a_set_that_a_detector_refuses_is_named(name, far, words, tmp_path, capsys):
    x = np.ones((70, 3)) if not far else RNG.normal(size=(70, 3))
    x[60:] += far
    with pytest.raises(SystemExit) as stop:
        ran(written(tmp_path / "sets", "odd", x), tmp_path / "out", capsys, "--detectors", name)
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert f"error: odd: {name}: " in said
    assert words in said


def test_what_belongs_to_a_run_or_is_damaged_is_left_alone(tmp_path, capsys):
    folder, out = written(tmp_path / "sets", "one"), tmp_path / "out"
    ran(folder, out, capsys, "--detectors", "pca")
    kept = (out / "measured.jsonl").read_bytes()
    (out / "measured.jsonl").write_bytes(b'{"set": 1}\n' + kept)  # others' lines are passed over
    ran(folder, out, capsys, "--detectors", "pca")
    assert (out / "measured.jsonl").read_bytes() == b'{"set": 1}\n' + kept
    (out / "measured.jsonl").write_bytes(kept + b"garbage\n")
    for path in (out / "config.json", out / "data.json"):
        with pytest.raises(SystemExit) as stop:
            ran(folder, out, capsys, "--detectors", "pca")
        assert stop.value.code == 2
        assert "line 2, is not a JSON object" in capsys.readouterr().err
        path.write_text("{}")
    with pytest.raises(SystemExit):  # a run's folder now
        ran(folder, out, capsys, "--detectors", "pca")
    assert "which is kept as it was written" in capsys.readouterr().err


def test_a_set_that_is_put_back_has_its_own_numbers(tmp_path, capsys):
    folder, args = written(tmp_path / "sets", "one"), ("--detectors", "pca")
    first, content = ran(folder, tmp_path / "out", capsys, *args), (folder / "one.npz").read_bytes()
    written(folder, "one", np.flip(np.arange(210.0).reshape(70, 3)))
    assert ran(folder, tmp_path / "out", capsys, *args) != first
    (folder / "one.npz").write_bytes(content)
    assert ran(folder, tmp_path / "out", capsys, *args) == first


def test_bundled_tables_have_both_classes():
    tables = list(adbench.bundled())
    assert len(tables) == 18
    assert all(0 < table.y.sum() < len(table.y) for table in tables)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.ones((5, 2)), np.zeros(5), "both of them"),
        (np.ones((5, 2)), np.array([0, 1, 2, 0, 0]), "0 (normal) and 1 (anomaly)"),
        (np.ones(5), np.array([0, 1, 0, 0, 0]), "must be numbers [N, F]"),
        (np.ones((4, 2)), np.array([0, 1, 0, 0, 0]), "a row for each label"),
        (np.full((5, 2), np.nan), np.array([0, 1, 0, 0, 0]), "NaN"),
        (np.full((5, 2), "a"), np.array([0, 1, 0, 0, 0]), "must be numbers"),
    ],
)
def test_a_set_that_is_none_is_named(x, y, words, tmp_path):
    with pytest.raises(UserError) as raised:
        list(adbench.of_folder(written(tmp_path / "sets", "bad", x, y)))
    assert words in str(raised.value)
    assert "bad.npz" in str(raised.value)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--detectors", "none"], "unknown detector 'none'; known: jaxae"),
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--contaminated", "0.5"], "--contaminated in [0, 0.5)"),
        (["--data.dir", "missing"], "missing is no folder"),
        (["--data.dir", "."], "has no .npz file"),
    ],
)
def test_wrong_arguments_are_one_line(args, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        adbench.main(["--out", "out", *args])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
