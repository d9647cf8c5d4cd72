import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from probes import edit, tiny

from jaxae import config, runlog
from jaxae.errors import UserError


def in_folder(folder, **changes):
    return edit(tiny(), {"run_dir": str(folder)} | changes)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_run_folder_says_what_it_is_of(tmp_path):
    cfg = in_folder(tmp_path / "a" / "b")
    folder = runlog.open_run(cfg)
    assert config.from_json((folder / "config.json").read_text()) == cfg
    known = json.loads((folder / "provenance.json").read_text())
    assert known["versions"]["jax"] == jax.__version__
    assert len(known["devices"]) == 4
    assert {"argv", "git_revision", "git_dirty", "started", "python", "platform"} <= known.keys()
    assert files(folder) == ["arrays", "config.json", "figures", "provenance.json"]


def test_a_run_folder_may_be_entered_again_to_go_on_or_score_anew(tmp_path):
    runlog.open_run(in_folder(tmp_path))
    changed = in_folder(tmp_path, **{"train.epochs": 9, "score": "mae", "threshold.rule": "max"})
    runlog.open_run(changed)  # what it holds is replaced only once training may go on
    assert config.from_json((tmp_path / "config.json").read_text()) == in_folder(tmp_path)


def test_another_configuration_is_refused_and_the_fields_are_named(tmp_path):
    cfg = in_folder(tmp_path)
    runlog.open_run(cfg)
    other = in_folder(tmp_path, **{"optim.lr": 0.5, "data.normal": (3,), "train.epochs": 9})
    with pytest.raises(UserError) as caught:
        runlog.open_run(other)
    message = str(caught.value)
    assert "optim.lr is 0.003 there and 0.5 here" in message
    assert "data.normal is () there and (3,) here" in message
    assert "epochs" not in message
    assert "--run-dir" in message
    assert config.from_json((tmp_path / "config.json").read_text()) == cfg


def test_a_damaged_configuration_is_a_user_error(tmp_path):
    runlog.open_run(in_folder(tmp_path))
    (tmp_path / "config.json").write_text('{"name": ')
    with pytest.raises(UserError, match="not valid JSON"):
        runlog.open_run(in_folder(tmp_path))


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/run cannot be written .*--run-dir"):
        runlog.open_run(in_folder(tmp_path / "file" / "run"))


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "report.json"
    runlog.write_json(path, {"auroc": 0.5})
    for value in ({"auroc": float("nan")}, {"auroc": float("inf")}):
        with pytest.raises(ValueError, match="JSON"):
            runlog.write_json(path, value)
    with pytest.raises(TypeError):
        runlog.write_json(path, {"auroc": np.zeros(2)})
    assert json.loads(path.read_text()) == {"auroc": 0.5}
    assert files(tmp_path) == ["report.json"]


def test_a_write_that_is_cut_off_leaves_nothing_half_written(tmp_path, monkeypatch):
    def cut_off(file, **arrays):
        file.write_bytes(b"PK half of it")
        raise KeyboardInterrupt

    runlog.write_arrays(tmp_path / "scores.npz", {"test": np.arange(3)})
    monkeypatch.setattr(np, "savez", cut_off)
    with pytest.raises(KeyboardInterrupt):
        runlog.write_arrays(tmp_path / "scores.npz", {"test": np.arange(4)})
    assert files(tmp_path) == ["scores.npz"]
    assert len(np.load(tmp_path / "scores.npz")["test"]) == 3


def test_arrays_come_back(tmp_path):
    arrays = {"test": np.arange(3.0, dtype=np.float32), "names": np.array(["a", "bc"])}
    runlog.write_arrays(tmp_path / "x.npz", arrays)
    with np.load(tmp_path / "x.npz") as found:
        assert found.files == ["test", "names"]
        np.testing.assert_array_equal(found["test"], arrays["test"])


def test_metrics_are_appended_and_a_torn_last_line_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert runlog.read_metrics(path) == []
    runlog.start_metrics(path, 0)
    rows = [{"epoch": epoch, "loss": 1 / epoch} for epoch in (1, 2, 3)]
    for row in rows:
        runlog.append_metrics(path, row)
    assert runlog.read_metrics(path) == rows
    with path.open("a") as file:
        file.write('{"epoch": 4, "lo')
    assert runlog.read_metrics(path) == rows


@pytest.mark.parametrize("done", [0, 2, 3])
def test_metrics_of_epochs_that_no_checkpoint_holds_are_dropped(done, tmp_path):
    path = tmp_path / "metrics.jsonl"
    for epoch in (1, 2, 3):
        runlog.append_metrics(path, {"epoch": epoch})
    with path.open("a") as file:
        file.write("{torn")
    runlog.start_metrics(path, done)
    runlog.append_metrics(path, {"epoch": done + 1})
    assert [row["epoch"] for row in runlog.read_metrics(path)] == list(range(1, done + 2))


def test_metrics_that_are_not_numbers_are_refused(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        runlog.append_metrics(tmp_path / "metrics.jsonl", {"loss": float("nan")})


def test_a_run_folder_is_held_by_one_process(tmp_path):
    with (
        runlog.exclusive(tmp_path),
        pytest.raises(UserError, match=f"in use by process {os.getpid()}"),
        runlog.exclusive(tmp_path),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_a_lock_that_a_killed_process_left_is_taken_over(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    (tmp_path / ".lock").write_bytes(done.stdout.strip())
    with runlog.exclusive(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())
