import importlib
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from probes import assert_same, edit, write_npz

from experiments import digits_conv
from jaxae import checkpoint, config, plots, runlog
from jaxae.config import ExperimentConfig
from jaxae.experiment import main

ROOT = Path(__file__).parents[1] / "experiments"
MODULES = [
    importlib.import_module(f"experiments.{path.stem}") for path in sorted(ROOT.glob("*.py"))
]
EXPERIMENTS = [module for module in MODULES if hasattr(module, "CONFIG")]

FIELDS = {
    "name",
    "seed",
    "dataset",
    "epochs",
    "train_loss",
    "valid_loss",
    "threshold",
    "auroc",
    "average_precision",
    "accuracy",
    "precision",
    "recall",
    "f1",
    "n_normal",
    "n_anomaly",
    "wall_s",
    "compile_s",
    "steps_per_s",
}
ALWAYS_DRAWN = {"loss_curves", "score_histograms", "roc_pr", "reconstructions"}


def run(cfg, folder, *args):
    return main(cfg, ["--run-dir", str(folder), *map(str, args)])


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
    assert "versions" in json.loads((folder / "provenance.json").read_text())
    rows = runlog.read_metrics(folder / "metrics.jsonl")
    assert [row["epoch"] for row in rows] == list(range(1, report["epochs"] + 1))
    with np.load(folder / "scores.npz") as scores:
        assert len(scores["test"]) == len(scores["test_y"]) == len(scores["test_label"])
        assert scores["test_y"].sum() == report["n_anomaly"]
        flagged = scores["test"] > report["threshold"]
        assert np.mean(flagged == scores["test_y"]) == pytest.approx(report["accuracy"], abs=1e-6)
    detector = checkpoint.load_detector(folder / "detector")
    assert float(detector.threshold) == report["threshold"]
    assert list((folder / "checkpoints").iterdir())
    drawn = {path.stem for path in (folder / "figures").glob("*.png")}
    assert drawn >= ALWAYS_DRAWN
    assert not list(folder.rglob(".*")), "nothing temporary stays"


def test_there_is_one_experiment_for_every_reference_system():
    names = {module.__name__.rpartition(".")[2] for module in EXPERIMENTS}
    assert names >= {"digits_conv", "mnist_conv", "ecg_dense"}


@pytest.mark.parametrize("module", EXPERIMENTS, ids=lambda module: module.CONFIG.name)
def test_an_experiment_has_a_record_and_a_valid_configuration(module):
    assert module.__doc__
    cfg = config.validate(module.CONFIG)
    assert cfg.name == module.__name__.rpartition(".")[2]
    assert cfg == config.from_json(config.to_json(cfg))


@pytest.mark.slow
@pytest.mark.parametrize("module", EXPERIMENTS, ids=lambda module: module.CONFIG.name)
def test_smoke_run_on_the_real_data(module, data_dir, tmp_path):
    report = run(
        module.CONFIG,
        tmp_path / "run",
        "--train.epochs",
        1,
        "--data.limit",
        64,
        "--train.batch-size",
        32,
        "--data.dir",
        data_dir,
    )
    check_contract(tmp_path / "run", report)


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
    monkeypatch.setattr(plots, "draw", lambda folder: [])


def modified(folder):
    return {path: path.stat().st_mtime_ns for path in (folder / "checkpoints").rglob("*")}


def test_the_same_command_goes_on_where_the_run_stands(cfg, tmp_path, capsys, undrawn):
    first = run(cfg, tmp_path, "--train.epochs", 2)
    shown = capsys.readouterr().out
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


def test_an_interrupted_run_ends_as_if_nothing_had_happened(
    cfg, tmp_path, monkeypatch, capsys, undrawn
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = run(cfg, whole)
    append = runlog.append_metrics

    def interrupted(path, row):
        if row["epoch"] == 3:
            raise KeyboardInterrupt
        append(path, row)

    with monkeypatch.context() as patch:
        patch.setattr(runlog, "append_metrics", interrupted)
        with pytest.raises(SystemExit) as stop:
            run(cfg, broken)
    assert stop.value.code == 130
    assert "resumes" in capsys.readouterr().err
    assert not (broken / "report.json").exists()

    report = run(cfg, broken)
    assert_same(state_in(broken), state_in(whole))
    with np.load(whole / "scores.npz") as one, np.load(broken / "scores.npz") as other:
        assert_same(dict(one), dict(other))
    assert_same(
        checkpoint.load_detector(whole / "detector"), checkpoint.load_detector(broken / "detector")
    )
    untimed = FIELDS - {"wall_s", "compile_s", "steps_per_s"}
    assert {k: report[k] for k in untimed} == {k: expected[k] for k in untimed}
    losses = [
        [
            (r["epoch"], r["loss"], r["valid_loss"])
            for r in runlog.read_metrics(folder / "metrics.jsonl")
        ]
        for folder in (whole, broken)
    ]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_the_python_of_the_readme_runs(capsys):
    readme = (Path(__file__).parent.parent / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    assert float(re.search(r"'auroc': ([\d.]+)", capsys.readouterr().out).group(1)) > 0.99
