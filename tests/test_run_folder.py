import dataclasses
import json
import os
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from probes import edit, tiny, write_npz

from jaxae import config, detectors
from jaxae.config import FORMAT
from jaxae.data.arrayfiles import read_npz
from jaxae.errors import UserError
from jaxae.reports import plots
from jaxae.storage import disk, manifest, run_folder
from jaxae.workflows import experiment

ENTERED = [".lock", "arrays", "config.json", "data.json", "figures", "provenance.jsonl"]


def in_folder(folder, **changes):
    return edit(tiny(), {"run_dir": str(folder)} | changes)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def provenance(folder):
    return [json.loads(line) for line in (folder / "provenance.jsonl").read_text().splitlines()]


def contents(folder):
    """Every file with its bytes."""
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def enter(cfg):
    """Enter a run folder and leave it again."""
    with run_folder.enter(cfg) as folder:
        return folder


def refused(cfg):
    """Why a run folder cannot be entered."""
    with pytest.raises(UserError) as caught, run_folder.enter(cfg):
        pass
    return str(caught.value)


def test_a_run_folder_says_what_it_is_of(tmp_path):
    cfg = in_folder(tmp_path / "a" / "b")
    with run_folder.enter(cfg) as folder:
        assert folder == tmp_path / "a" / "b"
        assert config.from_json((folder / "config.json").read_text()) == cfg
        (known,) = provenance(folder)
    assert known["versions"]["jax"] == jax.__version__
    assert len(known["devices"]) == 4
    assert {"argv", "git_revision", "git_dirty", "started", "python", "platform"} <= known.keys()
    assert files(folder) == ENTERED


def test_a_run_folder_may_be_entered_again_to_go_on_or_score_anew(tmp_path):
    enter(in_folder(tmp_path))
    changed = in_folder(tmp_path, **{"train.epochs": 9, "score": "mae", "threshold.rule": "max"})
    with run_folder.enter(changed) as folder:
        # What the folder holds is still the detector of before, and config.json is that one's.
        assert config.from_json((folder / "config.json").read_text()) == in_folder(tmp_path)
        run_folder.write_about(folder, changed, "")
    assert config.from_json((tmp_path / "config.json").read_text()) == changed
    enter(in_folder(tmp_path))


def test_every_entry_leaves_a_line_of_provenance(tmp_path, monkeypatch):
    for count in (1, 2, 3):
        monkeypatch.setattr(sys, "argv", ["jaxae", str(count)])
        enter(in_folder(tmp_path))
        assert len(provenance(tmp_path)) == count
    assert [known["argv"][1] for known in provenance(tmp_path)] == ["1", "2", "3"]


def test_another_configuration_is_refused_and_the_fields_are_named(tmp_path):
    enter(in_folder(tmp_path))
    before = contents(tmp_path)
    other = in_folder(tmp_path, **{"optim.lr": 0.5, "data.normal": (3,), "train.epochs": 9})
    message = refused(other)
    assert "optim.lr is 0.003 there and 0.5 here" in message
    assert "data.normal is () there and (3,) here" in message
    assert "epochs" not in message
    assert "--run-dir" in message
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"name": ', ["not valid JSON"]),
        ("[]", ["JSON object"]),
        (json.dumps({"format": FORMAT}), ["no name"]),
        (json.dumps({"format": FORMAT, "name": "tiny", "speed": 3}), ["speed"]),
        ('{"name": "tiny", "seed": 0}', ["format 1", f"format {FORMAT}", "another version"]),
        ('{"format": 0, "name": "tiny"}', ["format 0", f"format {FORMAT}", "another version"]),
    ],
)
def test_a_configuration_that_cannot_be_used_is_a_user_error(text, words, tmp_path):
    enter(in_folder(tmp_path))
    (tmp_path / "config.json").write_text(text)
    before = contents(tmp_path)
    message = refused(in_folder(tmp_path))
    assert all(word in message for word in (str(tmp_path), *words))
    assert "--run-dir" in message
    assert "\n" not in message
    assert contents(tmp_path) == before


def test_a_run_folder_of_the_version_before_is_refused(tmp_path):
    known = dataclasses.asdict(in_folder(tmp_path))  # as it was written: without a format
    known["threshold"]["rows"] = known["threshold"].pop("limit")
    old = json.dumps(known)
    (tmp_path / "config.json").write_text(old)
    (tmp_path / "provenance.json").write_text("{}")
    message = refused(in_folder(tmp_path))
    assert all(word in message for word in (str(tmp_path), "format 1", "--run-dir", "remove it"))
    assert (tmp_path / "config.json").read_text() == old
    assert not (tmp_path / "provenance.jsonl").exists()


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    message = refused(in_folder(tmp_path / "file" / "run"))
    assert "file/run/arrays: Not a directory" in message
    assert "--run-dir" in message


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "report.json"
    disk.write_json(path, {"auroc": 0.5})
    for value in ({"auroc": float("nan")}, {"auroc": float("inf")}):
        with pytest.raises(ValueError, match="JSON"):
            disk.write_json(path, value)
    with pytest.raises(TypeError):
        disk.write_json(path, {"auroc": np.zeros(2)})
    assert json.loads(path.read_text()) == {"auroc": 0.5}
    assert files(tmp_path) == ["report.json"]


def test_a_write_that_is_cut_off_leaves_nothing_half_written(tmp_path, monkeypatch):
    def cut_off(file, **arrays):
        file.write_bytes(b"PK half of it")
        raise KeyboardInterrupt

    disk.write_arrays(tmp_path / "scores.npz", {"test": np.arange(3)})
    monkeypatch.setattr(np, "savez", cut_off)
    with pytest.raises(KeyboardInterrupt):
        disk.write_arrays(tmp_path / "scores.npz", {"test": np.arange(4)})
    assert files(tmp_path) == ["scores.npz"]
    assert len(read_npz(tmp_path / "scores.npz")["test"]) == 3


def test_what_a_killed_process_left_half_written_is_swept_up(tmp_path):
    folder = enter(in_folder(tmp_path))
    debris = [".report.json.4711", ".scores.4711.npz", f"figures/.roc-{'0a' * 16}.tmp"]
    mine = [".notes", ".config.json.swp", "figures/.mine.png"]
    for name in debris + mine:
        (folder / name).write_text("half")
    enter(in_folder(tmp_path))
    assert not [name for name in debris if (folder / name).exists()]
    assert all((folder / name).read_text() == "half" for name in mine)


def test_arrays_come_back(tmp_path):
    arrays = {"test": np.arange(3.0, dtype=np.float32), "names": np.array(["a", "bc"])}
    disk.write_arrays(tmp_path / "x.npz", arrays)
    with np.load(tmp_path / "x.npz") as found:
        assert found.files == ["test", "names"]
        np.testing.assert_array_equal(found["test"], arrays["test"])


def test_metrics_are_appended_and_a_torn_last_line_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert disk.read_metrics(path) == []
    run_folder.start_metrics(path, 0)
    rows = [{"epoch": epoch, "loss": 1 / epoch} for epoch in (1, 2, 3)]
    for row in rows:
        run_folder.append_metrics(path, row["epoch"], {"loss": np.array([row["loss"]])})
    assert disk.read_metrics(path) == rows
    with path.open("a") as file:
        file.write('{"epoch": 4, "lo')
    assert disk.read_metrics(path) == rows


@pytest.mark.parametrize("done", [0, 2, 3])
def test_metrics_of_epochs_that_no_checkpoint_holds_are_dropped(done, tmp_path):
    path = tmp_path / "metrics.jsonl"
    for epoch in (1, 2, 3):
        run_folder.append_metrics(path, epoch, {})
    with path.open("a") as file:
        file.write("{torn")
    run_folder.start_metrics(path, done)
    run_folder.append_metrics(path, done + 1, {})
    assert [row["epoch"] for row in disk.read_metrics(path)] == list(range(1, done + 2))


def test_metrics_that_are_not_numbers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        run_folder.append_metrics(tmp_path / "metrics.jsonl", 1, {"loss": np.array(np.nan)})


def test_a_run_folder_is_held_by_one_process(tmp_path):
    cfg, same = in_folder(tmp_path), in_folder(tmp_path, **{"score": "mae"})
    with run_folder.enter(cfg):
        before = contents(tmp_path)
        for other in (cfg, same, in_folder(tmp_path, seed=9)):
            message = refused(other)
            assert f"{tmp_path} is in use by another process" in message
            assert "--run-dir" in message
        assert contents(tmp_path) == before
    assert files(tmp_path) == ENTERED
    enter(same)
    assert len(provenance(tmp_path)) == 2


def test_a_run_that_is_refused_before_it_changes_anything_stays_on_record(tmp_path):
    def refuse(change):
        with run_folder.enter(cfg) as folder:
            change(folder)
            raise UserError("too few epochs")

    cfg = in_folder(tmp_path)
    with run_folder.enter(cfg) as folder:
        manifest.seal(folder)
    with pytest.raises(UserError):
        refuse(lambda folder: None)
    assert manifest.changed(folder) == {}
    assert len(provenance(folder)) == 2
    with pytest.raises(UserError):
        refuse(lambda folder: (folder / "metrics.jsonl").write_text("{}"))
    assert not (folder / manifest.NAME).exists()


def test_an_error_inside_lets_the_folder_go(tmp_path):
    for error in (FloatingPointError, KeyboardInterrupt):
        with pytest.raises(error), run_folder.enter(in_folder(tmp_path)):
            raise error
    enter(in_folder(tmp_path))
    assert files(tmp_path) == ENTERED
    assert len(provenance(tmp_path)) == 3


# Enters the folder that it reads from its input, at the time before it, and answers whether it came
# in; the next line makes it leave.
ENTRANT = """
import contextlib, sys, time
from jaxae import config, errors; from jaxae.storage import run_folder

run_folder.provenance = lambda precision: {}  # which starts JAX and asks git: it takes long
for line in sys.stdin:
    instant, folder = line.strip().split(maxsplit=1)
    cfg = config.ExperimentConfig("tiny", run_dir=folder)
    with contextlib.ExitStack() as stack:
        while time.time() < float(instant):
            pass
        try:
            stack.enter_context(run_folder.enter(cfg))
            answer = "in"
        except errors.UserError as error:
            answer = str(error)
        print(answer, flush=True)
        sys.stdin.readline()
    print("left", flush=True)
"""


class Entrant:
    """Another process that enters folders when it is told to."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", ENTRANT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, line):
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()

    def answer(self):
        return self.process.stdout.readline().strip()

    def enter(self, folder):
        self.tell(f"0 {folder}")
        return self.answer()

    def leave(self):
        self.tell("")
        assert self.answer() == "left"

    def end(self, kill=False):
        if kill:
            self.process.kill()
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@pytest.fixture
def entrants():
    """Makes other processes, and ends them."""
    made = []

    def make():
        made.append(Entrant())
        return made[-1]

    yield make
    for entrant in made:
        if entrant.process.poll() is None:
            entrant.end()


def test_another_process_cannot_enter_what_is_held(entrants, tmp_path):
    other = entrants()
    assert other.enter(tmp_path / "run") == "in"
    before = contents(tmp_path)
    cfg = config.ExperimentConfig("tiny", run_dir=str(tmp_path / "run"))
    assert "in use by another process" in refused(cfg)
    assert contents(tmp_path) == before
    other.leave()
    with run_folder.enter(cfg):
        before = contents(tmp_path)
        assert "in use by another process" in other.enter(tmp_path / "run")
        other.leave()
        assert contents(tmp_path) == before
    assert other.enter(tmp_path / "run") == "in"


def test_a_killed_process_does_not_lock_out(entrants, tmp_path):
    for _ in range(2):
        other = entrants()
        assert other.enter(tmp_path) == "in"
        other.end(kill=True)
    enter(config.ExperimentConfig("tiny", run_dir=str(tmp_path)))
    assert len(provenance(tmp_path)) == 3


def test_of_two_processes_at_once_never_both_enter(entrants, tmp_path):
    pair = entrants(), entrants()
    for other in pair:  # wait until both have started
        assert other.enter(tmp_path / str(id(other))) == "in"
        other.leave()
    for turn in range(30):
        folder = tmp_path / str(turn % 10)  # new at first, then with a configuration
        instant = time.time() + 0.005
        for other in pair:
            other.tell(f"{instant} {folder}")
        answers = sorted(other.answer() for other in pair)
        assert answers[0] == "in"
        assert "in use by another process" in answers[1]
        lines = (folder / "provenance.jsonl").read_text().splitlines()
        assert len(lines) == turn // 10 + 1  # only of those who came in
        for other in pair:
            other.leave()


def test_an_interrupted_change_of_score_leaves_the_configuration_of_the_detector(
    tmp_path, monkeypatch
):
    data = {"data.name": f"npz:{write_npz(tmp_path / 'x.npz')}", "train.epochs": 1}
    cfg = in_folder(tmp_path / "run", **data)
    monkeypatch.setattr(plots, "draw", lambda *args: [])
    experiment.run(cfg)
    before = [(tmp_path / "run" / name).read_text() for name in ("config.json", "report.json")]

    def interrupted(*args):
        raise KeyboardInterrupt

    other = edit(cfg, {"score": "mae", "threshold.rule": "max"})
    for module, step in ((detectors, "fit"), (detectors, "save")):
        with monkeypatch.context() as patch:
            patch.setattr(module, step, interrupted)
            with pytest.raises(KeyboardInterrupt):
                experiment.run(other)
        after = [(tmp_path / "run" / name).read_text() for name in ("config.json", "report.json")]
        assert after == before
        assert detectors.load(tmp_path / "run" / "detector").about.config == cfg
    experiment.run(other)
    assert config.from_json((tmp_path / "run" / "config.json").read_text()) == other
    assert detectors.load(tmp_path / "run" / "detector").about.config == other
    assert len(provenance(tmp_path / "run")) == 4


@pytest.mark.parametrize("content", [b"garbage", b"9" * 40, b"own pid", b"", b"\x00"])
def test_what_a_lock_file_holds_does_not_matter(content, tmp_path):
    cfg = edit(tiny(), {"run_dir": str(tmp_path / "run")})
    (tmp_path / "run").mkdir()
    content = str(os.getpid()).encode() if content == b"own pid" else content
    (tmp_path / "run/.lock").write_bytes(content)
    enter(cfg)
    assert (tmp_path / "run/.lock").read_bytes() == content


def test_a_folder_in_the_place_of_the_lock_is_one_line(tmp_path):
    (tmp_path / "run/.lock").mkdir(parents=True)
    message = refused(edit(tiny(), {"run_dir": str(tmp_path / "run")}))
    assert message.startswith(f"{tmp_path / 'run/.lock'}: Is a directory; fix that")
