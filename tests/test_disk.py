"""A disk that is full or will not be written: one line, and the same command goes on afterwards."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from probes import edit, tiny, write_npz

from jaxae import detectors
from jaxae.errors import UserError
from jaxae.reports import plots
from jaxae.storage import checkpoint, disk, run_folder
from jaxae.workflows import experiment

ROOT = Path(__file__).parents[1]
FULL = os.strerror(errno.ENOSPC)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A finished run of two epochs, each with a checkpoint: its configuration."""
    folder = tmp_path_factory.mktemp("disk")
    changes = {"data.name": f"npz:{write_npz(folder / 'blobs.npz')}", "devices": 1}
    changes |= {"run_dir": str(folder / "run"), "train.keep_checkpoints": 0}
    cfg = edit(tiny("dense", train__checkpoint_every=1), changes)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plots, "draw", lambda *args: [])
        experiment.run(cfg)
    return cfg


@pytest.fixture
def again(ran, tmp_path, monkeypatch):
    """That run's configuration for a copy of its folder."""
    monkeypatch.setattr(plots, "draw", lambda *args: [])
    shutil.copytree(ran.run_path, tmp_path / "run")
    return edit(ran, {"run_dir": str(tmp_path / "run")})


def refused(cfg):
    """The line that a run ends with."""
    with pytest.raises(UserError) as caught:
        experiment.run(cfg)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def swap(path):
    """A file where there was a folder, and the other way round."""
    if path.is_dir():
        shutil.rmtree(path)
        path.write_text("mine")
    else:
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize(
    "name",
    ["checkpoints", "figures", "arrays", "detector", "metrics.jsonl", "config.json", "data.json",
     "provenance.jsonl", "report.json", "scores.npz"],
)  # fmt: skip
def test_a_file_in_place_of_a_folder_or_the_reverse_is_named_before_training(name, again):
    swap(again.run_path / name)
    before = sorted(again.run_path.rglob("*"))
    line = refused(again)
    assert f"{again.run_path / name} is not a {'file' if '.' in name else 'folder'}" in line
    assert "--run-dir" in line
    assert sorted(again.run_path.rglob("*")) == before


@pytest.mark.parametrize("name", ["metrics.jsonl", "config.json", "data.json"])
def test_a_file_of_other_bytes_is_named(name, again):
    (again.run_path / name).write_bytes(bytes(range(256)))
    assert str(again.run_path / name) in refused(again)


def test_an_unreadable_report_is_replaced(again):
    (again.run_path / "report.json").write_bytes(b"\xff\x00{")
    assert experiment.run(again) == json.loads((again.run_path / "report.json").read_bytes())


@pytest.mark.parametrize("junk", [False, True])
def test_a_folder_that_is_no_checkpoint_is_named_if_it_would_be_the_last(junk, again):
    folder = again.run_path / "checkpoints" / "7"
    folder.mkdir()
    if junk:
        (folder / "about").mkdir()
        (folder / "notes.txt").write_text("mine")
    line = refused(edit(again, {"train.epochs": 8}))
    assert f"the checkpoint {folder} lacks" in line
    assert "--train.fall-back" in line
    shutil.rmtree(folder)
    assert experiment.run(edit(again, {"train.epochs": 8}))["epochs"] == 8


def test_an_older_folder_that_is_no_checkpoint_is_passed_over(again):
    """What a process leaves that is killed while it removes an old checkpoint."""
    shutil.rmtree(again.run_path / "checkpoints" / "1" / "state")
    cfg = edit(again, {"train.epochs": 3, "studies": ("epoch_grid",)})
    assert experiment.run(cfg)["epochs"] == 3
    with np.load(again.run_path / "arrays" / "epoch_grid.npz") as found:
        assert found["epochs"].tolist() == [2, 3]


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, FULL)


WRITERS = [
    ("provenance.jsonl", run_folder, "provenance", lambda: full),
    ("detector", detectors, "save", lambda: full),
    ("scores.npz", np, "savez", lambda: _full_for("scores")),
    ("reconstructions.npz", np, "savez", lambda: _full_for("reconstructions")),
    ("report.json", Path, "write_bytes", lambda: _full_for("report")),
]


def _full_for(name):
    write = {"report": Path.write_bytes}.get(name, np.savez)

    def written(path, *args, **kwargs):
        if name in path.name:
            path.touch()
            full()
        return write(path, *args, **kwargs)

    return written


@pytest.mark.parametrize(("name", "where", "what", "make"), WRITERS, ids=lambda v: str(v)[:20])
def test_a_full_disk_is_one_line_that_names_the_file(name, where, what, make, again, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(where, what, make())
        line = refused(again)
    assert FULL in line
    assert "the same command resumes after the last checkpoint" in line
    if "." in name and what != "provenance":
        assert f"{name}: " in line
    assert [path.name for path in again.run_path.rglob(".*")] == [".lock"]
    assert experiment.run(again)["epochs"] == 2


def test_a_line_that_does_not_fit_is_taken_back(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    run_folder.append_metrics(path, 1, {})
    opened = Path.open

    class Full:
        def __init__(self, file):
            self.file = file

        def __enter__(self):
            return self

        def __exit__(self, *raised):
            self.file.close()

        def write(self, text):
            self.file.write(text[:5])
            full()

    monkeypatch.setattr(Path, "open", lambda path, mode="r": Full(opened(path, mode)))
    with pytest.raises(OSError, match=r"No space.*metrics\.jsonl"):
        run_folder.append_metrics(path, 2, {})
    monkeypatch.undo()
    assert path.read_text() == '{"epoch": 1}\n'


# With real disks, in a process of its own: nothing but the line may reach its standard error.


LIMITED = """
import resource, runpy

resource.setrlimit(resource.RLIMIT_FSIZE, ({}, resource.RLIM_INFINITY))
runpy.run_module("jaxae", run_name="__main__")
"""


def train(folder, *more, largest=None):
    """What a command ends with and says, beside the progress of training."""
    command = (
        "train --data.name digits --data.normal 0 --method dense --model.latent 4 "
        "--train.epochs 6 --train.checkpoint-every 1 --train.batch-size 8 --devices 1 --run-dir"
    )
    env = dict(os.environ)
    start = [sys.executable, "-m", "jaxae"]
    if largest:  # JAX warns where it cannot keep a compiled program
        start = [sys.executable, "-c", LIMITED.format(largest)]
        env["JAX_ENABLE_COMPILATION_CACHE"] = "0"
    done = subprocess.run(
        [*start, *command.split(), str(folder), *more],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = done.stderr.replace("\r", "\n").splitlines()
    return done.returncode, [x for x in lines if x.strip() and not x.startswith("training: ")]


@pytest.fixture
def small_disk(tmp_path):
    """`(size in KB or other options) -> None`: makes or changes a file system of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        mounted = "remount," if os.path.ismount(folder) else ""
        command = ["mount", "-t", "tmpfs", "-o", f"{mounted}{options}", "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
            pytest.skip("file systems cannot be mounted here")

    mount.folder = folder
    yield mount
    subprocess.run(["umount", str(folder)], check=False)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    assert train(folder) == (0, [])
    return folder


def assert_same_run(one, other):
    for name in ("scores.npz", "arrays/reconstructions.npz"):
        with np.load(one / name) as a, np.load(other / name) as b:
            for key in a.files:
                np.testing.assert_array_equal(a[key], b[key])
    losses = [
        [row["loss"] for row in disk.read_metrics(at / "metrics.jsonl")] for at in (one, other)
    ]
    assert losses[0] == losses[1]


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [4, 30, 60, 200, 300, 370])
def test_a_disk_that_gets_full_anywhere(kilobytes, small_disk, undisturbed):
    run = small_disk.folder / "run"
    small_disk(f"size={kilobytes}k")
    code, lines = train(run)
    assert code == 2
    assert len(lines) == 1, lines
    assert FULL in lines[0]
    assert str(run) in lines[0]
    whole = {path.name for path in run.glob("checkpoints/*") if path.name.isdecimal()}
    small_disk("size=9m")
    for epoch in whole:
        known = json.loads((run / "checkpoints" / epoch / checkpoint.DIGESTS).read_text())
        assert len(known) > 5
    assert train(run) == (0, [])
    assert_same_run(run, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("largest", [100, 3000, 20_000])
def test_files_that_get_too_large_anywhere(largest, tmp_path, undisturbed):
    run = tmp_path / "run"
    code, lines = train(run, largest=largest)
    assert code == 2
    assert len(lines) == 1, lines
    assert os.strerror(errno.EFBIG) in lines[0]
    assert train(run) == (0, [])
    assert_same_run(run, undisturbed)


@pytest.mark.slow
def test_a_disk_that_becomes_read_only(small_disk):
    small_disk("size=9m")
    run = small_disk.folder / "run"
    assert train(run, "--train.epochs", "2") == (0, [])
    small_disk("ro")
    code, lines = train(run)
    assert code == 2
    assert len(lines) == 1
    assert os.strerror(errno.EROFS) in lines[0]


@pytest.mark.slow
@pytest.mark.parametrize("pattern", ["state/manifest.ocdbt", "state/d/*", "about/metadata"])
def test_a_damaged_checkpoint_is_one_line(pattern, undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "run")
    file = next((tmp_path / "run" / "checkpoints" / "6").glob(pattern))
    file.write_bytes(file.read_bytes()[:50])
    code, lines = train(tmp_path / "run")
    assert code == 2
    assert len(lines) == 1
    assert f"{file} is damaged" in lines[0]
