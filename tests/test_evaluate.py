"""The command `jaxae evaluate`: labelled rows, read and judged like the rows of training."""

import json

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import csv

from jaxae import data
from jaxae.cli import main as cli
from jaxae.config import DataConfig
from jaxae.data.own import labelled
from jaxae.errors import UserError
from jaxae.stats import metrics


def columns(n=80, strange=0, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)
    x[n - strange :] += 9
    return {f"c{i}": column for i, column in enumerate(x.T)}


def write(path, **more):
    csv.write_csv(pa.table(more), path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run without labels, and a file with labels."""
    where = tmp_path_factory.mktemp("evaluate")
    write(where / "rows.csv", **columns())
    args = f"train --data.name {where / 'rows.csv'} --run-dir {where / 'run'} --train.epochs 2"
    cli.main(args.split())
    kind = np.repeat(["fine", "broken"], [70, 10])
    write(where / "labelled.csv", **columns(80, 10, 1), kind=kind, id=np.arange(80))
    return where


def lines_of(path):
    return sorted(str(file.relative_to(path)) for file in path.rglob("*"))


def evaluated(folder, *args, capsys):
    before = lines_of(folder / "run")
    capsys.readouterr()
    cli.main(["evaluate", str(folder / "run"), *map(str, args), "--json"])
    assert lines_of(folder / "run") == before
    return json.loads(capsys.readouterr().out)


def test_metrics_are_those_of_the_scores_of_the_same_file(folder, capsys):
    file = folder / "labelled.csv"
    found = evaluated(folder, file, "--label", "kind", capsys=capsys)
    cli.main(["score", str(folder / "run"), str(file), "--out", str(folder / "judged.csv")])
    judged = csv.read_csv(folder / "judged.csv").to_pydict()
    judged = {name: np.array(values) for name, values in judged.items()}
    y = np.arange(80) >= 70
    assert found["auroc"] == pytest.approx(float(metrics.auroc(judged["score"].astype("f4"), y)))
    assert found["recall"] == np.mean(judged["is_anomaly"][y] == 1)
    assert (found["n_normal"], found["n_anomaly"]) == (70, 10)
    assert found["classes"] == {"fine": "normal, 70 rows", "broken": "anomaly, 10 rows"}
    low, high = found["auroc_interval"]
    assert low <= found["auroc"] <= high


def test_the_normal_class_is_chosen_and_never_guessed(folder, capsys):
    file, label = folder / "labelled.csv", ("--label", "kind")
    one = evaluated(folder, file, *label, "--normal", "broken", capsys=capsys)
    other = evaluated(folder, file, *label, "--anomaly", "broken", capsys=capsys)
    assert one["auroc"] == pytest.approx(1 - other["auroc"])
    assert "below chance" in one["warnings"][0]
    write(folder / "open.csv", **columns(), kind=np.repeat(["aa", "bb"], 40))
    with pytest.raises(SystemExit):
        cli.main(["evaluate", str(folder / "run"), str(folder / "open.csv"), *label])
    assert "add either --normal aa or --normal bb" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "args", "says"),
    [
        ({}, [], "no column holds the classes; add one"),
        ({"id": np.arange(80)}, [], "name one with --label (of id)"),
        ({"kind": ["fine"] * 80}, ["--label", "kind"], "metrics need normals and anomalies"),
        ({"kind of": ["ok", "nok"] * 40}, [], "add --label 'kind of' if it is one"),
        ({}, ["--label", "c0"], "is a value that the detector reads"),
        ({"kind": ["fine", ""] * 40}, ["--label", "nothing"], "--label names the column 'nothing'"),
        ({}, ["--out", "x.csv"], "--out x.csv cannot be written; name a .json"),
    ],
)
def test_files_that_cannot_be_evaluated_are_one_line(more, args, says, folder, capsys):
    write(folder / "wrong.csv", **columns(), **more)
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", str(folder / "run"), str(folder / "wrong.csv"), *args])
    line = capsys.readouterr().err
    assert stop.value.code == 2
    assert says in line
    assert "data." not in line
    assert line.count("\n") == 1


def test_the_result_is_written_where_it_is_asked_for(folder, capsys):
    file, out = folder / "labelled.csv", folder / "metrics.json"
    found = evaluated(folder, file, "--label", "kind", "--out", out, capsys=capsys)
    assert json.loads(out.read_bytes()) == found
    cli.main(["evaluate", str(folder / "run"), str(file), "--label", "kind"])
    assert "classes.broken" in capsys.readouterr().out


def test_a_labelled_run_gives_its_own_report_again(tmp_path, capsys):
    """The classes 3 and 5 say nothing of which is normal; the run was told."""
    x = np.stack([*columns(90, 20).values()], axis=1)
    y = np.repeat([5, 3], [70, 20])
    np.savez(tmp_path / "x.npz", x_train=x[:40], x_test=x[40:], y_train=y[:40], y_test=y[40:])
    args = f"train --data.name {tmp_path / 'x.npz'} --run-dir {tmp_path / 'run'} --train.epochs 1"
    cli.main([*args.split(), "--data.normal", "5"])
    report = json.loads((tmp_path / "run/report.json").read_bytes())
    found = evaluated(tmp_path, tmp_path / "x.npz", capsys=capsys)
    for name in ("auroc", "f1", "fpr", "n_anomaly", "auroc_interval", "threshold"):
        assert found[name] == pytest.approx(report[name]), name
    assert found["notes"] == ["normal as in training: 5"]


# Reading


def schema_of(name, **settings):
    return data.raw(DataConfig(name=str(name), **settings)).schema


def test_a_window_is_an_anomaly_if_one_of_its_steps_is(tmp_path):
    label = (np.arange(200) == 57).astype(int)
    machine = np.array(["a", "b"])[np.arange(200) // 100]
    steps = {"value": np.arange(200.0), "machine": machine}
    write(tmp_path / "train.csv", **steps)
    write(tmp_path / "test.csv", **steps, label=label)
    schema = schema_of(tmp_path / "train.csv", group="machine", window=10, stride=5)
    found = labelled.read(tmp_path / "test.csv", schema, DataConfig())
    holds = np.array([57 in row.ravel() for row in found.rows.x])
    np.testing.assert_array_equal(found.y, holds)
    assert holds.sum() == 2
    order = np.argsort(np.arange(200) % 100, kind="stable")  # the machines take turns
    turns = {name: values[order] for name, values in (steps | {"label": label}).items()}
    write(tmp_path / "turns.csv", **turns)
    again = labelled.read(tmp_path / "turns.csv", schema, DataConfig())
    np.testing.assert_array_equal(again.y, [57 in row.ravel() for row in again.rows.x])
    assert again.y.sum() == 2


def test_images_have_the_classes_of_their_folders(tmp_path):
    for name in ("train/good", "labelled/good", "labelled/scratch"):
        (tmp_path / name).mkdir(parents=True)
        for i in range(3):
            value = 200 if name.endswith("scratch") else 20 + i
            Image.fromarray(np.full((9, 9), value, np.uint8)).save(tmp_path / name / f"{i}.png")
    found = labelled.read(tmp_path / "labelled", schema_of(tmp_path / "train"), DataConfig())
    np.testing.assert_array_equal(found.y, found.rows.x[:, 0, 0, 0] == 200)
    assert found.schema.classes == ("good", "scratch")


@pytest.mark.parametrize("is_folder", [False, True])
def test_arrays_have_the_classes_beside_them(is_folder, tmp_path):
    x, y = np.arange(40.0).reshape(20, 2), np.arange(20) >= 15

    def save(name, **stored):
        if is_folder:
            (tmp_path / name).mkdir()
            for key, array in stored.items():
                np.save(tmp_path / name / f"{key}.npy", array)
            return tmp_path / name
        np.savez(tmp_path / f"{name}.npz", **stored)
        return tmp_path / f"{name}.npz"

    schema = schema_of(save("train", x_train=x))
    found = labelled.read(save("own", X=x, y=y), schema, DataConfig())
    np.testing.assert_array_equal(found.y, y)
    tested = save("tested", x_train=x, x_test=x[10:], y_test=y[10:])
    np.testing.assert_array_equal(labelled.read(tested, schema, DataConfig()).y, y[10:])
    alone = save("alone", x_test=x[10:], y_test=y[10:])
    np.testing.assert_array_equal(labelled.read(alone, schema, DataConfig()).y, y[10:])
    with pytest.raises(UserError, match=r"no array holds classes; name them y beside X"):
        labelled.read(save("none", X=x), schema, DataConfig())


def test_rows_that_were_trained_on_are_said(folder, capsys):
    """An anomaly among them is its own neighbour, so that metrics are not those of new rows."""
    kind = np.repeat(["fine", "broken"], [70, 10])
    write(folder / "trained.csv", **columns(), kind=kind)
    for name, is_said in (("trained", True), ("labelled", False)):
        found = evaluated(folder, folder / f"{name}.csv", "--label", "kind", capsys=capsys)
        assert any("72 of 80 rows seem to be training rows" in n for n in found["notes"]) == is_said
