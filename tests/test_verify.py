"""`jaxae verify` and `jaxae list` of protocols and of cross-conformal p-values."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import forging
import numpy as np
import pytest
from forging import arrays, gone, text, values
from probes import DEVICES, edit, images, tiny, write_npz

from jaxae.cli import main as cli
from jaxae.config.grids import CrossConfig, ProtocolConfig
from jaxae.data.own.schema import Schema
from jaxae.detectors import Description
from jaxae.devices import precision
from jaxae.workflows import protocol, verification
from jaxae.workflows.verification import records

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


def replace_scores(folder):
    shutil.copy(folder / "members/class1-seed1/scores.npz", folder / "members/class1-seed0")


def replace_member(folder):
    shutil.rmtree(folder / "members/class1-seed0")
    shutil.copytree(folder / "members/class1-seed1", folder / "members/class1-seed0")


DATA, REPORT, SCORES = "data.json", "report.json", "scores.npz"
ONE, OTHER = "members/class0-seed0", "members/class0-seed1"
DAMAGE = [  # what fails, how it is said, and what is done
    ("class1-seed0 report", "scores differ by up to", replace_scores),
    ("class1-seed0 report", "it holds the member class1-seed1", replace_member),
    ("report", "4 members, the folder 3; class1-seed0 missing", gone("members/class1-seed0")),
    ("class0-seed1 report", "unfinished; run", gone(f"{OTHER}/report.json")),
    ("class0-seed1", "no detector", gone(f"{OTHER}/detector")),
    ("class0-seed1 report", "scores.npz", text(f"{OTHER}/scores.npz", "PK")),
    (
        "class0-seed0 report",
        "test_y in scores.npz is",
        arrays(f"{ONE}/scores.npz", test_y=np.invert),
    ),
    ("class0-seed0", "has the digest", text(f"{ONE}/data.json", '"other"')),
    ("class0-seed0 report", "configuration: it has format 1", text(f"{ONE}/config.json", "{}")),
    ("report", "cannot be read", gone(REPORT)),
    ("report", "is not valid JSON", text(REPORT, "{")),
    ("report", "is not as it was written", text(REPORT, "[]")),
    ("report", "is not as it was written", values(REPORT, "classes", value=3)),
    ("report", "auroc_interval is [0, 1] in the", values(REPORT, "auroc_interval", value=[0, 1])),
    (
        "report",
        "classes 1 auroc is 0.25 in the",
        values(REPORT, "classes", "1", "auroc", value=0.25),
    ),
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
    copy = tmp_path / "run"  # on two devices, unlike `whole`
    DEVICES[:2]
    protocol.run(grid(copy, data, devices=2))
    arrays(f"{ONE}/scores.npz", valid=lambda x: x * np.float32(1.0001))(copy)
    ok, failed, _ = verified(copy, capsys, "--retrain")
    assert {*ok} == {*MEMBERS[1:], "files", "report"}
    for name in MEMBERS[1:]:
        assert agrees(ok[name])
    assert "scores by 1.0e-04" in failed["class0-seed0"]
    ok, *_ = verified(copy / "members/class1-seed0", capsys, "--retrain")
    assert agrees(ok["trained again"])


def agrees(says):
    """Whether a member trained alone is the one of the grid: up to rounding without AVX-512."""
    if "the digests of parameters and scores agree, bit for bit" in says:
        return True
    off = [float(number) for number in re.findall(r" by (?:up to )?([0-9.]+e[+-][0-9]+)", says)]
    is_usual = precision.rounds_by_place() and len(off) == 2 and max(off) < 1e-5
    return is_usual and "beside other members" in says


@pytest.mark.slow
def test_the_points_of_a_sweep_are_compared(data, tmp_path, capsys):
    protocol.run(grid(tmp_path / "run", data, seeds=1, sweep=("optim.lr=1e-3,3e-3",)))
    ok, failed, _ = verified(tmp_path / "run", capsys)
    assert len(ok) == 6
    assert not failed
    values("report.json", "points", "optim.lr 0.003", "valid_loss", value=9)(tmp_path / "run")
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
    ("checkpoint 2, data", "has the digest", text(DATA, '"other"')),
    ("decisions, scores", "do not follow", arrays(SCORES, p_value=lambda p: 1 - p / 2)),
    ("decisions, scores", "between 0.01 and 1", arrays(SCORES, p_value=lambda p: p - 1)),
    ("scores", "p_value in scores.npz is", arrays(SCORES, p_value=lambda p: np.minimum(p, 0.3))),
    ("scores, report", "auroc is", arrays(SCORES, test=np.negative)),
    ("scores", "test_id in scores.npz", arrays(SCORES, test_id=np.negative)),
    ("scores", "more in", lambda f: np.savez(f / SCORES, **np.load(f / SCORES), more=1)),
    ("report", "recall is 0.5 in report.json", values(REPORT, "recall", value=0.5)),
    ("report", "not as it was written", values(REPORT, "alpha", value="low")),
    ("report", "report.json is not valid JSON", text(REPORT, "{")),
    ("decisions, scores", "not a readable .npz", text(SCORES, "PK")),
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
    for content in ("{", "[]", '{"auroc": "x"}'):  # then the members say what they can
        (copy / "report.json").write_text(content)
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


@pytest.mark.parametrize(
    ("name", "size", "read"),
    [("images:x", (64, 64), 64), ("images:x", (64, 48), 0), ("defects", (256, 256), 0)],
)
def test_images_are_read_again_in_the_size_that_they_had(name, size, read):
    """Before images kept 256 pixels, those of other sizes became 64 x 64 with data.size 0."""
    schema = Schema("images", size=size)
    about = Description(tiny(data__name=name), (*size, 1), "uint8", None, schema=schema)
    assert records._as_read(about).size == read
