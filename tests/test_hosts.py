"""Many processes: started as a scheduler starts them, on the loopback of one machine."""

import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args, get_origin

import jax
import numpy as np
import pytest

from experiments import ecg_cross, one_vs_rest
from jaxae import detectors
from jaxae.cli import train
from jaxae.config import ExperimentConfig, HostsConfig, checks
from jaxae.config.fields import METHOD_SETTINGS
from jaxae.config.grids import CrossConfig, ProtocolConfig
from jaxae.devices import hosts, meeting
from jaxae.errors import UserError
from jaxae.storage import checkpoint, run_folder

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


def opened(command, **env):
    """A process that is given a command, and more in its environment."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, env=os.environ | env, **pipes)


def started(count, folder, *more, timeout=20, each=None, run=RUN, env=None):
    """The processes of one run; `each` and `env` hold what differs between them."""
    at = f"--hosts.coordinator localhost:{free_port()} --hosts.count {count}".split()
    return [
        opened(
            [
                *command(folder, *at, "--hosts.index", index, run=run),
                *map(str, ("--hosts.timeout", timeout, *more)),
                *(each[index] if each else ()),
            ],
            **(env[index] if env else {}),
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
    ("settings", "words"),
    [
        ({"coordinator": "here:1"}, "without --hosts.count N and --hosts.index I"),
        ({"coordinator": "here:1", "count": 2}, "without --hosts.index I"),
        ({"coordinator": "here", "count": 2, "index": 0}, "is 'here'; it must be HOST:PORT"),
        ({"coordinator": "here:70000", "count": 2, "index": 1}, "'here:70000'; it must be HOST"),
        ({"coordinator": "here:1", "count": 2, "index": 2}, "index is 2; it must be from 0 to 1"),
        ({"count": 2}, "need --hosts.coordinator HOST:PORT"),
        ({"auto": True}, "hosts.auto found no Slurm"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, words):
    with pytest.raises(UserError) as refused:
        hosts.join(HostsConfig(**settings))
    assert words in str(refused.value)


def test_a_setting_that_cannot_work_is_one_line(tmp_path):
    asked = command(tmp_path / "run", "--hosts.auto", "--hosts.timeout", 1)
    assert_refused(asked, "hosts.timeout is 1; it must be at least 5", tmp_path / "run")


def test_one_process_is_the_first_and_waits_for_nobody():
    assert hosts.first()
    hosts.wait("nobody")
    hosts.agree({"name": "value"})


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
    saved = max(checkpoint.numbered(folder / "checkpoints"))
    # An older one may be half removed: process 0 was killed.
    checkpoint.check_whole(folder / "checkpoints" / str(saved))
    end = ["--train.epochs", saved + 4]
    if after == 1:
        alone(folder, *every, *end, "--devices", 1)
    else:
        assert [code for code, *_ in ended(started(after, folder, *every, *end))] == [0] * after
    undisturbed = alone(tmp_path / "one", *every, "--train.epochs", saved, "--devices", before)
    alone(undisturbed, *every, *end, "--devices", after)
    assert_alike(undisturbed, folder, exactly=4 not in (before, after))


def other(kind, value):
    """Another value of this type."""
    if get_origin(kind) is Literal:
        return next(one for one in get_args(kind) if one != value)
    if isinstance(value, tuple):
        return (*value, 1 if get_args(kind)[0] is int else "1")
    if isinstance(value, bool):
        return not value
    return f"{value}1" if isinstance(value, str) else value + 1


# How a process finds the others decides no result; of raw files only the path may differ: the
# digest of their rows is compared.
OF_PROCESS = {
    *("hosts.auto", "hosts.coordinator", "hosts.count", "hosts.index", "hosts.timeout"),
    "data.dir",
}
EVERY_KIND = [ExperimentConfig("a"), ProtocolConfig("a"), CrossConfig("a")]


@pytest.mark.parametrize("cfg", EVERY_KIND, ids=lambda cfg: type(cfg).__name__)
def test_any_other_setting_of_a_process_is_refused_by_name(cfg, monkeypatch):
    """Every setting of the schema, changed in process 1, unless no result depends on it."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(run_folder, "program", dict)
    here = run_folder.shared(cfg, ["rows"])
    seen = set()
    for name, setting in checks.described(cfg).items():
        if setting.is_section:
            continue
        changed = checks.replaced(cfg, name, other(setting.type, checks.value(cfg, name)))
        there = run_folder.shared(changed, ["rows"])
        said = [json.dumps(values) for values in (here, there)]
        monkeypatch.setattr(hosts, "_everyones", lambda text, said=said: said)
        if here == there:
            seen.add(name)
            continue
        values = f"process 1 has {name} {hosts._short(there[name])}, process 0 has "
        with pytest.raises(UserError) as refused:
            hosts.agree(here)
        assert values + hosts._short(here[name]) in str(refused.value)
    assert seen == OF_PROCESS


@dataclasses.dataclass(frozen=True)
class Own:
    """Settings of a user's method."""

    depth: int = 3


def test_settings_of_a_users_method_are_compared_too(monkeypatch):
    monkeypatch.setitem(METHOD_SETTINGS, "theirs", Own)
    one, two = (
        run_folder.shared(ExperimentConfig("a", method="theirs", method_settings=Own(depth)), [])
        for depth in (3, 4)
    )
    assert {n: (one[n], two[n]) for n in one if one[n] != two[n]} == {"theirs.depth": (3, 4)}


def test_what_a_program_depends_on_is_compared(tmp_path, monkeypatch):
    """Also other data, versions, flags, tables of options and sources are refused."""
    (tmp_path / "table.json").write_text("{}")
    env = {"XLA_FLAGS": "--xla_cpu_enable_fast_math=true", "JAXAE_TUNING": f"{tmp_path}/table.json"}
    said = [run_folder.shared(EVERY_KIND[0], [rows]) for rows in ("rows", "others")]
    for name, value in env.items():
        with monkeypatch.context() as changed:
            changed.setenv(name, value)
            said.append(run_folder.shared(EVERY_KIND[0], ["rows"]))
    names = [{n for n in said[0] if each[n] != said[0][n]} for each in said]
    assert names == [set(), {"data"}, {"XLA_FLAGS"}, {"content of JAXAE_TUNING"}]


def test_all_differences_of_many_processes_fit_into_one_line(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 4)
    said = [json.dumps({"a": "x" * 200, **{str(k): k * p for k in range(9)}}) for p in range(4)]
    monkeypatch.setattr(hosts, "_everyones", lambda text: said)
    with pytest.raises(UserError, match=r"^process 1 has 1 1, process 0 has 0; .*and 21 more"):
        hosts.agree({})


def met(address, indices, count=4, timeout=0.4, last=0):
    """What happens to processes of these numbers: a meeting, or an error.

    `last`: the count that the last one was told, if another.
    """

    def one(index):
        told = last if last and index == indices[-1] else count
        try:
            return meeting.meet(address, index, told, timeout)
        except UserError as error:
            return str(error)

    with ThreadPoolExecutor(len(indices)) as threads:
        found = [*threads.map(one, indices)]
    MET.extend(each for each in found if isinstance(each, meeting.Meeting))
    return found


MET = []  # whose connections are still to close


@pytest.fixture
def address(monkeypatch):
    monkeypatch.setattr(meeting, "_await_jax", lambda address: None)
    yield f"localhost:{free_port()}"
    while MET:
        for link in MET.pop()._links.values():
            link.close()


@pytest.mark.parametrize(
    ("present", "words"),
    [
        ([0, 1, 3], "process 2 of 4 did not come"),
        ([0], "processes 1, 2 and 3 of 4 did not come"),
        ([0, 3, 3], "two processes were started with --hosts.index 3; give each its own"),
    ],
)
def test_all_who_came_know_who_did_not(present, words, address):
    said = met(address, present)
    assert [words in each for each in said] == [True] * len(present)
    assert len({*said}) == 1


def test_another_count_is_named(address):
    said = met(address, [0, 2], count=3, timeout=20.0, last=4)
    assert len({*said}) == 1
    words = "process 2 was started with --hosts.count 4, but process 0 with --hosts.count 3"
    assert words in said[0]


def test_who_finds_nobody_or_a_stranger_says_so(address):
    (line,) = met(address, [2])
    assert "process 2 did not find process 0 at localhost:" in line
    assert "Connection refused" in line
    with socket.create_server(("localhost", int(address.rpartition(":")[2]))):
        one, two = met(address, [0, 1])
    assert "process 0 cannot listen at" in one
    assert "something else answers there" in two


def test_strangers_at_the_door_are_ignored(address):
    with ThreadPoolExecutor(1) as thread:
        first = thread.submit(meeting.meet, address, 0, 2, 20.0)
        for said in (b"GET / HTTP/1.1\r\n\r\n", b'{"index": 0, "count": 2}\n', b"\xff\n", b""):
            for _ in range(100):
                with contextlib.suppress(ConnectionRefusedError):
                    place = ("localhost", int(address.rpartition(":")[2]))
                    with socket.create_connection(place) as stranger:
                        stranger.sendall(said)
                    break
                time.sleep(0.02)
        second = meeting.meet(address, 1, 2, 20.0)
        MET.extend([first.result(), second])
        shared = thread.submit(first.result().share, "from 0")
        assert second.share("from 1") == shared.result() == ["from 0", "from 1"]


def test_one_that_stops_before_it_has_agreed_is_named_at_once(address):
    zero, one, two = met(address, [0, 1, 2], count=3, timeout=20.0)
    with ThreadPoolExecutor(2) as threads:
        waiting = [threads.submit(each.share, "here") for each in (zero, one)]
        two._links[0].close()
        for each in waiting:
            with pytest.raises(UserError, match="process 2 stopped before training"):
                each.result(timeout=10)


THREE = "--xla_force_host_platform_device_count=3"
# Arguments or environment of the last process -> the name of what differs. The others agree.
DIFFERING = {
    "score": (2, ["--score", "mae"], {}, "score 'mae', process 0 has 'mse'"),
    "threshold": (4, ["--threshold.rule", "max"], {}, "threshold.rule 'max', process 0 has"),
    "studies": (4, ["--studies", "verdicts"], {}, "studies ('verdicts',), process 0 has ()"),
    "x64": (2, [], {"JAX_ENABLE_X64": "1"}, "jax_enable_x64 True, process 0 has False"),
    "devices": (2, [], {"XLA_FLAGS": THREE}, "3 cpu devices, process 0 has 1 cpu devices"),
}


@pytest.mark.slow
@pytest.mark.parametrize("what", DIFFERING)
def test_processes_that_were_told_other_things_do_not_train(what, tmp_path):
    count, args, env, words = DIFFERING[what]
    each = [*[[]] * (count - 1), args]
    env = [*[{}] * (count - 1), env]
    found = ended(started(count, tmp_path / "run", each=each, env=env), within=100)
    assert [code for code, *_ in found] == [2] * count
    lines = {last for *_, last in found}
    assert len(lines) == 1, "all say the same"
    assert f"error: process {count - 1} has {words}" in lines.pop()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "args", "words"),
    [
        ("protocol", ["--seeds", "2"], "seeds 2, process 0 has 1"),
        ("protocol", ["--baselines", "nearest"], "baselines ('nearest',), process 0 has ('pca',)"),
        ("folds", ["--alpha", "0.2"], "alpha 0.2, process 0 has 0.1"),
    ],
)
def test_grids_that_differ_do_not_train(kind, args, words, tmp_path):
    each = [[], args]
    found = ended(started(2, tmp_path / "run", run=GRIDS[kind], each=each), within=100)
    assert [code for code, *_ in found] == [2, 2]
    assert all(f"process 1 has {words}" in last for *_, last in found)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.thorough
def test_what_may_differ_changes_nothing(tmp_path):
    """The settings of `OF_PROCESS`: the same bits as with equal ones."""
    one = alone(tmp_path / "one", "--train.epochs", 2, "--devices", 2)
    each = [[], ["--data.dir", str(tmp_path), "--hosts.timeout", "21"]]
    found = ended(started(2, tmp_path / "two", "--train.epochs", 2, each=each))
    assert [code for code, *_ in found] == [0, 0]
    assert_alike(one, tmp_path / "two", exactly=True)


PLUGIN = """
import sys
import jax
from jaxae import cli, methods
from jaxae.cli import train
{connected}
from jaxae.methods import learners
built = learners.build
def build(*args, **kwargs):
    learner = built(*args, **kwargs)
    step = learner.step
    def other(state, batch, key, settings):
        return step(state, batch._replace(x=batch.x * {factor}), key, settings)
    return learner._replace(step=other)
learners.build = build
train.main(train.OPEN, sys.argv[2:])
"""


@pytest.mark.slow
@pytest.mark.parametrize("connects", [False, True], ids=["by settings", "by the program"])
def test_different_programs_do_not_train(connects, tmp_path):
    """Two versions of a user's code; in one case it has connected the processes itself."""
    port, processes = free_port(), []
    for index in range(2):
        given = f"'localhost:{port}', 2, {index}, cluster_detection_method='deactivate'"
        connected = f"jax.distributed.initialize({given})" if connects else ""
        script = tmp_path / f"program{index}.py"
        script.write_text(PLUGIN.format(connected=connected, factor=1 + index))
        at = ["--hosts.coordinator", f"localhost:{port}", "--hosts.count", "2"]
        at = [] if connects else [*at, "--hosts.index", str(index)]
        args = [*RUN, "--run-dir", str(tmp_path / "run"), *at]
        processes.append(opened([sys.executable, str(script), *args], PYTHONPATH=str(ROOT)))
    for code, _, last in ended(processes, within=100):
        assert code == 2
        assert "process 1 has program of training '" in last


@pytest.mark.slow
@pytest.mark.parametrize("missing", [0, 1, 2])
def test_who_waits_in_vain_says_for_whom(missing, tmp_path):
    processes = started(3, tmp_path / "run", timeout=5)
    processes[missing].kill()
    found = ended(processes, within=60)
    for index in {0, 1, 2} - {missing}:
        code, _, last = found[index]
        assert code == 2
        asked = f"process {missing} of 3 did not come to localhost:"
        assert (asked if missing else "did not find process 0 at localhost:") in last


@pytest.mark.slow
@pytest.mark.parametrize("refused", [0, 1])
def test_one_that_cannot_read_its_data_ends_the_others_at_once(refused, tmp_path):
    each = [["--data.name", "npz:nowhere.npz"] if i == refused else [] for i in range(3)]
    clock = time.monotonic()
    processes = started(3, tmp_path / "run", "--train.batch-size", 12, timeout=300, each=each)
    found = ended(processes, within=100)
    assert time.monotonic() - clock < 90
    assert "does not exist" in found[refused][2]
    for index in {0, 1, 2} - {refused}:
        assert found[index][0] == 2
        assert f"error: process {refused} stopped before training" in found[index][2]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_folder_that_process_0_refuses_ends_all(tmp_path):
    alone(tmp_path / "run", "--train.epochs", 1)
    first, second = ended(started(2, tmp_path / "run", "--seed", 1), within=100)
    assert (first[0], second[0]) == (2, 2)
    assert "holds another configuration: seed is 0 there and 1 here" in first[2]
    assert "error: process 0 stopped before training" in second[2]


@pytest.mark.slow
@pytest.mark.parametrize("tasks", [[0, 1], [0]])
def test_tasks_of_slurm_find_each_other_or_say_who_is_missing(tasks, tmp_path):
    job = {
        "SLURM_JOB_ID": str(free_port()),
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": "2",
    }
    asked = command(tmp_path / "run", "--hosts.auto", "--hosts.timeout", 20, "--train.epochs", 2)
    processes = [
        opened(asked, **job, SLURM_PROCID=str(task), SLURM_LOCALID=str(task)) for task in tasks
    ]
    found = ended(processes)
    assert [code for code, *_ in found] == ([0, 0] if len(tasks) == 2 else [2])
    assert len(tasks) == 2 or "process 1 of 2 did not come" in found[0][2]


@pytest.mark.slow
def test_a_terminated_process_ends_all(tmp_path):
    processes = started(2, tmp_path / "run", "--train.epochs", 4000, "--train.checkpoint-every", 2)
    until_saved(tmp_path / "run", 2)
    os.kill(processes[1].pid, signal.SIGTERM)
    (first, _, last), (second, _, own) = ended(processes, within=60)
    assert (first, second) == (2, 143)
    assert own == "terminated; the same command resumes after the last checkpoint"
    assert last.startswith("error: ")
