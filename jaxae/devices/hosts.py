"""Several processes that train one model: connecting, comparing settings, detecting a lost one.

All run the same program with the same settings. Only process 0 prints and writes the run folder;
all processes write checkpoints. Functions here load JAX only when they are called.
"""

import collections
import contextlib
import ctypes
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from jaxae.config import HostsConfig
from jaxae.devices import meeting
from jaxae.errors import UserError

Answer = TypeVar("Answer", bool, int)

_SHOWN, _LONG = 3, 80  # differences in a message, and characters of a value
_ENDING = 3600  # seconds that the other processes wait while process 0 draws the figures
_RESTART = "start any number of processes again: they go on after the last checkpoint"
_LOST = re.compile(r"(?i)gloo|nccl|connection (closed|reset)|coordination|heartbeat|barrier")


def join(cfg: HostsConfig) -> None:
    """Connect to the other processes, if the settings name any; call it before JAX starts.

    Raises:
      UserError: contradictory settings, no cluster found by `hosts.auto`, or processes that do not
        connect in time.
    """
    if not cfg.asked:
        if cfg.count or cfg.index >= 0:
            raise UserError("hosts.count and hosts.index need --hosts.coordinator HOST:PORT")
        return
    import jax

    if jax.distributed.is_initialized():
        return
    arguments = _arguments(cfg, os.environ)
    if "cluster_detection_method" not in arguments:
        arguments = _detected(arguments, cfg)
    where = [arguments[name] for name in ("coordinator_address", "process_id", "num_processes")]
    _meetings.append(meeting.meet(*where, cfg.timeout))
    # SIGTERM from the scheduler ends a run between two steps, as in a single process: see `errors`.
    jax.config.update("jax_enable_preemption_service", False)
    jax.distributed.initialize(
        **arguments,
        initialization_timeout=cfg.timeout,
        heartbeat_timeout_seconds=cfg.timeout,
        shutdown_timeout_seconds=_ENDING,
    )
    if not first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - only process 0 prints


_meetings: list[meeting.Meeting] = []  # the one in which this process has met the others, if it has


def _detected(arguments: dict[str, Any], cfg: HostsConfig) -> dict[str, Any]:
    """Complete the arguments of `jax.distributed.initialize` as it does itself.

    JAX has no public function that only detects the cluster.
    """
    from jax._src.clusters import ClusterEnv

    address = arguments["coordinator_address"] or os.environ.get("JAX_COORDINATOR_ADDRESS")
    devices = os.environ.get("JAX_LOCAL_DEVICE_IDS")
    given = arguments | {
        "coordinator_address": address,
        "local_device_ids": arguments.get("local_device_ids")
        or (devices and [*map(int, devices.split(","))]),
    }
    values = ClusterEnv.auto_detect_unset_distributed_params(*given.values(), None, cfg.timeout)
    found = dict(zip(given, values, strict=True))
    if None in values[:3]:
        raise UserError(
            "hosts.auto found no Slurm, Kubernetes, Open MPI or TPU cluster; set "
            "--hosts.coordinator HOST:PORT --hosts.count N --hosts.index I"
        )
    return found | {"cluster_detection_method": "deactivate"}


def _arguments(cfg: HostsConfig, env: Mapping[str, str]) -> dict[str, Any]:
    """The arguments of `jax.distributed.initialize`; settings take precedence over the environment.

    Raises:
      UserError: the settings are incomplete, or the index is out of range.
    """
    named: dict[str, Any] = {
        "coordinator_address": cfg.coordinator or None,
        "num_processes": cfg.count or None,
        "process_id": cfg.index if cfg.index >= 0 else None,
    }
    missing = [name for name, value in named.items() if value is None]
    if not cfg.auto and missing:
        flags = {"num_processes": "--hosts.count N", "process_id": "--hosts.index I"}
        lacking = " and ".join(flags[name] for name in missing if name in flags)
        raise UserError(
            f"hosts.coordinator is {cfg.coordinator}, without {lacking}; set it, or --hosts.auto"
        )
    port = re.fullmatch(r".+:(\d{1,5})", cfg.coordinator or "cluster:1")
    if not port or not 0 < int(port[1]) < 2**16:
        raise UserError(f"hosts.coordinator is {cfg.coordinator!r}; it must be HOST:PORT")
    if cfg.count and cfg.index >= cfg.count:
        raise UserError(f"hosts.index is {cfg.index}; it must be from 0 to {cfg.count - 1}")
    if not missing:
        return {**named, "cluster_detection_method": "deactivate"}
    gpus = _slurm_devices(env)
    return {**named, **({"local_device_ids": gpus} if gpus else {})}


def _slurm_devices(env: Mapping[str, str]) -> list[int]:
    """Which of the visible GPUs belong to this task; [] = leave the choice to JAX.

    JAX takes the GPU whose number is the task's number on its node. That fails for a task that sees
    only one GPU; a task that is alone on its node gets all GPUs.
    """
    if "SLURM_PROCID" not in env:
        return []
    visible = [name for name in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    count = len(visible) or int(env.get("SLURM_GPUS_ON_NODE") or 0)
    tasks = re.match(r"\d+", env.get("SLURM_STEP_TASKS_PER_NODE", ""))
    local = int(env.get("SLURM_LOCALID") or 0)
    if tasks and tasks[0] == "1":
        return list(range(count))
    if len(visible) == 1:
        return [0]
    if visible and local >= count:
        raise UserError(
            f"task {local} of this node has no GPU: CUDA_VISIBLE_DEVICES is {','.join(visible)}; "
            "request one GPU for each task from Slurm, with --gpus-per-task=1"
        )
    return []


def first() -> bool:
    """Whether this is process 0, which writes the run folder; true for a single process."""
    import jax

    return jax.process_index() == 0


def wait(name: str) -> None:
    """Wait until every process has reached the barrier with this name; errors as of `agree`."""
    agree({"barrier": name})


def as_first(answer: Answer) -> Answer:
    """The answer of process 0, on every process: true or false, or a whole number of 32 bits."""
    import jax

    if jax.process_count() == 1:
        return answer
    import numpy as np
    from jax.experimental import multihost_utils

    return type(answer)(multihost_utils.broadcast_one_to_all(np.asarray(answer)))


def agree(values: Mapping[str, Any]) -> None:
    """Compare what all processes are about to do; called by all of them, before it is done.

    Args:
      values: name -> a value that must be equal in all processes, and that JSON can hold.

    Raises:
      UserError: values differ, or a process has stopped or has other devices. All processes raise
        it, with a message that names the processes and the values.
    """
    import jax

    if jax.process_count() == 1:
        return
    _refuse_uneven(jax.devices())
    first, *others = (json.loads(text) for text in _everyones(json.dumps(dict(values))))
    differing = [
        f"process {index} has {name} {_short(its.get(name))}, process 0 has "
        f"{_short(first.get(name))}"
        for index, its in enumerate(others, 1)
        for name in first | its
        if its.get(name) != first.get(name)
    ]
    if differing:
        more = f"; and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
        raise UserError(
            f"{'; '.join(differing[:_SHOWN])}{more}; start all with the same settings, data, files "
            "and versions"
        )


def _short(value: Any) -> str:
    text = repr(tuple(value) if isinstance(value, list) else value)
    return text if len(text) <= _LONG else f"{text[: _LONG - 3]}..."


def _everyones(said: str) -> list[str]:
    """What each process says, on every process."""
    if _meetings:
        return _meetings[0].share(said)
    import numpy as np
    from jax.experimental import multihost_utils

    text = np.frombuffer(said.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array(text.size)).tolist()
    padded = np.pad(text, (0, max(lengths) - text.size))
    texts = multihost_utils.process_allgather(padded)
    return [bytes(row[:n]).decode() for row, n in zip(texts, lengths, strict=True)]


def _refuse_uneven(devices: Sequence[Any]) -> None:
    """Raise a `UserError` unless all processes have as many devices of the same kind."""
    kinds = collections.Counter((d.process_index, d.device_kind) for d in devices)
    had = {index: f"{count} {kind} devices" for (index, kind), count in sorted(kinds.items())}
    for index, its in had.items():
        if its != had[0]:
            raise UserError(
                f"process {index} has {its}, process 0 has {had[0]}; give all the same, as with "
                "CUDA_VISIBLE_DEVICES or XLA_FLAGS=--xla_force_host_platform_device_count=N"
            )


@contextlib.contextmanager
def losses_named() -> Iterator[None]:
    """Turn the error of a collective operation that lost a process into a `UserError`."""
    try:
        yield
    except (RuntimeError, ValueError) as error:  # XLA raises both
        refuse_loss(error)
        raise


def refuse_loss(error: Exception) -> None:
    """Raise a `UserError` if there are other processes and `error` means that one was lost."""
    import jax

    if not jax.distributed.is_initialized() or isinstance(error, UserError):
        return
    if _LOST.search(str(error)):
        raise UserError(f"another process of this run stopped; {_RESTART}") from error


@contextlib.contextmanager
def exit_without_waiting() -> Iterator[None]:
    """Exit at once on failure: a connected process would wait an hour for the others."""
    try:
        yield
    except SystemExit as stop:
        if "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized():
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            for met in _meetings:
                met.leave()
            os._exit(stop.code if isinstance(stop.code, int) else 1)
        raise


def watch(cfg: HostsConfig) -> None:
    """Run the rest of the program in a child process; call it before JAX is loaded.

    When other processes are lost, JAX aborts this one with a C++ trace. The parent therefore
    collects what C++ writes, and reports in one line which process was lost; if the child failed
    for another reason, the parent prints what it collected.
    """
    if not cfg.asked or not hasattr(os, "fork"):
        return
    sys.stdout.flush()
    parent, native = os.getpid(), tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
    child = os.fork()
    if child:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: os.kill(child, number))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        native.seek(0)
        os._exit(_reported(code, native.read()))
    if sys.platform == "linux":  # the kernel kills the child when the parent dies
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(137)
    os.setpgid(0, 0)  # a signal from the terminal arrives once: the parent forwards it
    sys.stdout, sys.stderr = (os.fdopen(os.dup(fd), "w", buffering=1) for fd in (1, 2))
    for fd in (1, 2):
        os.dup2(native.fileno(), fd)


def _reported(code: int, native: str) -> int:
    """Print why a child that wrote `native` from C++ failed, and return its exit code."""
    if code == -signal.SIGABRT and _LOST.search(native):
        number = re.search(r"(?:heartbeats\):|tasks are unhealthy)[^\n]*\n([\d, ]+)\n", native)
        who = f"process {number[1].strip()}" if number else "process 0, or the connection to it,"
        print(f"error: {who} of this run was lost; {_RESTART}", file=sys.stderr, flush=True)
        return 2
    if code and not _LOST.search(native):
        sys.stderr.write(native)
        sys.stderr.flush()
    return code if code >= 0 else 128 - code
