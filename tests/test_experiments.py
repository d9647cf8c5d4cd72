import dataclasses
import functools
import importlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
from probes import assert_same, edit, interrupted, write_npz
from sklearn import manifold

from experiments import digits_conv, ecg_cross, one_vs_rest
from jaxae import config, detectors, scoring
from jaxae.cli import train
from jaxae.config import ExperimentConfig
from jaxae.data.arrayfiles import read_npz
from jaxae.detectors import health
from jaxae.reports import plots
from jaxae.storage import checkpoint, disk
from jaxae.workflows import experiment
from jaxae.workflows.protocol import expand

ROOT = Path(__file__).parents[1] / "experiments"
MODULES = [
    importlib.import_module(f"experiments.{path.stem}") for path in sorted(ROOT.glob("*.py"))
]
EXPERIMENTS = [
    module for module in MODULES if type(getattr(module, "CONFIG", None)) is ExperimentConfig
]

FIELDS = {
    "name",
    "seed",
    "dataset",
    "epochs",
    "train_loss",
    "valid_loss",
    "threshold",
    "auroc",
    "auroc_interval",
    "average_precision",
    "average_precision_interval",
    "accuracy",
    "precision",
    "recall",
    "f1",
    "f1_interval",
    "warnings",
    "selected_by",
    "selected_epoch",
    "n_normal",
    "n_anomaly",
    "wall_s",
    "compile_s",
    "steps_per_s",
}
ALWAYS_DRAWN = {"loss_curves", "score_histograms", "roc_pr", "reconstructions"}


def run(cfg, folder, *args):
    return train.main(cfg, ["--run-dir", str(folder), *map(str, args)])


def state_in(folder):
    """What the last checkpoint of a run holds."""
    with checkpoint.open_manager(folder / "checkpoints", 0) as manager:
        return manager.restore(manager.latest_step()).state


def check_contract(folder, report):
    """The run folder is complete and agrees with itself."""
    assert report.keys() >= FIELDS
    assert json.loads((folder / "report.json").read_text()) == report
    numbers = [value for value in report.values() if isinstance(value, float)]
    assert all(math.isfinite(value) for value in numbers)
    config.from_json((folder / "config.json").read_text())
    started = (folder / "provenance.jsonl").read_text().splitlines()
    assert started
    assert all("versions" in json.loads(line) for line in started)
    rows = disk.read_metrics(folder / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == list(range(1, report["epochs"] + 1))
    with np.load(folder / "scores.npz") as scores:
        of_test = ("test", "test_is_anomaly", "test_y", "test_class_id", "test_id")
        of_test += ("test_row_digest",)
        of_rows = {name for name in scores if not name.startswith(("pixel_", "step_"))}
        assert of_rows == {"train", "valid", *of_test}
        assert {scores[name].shape for name in of_test} == {(len(scores["test"]),)}
        assert len(scores["train"]) == report["n_train"]
        assert len(scores["valid"]) == report["n_valid"]
        assert scores["test_y"].sum() == report["n_anomaly"]
        flagged = scores["test"] > report["threshold"]
        np.testing.assert_array_equal(scores["test_is_anomaly"], flagged)
        assert np.mean(flagged == scores["test_y"]) == pytest.approx(report["accuracy"], abs=1e-6)
    detector = detectors.load(folder / "detector")
    assert detector.decision.threshold == report["threshold"]
    assert list((folder / "checkpoints").iterdir())
    drawn = {path.stem for path in (folder / "figures").glob("*.png")}
    assert drawn >= ALWAYS_DRAWN
    hidden = [path.name for path in folder.rglob(".*")]
    assert hidden == [".lock"], "nothing temporary stays"


def test_there_is_one_experiment_for_every_reference_system():
    names = {module.__name__.rpartition(".")[2] for module in EXPERIMENTS}
    assert names >= {"digits_conv", "mnist_conv", "ecg_dense"}


@pytest.mark.parametrize("module", EXPERIMENTS, ids=lambda module: module.CONFIG.name)
def test_an_experiment_has_a_record_and_a_valid_configuration(module):
    assert module.__doc__
    cfg = config.validate(module.CONFIG)
    experiment.check(cfg)
    assert cfg.name == module.__name__.rpartition(".")[2]
    assert cfg == config.from_json(config.to_json(cfg))


class FewRows(manifold.TSNE):
    """A map of a thousand rows, again and again: of 10,000 it takes longer than all else."""

    def fit_transform(self, z):
        return np.resize(super().fit_transform(z[:1000]), (len(z), 2))


@pytest.mark.slow
@pytest.mark.optimised
@pytest.mark.parametrize("module", EXPERIMENTS, ids=lambda module: module.CONFIG.name)
def test_smoke_run_on_the_real_data_and_the_same_again(module, data_dir, tmp_path, monkeypatch):
    batch = "4" if module.CONFIG.name == "defects" else "32"  # of which each image is 16 crops
    small = ["--train.epochs", "1", "--data.limit", "64", "--train.batch-size", batch, "--data.dir"]
    monkeypatch.setattr(manifold, "TSNE", functools.partial(FewRows, max_iter=250))
    report = run(module.CONFIG, tmp_path / "run", *small, data_dir)
    check_contract(tmp_path / "run", report)
    monkeypatch.setattr(plots, "draw", lambda *args: [])
    bare = edit(module.CONFIG, {"studies": ()})
    assert run(bare, tmp_path / "again", *small, data_dir)["digest"] == report["digest"]


# The digits that come with scikit-learn need no files: everything below runs on them, or on blobs.


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The digits experiment after one short epoch: its folder and report."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    small = {"model.filters": (4, 8), "ensemble": 1, "studies": ("verdicts",), "devices": 1}
    cfg = edit(digits_conv.CONFIG, small)
    report = run(cfg, folder, "--data.limit", 64, "--train.batch-size", 16, "--train.epochs", 1)
    return cfg, folder, report


def test_smoke_run_leaves_every_file(digits):
    cfg, folder, report = digits
    check_contract(folder, report)
    assert report["name"] == "digits_conv"
    assert {f"{study}.npz" for study in cfg.studies} <= {
        path.name for path in (folder / "arrays").iterdir()
    }


TINY = ExperimentConfig(
    name="tiny",
    method="dense",
    devices=1,
    data=config.DataConfig(valid_fraction=0.3),
    model=config.ModelConfig(latent=3, hidden=(8,)),
    train=config.TrainConfig(epochs=4, batch_size=16, noise_std=0.1, checkpoint_every=2),
)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A user's own data: smooth blobs, with their negatives as anomalies."""
    return f"npz:{write_npz(tmp_path_factory.mktemp('data') / 'blobs.npz')}"


@pytest.fixture(scope="module")
def cfg(source):
    return edit(TINY, {"data.name": source})


@pytest.fixture
def undrawn(monkeypatch):
    monkeypatch.setattr(plots, "draw", lambda *args: [])


def modified(folder):
    return {path: path.stat().st_mtime_ns for path in (folder / "checkpoints").rglob("*")}


def test_the_same_command_goes_on_where_the_run_stands(cfg, tmp_path, capsys, undrawn, monkeypatch):
    monkeypatch.setattr(health, "below_chance", lambda scores, y: ["it is upside down"])
    first = run(cfg, tmp_path, "--train.epochs", 2)
    shown = capsys.readouterr().out
    assert first["warnings"] == ["it is upside down"]
    assert "\nwarning: it is upside down\n" in shown
    assert shown.rstrip().splitlines()[-1].endswith(f"{tmp_path}")
    assert "auroc" in shown
    lines, saved = (tmp_path / "metrics.jsonl").read_text(), modified(tmp_path)

    again = run(cfg, tmp_path, "--train.epochs", 2)  # nothing to train
    assert (tmp_path / "metrics.jsonl").read_text() == lines
    assert modified(tmp_path) == saved
    timed = {"wall_s", "compile_s"}
    assert {k: v for k, v in again.items() if k not in timed} == {
        k: v for k, v in first.items() if k not in timed
    }

    stricter = run(cfg, tmp_path, "--train.epochs", 2, "--threshold.rule", "max")
    assert modified(tmp_path) == saved
    assert stricter["threshold"] > first["threshold"]
    assert stricter["auroc"] == first["auroc"]

    longer = run(cfg, tmp_path, "--train.epochs", 3)
    assert longer["epochs"] == 3
    assert (tmp_path / "metrics.jsonl").read_text().startswith(lines)

    before = (tmp_path / "report.json").read_text()
    for args, word in (
        (("--train.epochs", 3, "--optim.lr", 0.5), "optim.lr is 0.001 there and 0.5 here"),
        (("--train.epochs", 2), "train.epochs is 2"),
    ):
        with pytest.raises(SystemExit) as stop:
            run(cfg, tmp_path, *args)
        assert stop.value.code == 2
        assert word in capsys.readouterr().err
    assert (tmp_path / "report.json").read_text() == before


def test_an_interrupted_run_ends_as_if_nothing_had_happened(cfg, tmp_path, capsys, undrawn):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = run(cfg, whole)
    with interrupted(epoch=3), pytest.raises(SystemExit) as stop:
        run(cfg, broken)
    assert stop.value.code == 130
    assert "resumes" in capsys.readouterr().err
    assert not (broken / "report.json").exists()

    report = run(cfg, broken)
    assert_same(state_in(broken), state_in(whole))
    with np.load(whole / "scores.npz") as one, np.load(broken / "scores.npz") as other:
        assert_same(dict(one), dict(other))
    one, other = (detectors.load(folder / "detector") for folder in (whole, broken))
    assert_same(one[1:], other[1:])
    assert one.about.config == dataclasses.replace(other.about.config, run_dir=str(whole))
    untimed = FIELDS - {"wall_s", "compile_s", "steps_per_s"}
    assert {k: report[k] for k in untimed} == {k: expected[k] for k in untimed}
    losses = [
        [
            (r["epoch"], r["loss"], r["valid_loss"])
            for r in disk.read_metrics(folder / "metrics.jsonl")
        ]
        for folder in (whole, broken)
    ]
    assert losses[0] == losses[1]


def provenance_lines(folder):
    return (folder / "provenance.jsonl").read_text().splitlines()


def test_every_entry_into_a_run_folder_leaves_a_line_of_provenance(cfg, tmp_path, undrawn):
    for entries in (1, 2):
        run(cfg, tmp_path, "--train.epochs", entries)
        assert len(provenance_lines(tmp_path)) == entries


def test_metrics_of_an_ensemble_keep_the_value_of_each_member(cfg, tmp_path, undrawn):
    three = ("--ensemble", 3, "--train.epochs", 2, "--train.monitor")
    report = run(cfg, tmp_path / "three", *three, "--score", "latent_mahalanobis")
    rows = disk.read_metrics(tmp_path / "three" / "metrics.jsonl")
    assert len(rows) == 2
    for row in rows:
        several = row.pop("members")
        assert several.keys() == row.keys() - {"epoch", "steps_per_s"}
        assert several.keys() >= {"loss", "valid_loss", "test_auroc", "pseudo_auroc"}
        for name, values in several.items():
            assert len(values) == 3
            assert row[name] == pytest.approx(np.mean(values), rel=1e-6)
        assert len(set(several["loss"])) == 3
    assert report["train_loss"] == rows[-1]["loss"]
    assert report["valid_loss"] == rows[-1]["valid_loss"]

    run(cfg, tmp_path / "one", "--train.epochs", 1)
    (row,) = disk.read_metrics(tmp_path / "one" / "metrics.jsonl")
    assert "members" not in row


def test_a_rule_from_outside_decides_in_the_report_the_files_and_the_detector(
    cfg, tmp_path, undrawn, monkeypatch
):
    contrary = scoring.RULES["max"]._replace(
        decide=lambda state, scores: scores <= state["threshold"]
    )
    monkeypatch.setitem(scoring.RULES, "contrary", contrary)
    rule = ("--threshold.rule", "contrary", "--studies", "verdicts", "batch_threshold")
    report = run(cfg, tmp_path, "--train.epochs", 1, *rule)
    threshold = report["threshold"]
    with np.load(tmp_path / "scores.npz") as stored:
        scores = dict(stored)
    flagged, y = scores["test"] <= threshold, scores["test_y"]
    np.testing.assert_array_equal(scores["test_is_anomaly"], flagged)
    assert report["accuracy"] == pytest.approx(np.mean(flagged == y), abs=1e-6)
    assert report["recall"] == pytest.approx(flagged[y].mean(), abs=1e-6)
    assert report["flagged_normal"] == pytest.approx(flagged[~y].mean())
    for name in ("reconstructions", "verdicts"):
        with np.load(tmp_path / "arrays" / f"{name}.npz") as shown:
            below = shown["score"] <= threshold
            np.testing.assert_array_equal(shown["is_anomaly"], below)
    x = read_npz(Path(cfg.data.name.removeprefix("npz:")))["x_test"]
    found = detectors.judge(detectors.load(tmp_path / "detector"), x)
    np.testing.assert_array_equal(found.is_anomaly, found.score <= threshold)
    np.testing.assert_array_equal(found.is_anomaly, flagged)


# Those that are no single experiment.


@pytest.mark.parametrize(
    ("args", "method"),
    [
        ([], "dense"),
        (["--method", "conv"], "conv"),
        (["--seeds=1", "--method=alocc"], "alocc"),
        (["--method", "none"], "dense"),  # refused later, in words
        (["--method"], "dense"),
    ],
)
def test_a_protocol_starts_from_the_recipe_of_its_method(args, method):
    assert one_vs_rest.recipe(args) is one_vs_rest.RECIPES[method]


@pytest.mark.slow
@pytest.mark.parametrize("method", [m for m in one_vs_rest.RECIPES if m != "alocc"])
def test_recipes_have_a_member_for_every_class_and_seed(method):
    members, datasets = expand(one_vs_rest.RECIPES[method])
    assert len(members) == 50
    assert len({member.run_path for member in members}) == 50
    assert [of.normal for of in datasets] == [(k,) for k in range(10)]


@pytest.mark.slow
def test_cross_conformal_beats(data_dir, tmp_path):
    args = ["--data.dir", str(data_dir), "--train.epochs", "30", "--folds", "5"]
    report = run(ecg_cross.CONFIG, tmp_path, *args)
    assert report["n_calibration"] == 2343
    assert report["fpr"] < report["fpr_bound"]
    assert report["auroc"] > 0.95
