"""Settings that a method from outside has of its own: the example of docs/adding_a_method.md."""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest

from jaxae import AutoencoderDetector, config, detectors
from jaxae.config import ExperimentConfig, ProtocolConfig, from_dict, to_dict, to_json
from jaxae.config.checks import training_identity
from jaxae.config.fields import METHOD_SETTINGS, Amount, Fact
from jaxae.config.grids import experiment_of
from jaxae.config.parsing import completion, parse_cli
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.reports import plots
from jaxae.workflows import experiment, protocol

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/adding_a_method.md").read_text()
(CODE,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The user's file."""
    path = tmp_path_factory.mktemp("own") / "masked.py"
    path.write_text(CODE)
    return path


def forget(name):
    del learners.METHODS[name], METHOD_SETTINGS[name]


@pytest.fixture
def own(file, monkeypatch):
    """The user's module, imported; the method is forgotten after the test."""
    spec = importlib.util.spec_from_file_location("masked", file)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "masked", module)
    spec.loader.exec_module(module)
    yield module
    forget("masked")


def edited(cfg, **changes):
    own = dataclasses.replace(cfg.method_settings, **changes)
    return dataclasses.replace(cfg, method_settings=own)


# The command line.


def test_flags_set_them_and_help_shows_them(own, capsys):
    found = parse_cli(own.CONFIG, ["--masked.share", "0.25", "--train.epochs", "3"])
    assert type(found) is ExperimentConfig
    assert found.method_settings == own.Masked(share=0.25)
    assert parse_cli(own.CONFIG, []) == own.CONFIG
    with pytest.raises(SystemExit):
        parse_cli(own.CONFIG, ["--help"])
    text = capsys.readouterr().out
    assert re.search(r"--masked\.share FLOAT\s+│?\n?.*share of the values that are hidden", text)
    assert "Settings of the masked autoencoder." in text
    assert "method-settings" not in text


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--masked.share", "1.5"], r"masked\.share is 1\.5; it must be between 0 and 1"),
        (["--masked.width", "0"], r"masked\.width is 0; it must be at least 1"),
        (["--masked.width", "wide"], r"--masked\.width.*'wide'"),
        (["--masked.depth", "3"], r"--masked\.depth"),
    ],
)
def test_values_are_checked_as_those_of_the_package_are(own, args, words):
    with pytest.raises(UserError, match=words):
        parse_cli(own.CONFIG, args)


def test_without_such_a_method_no_flag_and_no_field_is_to_be_seen(capsys):
    with pytest.raises(SystemExit):
        parse_cli(ExperimentConfig(name="x"), ["--help"])
    assert "method-settings" not in capsys.readouterr().out
    assert "method-settings" not in completion({}, {"train": ExperimentConfig(name="x")}, "bash")
    fields = {field.name for field in dataclasses.fields(ExperimentConfig)}
    assert to_dict(ExperimentConfig(name="x")).keys() == fields - {"method_settings"} | {"format"}


# The configuration.


def test_defaults_follow_the_method(own):
    cfg = ExperimentConfig(name="x", method="masked")
    assert cfg.method_settings == own.Masked()
    assert dataclasses.replace(cfg, method="dense").method_settings is None
    other = dataclasses.replace(own.CONFIG, method="dense")  # 0.6 would be ignored
    with pytest.raises(UserError, match="must be None: method dense has no settings of its own"):
        config.validate(other)


def test_what_is_no_such_setting_is_refused(own):
    for wrong in (3, "share", own.Masked, {"share": 0.5}):
        with pytest.raises(UserError, match=r"method_settings is .*; it must be a Masked; make"):
            config.validate(ExperimentConfig(name="x", method="masked", method_settings=wrong))


def test_they_are_kept_in_json_and_read_again(own):
    text = to_json(own.CONFIG)
    assert json.loads(text)["masked"] == {"share": 0.6, "width": 128}
    assert config.from_json(text) == own.CONFIG
    del (values := to_dict(own.CONFIG))["masked"]["width"]
    assert from_dict(values) == own.CONFIG  # a field that is newer than the run has its default
    for section, words in (
        ({"share": 2}, r"masked\.share is 2; it must be between"),
        ({"depth": 2}, r"unknown fields \['masked\.depth'\]"),
        (3, r"masked is 3; it must be a JSON object"),
    ):
        with pytest.raises(UserError, match=words):
            from_dict(to_dict(own.CONFIG) | {"masked": section})


def test_where_the_method_is_not_known_one_line_says_which_is_missing(own):
    text = to_json(own.CONFIG)
    entry = learners.METHODS["masked"]
    forget("masked")
    try:
        with pytest.raises(UserError, match="method 'masked' is not known here; import the module"):
            config.from_json(text)
    finally:
        learners.METHODS.add("masked", entry)


@dataclass(frozen=True)
class Partly:
    """One changes what is learned, the other does not."""

    decay: Amount = 0.5
    shown: Annotated[int, Fact.FREE] = 3


def test_they_are_part_of_what_a_run_is_unless_they_are_free():
    partly = learners.Method(lambda *args: None, frozenset(), settings=Partly)
    learners.METHODS.add("partly", partly)
    try:
        cfg = ExperimentConfig(name="x", method="partly")
        assert training_identity(edited(cfg, shown=5)) == training_identity(cfg)
        assert training_identity(edited(cfg, decay=0.1)) != training_identity(cfg)
        assert edited(cfg, shown=5) != cfg
    finally:
        forget("partly")


def test_a_member_of_a_protocol_has_those_of_the_protocol(own):
    cfg = ProtocolConfig(name="grid", method="masked", method_settings=own.Masked(0.3))
    assert experiment_of(cfg).method_settings == own.Masked(0.3)
    assert parse_cli(cfg, ["--masked.share", "0.4"]).method_settings == own.Masked(0.4)


def test_the_estimator_sets_them_by_name(own):
    made = AutoencoderDetector(method="masked", settings={"masked.share": 0.3})._config()
    assert made.method_settings == own.Masked(0.3)
    with pytest.raises(UserError, match=r"settings has 'masked\.depth'"):
        AutoencoderDetector(method="masked", settings={"masked.depth": 3})._config()


def test_a_method_that_is_no_name_is_refused_as_before():
    with pytest.raises(UserError, match=r"method is \{\}; it must be a string"):
        from_dict({"format": config.FORMAT, "name": "x", "method": {}})


# What may be entered.


@dataclass
class Thawed:
    share: float = 0.5


@dataclass(frozen=True)
class Required:
    share: float


@pytest.mark.parametrize(
    ("name", "cls", "words"),
    [
        ("own", Thawed, "settings of method 'own' must be a frozen dataclass"),
        ("own", Required, "with a default for every field"),
        ("own", dict, "must be a frozen dataclass"),
        ("model", Thawed, "cannot be called 'model': it is a setting"),
        ("dense", Thawed, "method 'dense' already exists"),
    ],
)
def test_settings_that_could_not_work_are_refused_when_they_are_entered(name, cls, words):
    before = dict(learners.METHODS)
    with pytest.raises(UserError, match=words):
        learners.METHODS.add(name, learners.Method(lambda *args: None, frozenset(), settings=cls))
    assert before == learners.METHODS
    assert name not in METHOD_SETTINGS


# Runs.


@pytest.mark.slow
def test_a_run_and_a_member_of_a_protocol_use_and_record_them(own, tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "draw", lambda folder, figures: [folder / name for name in figures])
    train = dataclasses.replace(own.CONFIG.train, epochs=2)
    cfg = dataclasses.replace(own.CONFIG, train=train, run_dir=str(tmp_path / "run"), devices=1)
    report = experiment.run(cfg)
    stored = json.loads((tmp_path / "run/config.json").read_text())
    assert stored["masked"] == {"share": 0.6, "width": 128}
    assert detectors.load(tmp_path / "run/detector").about.config.method_settings == own.Masked(0.6)
    with pytest.raises(UserError, match=r"masked\.share is 0\.6 there and 0\.7 here"):
        experiment.run(edited(cfg, share=0.7))
    values = {field.name: getattr(cfg, field.name) for field in dataclasses.fields(cfg)}
    values["data"] = dataclasses.replace(cfg.data, normal=())
    grid = ProtocolConfig(**values | {"run_dir": str(tmp_path / "grid")}, classes=(0,), seeds=1,
                          baselines=(), sweep=("masked.share=0.3,0.6",))  # fmt: skip
    protocol.run(grid)
    other, member = sorted((tmp_path / "grid/members").iterdir())
    assert detectors.load(other / "detector").about.config.method_settings == own.Masked(0.3)
    assert detectors.load(member / "detector").about.config.method_settings == own.Masked(0.6)
    with np.load(tmp_path / "run/scores.npz") as one, np.load(member / "scores.npz") as other:
        np.testing.assert_array_equal(one["test"], other["test"])
    assert report["method"] == "masked"


@pytest.mark.slow
def test_the_script_of_the_page_runs_from_the_command_line(file, tmp_path):
    def run(*args):
        return subprocess.run(
            [sys.executable, str(file), *args], cwd=tmp_path, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False,
        )  # fmt: skip

    done = run("--masked.share", "0.3", "--train.epochs", "2", "--run-dir", "run")
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run/config.json").read_text())["masked"]["share"] == 0.3
    again = run("--config", "run/config.json", "--masked.width", "5", "--run-dir", "run")
    assert again.returncode == 2
    assert again.stderr.startswith("error: run holds another configuration: masked.width is 128")
