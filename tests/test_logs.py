"""Loggers hear what the run's own log holds."""

import builtins
import json

import pytest
from probes import tiny, write_npz

from jaxae import Logger
from jaxae.errors import UserError
from jaxae.storage import disk
from jaxae.workflows import experiment


class Heard(Logger):
    def __init__(self):
        self.said = []

    def start(self, config, folder, done):
        self.said.append(("start", config["name"], folder.name, done))

    def epoch(self, epoch, metrics):
        self.said.append((epoch, metrics))

    def finish(self, report):
        self.said.append(("finish", report["auroc"]))


def config(folder, **changes):
    return tiny(
        data__name=f"npz:{write_npz(folder / 'x.npz')}", run_dir=str(folder / "run"), **changes
    )


def test_a_logger_hears_the_epochs_and_the_report(tmp_path):
    heard = Heard()
    report = experiment.run(config(tmp_path), [heard, Logger()])
    past = disk.read_metrics(tmp_path / "run/metrics.jsonl")
    assert heard.said[0] == ("start", "tiny", "run", 0)
    assert [{"epoch": epoch, **metrics} for epoch, metrics in heard.said[1:-1]] == past
    assert heard.said[-1] == ("finish", report["auroc"])


def test_a_resumed_run_says_what_is_behind_it(tmp_path):
    cfg = config(tmp_path, train__epochs=4, train__checkpoint_every=1)
    experiment.run(config(tmp_path, train__epochs=2))
    heard = Heard()
    experiment.run(cfg, [heard])
    assert heard.said[0][-1] == 2
    assert [epoch for epoch, _ in heard.said[1:-1]] == [3, 4]


def test_a_logger_that_fails_leaves_a_run_that_resumes(tmp_path):
    class Failing(Logger):
        def epoch(self, epoch, metrics):
            if epoch == 2:
                raise RuntimeError("no connection")

    cfg = config(tmp_path, train__epochs=3, train__checkpoint_every=1)
    with pytest.raises(RuntimeError, match="no connection"):
        experiment.run(cfg, [Failing()])
    report = experiment.run(cfg)
    alone = experiment.run(
        tiny(data__name=cfg.data.name, run_dir=str(tmp_path / "alone"), train__epochs=3)
    )
    assert report["auroc"] == alone["auroc"]
    assert report["train_loss"] == alone["train_loss"]


def test_tensorboard_has_a_scalar_for_each_metric_of_each_epoch(tmp_path):
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    experiment.run(config(tmp_path, tensorboard=True))
    (path,) = (tmp_path / "run/tensorboard").iterdir()
    content, at, found = path.read_bytes(), 0, {}
    while at < len(content):  # length, its check sum, the event, its check sum
        size = int.from_bytes(content[at : at + 8], "little")
        event = Event.FromString(content[at + 12 : at + 12 + size])
        for value in event.summary.value:
            found[value.tag, event.step] = value.simple_value
        at += size + 16
    for line in map(json.loads, (tmp_path / "run/metrics.jsonl").read_text().splitlines()):
        for name in ("loss", "valid_loss"):
            assert found[name, line["epoch"]] == pytest.approx(line[name], rel=1e-6)
    assert ("report/auroc", 0) in found


def test_without_the_package_tensorboard_is_refused_before_training(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **more):
        if name == "tensorboardX":
            raise ImportError(name)
        return real(name, *args, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UserError, match=r"jaxae\[tensorboard\]"):
        experiment.run(config(tmp_path, tensorboard=True))
    assert not (tmp_path / "run").exists()
