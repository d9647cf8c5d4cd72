"""Loggers hear what the run's own log holds."""

import builtins
import dataclasses
import json
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from probes import (
    DEVICES,
    assert_same,
    dataset,
    edit,
    images,
    initial,
    interrupted,
    tiny,
    write_npz,
)

from jaxae import Logger, detectors
from jaxae.config.grids import CrossConfig, ProtocolConfig
from jaxae.data.arrayfiles import read_npz
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.reports import media
from jaxae.reports.plots import rows
from jaxae.storage import disk
from jaxae.workflows import experiment, protocol


class Heard(Logger):
    def __init__(self):
        self.said = []

    def start(self, config, folder, done):
        self.said.append(("start", config["name"], folder.name, done))

    def epoch(self, epoch, metrics):
        self.said.append((epoch, metrics))

    def finish(self, report):
        self.said.append(("finish", report["auroc"]))


class Shown(Logger):
    """Keeps the media of every second epoch and of the end."""

    media_every = 2

    def __init__(self):
        self.media_of = []

    def start(self, config, folder, done):
        self.folder, self.done = folder, done

    def media(self, epoch, media):
        self.media_of.append((epoch, media))


def grid(folder, **changes):
    """A protocol of two classes and one seed."""
    y = np.arange(48) % 2
    bright = images(48) * (0.5 + 0.5 * y[:, None, None, None])
    np.savez(folder / "two.npz", x_train=bright, y_train=y, x_test=bright[:20], y_test=y[:20])
    small = tiny(data__name=f"npz:{folder / 'two.npz'}", run_dir=str(folder / "grid"))
    fields = {field.name: getattr(small, field.name) for field in dataclasses.fields(small)}
    dotted = {name.replace("__", "."): value for name, value in changes.items()}
    return edit(ProtocolConfig(**fields, seeds=1, baselines=()), dotted)


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


def events(folder):
    """(tag, step) -> value in the event file of a folder."""
    pytest.importorskip("tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    (path,) = (folder / "tensorboard").iterdir()
    content, at, found = path.read_bytes(), 0, {}
    while at < len(content):  # length, its check sum, the event, its check sum
        size = int.from_bytes(content[at : at + 8], "little")
        event = Event.FromString(content[at + 12 : at + 12 + size])
        found |= {(value.tag, event.step): value for value in event.summary.value}
        at += size + 16
    return found


def check_events(folder):
    found = events(folder)
    for line in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()):
        for name in ("loss", "valid_loss"):
            logged = found[name, line["epoch"]].simple_value
            assert logged == pytest.approx(line[name], rel=1e-6)
    assert ("report/auroc", 0) in found
    assert found["reconstructions", line["epoch"]].image.encoded_image_string.startswith(b"\x89PNG")
    assert found["normal_score", line["epoch"]].histo.num > 0
    return found


def test_tensorboard_has_each_metric_of_each_epoch_and_shows_the_end(tmp_path):
    experiment.run(config(tmp_path, tensorboard=True))
    assert check_events(tmp_path / "run")["figures/roc_pr", 2].image.width > 300


def test_each_member_of_a_protocol_has_its_event_files(tmp_path):
    pytest.importorskip("tensorboardX")
    protocol.run(grid(tmp_path, tensorboard=True))
    for k in (0, 1):
        check_events(tmp_path / f"grid/members/class{k}-seed0")
    again = protocol.run(grid(tmp_path))  # finished members are those without a log, too
    assert again["members"] == 2
    assert len(list(tmp_path.glob("grid/members/*/tensorboard/*"))) == 2


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


def test_nothing_is_shown_to_loggers_that_do_not_ask(tmp_path, monkeypatch):
    def computed(*args):
        raise AssertionError

    monkeypatch.setattr(media, "of_epoch", computed)
    monkeypatch.setattr(media, "of_run", computed)
    experiment.run(config(tmp_path), [Heard(), Logger()])


def check_picture(picture, height=None):
    assert picture.dtype == np.float32
    assert picture.ndim == 3
    assert picture.shape[-1] == 3
    assert 0 <= picture.min() < picture.max() <= 1
    assert height is None or len(picture) == height


def check_table(table, folder):
    stored = read_npz(folder / "scores.npz")
    assert [*table] == ["id", "class_id", "y", "score", "p_value", "is_anomaly"]
    for name in ("id", "class_id", "y", "is_anomaly"):
        assert table[name] == stored[f"test_{name}"].tolist()
    assert table["score"] == stored["test"].tolist()
    judged = detectors.judge(
        detectors.load(folder / "detector"), read_npz(folder / "../x.npz")["x_test"]
    )
    assert table["p_value"] == judged.p_value.tolist()


def test_media_are_of_the_same_rows_in_every_epoch_and_the_end_has_tables(tmp_path):
    shown = Shown()
    experiment.run(config(tmp_path, train__epochs=5), [shown])
    assert [epoch for epoch, _ in shown.media_of] == [2, 4, 5]
    (_, first), (_, second), (_, last) = shown.media_of
    for found in (first, second, last):
        picture = found.images["reconstructions"]
        check_picture(picture, 2 * (8 + 1) + 1)  # two rows of eight pixels, lines around
        assert picture.shape[1] == 16 * (8 + 1) + 1  # eight held-out rows, eight anomalies
    above, below = slice(1, 9), slice(10, 18)
    np.testing.assert_array_equal(
        *(found.images["reconstructions"][above] for found in (first, last))
    )
    assert (first.images["reconstructions"] != last.images["reconstructions"])[below].any()
    anomalies = 1 - images(24, 1)[np.unique(np.linspace(0, 23, 8).astype(int))]
    drawn = first.images["reconstructions"][above, 8 * 9 + 1 : 8 * 9 + 9, 0]
    np.testing.assert_allclose(drawn, anomalies[0, ..., 0], atol=1 / 255)
    stored = read_npz(tmp_path / "run/scores.npz")
    np.testing.assert_array_equal(last.histograms["valid_mse"], stored["valid"])
    np.testing.assert_array_equal(last.histograms["anomaly_mse"], last.histograms["anomaly_score"])
    assert first.histograms["valid_mse"].shape == stored["valid"].shape
    assert not first.tables
    check_table(last.tables["test"], tmp_path / "run")
    check_picture(last.images["figures/roc_pr"])
    even = Shown()
    experiment.run(config(tmp_path, train__epochs=6), [even])  # the same run goes on
    assert [epoch for epoch, _ in even.media_of] == [6], "once, at the end"


@pytest.mark.slow
def test_rows_that_are_no_images_are_drawn_as_lines(tmp_path):
    cfg, shown = config(tmp_path, score="latent_knn", train__epochs=3), Shown()
    x = np.random.default_rng(0).random((80, 6), np.float32)
    np.savez(tmp_path / "x.npz", x_train=x[:60], x_test=x[60:], y_test=np.arange(20) // 19)
    experiment.run(cfg, [shown])
    _, found = shown.media_of[0]
    check_picture(found.images["reconstructions"])
    assert found.histograms.keys() == {"valid_mse", "anomaly_mse"}  # the score must be fitted
    assert len(found.histograms["anomaly_mse"]) == 1
    check_picture(rows.pairs(x[:5].reshape(5, 3, 2), x[:5].reshape(5, 3, 2), np.repeat("valid", 5)))


@pytest.mark.slow
def test_loggers_do_not_change_a_run(tmp_path):
    DEVICES[:2]
    fixed = {"devices": 2, "train__select": "valid_loss", "ensemble": 2, "train__epochs": 3}
    experiment.run(config(tmp_path, **fixed))
    before = (tmp_path / "run").rename(tmp_path / "before")
    experiment.run(config(tmp_path, **fixed), [Shown()])
    for name, values in read_npz(before / "scores.npz").items():
        np.testing.assert_array_equal(values, read_npz(tmp_path / "run/scores.npz")[name])
    one, other = (
        json.loads((folder / "report.json").read_text())["digest"]
        for folder in (before, tmp_path / "run")
    )
    assert one == other


def test_what_loggers_see_does_not_depend_on_the_devices(monkeypatch):
    x = images(40)
    data, cfg = dataset(x[:20], x[20:30], x[30:], 1 - x[:0]), tiny()
    learner = learners.build(cfg, data.shape)
    variables = initial(learner, size=2).variables
    found = []
    for count in (1, 4):
        monkeypatch.setattr(media.jax, "local_devices", lambda n=count: DEVICES[:n])
        found.append(media.of_epoch(cfg, learner, data, variables))
    assert_same(*found)
    assert found[0].histograms.keys() == {"valid_mse"}  # there are no anomalies


def test_cross_conformal_p_values_are_shown_too(tmp_path):
    given, shown = grid(tmp_path), Shown()
    fields = {field.name: getattr(given, field.name) for field in dataclasses.fields(tiny())}
    protocol.cross.run(CrossConfig(**fields, folds=2, alpha=0.2), [shown])
    ((end, found),) = shown.media_of
    assert end == 2
    stored = read_npz(tmp_path / "grid/scores.npz")
    assert found.tables["test"]["p_value"] == stored["p_value"].tolist()
    assert found.tables["test"]["score"] == stored["test"].tolist()
    check_picture(found.images["figures/p_values"])


@pytest.mark.slow
def test_members_have_loggers_of_their_own_which_see_what_one_alone_sees(tmp_path):
    found = {}

    def loggers(member):
        found[member.run_path.name] = logger = Shown()
        return [logger]

    cfg = grid(tmp_path, devices=1, train__epochs=4, train__checkpoint_every=1)
    with interrupted(epoch=3), pytest.raises(KeyboardInterrupt):
        protocol.run(cfg, loggers)
    first = {name: logger.media_of for name, logger in found.items()}
    protocol.run(cfg, loggers)
    assert found.keys() == {"class0-seed0", "class1-seed0"}
    for name, logger in found.items():
        assert logger.done == 2
        assert [epoch for epoch, _ in first[name] + logger.media_of] == [2, 4]
        _, last = logger.media_of[-1]
        stored = read_npz(tmp_path / "grid/members" / name / "scores.npz")
        assert last.tables["test"]["score"] == stored["test"].tolist()
    member = protocol.expand(cfg)[0][1]
    alone = Shown()
    experiment.run(dataclasses.replace(member, run_dir=str(tmp_path / "alone")), [alone])
    for (_, one), (_, other) in zip(
        first["class1-seed0"] + found["class1-seed0"].media_of, alone.media_of, strict=True
    ):
        for part in ("images", "histograms"):
            for name, values in getattr(one, part).items():
                np.testing.assert_array_equal(values, getattr(other, part)[name])


def test_members_that_are_only_scored_again_are_logged_too(tmp_path):
    protocol.run(grid(tmp_path))
    heard = []
    protocol.run(grid(tmp_path, score="mae"), lambda member: [heard.append(Heard()) or heard[-1]])
    for logger in heard:
        assert [said[0] for said in logger.said] == ["start", "finish"]
        assert logger.said[0][-1] == 2  # epochs
    assert len(heard) == 2


class FakeWandB(ModuleType):
    """Weights & Biases as far as docs/logging.md uses it; refuses what it would refuse."""

    def __init__(self):
        super().__init__("wandb")
        self.runs = []

    def init(self, *, id, resume, reinit, project, group, name, config):
        assert (resume, reinit) == ("allow", "create_new")
        assert json.dumps(config)
        run = SimpleNamespace(id=id or f"id{len(self.runs)}", name=name, group=group, seen=[])
        run.summary, run.finished = {}, []
        run.finish = lambda: run.finished.append(True)

        def log(values, step):
            assert not run.seen or run.seen[-1][0] <= step
            run.seen.append((step, values))

        run.log = log
        self.runs.append(run)
        return run

    def Image(self, data):
        check_picture(data)
        return "image", data

    def Histogram(self, values):
        assert np.isfinite(values).all()
        assert values.ndim == 1
        return "histogram", values

    def Table(self, columns, data):
        assert {len(row) for row in data} == {len(columns)}
        assert json.dumps(data)
        return "table", dict(zip(columns, zip(*data, strict=True), strict=True))

    def check(self, run, folder, epochs):
        report = json.loads((folder / "report.json").read_text())
        assert run.summary.items() <= report.items()
        assert run.summary["auroc"] == report["auroc"]
        assert run.finished
        metrics = [values for _, values in run.seen if "loss" in values]
        assert len(metrics) == epochs
        (step, last), kinds = run.seen[-1], {"image", "histogram", "table"}
        assert step == epochs
        assert {kind for kind, _ in last.values()} == kinds
        return last["test"][1]


class FakeMLflow(ModuleType):
    """MLflow as far as docs/logging.md uses it."""

    def __init__(self):
        super().__init__("mlflow")
        self.runs, self.MlflowClient = {}, lambda: self

    def set_experiment(self, name):
        return SimpleNamespace(experiment_id=name)

    def create_run(self, experiment, run_name):
        run = SimpleNamespace(info=SimpleNamespace(run_id=f"id{len(self.runs)}"), metrics={})
        run.group, run.name, run.images, run.finished = experiment, run_name, {}, False
        self.runs[run.info.run_id] = run
        return run

    def log_dict(self, run, values, file):
        self.runs[run].config = json.loads(json.dumps(values))

    def log_metrics(self, metrics, step=None, *, run_id):
        assert all(isinstance(value, int | float) for value in metrics.values())
        self.runs[run_id].metrics |= {(name, step): value for name, value in metrics.items()}

    def log_image(self, run, image, *, key, step):
        check_picture(image)
        assert re.fullmatch(r"[\w\-./ ]+", key)  # as MLflow demands
        self.runs[run].images[key, step] = image

    def log_table(self, run, table, file):
        assert json.dumps(table)
        self.runs[run].tables = {file: table}

    def set_terminated(self, run):
        self.runs[run].finished = True

    def check(self, run, folder, epochs):
        report = json.loads((folder / "report.json").read_text())
        assert run.metrics["report/auroc", None] == report["auroc"]
        assert {step for name, step in run.metrics if name == "loss"} == {*range(1, epochs + 1)}
        assert run.finished
        assert ("reconstructions", epochs) in run.images
        return run.tables["test.json"]


def taught(package, monkeypatch):
    """The logger that docs/logging.md shows for a package, which is a fake one here."""
    monkeypatch.setitem(sys.modules, package.__name__, package)
    page = (Path(__file__).parents[1] / "docs/logging.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    (code,) = (code for code in blocks if f"import {package.__name__}" in code)
    space = {}
    exec(code, space)
    (logger,) = (v for v in space.values() if isinstance(v, type) and issubclass(v, Logger))
    return logger


@pytest.mark.parametrize("fake", [FakeWandB, FakeMLflow])
def test_the_loggers_of_the_page_log_a_run_that_is_resumed(tmp_path, monkeypatch, fake):
    package = fake()
    logger = taught(package, monkeypatch)
    cfg = config(tmp_path, train__epochs=6, train__checkpoint_every=2)
    with interrupted(epoch=3), pytest.raises(KeyboardInterrupt):
        experiment.run(cfg, [logger()])
    experiment.run(cfg, [logger()])
    if fake is FakeWandB:  # a new object for the same run
        first, run = package.runs
        assert first.id == run.id
        run.seen[:0] = first.seen
        assert [step for step, values in run.seen if "reconstructions" in values] == [5, 6]
    else:
        (run,) = package.runs.values()
        assert ("reconstructions", 5) in run.images
    assert (run.name, run.group) == ("run", "tiny")
    table = package.check(run, tmp_path / "run", 6)
    assert [*table["id"]] == read_npz(tmp_path / "run/scores.npz")["test_id"].tolist()


@pytest.mark.parametrize("fake", [FakeWandB, FakeMLflow])
def test_the_loggers_of_the_page_log_each_member_of_a_protocol(tmp_path, monkeypatch, fake):
    package = fake()
    logger = taught(package, monkeypatch)
    protocol.run(grid(tmp_path), lambda member: [logger()])
    runs = package.runs if fake is FakeWandB else [*package.runs.values()]
    assert [run.name for run in runs] == ["class0-seed0", "class1-seed0"]
    for run in runs:
        folder = tmp_path / "grid/members" / run.name
        assert run.group == "tiny"
        table = package.check(run, folder, 2)
        assert [*table["score"]] == read_npz(folder / "scores.npz")["test"].tolist()
        assert [*table["y"]].count(True) == 10
