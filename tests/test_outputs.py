"""What a command may write where its user says: no record, no input, no file unasked."""

import os

import numpy as np
import pytest

from jaxae.cli import main as cli
from jaxae.config import ExperimentConfig
from jaxae.errors import UserError
from jaxae.storage import disk, manifest, outputs

FORMATS = (".json", ".npz", ".csv", ".html", ".png", ".md", ".lock", "")
RECORDS = (
    *("config.json", "data.json", "scores.npz", "report.json", "manifest.json", ".lock"),
    *("checkpoints/2/state/d.npz", "checkpoints/new.csv", "detector/description.json"),
    *("detector/new.csv", "arrays/study.npz", "figures/roc.png", "figures/new.csv", "rows.md"),
    *("members/class0/scores.npz", "members/class0/detector/x.csv", "members/new.csv"),
    *("report.html", "baselines/pca.npz", "damaged/2-0/x.csv"),
)


@pytest.fixture
def run(tmp_path):
    """A folder that looks like a run and like a grid, sealed, with a file of the user's."""
    for folder in (tmp_path / "runs/one", tmp_path / "runs/one/members/class0"):
        for part in ("detector", "checkpoints/2/state", "arrays", "figures"):
            (folder / part).mkdir(parents=True)
        for name in ("config.json", "data.json", "report.json", "detector/description.json"):
            disk.write_json(folder / name, {})
        for name in ("scores.npz", "arrays/study.npz", "detector/arrays-0.npz"):
            np.savez(folder / name, x=np.zeros(2))
        for name in (
            "figures/roc.png",
            "rows.md",
            "mine.csv",
            ".lock",
            "checkpoints/2/state/d.npz",
        ):
            (folder / name).write_text(name)
        disk.write_json(folder / "checkpoints/2/digests.json", {})
        manifest.seal(folder, ["rows.md"])
    return tmp_path / "runs/one"


def why(out, inputs=(), overwrite=True, suffixes=FORMATS):
    """The end of the one line that refuses an output; "" if it may be written."""
    try:
        outputs.check(out, suffixes, inputs, overwrite)
    except UserError as error:
        line = str(error)
    else:
        return ""
    assert line.startswith(f"--out {out} cannot be written")
    assert "\n" not in line
    return line.partition(" cannot be written")[2]


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", RECORDS)
def test_no_record_of_a_run_is_an_output_in_any_spelling(name, run, tmp_path, monkeypatch):
    place, before = run / name, contents(run)
    place.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "link").symlink_to(run)
    (tmp_path / f"file{place.suffix}").symlink_to(place)
    monkeypatch.chdir(tmp_path)
    spellings = [
        *(place, tmp_path / "link" / name, place.parent / ".." / place.parent.name / place.name),
        *(type(run)("runs/one") / name, type(run)("runs/../link") / name),
        tmp_path / f"file{place.suffix}",
    ]
    for out in spellings:
        assert f"is part of {run}" in why(out), out
    assert contents(run) == before


def test_a_detector_or_a_checkpoint_alone_is_a_record_too(run, tmp_path):
    for part in ("detector", "checkpoints/2"):
        alone = (run / part).rename(tmp_path / part.replace("/", "-"))
        for name in ("new.csv", "state/d.npz"):
            (alone / name).parent.mkdir(exist_ok=True)
            assert "is part of" in why(alone / name)


def test_what_is_not_on_record_is_free(run, tmp_path):
    (tmp_path / "figures").mkdir()
    disk.write_json(tmp_path / "config.json", {})  # of something else
    disk.write_json(tmp_path / "manifest.json", {"name": "a web page"})
    for out in (run / "mine.csv", run / "judged.npz", run / "comparison.html",
                run.parent / "config.json", tmp_path / "figures/a.png"):  # fmt: skip
        assert not why(out)
    assert not why(run / "judged.npz", overwrite=False)
    assert sorted(p.name for p in run.parent.iterdir()) == ["one"]


def test_a_hard_link_gives_way_and_the_record_stays(run, tmp_path):
    out, before = tmp_path / "out.npz", contents(run)
    os.link(run / "scores.npz", out)
    assert "add --overwrite" in why(out, overwrite=False)
    outputs.check(out, (".npz",), overwrite=True)
    disk.write_arrays(out, {"y": np.ones(3)})
    assert contents(run) == before


def test_an_input_is_never_an_output(tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b\n")
    os.link(rows, tmp_path / "linked.csv")
    (tmp_path / "soft.csv").symlink_to(rows)
    for out in (rows, tmp_path / "linked.csv", tmp_path / "soft.csv"):
        assert "read by this command" in why(out, [rows])
        assert "read by this command" in why(out, [tmp_path])  # a folder of parts
    assert not why(tmp_path / "new.csv", [tmp_path])


def test_what_exists_is_replaced_only_when_asked(tmp_path):
    out = tmp_path / "out.csv"
    assert not why(out, overwrite=False)
    (tmp_path / "lost.csv").symlink_to(tmp_path / "nothing")
    out.write_text("of another command")
    for name in ("out.csv", "lost.csv"):
        assert "it exists; add --overwrite" in why(tmp_path / name, overwrite=False)
        assert not why(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("out.txt", "name a .csv or .npz"),
        ("out", "name a .csv or .npz"),
        ("nowhere/out.csv", "in an existing folder"),
        ("file.csv/out.csv", "in an existing folder"),
        ("folder.csv", "is a folder"),
        ("pipe.csv", "is not a file"),
        ("x" * 300 + ".csv", "too long"),
        ("x" * 249 + ".csv", "too long"),  # with the ending of an unfinished file
        ("a\0.csv", "no null character"),
    ],
)
def test_what_cannot_be_written_is_refused_first(name, says, tmp_path):
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file.csv").touch()
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UserError, match="cannot be written") as refused:
        outputs.check(tmp_path / name, (".csv", ".npz"), overwrite=True)
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file.csv", "folder.csv", "pipe.csv"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    assert "Permission denied" in why(tmp_path / "out.csv")


@pytest.mark.parametrize(
    "command",
    [
        "score RUN rows.npy --out {}.npz",
        "score RUN rows.npy --out {}.csv --explain",
        "evaluate RUN rows.csv --out {}.json",
        "report RUN --against OTHER --out {}.html",
    ],
)
def test_every_command_asks_before_any_work(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out = tmp_path / command.format("out").split()[command.split().index("--out") + 1]
    out.write_text("evidence")
    for more in ([], ["--overwrite"]):
        with pytest.raises(SystemExit) as stop:
            cli.main([*command.format("out").split(), *more])
        line = capsys.readouterr().err
        assert (stop.value.code, line.count("\n")) == (2, 1)
        assert ("add --overwrite" in line) is not bool(more)  # then there is no RUN
    assert contents(tmp_path)[out] == b"evidence"


def why_no_run(run_dir="", name="mine", loggers=False):
    """The one line that refuses a run folder; "" if there may be a run."""
    try:
        outputs.check_run_folder(ExperimentConfig(name, run_dir=str(run_dir)), loggers)
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.parametrize(
    "name",
    ["", " ", "a/b", "../a", "/a", "x" * 250, "a\nb", "a\0b", "a\x1b[1m", "/", "./a", "a/"],
)
def test_a_name_is_that_of_one_folder_in_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = why_no_run(name=name)
    assert "--run-dir" in line
    assert "\n" not in line
    if "/" not in name and name.strip():  # then as --run-dir it is no better
        assert "--run-dir" in why_no_run(name * 2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["mine", "Größe 3", "-x", "a:b", ".hidden", "...", "~", "x" * 200])
def test_any_other_name_will_do(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not why_no_run(name=name)
    assert not why_no_run(name)
    assert not why_no_run(f"../{name}")


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("runs/one/checkpoints/3", "is inside {run}, which"),
        ("runs/one/inner", "is inside {run}, which"),
        ("link/arrays", "is inside {run}, which"),
        ("runs/one/members/class0", "is inside {run}, which"),
        ("runs/one/config.json", "is a file"),
        ("rows.csv/run", "cannot be"),
        (".run.12", "unfinished file"),
        (" ", "blank"),
        ("x" * 256, "too long"),
        ("x/" * 3000, "too long"),
        (".", "holds other files, such as "),
        ("runs", "holds other files, such as one;"),
    ],
)
def test_a_run_begins_only_where_nothing_else_is(folder, says, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").touch()
    (tmp_path / "link").symlink_to(run)
    before = contents(tmp_path)
    line = why_no_run(folder)
    assert says.format(run=run) in line
    assert "\n" not in line
    assert contents(tmp_path) == before
    assert not why_no_run(run), "the run itself goes on"


def test_a_run_begins_beside_logs_and_what_a_killed_run_left(tmp_path):
    folder = tmp_path / "run"
    for name in ("arrays", "figures"):
        (folder / name).mkdir(parents=True)
    for name in (".gitkeep", "slurm-1.out", "train.log"):
        (folder / name).touch()
    assert not why_no_run(folder)
    (folder / "figures/mine.png").touch()
    assert "such as figures" in why_no_run(folder)
    assert not why_no_run(folder, loggers=True)
    (folder / ".lock").touch()
    assert not why_no_run(folder)
