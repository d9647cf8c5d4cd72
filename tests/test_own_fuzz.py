"""Two thousand files as people keep them: read as what they hold, or refused with what helps.

Never a traceback, and never a wrong answer. `JAXAE_OWN_FUZZ=10000` asks for more of them.
"""

import contextlib
import dataclasses
import functools
import io
import os
import re
import shlex
import warnings
from typing import NamedTuple

import numpy as np
import own_inputs
import pytest

from jaxae import data
from jaxae.cli import main as cli
from jaxae.cli.train import OPEN
from jaxae.config import DataConfig
from jaxae.config.parsing import parse_cli
from jaxae.data import splits
from jaxae.data.own import files
from jaxae.data.raw_data import Raw
from jaxae.errors import UserError
from jaxae.types import Dataset
from jaxae.workflows import auto

KINDS = [
    *[own_inputs.table] * 12,
    *[own_inputs.arrays] * 3,
    *[own_inputs.images] * 2,
    *[own_inputs.series] * 3,
]
MANY = int(os.environ.get("JAXAE_OWN_FUZZ", "2000"))
ASKS = 8  # the most refusals in a row
LISTS = ("--data.ignore", "--data.normal", "--data.anomaly")
FAILED = [82, 501, 751, 10301, 10781]  # seeds of what was once read wrongly


class Result(NamedTuple):
    """What is read with some options."""

    cfg: DataConfig
    raw: Raw
    made: Dataset
    said: str


def command(case, options):
    """The arguments of `jaxae train` or `jaxae data`."""
    words = (word for name, values in options.items() for word in (name, *values))
    return ["--data.name", str(case.path), *words]


@functools.cache
def config(args):
    return parse_cli(OPEN, list(args), prog="jaxae train")


def read(case, options):
    """The configuration, the raw rows, the data set of training, and what is said about it."""
    cfg = config(tuple(command(case, options)[2:]))
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, name=str(case.path)))
    with contextlib.redirect_stdout(io.StringIO()) as said, warnings.catch_warnings():
        warnings.simplefilter("error")
        return Result(cfg.data, data.raw(cfg.data), auto.settle(cfg)[1], said.getvalue())


def offered(message):
    """The options that a message names, each with all numbers of values that may be meant."""
    for match in re.finditer(r"--data\.[a-z-]+", message):
        words = re.match(
            r"(?: (?:'[^']*'(?:\"'\"'[^']*')*[,;)]*|(?!--)[^\s']+))*", message[match.end() :]
        )
        try:
            values = shlex.split(words[0])
        except ValueError:
            values = []
        for count in range(len(values), -1, -1):
            yield match[0], values[:count]
            if count and values[count - 1][-1:] in ",;)":
                yield match[0], [*values[: count - 1], values[count - 1].rstrip(",;)")]


def settled(case):
    """Options with which it is read, and what is read; None if it is refused, fairly."""
    options, said = dict(case.options), []
    for _ in range(ASKS):
        try:
            return options, read(case, options)
        except UserError as error:
            said.append(str(error))
        assert "\n" not in said[-1], said
        assert len(said[-1]) < 900, said
        agreed = (o for o in offered(said[-1]) if case.truth.agrees(*o, options))
        name, values = next(agreed, (None, None))
        if name is None:
            assert case.truth.may_refuse, f"no way on: {said}"
            return None
        options[name] = [*(options.get(name, []) if name in LISTS else []), *values]
    raise AssertionError(f"what is offered does not help: {said}")


def rows(cfg, raw):
    """All raw rows in float64, and which are normal; None = unlabelled."""
    x = np.concatenate([np.asarray(raw.x_train[:]), np.asarray(raw.x_test[:])]).astype(np.float64)
    if not raw.is_labelled:
        return x, None
    normal = splits.choose_classes(raw, cfg)[0]
    train = raw.train_class_id
    train = np.full(len(raw.x_train), normal[0]) if train is None else train
    return x, np.isin(np.concatenate([train, raw.test_class_id]), normal)


@functools.singledispatch
def check(truth, case, options, result):
    raise NotImplementedError


@check.register
def _(truth: own_inputs.Table, case, options, result):
    cfg, raw, made, said = result
    columns = truth.features(options)
    names = [name.strip() for name in raw.schema.features]
    assert names == list(columns), names
    x, is_normal = rows(cfg, raw)
    expected = np.stack(list(columns.values()), axis=1)
    kept = np.ones(len(expected), bool)
    if options.get("--data.missing") == ["drop"]:
        kept = np.isfinite(expected).all(axis=1)
    expected, normal = expected[kept], truth.normal[kept]
    assert len(x) == len(expected)
    key = list(columns).index(truth.key)
    order, wanted = np.argsort(x[:, key]), np.argsort(expected[:, key])
    x, expected = x[order], expected[wanted]
    known = np.isfinite(expected)
    np.testing.assert_allclose(x[known], expected[known], rtol=1e-6)
    if truth.label:
        np.testing.assert_array_equal(is_normal[order], normal[wanted])
    assert (is_normal is not None) == bool(truth.label) == made.is_labelled
    trained = np.concatenate([raw.x_train, raw.x_test])[made.train.id]
    varies = np.ptp(trained, axis=0) > 0
    spread = np.std(made.train.x, axis=0)[varies]
    np.testing.assert_allclose(spread, 1, rtol=1e-3, err_msg="in one unit, whatever theirs")
    given = {"", *options.get("--data.ignore", []), *options.get("--data.label", [])}
    for name in {truth.label, *truth.spare} - given:
        assert name in said, f"{name!r} is not in {said!r}"
    again = files.rows(case.path, raw.schema)[0]  # as `jaxae score` reads it
    if kept.all() and known.all():
        again = np.asarray(again, np.float64)
        np.testing.assert_allclose(again, np.stack(list(columns.values()), axis=1), rtol=1e-6)


@check.register
def _(truth: own_inputs.Arrays, case, options, result):
    cfg, raw, made, _ = result
    x, is_normal = rows(cfg, raw)
    expected = truth.train if truth.test is None else np.concatenate([truth.train, truth.test])
    x, expected = x.reshape(len(x), -1), expected.reshape(len(expected), -1).astype(np.float64)
    order, wanted = np.argsort(x[:, 0]), np.argsort(expected[:, 0])
    np.testing.assert_allclose(x[order], expected[wanted], rtol=1e-6)
    if truth.test is not None:
        assert len(raw.x_train) == len(truth.train)
    assert (is_normal is not None) == (truth.is_normal is not None) == made.is_labelled
    if is_normal is not None:
        parts = [truth.is_normal] if truth.test is None else [truth.is_normal, truth.test_is_normal]
        np.testing.assert_array_equal(is_normal[order], np.concatenate(parts)[wanted])


@check.register
def _(truth: own_inputs.Images, case, options, result):
    cfg, raw, made, _ = result
    x, is_normal = rows(cfg, raw)
    side = truth.size[0]
    assert x.shape[1:3] == truth.size
    mark = x[:, : side // 4, : side // 4].mean(axis=(1, 2, 3))
    assert (mark > 230).all(), "upright"
    grey = np.median(x[:, side // 2 :], axis=(1, 2, 3))
    everything = truth.train | (truth.test or {})
    known = np.array(sorted(everything))
    assert len(grey) == len(known)
    order = np.argsort(grey)
    np.testing.assert_allclose(grey[order], known, atol=truth.tolerance)
    assert raw.is_labelled == truth.is_labelled == made.is_labelled
    if truth.is_labelled:
        np.testing.assert_array_equal(is_normal[order], [everything[g] for g in known])
    if truth.test is not None:
        assert len(raw.x_test) == len(truth.test)


@check.register
def _(truth: own_inputs.Series, case, options, result):
    cfg, raw, made, said = result
    if truth.may_refuse and "does not rise with the steps" in said:
        return
    x, is_normal = rows(cfg, raw)
    assert list(raw.schema.columns) == truth.channels
    assert x.shape[1:] == (truth.window, len(truth.channels))
    again = np.asarray(files.rows(case.path, raw.schema)[0])  # as `jaxae score` reads it
    for windows in (x, again):
        step = windows[:, :, 0]
        adjacent = (np.diff(step, axis=1) == 1).all()
        assert adjacent or (truth.says and truth.says in said), f"windows of adjacent steps: {said}"
        assert (step // own_inputs.STEP == step[:, :1] // own_inputs.STEP).all(), "of one group"
    total = sum(truth.lengths) - truth.gap
    assert len(np.unique(x[:, :, 0])) > 0.7 * total
    assert len(np.unique(again[:, :, 0])) == total, "every step is scored"
    assert raw.is_labelled == truth.is_labelled == made.is_labelled
    if truth.is_labelled:
        strange = np.isin(x[:, :, 0], sorted(truth.strange)).any(axis=1)
        np.testing.assert_array_equal(~is_normal, strange)


def one(seed, folder):
    """Draw, read and check one file; what was drawn is in the message of a failure."""
    folder.mkdir()
    case = KINDS[seed % len(KINDS)](folder, seed)
    try:
        result = settled(case)
        if result:
            assert not getattr(case.truth, "must_refuse", False), "damaged, but read"
            check(case.truth, case, *result)
    except Exception as error:
        raise AssertionError(f"seed {seed}, {case.drawn}: {error}") from error
    return bool(result)


@pytest.mark.parametrize("seed", FAILED)
def test_what_was_once_read_wrongly(seed, tmp_path):
    one(seed, tmp_path / "own")


def test_a_few_files_are_read_as_what_they_hold(tmp_path):
    assert sum(one(seed, tmp_path / str(seed)) for seed in range(60)) > 40


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, MANY, 200))
def test_files_are_read_as_what_they_hold_or_refused(first, tmp_path):
    read = [one(seed, tmp_path / str(seed)) for seed in range(first, min(first + 200, MANY))]
    assert np.mean(read) > 0.7


def run(args):
    """The exit code of a command."""
    try:
        cli.main(args)
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(7_000, 7_040))
def test_files_are_trained_on_reported_and_scored(seed, tmp_path, capsys):
    folder = tmp_path / "own"
    folder.mkdir()
    case, out = KINDS[seed % len(KINDS)](folder, seed), str(tmp_path / "run")
    result = settled(case)
    options = result[0] if result else case.options
    words = command(case, options)
    codes = [run(["data", str(case.path), *words[2:]])]
    codes += [run(["train", *words, "--train.epochs", "2", "--run-dir", out])]
    assert codes == ([0, 0] if result else [2, 2]), capsys.readouterr().err
    if not result:
        return
    rows = str(tmp_path / "rows.csv")
    codes = [run(["report", out]), run(["score", out, str(case.path), "--out", rows])]
    scorable = case.path.is_file() or isinstance(case.truth, own_inputs.Images)
    assert codes == [0, 0 if scorable else 2], capsys.readouterr().err
    assert "<u>" not in (tmp_path / "run/report.html").read_text(encoding="utf-8")
