"""Many processes: started as a scheduler starts them, on the loopback of one machine."""

import os
import signal
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import ecg_cross, one_vs_rest
from jaxae import detectors
from jaxae.cli import train
from jaxae.config import HostsConfig
from jaxae.devices import hosts
from jaxae.errors import UserError
from jaxae.storage import checkpoint

ROOT = Path(__file__).parents[1]
RUN = [
    *("train", "--data.name", "digits", "--data.normal", "0", "--data.input", "none"),
    *("--method", "dense", "--model.latent", "4", "--model.hidden", "16", "--score", "mse"),
    *("--train.batch-size", "8"),
]


IGNORED = "but only single runs use it, not a grid of members; leave it at"


def free_port():
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return found.getsockname()[1]


def command(folder, *more, run=RUN):
    return [sys.executable, "-m", "jaxae", *run, "--run-dir", str(folder), *map(str, more)]


def started(count, folder, *more, timeout=10, each=None, run=RUN):
    """The processes of one run."""
    at = f"--hosts.coordinator localhost:{free_port()} --hosts.count {count}".split()
    return [
        subprocess.Popen(
            [
                *command(folder, *at, "--hosts.index", index, run=run),
                *map(str, ("--hosts.timeout", timeout, *more)),
                *(each[index] if each else ()),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(count)
    ]


def ended(processes, within=200):
    """Exit code, output and the last line of errors of each."""
    found = [process.communicate(timeout=within) for process in processes]
    said = [(out, errors.strip().splitlines()[-1:]) for out, errors in found]
    codes = [process.returncode for process in processes]
    return [(code, out, *(last or [""])) for code, (out, last) in zip(codes, said, strict=True)]


def alone(folder, *more, run=RUN):
    done = subprocess.run(
        command(folder, *more, run=run),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def parameters(folder):
    return jax.tree.leaves(detectors.load(folder / "detector").variables)


def assert_alike(folder, other, exactly):
    """Two runs ended with the same parameters."""
    for a, b in zip(parameters(folder), parameters(other), strict=True):
        if exactly:
            np.testing.assert_array_equal(a, b)
        else:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=2e-6)


def assert_refused(asked, words, run):
    """A command ends with one line that holds these words, code 2 and no run folder."""
    done = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not run.exists()


ENV = {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_TASKS_PER_NODE": "4(x2)"}


@pytest.mark.parametrize(
    ("env", "devices"),
    [
        ({}, []),
        ({**ENV}, []),  # JAX takes the device of the task's number
        ({**ENV, "CUDA_VISIBLE_DEVICES": "0,1,2,3"}, []),
        ({**ENV, "CUDA_VISIBLE_DEVICES": "3"}, [0]),
        ({**ENV, "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_GPUS_ON_NODE": "4"}, [0, 1, 2, 3]),
        ({**ENV, "SLURM_STEP_TASKS_PER_NODE": "1", "CUDA_VISIBLE_DEVICES": "4,5"}, [0, 1]),
        ({**ENV, "SLURM_STEP_TASKS_PER_NODE": "1"}, []),
    ],
)
def test_each_task_of_slurm_takes_its_own_gpus(env, devices):
    found = hosts._arguments(HostsConfig(auto=True), env)
    assert found.get("local_device_ids", []) == devices


def test_a_task_without_a_gpu_says_so():
    env = {**ENV, "SLURM_LOCALID": "2", "CUDA_VISIBLE_DEVICES": "0,1"}
    with pytest.raises(UserError, match="task 2 of this node has no GPU"):
        hosts._arguments(HostsConfig(auto=True), env)


def test_what_is_named_wins_over_the_environment():
    env = {**ENV, "JAX_COORDINATOR_ADDRESS": "nowhere:1"}
    found = hosts._arguments(HostsConfig(coordinator="here:2", count=2, index=1), env)
    assert found == {
        "coordinator_address": "here:2",
        "num_processes": 2,
        "process_id": 1,
        "cluster_detection_method": "deactivate",
    }
    found = hosts._arguments(HostsConfig(auto=True, count=3), env)
    assert found == {"coordinator_address": None, "num_processes": 3, "process_id": None}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--hosts.coordinator", "here:1"], "without --hosts.count N and --hosts.index I"),
        (["--hosts.coordinator", "here:1", "--hosts.count", "2"], "without --hosts.index I"),
        (
            ["--hosts.coordinator", "here", "--hosts.count", "2", "--hosts.index", "0"],
            "hosts.coordinator is 'here'; it must be HOST:PORT",
        ),
        (
            ["--hosts.coordinator", "here:1", "--hosts.count", "2", "--hosts.index", "2"],
            "hosts.index is 2; it must be from 0 to 1",
        ),
        (["--hosts.auto"], "hosts.auto found no Slurm"),
        (["--hosts.auto", "--hosts.timeout", "1"], "hosts.timeout is 1; it must be at least 5"),
    ],
)
def test_what_cannot_work_is_one_line(args, words, tmp_path):
    assert_refused(command(tmp_path / "run", *args), words, tmp_path / "run")


def test_one_process_is_the_first_and_waits_for_nobody():
    assert hosts.first()
    hosts.wait("nobody")
    hosts.agree("name", "value")


@pytest.mark.parametrize("args", [["--studies", "roc"], ["--profile"]])
@pytest.mark.parametrize("cfg", [one_vs_rest.RECIPES["dense"], ecg_cross.CONFIG])
def test_a_grid_refuses_what_it_would_ignore(cfg, args, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(cfg, ["--run-dir", str(tmp_path / "run"), *args])
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert IGNORED in line
    assert line.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_an_error_of_one_process_alone_is_no_loss():
    hosts.refuse_loss(ValueError("connection reset while the barrier was being painted"))


@pytest.mark.slow
@pytest.mark.parametrize("driver", ["pmap", "shard_map"])
def test_two_processes_are_two_devices_to_the_bit(driver, tmp_path):
    more = ["--train.epochs", 10, "--driver", driver]
    one = alone(tmp_path / "one", *more, "--devices", 2)
    logged = ["--tensorboard"] if find_spec("tensorboardX") else []  # shows epoch 10: no deadlock
    (first, out, _), (second, nothing, _) = ended(started(2, tmp_path / "two", *more, *logged))
    assert (first, second) == (0, 0)
    assert len(list(tmp_path.glob("two/tensorboard/*"))) == len(logged)
    assert f"the run is in {tmp_path / 'two'}" in out
    assert nothing == "", "process 0 speaks for all"
    assert_alike(one, tmp_path / "two", exactly=True)
    stored = [np.load(tmp_path / name / "scores.npz") for name in ("one", "two")]
    for name in stored[0]:
        np.testing.assert_array_equal(stored[0][name], stored[1][name])
    for arrays in stored:
        arrays.close()
    assert {p.name for p in (tmp_path / "one").iterdir()} == {
        p.name for p in (tmp_path / "two").iterdir()
    } - {"tensorboard"}


GRIDS = {
    "protocol": [
        *("run", "one_vs_rest", "--method", "dense", "--model.hidden", "16", "--model.latent", "4"),
        *("--classes", "0", "1", "2", "--seeds", "1", "--train.epochs", "2", "--baselines", "pca"),
    ],
    "one member": [
        *("run", "one_vs_rest", "--method", "dense", "--model.hidden", "16", "--model.latent", "4"),
        *("--classes", "0", "--seeds", "1", "--train.epochs", "2", "--train.batch-size", "16"),
    ],
    "folds": [
        *("run", "ecg_cross", "--data.name", "digits", "--data.normal", "0", "--folds", "3"),
        *("--model.hidden", "16", "--model.latent", "4", "--train.epochs", "2", "--alpha", "0.1"),
        *("--train.batch-size", "16", "--data.input", "none"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", GRIDS)
def test_a_grid_on_two_processes_is_the_grid_on_two_devices(kind, tmp_path):
    one = alone(tmp_path / "one", "--devices", 2, run=GRIDS[kind])
    processes = started(2, tmp_path / "two", timeout=20, run=GRIDS[kind])
    (first, out, _), (second, nothing, _) = ended(processes)
    assert (first, second) == (0, 0)
    assert "figure " in out
    assert nothing == ""
    scores = sorted(path.relative_to(one) for path in one.rglob("scores.npz"))
    assert len(scores) == (3 if kind == "protocol" else 1)
    for path in scores:
        with np.load(one / path) as ours, np.load(tmp_path / "two" / path) as theirs:
            for name in ours:
                np.testing.assert_array_equal(ours[name], theirs[name])


def until_saved(folder, epoch):
    """Wait for a checkpoint of this epoch or a later one."""
    end = time.monotonic() + 100
    while not any(
        int(p.name) >= epoch for p in folder.glob("checkpoints/[0-9]*") if p.name.isdecimal()
    ):
        assert time.monotonic() < end, "no checkpoint came"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "before", "after"), [(1, 2, 4), (0, 4, 2), (1, 2, 1)])
def test_a_lost_process_stops_all_and_any_number_goes_on(victim, before, after, tmp_path):
    folder, every = tmp_path / "many", ["--train.checkpoint-every", 2]
    processes = started(before, folder, *every, "--train.epochs", 4000)
    until_saved(folder, 4)
    clock = time.monotonic()
    processes[victim].send_signal(signal.SIGKILL)
    found = ended(processes, within=60)
    assert time.monotonic() - clock < 45
    for index, (code, _, last) in enumerate(found):
        if index != victim:
            assert code == 2
            assert last.startswith("error: ")
            assert "go on after the last checkpoint" in last
    whole = [path for path in (folder / "checkpoints").iterdir() if path.name.isdecimal()]
    for path in whole:
        checkpoint.check_whole(path)
    saved = max(int(path.name) for path in whole)
    end = ["--train.epochs", saved + 4]
    if after == 1:
        alone(folder, *every, *end, "--devices", 1)
    else:
        assert [code for code, *_ in ended(started(after, folder, *every, *end))] == [0] * after
    undisturbed = alone(tmp_path / "one", *every, "--train.epochs", saved, "--devices", before)
    alone(undisturbed, *every, *end, "--devices", after)
    assert_alike(undisturbed, folder, exactly=4 not in (before, after))


@pytest.mark.slow
def test_processes_that_were_told_other_things_do_not_train(tmp_path):
    each = [["--seed", "0"], ["--seed", "1"]]
    first, second = ended(started(2, tmp_path / "run", each=each))
    assert (first[0], second[0]) == (2, 2)
    assert "process 1 has a different data set or configuration from process 0" in second[2]
    assert "go on after the last checkpoint" in first[2]


@pytest.mark.slow
@pytest.mark.parametrize("missing", [0, 1])
def test_who_waits_in_vain_says_so(missing, tmp_path):
    processes = started(2, tmp_path / "run", timeout=5)
    processes[missing].kill()
    code, _, last = ended(processes, within=60)[1 - missing]
    assert code == 2
    assert last.startswith("error: process ")


@pytest.mark.slow
def test_a_terminated_process_ends_all(tmp_path):
    processes = started(2, tmp_path / "run", "--train.epochs", 4000, "--train.checkpoint-every", 2)
    until_saved(tmp_path / "run", 2)
    os.kill(processes[1].pid, signal.SIGTERM)
    (first, _, last), (second, _, own) = ended(processes, within=60)
    assert (first, second) == (2, 143)
    assert own == "terminated; the same command resumes after the last checkpoint"
    assert last.startswith("error: ")
