"""`jaxae verify` of a run that somebody changed, also after the manifest was made to fit."""

import json
import os
import shutil
from pathlib import Path

import forging
import numpy as np
import pytest
from forging import arrays, gone, text, values
from probes import tiny, write_npz

from jaxae.cli import main as cli
from jaxae.storage import manifest
from jaxae.workflows import experiment, verification


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Two runs, with other seeds, and their data beside them, by a relative path."""
    folder, before = tmp_path_factory.mktemp("forged"), Path.cwd()
    os.chdir(folder)
    try:
        write_npz(folder / "x.npz")
        for seed, name in enumerate(("one", "other")):
            experiment.run(tiny(data__name="npz:x.npz", run_dir=f"runs/{name}", seed=seed))
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def copy(home):
    copy = shutil.copytree(home / "runs/one", home / "runs/copy")
    yield copy
    shutil.rmtree(copy)


def found(folder):
    """What is not ok: name -> outcome."""
    return {c.name: c.outcome for c in verification.verify(folder) if not c.ok}


def scores(**edits):
    return arrays("scores.npz", **edits)


def config(*path, value):
    """The same change of the configuration in both files that have it."""

    def change(run):
        values("config.json", *path, value=value)(run)
        values(DESCRIPTION, "config", *path, value=value)(run)

    return change


def exchange(name):
    """Take a folder of the other run."""

    def change(run):
        shutil.rmtree(run / name)
        shutil.copytree(run.parent / "other" / name, run / name)

    return change


def lower_loss(run):
    lines = (run / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    lower = {**last, "valid_loss": last["valid_loss"] * 0.99}
    (run / "metrics.jsonl").write_text("\n".join([*lines[:-1], json.dumps(lower), ""]))
    values("report.json", "valid_loss", value=lower["valid_loss"])(run)


DESCRIPTION = "detector/description.json"
CHANGES = {  # what fails when the manifest fits again, and what is changed
    "decisions inverted": ("decisions", scores(test_is_anomaly=np.invert)),
    "labels inverted": ("scores report", scores(test_y=np.invert)),
    "train doubled": ("scores report", scores(train=lambda x: 2 * x)),
    "valid doubled": ("decisions scores report", scores(valid=lambda x: 2 * x)),
    "less than rounding": ("report", scores(train=lambda x: x + np.float32(2e-6))),
    "rows exchanged": ("scores", scores(test_id=np.flip)),
    "texts": ("decisions scores report", scores(test=lambda x: x.astype(str))),
    "AUROC": ("report", values("report.json", "auroc", value=0.9999)),
    "a metric of none": ("report", values("report.json", "auroc_of_others", value=0.9999)),
    "learning rate": ("configuration", values("config.json", "optim", "lr", value=0.5)),
    "seed everywhere": ("checkpoint report", config("seed", value=7)),
    "learning rate everywhere": ("checkpoint", config("optim", "lr", value=0.5)),
    "score everywhere": ("scores report", config("score", value="mae")),
    "rule everywhere": ("detector report", config("threshold", "rule", value="quantile:0.9")),
    "members of the detector": ("detector", values(DESCRIPTION, "members", value=2)),
    "shape of the detector": ("data", values(DESCRIPTION, "shape", value=[4, 16, 1])),
    "width of the detector": ("detector data", values(DESCRIPTION, "shape", value=[9, 8, 1])),
    "metrics": ("losses report", text("metrics.jsonl", "garbage\n")),
    "metrics deleted": ("losses report", gone("metrics.jsonl")),
    "validation loss everywhere": ("losses", lower_loss),
    "provenance": ("configuration", text("provenance.jsonl", "garbage\n")),
    "provenance deleted": ("configuration", gone("provenance.jsonl")),
    "tuning": ("configuration", text("tuning.json", "[]")),
    "a report that is none": ("report", text("report.json", "[]")),
    "report deleted": ("report", gone("report.json")),
    "checkpoints of another": ("checkpoint", exchange("checkpoints")),
    "detector of another": (
        "configuration checkpoint decisions scores report",
        exchange("detector"),
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_found_even_if_the_manifest_fits(copy, what):
    failing, change = CHANGES[what]
    change(copy)
    assert manifest.changed(copy)
    manifest.seal(copy)
    failed = [name for name, outcome in found(copy).items() if outcome == "FAILED"]
    assert {name.split()[0] for name in failed} >= {*failing.split()}


@pytest.mark.parametrize(
    "change",
    [
        gone("checkpoints"),
        lambda run: next(run.glob("figures/*")).write_bytes(b""),
        lambda run: next(run.glob("arrays/*")).write_bytes(b""),
        lambda run: (run / "figures/more.png").touch(),
        text("manifest.json", "{}"),
        values("manifest.json", "format", value=True),
    ],
)
def test_what_only_the_manifest_can_tell(copy, change):
    change(copy)
    assert found(copy) == {"files": "FAILED"}


def test_random_changes_are_found(home):
    one, other, scratch = (home / "runs" / name for name in ("one", "other", "scratch"))
    tally = forging.tally_of(one, other, 24, 0, scratch)
    assert tally["same"] < 6  # such as a line of a log that takes its own place


def test_nothing_is_written(copy):
    def seen():
        return {path: path.stat().st_mtime_ns for path in copy.rglob("*")}

    before = seen()
    assert found(copy) == {}
    assert seen() == before


def test_files_of_a_logger_are_free(copy):
    (copy / "events.log").write_text("mine")
    (copy / "tensorboard").mkdir()
    (copy / "tensorboard/events").write_text("mine")
    assert found(copy) == {}
    manifest.seal(copy)
    assert not {"events.log", "tensorboard/events"} & {*manifest.read(copy)}


def test_a_damaged_detector_leaves_what_does_not_need_it(copy):
    next(copy.glob("detector/*.npz")).write_bytes(b"PK")
    outcomes = found(copy)
    assert outcomes.pop("files") == outcomes.pop("detector") == "FAILED"
    assert {*outcomes.values()} == {"not checked"}


def test_a_run_whose_detector_is_gone_is_still_a_run(copy):
    shutil.rmtree(copy / "detector")
    outcomes = found(copy)
    assert outcomes["files"] == outcomes["detector"] == "FAILED"
    assert "data" not in outcomes


def test_data_are_found_from_anywhere_and_by_links(home, copy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_npz(tmp_path / "x.npz", seed=5)  # others, under the same name
    assert found(copy) == {}
    (tmp_path / "link").symlink_to(copy)
    assert found(tmp_path / "link") == {}
    kept = shutil.move(copy / "report.json", tmp_path / "report")
    (copy / "report.json").symlink_to(kept)
    detector = shutil.move(copy / "detector", tmp_path / "detector")
    (copy / "detector").symlink_to(detector)
    assert found(copy) == {}
    assert found(detector) == {}


def test_missing_data_are_said_and_nothing_is_wrong(home, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    moved = shutil.copytree(home / "runs/one", tmp_path / "runs/moved")
    with pytest.raises(SystemExit) as stop:
        cli.main(["verify", str(moved), "--json"])
    said = capsys.readouterr()
    assert stop.value.code == 3
    assert said.err.endswith("not checked: data, scores, losses\n")
    checks = {check["name"]: check for check in json.loads(said.out)}
    assert "does not exist" in checks["data"]["words"]
    CHANGES["AUROC"][1](moved)
    manifest.seal(moved)
    unchecked = dict.fromkeys(("data", "scores", "losses"), "not checked")
    assert found(moved) == unchecked | {"report": "FAILED"}
    write_npz(tmp_path / "x.npz", seed=5)
    assert found(moved)["data"] == "FAILED"  # there are data, and they are others
