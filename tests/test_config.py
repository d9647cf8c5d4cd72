import copy
import dataclasses
import json
import re

import pytest
from probes import edit, tiny

from jaxae.config import (
    FORMAT,
    DataConfig,
    ExperimentConfig,
    checks,
    from_dict,
    from_json,
    migrations,
    to_dict,
    to_json,
    validate,
)
from jaxae.config.checks import training_identity
from jaxae.config.fields import Fact, settings
from jaxae.config.parsing import parse_cli
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.workflows import experiment

CONFIG = ExperimentConfig(
    name="trial", data=DataConfig(normal=(1, 2), anomaly=(7,)), studies=("verdicts",)
)


@pytest.mark.parametrize("cfg", [CONFIG, tiny("alocc"), ExperimentConfig(name="x")])
def test_json_round_trip(cfg):
    for again in (from_json(to_json(cfg)), from_dict(to_dict(cfg))):
        assert again == cfg
        assert type(again.data.normal) is tuple
    assert json.loads(to_json(cfg)) == json.loads(json.dumps(to_dict(cfg)))
    assert to_dict(cfg)["format"] == FORMAT


def test_json_with_absent_fields_takes_the_defaults():
    text = json.dumps({"format": FORMAT, "name": "x", "train": {"epochs": 3}})
    assert from_json(text) == edit(ExperimentConfig(name="x"), {"train.epochs": 3})


def test_json_with_unknown_fields_names_them_all():
    text = json.dumps({"format": FORMAT, "name": "x", "train": {"epoch": 3, "rate": 1}})
    with pytest.raises(UserError, match=r"train\.epoch.*train\.rate"):
        from_json(text)


def test_text_that_is_not_json():
    with pytest.raises(UserError, match="not valid JSON"):
        from_json("name: x")


@pytest.mark.parametrize("text", ["[]", "null", "3", '"x"'])
def test_json_that_is_no_configuration(text):
    with pytest.raises(UserError, match="must be a JSON object"):
        from_json(text)


def test_a_configuration_without_a_name():
    with pytest.raises(UserError, match="no name"):
        from_dict({"format": FORMAT})


@pytest.mark.parametrize("found", [None, 1, 3, "2"])
def test_a_configuration_of_another_version_is_refused_before_its_fields(found):
    values = {"name": "x", "threshold": {"rows": 9}} | ({"format": found} if found else {})
    with pytest.raises(UserError, match=rf"format {found or 1}.*another version.*format {FORMAT}"):
        from_dict(values)


def moved(monkeypatch):
    """Fields that were renamed and removed."""
    renamed = {"speed": "optim.lr", "train.rounds": "train.epochs"}
    removed = {"data.colour": ("grey", "use data.input"), "tags": ([], "use name")}
    monkeypatch.setattr(migrations, "RENAMED", renamed)
    monkeypatch.setattr(migrations, "REMOVED", removed)


def test_saved_fields_that_were_renamed_or_removed_are_carried_over(monkeypatch):
    moved(monkeypatch)
    values = {"format": FORMAT, "name": "x", "train": {"rounds": 3}, "tags": []}
    values |= {"speed": 0.5, "data": {"colour": "grey", "limit": 9}}
    before = copy.deepcopy(values)
    expected = {"train.epochs": 3, "optim.lr": 0.5, "data.limit": 9}
    assert from_dict(values) == edit(ExperimentConfig(name="x"), expected)
    assert values == before


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"data": {"colour": "red"}}, "data.colour is 'red', but it was removed; use data.input"),
        ({"tags": ["a"]}, "tags is ['a'], but it was removed; use name"),
        ({"train": {"epoch": 3}}, "unknown fields ['train.epoch']"),
        ({"train": {"rounds": 3, "epochs": 4}}, "unknown fields ['train.rounds']"),
        ({"train": 3}, "train is 3; it must be a JSON object"),
        ({"format": FORMAT - 1}, f"format {FORMAT - 1}"),
        ({"format": [2]}, "format [2]"),
    ],
)
def test_saved_fields_that_cannot_be_carried_over_are_named(values, words, monkeypatch):
    moved(monkeypatch)
    with pytest.raises(UserError) as caught:
        from_dict({"format": FORMAT, "name": "x"} | values)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--train.rounds", "5"], "--train.rounds is now --train.epochs"),
        (["--speed=1"], "--speed is now --optim.lr"),
        (["--data.colour", "red"], "--data.colour was removed; use data.input"),
    ],
)
def test_flags_of_before_are_told_their_new_names(args, words, monkeypatch):
    moved(monkeypatch)
    with pytest.raises(UserError) as caught:
        parse_cli(CONFIG, args)
    assert str(caught.value) == words


def test_migrations_lead_to_fields_that_exist():
    known = settings(ExperimentConfig)
    assert not (set(migrations.RENAMED) | set(migrations.REMOVED)) & set(known)
    assert set(migrations.RENAMED.values()) <= set(known)


@pytest.mark.parametrize("fact", Fact)
def test_every_fact_is_true_of_some_setting_and_not_of_all(fact):
    described = [s for s in settings(ExperimentConfig).values() if not s.is_section]
    assert 0 < sum(fact in s.facts for s in described) < len(described)


def test_facts_of_a_section_hold_for_its_fields():
    known = settings(ExperimentConfig)
    assert Fact.FREE in known["threshold.rule"].facts
    assert Fact.BY_METHOD in known["model.latent"].facts
    assert Fact.FREE not in known["optim.lr"].facts


def test_every_method_reads_fields_that_exist():
    by_method = set(checks.marked(CONFIG, Fact.BY_METHOD))
    for method in learners.METHODS.values():
        assert method.reads <= by_method


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": 3}, "name is 3; it must be a string"),
        ({"seed": "0"}, "seed is '0'; it must be a whole number"),
        ({"seed": 1.5}, "seed is 1.5; it must be a whole number"),
        ({"seed": True}, "seed is True; it must be a whole number"),
        ({"seed": None}, "seed is None; it must be a whole number"),
        ({"profile": 1}, "profile is 1; it must be true or false"),
        ({"optim": {"lr": "fast"}}, "optim.lr is 'fast'; it must be a finite number"),
        ({"data": {"normal": 3}}, "data.normal is 3; it must be a tuple"),
        ({"data": {"normal": [1.5]}}, "data.normal is (1.5,); it must be a tuple, each a whole"),
        ({"studies": "verdicts"}, "studies is 'verdicts'; it must be a tuple, each a string"),
        ({"model": [4]}, "model is [4]; it must be a JSON object"),
        ({"threshold": None}, "threshold is None; it must be a JSON object"),
    ],
)
def test_a_value_of_another_type_is_named_with_its_field(values, words):
    with pytest.raises(UserError) as caught:
        from_dict({"format": FORMAT, "name": "x"} | values)
    assert words in str(caught.value)


def test_a_whole_number_is_a_number():
    assert edit(CONFIG, {"optim.lr": 1}).optim.lr == 1


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("train.epochs", 0, "at least 1"),
        ("train.batch_size", -3, "at least 1"),
        ("train.checkpoint_every", 0, "at least 1"),
        ("train.keep_checkpoints", -1, "at least 0"),
        ("train.noise_std", -0.5, "at least 0"),
        ("optim.lr", 0.0, "above 0"),
        ("optim.lr_discriminator", -1.0, "above 0"),
        ("optim.weight_decay", -1e-5, "at least 0"),
        ("ensemble", 0, "at least 1"),
        ("optim.lr", float("inf"), "a finite number"),
        ("train.noise_std", float("nan"), "a finite number"),
        ("devices", -1, "at least 0"),
        ("seed", 2**32, "from 0"),
        ("data.test_fraction", 1.0, "between 0 and 1"),
        ("data.valid_fraction", 0.0, "between 0 and 1"),
        ("data.limit", -1, "0, for all, or at least 2"),
        ("data.limit", 1, "0, for all, or at least 2"),
        ("train.batch_size", 1.5, "a whole number or auto"),
        ("model.latent", "automatic", "a whole number or auto"),
        ("threshold.limit", -1, "at least 0"),
        ("threshold.standardise_fraction", 1.0, "below 1"),
        ("model.head_kernel", -1, "at least 0"),
        ("optim.eps", 0.0, "above 0"),
        ("data.split", "mine", "official, random"),
        ("data.scale", "log", "none, minmax, standard"),
        ("model.latent", -1, "at least 0"),
        ("model.paddings", ("same", "full"), "same, valid or a number"),
        ("model.strides", (2, 0), "at least 1"),
        ("model.hidden", (0,), "at least 1"),
        ("model.compute_dtype", "float16", "float32, bfloat16"),
        ("threshold.on", "test", "valid, train"),
    ],
)
def test_a_bad_value_is_named_with_its_field_and_the_remedy(name, value, remedy):
    shown = re.escape(repr(value))
    with pytest.raises(UserError, match=rf"^{name} is {shown}; it must be .*{remedy}"):
        edit(CONFIG, {name: value})


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("optim.name", "lion", "optimiser 'lion'; known: adam, adamw, keras_adam, rmsprop, sgd"),
        ("train.loss", "huber", "loss 'huber'; known: bce, mae, mse"),
        ("model.initializer", "he", "initializer 'he'; known: glorot, lecun, torch"),
        ("variant", "wgan", "variant 'wgan'; known: default, faithful"),
        ("model.code_activation", "gelu", "activation 'gelu'; known: elu, leaky_relu"),
    ],
)
def test_a_name_that_no_registry_holds_is_refused_before_anything_runs(name, value, words):
    method = "alocc" if name == "variant" else "conv"
    with pytest.raises(UserError, match=f"^unknown {words}"):
        experiment.check(edit(ExperimentConfig(name="x", method=method), {name: value}))


def test_classes_cannot_be_normal_and_abnormal():
    with pytest.raises(UserError, match=r"data\.anomaly.*without \[2\]"):
        edit(CONFIG, {"data.anomaly": (2, 3)})


def test_layers_need_equally_many_settings():
    with pytest.raises(UserError, match=r"filters, kernels, strides, paddings.*the same"):
        edit(CONFIG, {"model.kernels": (3,)})


@pytest.mark.parametrize("name", ["activation", "output_activation", "encoder_activation"])
def test_an_unknown_activation_is_refused_with_those_that_are_known(name):
    with pytest.raises(UserError, match=r"unknown activation 'swish'; known: .*relu.*sigmoid"):
        learners.check(edit(CONFIG, {f"model.{name}": "swish"}))


def test_only_conv_may_do_without_a_code():
    cfg = edit(CONFIG, {"model.latent": 0})
    learners.check(cfg)
    assert learners.build(cfg, (8, 8, 1))
    with pytest.raises(UserError, match=r"model\.latent is 0.*dense"):
        learners.build(edit(cfg, {"method": "dense"}), (8, 8, 1))


def test_a_configuration_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CONFIG.seed = 3


FREE = {
    "run_dir": "elsewhere",
    "devices": 2,
    "score": "mae",
    "studies": (),
    "threshold.rule": "max",
    "threshold.on": "train",
    "threshold.limit": 9,
    "threshold.standardise_fraction": 0.3,
    "score_dtype": "bfloat16",
    "profile": True,
    "data.dir": "/data",
    "train.epochs": 99,
    "train.checkpoint_every": 1,
    "train.keep_checkpoints": 0,
    "train.monitor": True,
    "train.oracle": True,
}
BOUND = {
    "name": "other",
    "method": "dense",
    "seed": 1,
    "ensemble": 2,
    "data.name": "mnist",
    "data.normal": (1,),
    "data.split_seed": 5,
    "data.limit": 10,
    "model.latent": 3,
    "model.compute_dtype": "bfloat16",
    "optim.lr": 0.5,
    "train.batch_size": 64,
    "train.loss": "mae",
    "train.noise_std": 0.3,
    "train.noise_clip": False,
    "train.select": "valid_loss",
    "variant": "faithful",
    "data.scale": "minmax",
    "data.valid": "test",
}


@pytest.mark.parametrize("name", FREE)
def test_what_may_differ_when_a_run_is_entered_again(name):
    assert training_identity(edit(CONFIG, {name: FREE[name]})) == training_identity(CONFIG)


@pytest.mark.parametrize("name", BOUND)
def test_what_fixes_the_course_of_training(name):
    assert training_identity(edit(CONFIG, {name: BOUND[name]})) != training_identity(CONFIG)


def test_run_path():
    assert str(CONFIG.run_path) == "runs/trial-seed0"
    assert str(edit(CONFIG, {"run_dir": "a/b", "seed": 4}).run_path) == "a/b"


def test_command_line_changes_what_it_names_and_nothing_else():
    args = (
        "--run-dir out --data.dir raw --seed 7 --train.epochs 5 --optim.lr 0.01 --data.normal 3 4"
    )
    expected = {
        "run_dir": "out",
        "data.dir": "raw",
        "seed": 7,
        "train.epochs": 5,
        "optim.lr": 0.01,
        "data.normal": (3, 4),
    }
    assert parse_cli(CONFIG, args.split()) == edit(CONFIG, expected)
    assert parse_cli(CONFIG, []) == CONFIG


def test_command_line_is_validated():
    with pytest.raises(UserError, match=r"train\.epochs is 0"):
        parse_cli(CONFIG, ["--train.epochs", "0"])


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["--train.epoch", "5"], "--train.epoch, 5 - perhaps --train.epochs INT"),
        (["--seed", "two"], "--seed: invalid literal for int.*'two'"),
        (["--model.latent", "few"], "--model.latent.*'few'"),
        (["--data.scale", "log"], "'log'.*'none', 'minmax', 'standard', 'auto'"),
        (["--train.epochs"], "--train.epochs"),
        (["stray"], "stray"),
    ],
)
def test_command_line_rejects_what_does_not_exist_in_one_line(args, word, capsys):
    with pytest.raises(UserError, match=f"{word}.*; --help lists all settings$") as caught:
        parse_cli(CONFIG, args)
    assert "\n" not in str(caught.value)
    assert capsys.readouterr() == ("", "")


def test_command_line_helps(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_cli(CONFIG, ["--help"])
    assert not stop.value.code
    assert "--train.epochs" in capsys.readouterr().out


def test_defaults_are_valid():
    assert validate(ExperimentConfig(name="x"))
