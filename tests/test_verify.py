"""`jaxae verify` and `jaxae list` of protocols and of cross-conformal p-values."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import forging
import numpy as np
import pytest
from probes import DEVICES, edit, images, tiny, write_npz

from jaxae.cli import main as cli
from jaxae.config.grids import CrossConfig, ProtocolConfig
from jaxae.data.arrayfiles import read_npz
from jaxae.workflows import protocol, verification

KINDS = ("ok", "FAILED")
MEMBERS = ["class0-seed0", "class0-seed1", "class1-seed0", "class1-seed1"]


def fields(folder, data):
    small = tiny(data__name=f"npz:{data}", run_dir=str(folder))
    return {field.name: getattr(small, field.name) for field in dataclasses.fields(small)}


def grid(folder, data, **changes):
    return edit(ProtocolConfig(**fields(folder, data), seeds=2, baselines=()), changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two classes, apart by their brightness."""
    path, y = tmp_path_factory.mktemp("classes") / "two.npz", np.arange(70) % 2
    x = images(70) * (0.7 + 0.3 * y[:, None, None, None])
    np.savez(path, x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
    return path


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("verify") / "grid"
    protocol.run(grid(folder, data, devices=1))
    return folder


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def verified(folder, capsys, *more):
    """Names and words of the lines by their first word, and the line of the error."""
    code, _ = 0, capsys.readouterr()  # what a protocol said before
    try:
        cli.main(["verify", str(folder), *more])
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr()
    assert code == (2 if said.err.startswith("error:") else 3 if said.err else 0)
    assert said.err.count("\n") == (code > 0)
    lines = [re.split("  +", line, maxsplit=2) for line in said.out.splitlines()]
    found = {kind: {line[1]: line[2] for line in lines if line[0] == kind} for kind in KINDS}
    return *(found[kind] for kind in KINDS), said.err


def test_every_member_of_a_protocol_and_its_report_are_verified(whole, capsys, monkeypatch):
    load, loaded = verification.data.load, []
    monkeypatch.setattr(verification.data, "load", lambda cfg: loaded.append(cfg) or load(cfg))
    ok, failed, _ = verified(whole, capsys)
    assert [*ok] == [*MEMBERS, "files", "report"]
    assert not failed
    for name in MEMBERS:
        rows = "30 test and 18 training rows scored as recorded"
        assert ok[name] == f"{rows}, bit for bit; 0 decisions differ"
    assert ok["report"].endswith("follow from the 4 members")
    assert [cfg.normal for cfg in loaded] == [(0,), (1,)]  # not once for every member


def changed(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def rescored(path, **changes):
    arrays = read_npz(path)
    np.savez(path, **arrays | {name: change(arrays[name]) for name, change in changes.items()})


def replace_scores(folder):
    shutil.copy(folder / "members/class1-seed1/scores.npz", folder / "members/class1-seed0")


def replace_member(folder):
    shutil.rmtree(folder / "members/class1-seed0")
    shutil.copytree(folder / "members/class1-seed1", folder / "members/class1-seed0")


def change_class(folder):
    classes = json.loads((folder / "report.json").read_text())["classes"]
    changed(folder / "report.json", classes=classes | {"1": classes["1"] | {"auroc": 0.25}})


DAMAGE = [  # what fails, how it is said, and what is done
    ("class1-seed0 report", "scores differ by up to", replace_scores),
    ("class1-seed0 report", "it holds the member class1-seed1", replace_member),
    (
        "report",
        "it has 4 members, the folder 3; class1-seed0 missing",
        lambda f: shutil.rmtree(f / "members/class1-seed0"),
    ),
    (
        "class0-seed1 report",
        "unfinished; run",
        lambda f: (f / "members/class0-seed1/report.json").unlink(),
    ),
    ("class0-seed1", "no detector", lambda f: shutil.rmtree(f / "members/class0-seed1/detector")),
    (
        "class0-seed1 report",
        "scores.npz",
        lambda f: (f / "members/class0-seed1/scores.npz").write_bytes(b"PK"),
    ),
    (
        "class0-seed0 report",
        "test_y in scores.npz is not that of the data",
        lambda f: rescored(f / "members/class0-seed0/scores.npz", test_y=np.invert),
    ),
    (
        "class0-seed0",
        "has the digest",
        lambda f: (f / "members/class0-seed0/data.json").write_text('"other"'),
    ),
    (
        "class0-seed0 report",
        "configuration: it has format 1",
        lambda f: (f / "members/class0-seed0/config.json").write_text("{}"),
    ),
    ("report", "cannot be read", lambda f: (f / "report.json").unlink()),
    ("report", "is not valid JSON", lambda f: (f / "report.json").write_text("{")),
    ("report", "is not as it was written", lambda f: (f / "report.json").write_text("[]")),
    ("report", "is not as it was written", lambda f: changed(f / "report.json", classes=3)),
    (
        "report",
        "auroc_interval is [0, 1] in the report",
        lambda f: changed(f / "report.json", auroc_interval=[0, 1]),
    ),
    ("report", "classes 1 auroc is 0.25 in the report", change_class),
]


@pytest.mark.parametrize(("failing", "says", "damage"), DAMAGE)
def test_what_is_not_as_it_was_is_named(copy, capsys, failing, says, damage):
    damage(copy)
    forging.reseal(copy)
    _, failed, error = verified(copy, capsys)
    assert [*failed] == failing.split()
    assert says in next(iter(failed.values()))
    assert f"failed the checks: {failing.replace(' ', ', ')}" in error


def test_members_of_an_earlier_call_with_more_seeds_may_stay(data, copy, capsys):
    protocol.run(grid(copy, data, seeds=1, devices=1))
    ok, failed, _ = verified(copy, capsys)
    assert [*ok] == [*MEMBERS, "files", "report"]
    assert not failed
    assert ok["report"].endswith("follow from the 2 members")


def test_a_protocol_without_members_is_one_line(tmp_path, capsys):
    (tmp_path / "members").mkdir()
    *_, error = verified(tmp_path, capsys)
    assert "members holds no member; run the same command again" in error


@pytest.mark.slow
def test_members_are_trained_again_alone(data, tmp_path, capsys):
    copy = tmp_path / "run"  # slow tests compile with other flags than `whole`
    DEVICES[:2]
    protocol.run(grid(copy, data, devices=2))
    rescored(copy / "members/class0-seed0/scores.npz", valid=lambda x: x * np.float32(1.0001))
    ok, failed, _ = verified(copy, capsys, "--retrain")
    assert {*ok} == {*MEMBERS[1:], "files", "report"}
    for name in MEMBERS[1:]:
        assert "the digests of parameters and scores agree, bit for bit" in ok[name]
    assert "scores by 1.0e-04" in failed["class0-seed0"]
    ok, *_ = verified(copy / "members/class1-seed0", capsys, "--retrain")
    assert "bit for bit" in ok["trained again"]


@pytest.mark.slow
def test_the_points_of_a_sweep_are_compared(data, tmp_path, capsys):
    protocol.run(grid(tmp_path / "run", data, seeds=1, sweep=("optim.lr=1e-3,3e-3",)))
    ok, failed, _ = verified(tmp_path / "run", capsys)
    assert len(ok) == 6
    assert not failed
    points = json.loads((tmp_path / "run/report.json").read_text())["points"]
    points["optim.lr 0.003"]["valid_loss"] += 1
    changed(tmp_path / "run/report.json", points=points)
    _, failed, _ = verified(tmp_path / "run", capsys)
    assert "points optim.lr 0.003 valid_loss is" in failed["report"]
    one, other = (tmp_path / f"run/members/class0-seed0-lr{lr}" for lr in ("0.001", "0.003"))
    shutil.move(one, tmp_path / "kept")
    shutil.move(other, one)
    shutil.move(tmp_path / "kept", other)
    forging.reseal(tmp_path / "run")
    _, failed, _ = verified(tmp_path / "run", capsys)
    assert failed["report"] == "class0-seed0-lr0.001 holds the member class0-seed0-lr0.003"


def test_a_grid_without_its_data_is_not_wrong(copy, data, capsys):
    kept = data.rename(data.with_suffix(".moved"))
    try:
        ok, failed, note = verified(copy, capsys)
    finally:
        kept.rename(data)
    assert [*ok] == ["files", "report"]
    assert not failed
    assert note.endswith(f"not checked: {', '.join(MEMBERS)}\n")


@pytest.fixture(scope="module")
def crossed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("crossed")
    data = write_npz(folder / "x.npz")
    protocol.cross.run(CrossConfig(**fields(folder / "run", data), folds=2, alpha=0.1))
    return folder / "run"


def test_p_values_are_verified_as_far_as_they_are_kept(crossed, capsys):
    ok, failed, _ = verified(crossed, capsys)
    named = ["files", "configuration", "checkpoint 2", "data", "decisions", "scores", "report"]
    assert [*ok] == named
    assert not failed
    assert ok["scores"] == "48 test rows have the recorded scores and p-values"
    *_, error = verified(crossed, capsys, "--retrain")
    assert "nothing to train again" in error


CROSS_DAMAGE = [  # what fails, how it is said, and what is done
    (
        "checkpoint 2, data",
        "has the digest",
        lambda f: (f / "data.json").write_text('"other"'),
    ),
    (
        "decisions, scores",
        "decisions do not follow",
        lambda f: rescored(f / "scores.npz", p_value=lambda p: 1 - p / 2),
    ),
    (
        "decisions, scores",
        "between 0.01 and 1",
        lambda f: rescored(f / "scores.npz", p_value=lambda p: p - 1),
    ),
    (
        "scores",
        "p_value in scores.npz is not that of models and data",
        lambda f: rescored(f / "scores.npz", p_value=lambda p: np.where(p > 0.3, 0.3, p)),
    ),
    (
        "scores, report",
        "auroc is",
        lambda f: rescored(f / "scores.npz", test=np.negative),
    ),
    ("scores", "test_id in scores.npz", lambda f: rescored(f / "scores.npz", test_id=np.negative)),
    ("report", "recall is 0.5 in report.json", lambda f: changed(f / "report.json", recall=0.5)),
    ("report", "not as it was written", lambda f: changed(f / "report.json", alpha="low")),
    ("report", "report.json is not valid JSON", lambda f: (f / "report.json").write_text("{")),
    ("decisions, scores", "not a readable .npz", lambda f: (f / "scores.npz").write_bytes(b"PK")),
]


@pytest.mark.parametrize(("failing", "says", "damage"), CROSS_DAMAGE)
def test_p_values_that_are_not_as_they_were_are_named(
    crossed, tmp_path, capsys, failing, says, damage
):
    copy = shutil.copytree(crossed, tmp_path / "copy")
    damage(copy)
    forging.reseal(copy)
    _, failed, error = verified(copy, capsys)
    assert failing in ", ".join(failed)
    assert says in " ".join(failed.values())
    assert f"failed the checks: {failing}" in error


def listed(folder, capsys):
    cli.main(["list", "--runs", str(folder), "--json"])
    entries = json.loads(capsys.readouterr().out)
    cli.main(["list", "--runs", str(folder)])
    lines = capsys.readouterr().out.splitlines()[1:]
    return {entry["run"]: (entry, line) for entry, line in zip(entries, lines, strict=True)}


def test_a_protocol_is_one_line_of_the_list(copy, crossed, capsys):
    shutil.copytree(crossed, copy.parent / "crossed")
    found = listed(copy.parent, capsys)
    assert [*found] == ["copy", "crossed"]
    entry, line = found["copy"]
    report = json.loads((copy / "report.json").read_text())
    assert entry["auroc"] == report["auroc"]
    assert entry["members"] == "4/4"
    assert "  4/4 members  " in line
    assert "members" not in found["crossed"][0]
    assert [*listed(copy, capsys)] == ["."]
    assert [*listed(copy / "members", capsys)] == MEMBERS


def test_the_list_counts_members_that_are_finished(copy, capsys):
    (copy / "members/class0-seed0/report.json").unlink()
    shutil.rmtree(copy / "members/class1-seed1")
    assert listed(copy, capsys)["."][0]["members"] == "2/4"
    for text in ("{", "[]", '{"auroc": "x"}'):  # then the members say what they can
        (copy / "report.json").write_text(text)
        entry, line = listed(copy, capsys)["."]
        members = listed(copy / "members", capsys)
        assert entry["auroc"] == pytest.approx(np.mean([m["auroc"] for m, _ in members.values()]))
        assert entry["members"] == "2/3"
        assert "2/3 members" in line
    shutil.rmtree(copy / "members/class0-seed0")
    assert listed(copy, capsys)["."][0]["members"] == "2/?"
    for path in copy.glob("members/*/report.json"):
        path.unlink()
    entry, line = listed(copy, capsys)["."]
    assert (entry["auroc"], entry["members"]) == (None, "0/2")
    shutil.rmtree(copy / "members")
    (copy / "members").mkdir()
    assert not listed(copy, capsys)
