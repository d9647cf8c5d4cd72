"""A budget chooses how many epochs are trained, by the clock; all else is as without one."""

import jax
import numpy as np
import pytest
from probes import DEVICES, assert_same, edit, images, tiny, write_npz

from jaxae.cli import main as cli
from jaxae.config import from_json, to_json
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.storage import disk
from jaxae.training import speed, train
from jaxae.workflows import budget

ROWS = images(40)  # five steps of eight rows


def settled(monkeypatch, folder, steps_per_s, **changes):
    """What is chosen for at most 200 epochs, on a machine of this speed."""
    cfg = edit(tiny(train__epochs=200, run_dir=str(folder)), {"train.budget": 60.0} | changes)
    asked = edit(cfg, {"train.epochs": "auto"})
    found = speed.Speed(steps_per_s, 0.0, 0, 0, None)
    monkeypatch.setattr(speed, "measure", lambda *args: found)
    learner = learners.build(cfg, ROWS.shape[1:])
    return budget.settle(asked, cfg, learner, ROWS, DEVICES[:1]).train.epochs


@pytest.mark.parametrize(
    ("steps_per_s", "epochs", "words"),
    [
        (1000.0, 200, "all 200 epochs, 1000 steps, take about 1 s, within train.budget 60 s"),
        (2.0, 24, "24 epochs, 120 steps fit into train.budget 60 s, of 200 that these rows could"),
        (0.05, 1, "one epoch of 5 steps takes about 100 s, more than train.budget 60 s; an epoch"),
    ],
)
def test_whole_epochs_fit_or_one_is_trained(
    steps_per_s, epochs, words, monkeypatch, tmp_path, capsys
):
    assert settled(monkeypatch, tmp_path, steps_per_s) == epochs
    (line,) = capsys.readouterr().out.splitlines()
    assert words in line
    if epochs == 1:
        assert "--data.limit 24 " in line  # three steps of eight rows


def test_what_was_begun_keeps_its_epochs_unless_the_budget_is_another(
    monkeypatch, tmp_path, capsys
):
    def begin(**changes):
        cfg = tiny(run_dir=str(tmp_path), **changes)
        disk.write_text(tmp_path / "config.json", to_json(cfg))

    begin(train__epochs=7, train__budget=60.0)
    assert settled(monkeypatch, tmp_path, 2.0) == 7
    assert "was begun with 7 epochs, which stay" in capsys.readouterr().out
    begin(train__epochs=7)
    assert settled(monkeypatch, tmp_path, 2.0) == 24
    begin(train__epochs=90, train__budget=600.0)
    assert settled(monkeypatch, tmp_path, 2.0) == 90  # an epoch on record is never lost
    disk.write_text(tmp_path / "config.json", "{")
    assert settled(monkeypatch, tmp_path, 2.0) == 24


def test_measuring_leaves_no_trace_in_the_training():
    cfg = tiny(optim__schedule="cosine")
    learner = learners.build(cfg, ROWS.shape[1:])

    def trained():
        state = train.fit(learner, ROWS, cfg, DEVICES[:1], quiet=True).state
        return jax.device_get(state)

    before, speeds = trained(), []

    def enough(found):
        speeds[:] = found
        return len(found) == 3

    found = speed.measure(learner, ROWS, cfg, DEVICES[:1], enough)
    assert found.steps_per_s == np.median(speeds[1:])
    assert found.memory > 0
    assert found.traffic > 0
    assert_same(before, trained())


def test_a_batch_that_does_not_fit_is_said_before_anything_is_measured(monkeypatch):
    cfg = tiny()
    learner = learners.build(cfg, ROWS.shape[1:])
    monkeypatch.setattr("jaxae.devices.memory.held", lambda device: 1000)
    with pytest.raises(UserError, match=r"train.batch_size 8 does not fit into the memory"):
        speed.measure(learner, ROWS, cfg, DEVICES[:1], lambda speeds: True)


@pytest.mark.slow
def test_a_run_with_a_budget_repeats_without_a_clock(monkeypatch, tmp_path, capsys):
    write_npz(tmp_path / "x.npz")
    flags = ["--data.name", f"npz:{tmp_path / 'x.npz'}", "--method", "dense", "--score", "mse"]
    flags += ["--optim.schedule", "cosine"]

    def run(name, *more):
        cli.main(["train", *more, "--run-dir", str(tmp_path / name)])
        lines = capsys.readouterr().out.splitlines()
        return sorted(line for line in lines if line.startswith("digest."))

    measured = run("one", *flags, "--train.budget", "0.02")
    recorded = from_json((tmp_path / "one" / "config.json").read_text()).train
    assert 1 <= recorded.epochs < 200
    assert recorded.budget == 0.02
    monkeypatch.setattr(speed, "measure", None)
    assert measured
    assert run("one", *flags, "--train.budget", "0.02") == measured
    assert run("two", "--config", str(tmp_path / "one" / "config.json")) == measured
    assert run("three", *flags, "--train.epochs", str(recorded.epochs)) == measured
    cli.main(["verify", str(tmp_path / "one"), "--retrain"])
