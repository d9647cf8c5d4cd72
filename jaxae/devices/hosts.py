"""Many processes that train one model: who takes part, what they must agree on, and a lost one.

All run the same program on the same settings. Process 0 alone writes the run folder and speaks;
checkpoints are written by all. Nothing here loads JAX before it is asked for.
"""

import contextlib
import hashlib
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from jaxae.config import HostsConfig
from jaxae.errors import UserError

_JOINING = 5  # times `hosts.timeout`, for processes that a scheduler starts one after another
_ENDING = 3600  # seconds that a process waits for the others' last figures
_AGAIN = "start all again, as many as you like: they go on after the last checkpoint"


def join(cfg: HostsConfig) -> None:
    """Meet the other processes; call it before JAX starts. Nothing where none are asked for.

    Raises:
      UserError: settings that contradict each other, no cluster where one is to be found, or
        processes that do not come in time.
    """
    if not cfg.asked:
        return
    import jax

    if jax.distributed.is_initialized():
        return
    arguments = _arguments(cfg, os.environ)
    # The scheduler's SIGTERM ends a run between two steps, as one process does: see `errors`.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=_JOINING * cfg.timeout,
            heartbeat_timeout_seconds=cfg.timeout,
            shutdown_timeout_seconds=_ENDING,
        )
    except ValueError as error:
        if not cfg.auto:
            raise
        raise UserError(
            f"hosts.auto found no cluster of Slurm, Kubernetes, Open MPI or TPUs ({error}); set "
            "--hosts.coordinator HOST:PORT --hosts.count N --hosts.index I"
        ) from None
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise UserError(
            f"process {arguments.get('process_id', '')} met no others within "
            f"{_JOINING * cfg.timeout} s ({reason}); look whether all {cfg.count or ''} were "
            f"started, with one --hosts.coordinator {cfg.coordinator}".replace("  ", " ").rstrip()
        ) from None
    if not first():
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - process 0 speaks for all


def _arguments(cfg: HostsConfig, env: Mapping[str, str]) -> dict[str, Any]:
    """What `jax.distributed.initialize` is told; what is named wins over the environment.

    Raises:
      UserError: the settings are half of what is needed, or name no process.
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
    if not re.fullmatch(r".+:\d+", cfg.coordinator or "cluster:0"):
        raise UserError(f"hosts.coordinator is {cfg.coordinator!r}; it must be HOST:PORT")
    if cfg.count and cfg.index >= cfg.count:
        raise UserError(f"hosts.index is {cfg.index}; it must be from 0 to {cfg.count - 1}")
    if not missing:
        return {**named, "cluster_detection_method": "deactivate"}
    own = _slurm_devices(env)
    return {**named, **({"local_device_ids": own} if own else {})}


def _slurm_devices(env: Mapping[str, str]) -> list[int]:
    """Which of the visible GPUs are this task's; [] = JAX knows.

    JAX takes the GPU with the task's number on its node. A task that sees one GPU only has no such
    number, and one that is alone on its node has all GPUs.
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
            "ask Slurm for as many GPUs as tasks, with --gpus-per-task=1"
        )
    return []


def first() -> bool:
    """Whether this is process 0, which writes; the only one is."""
    import jax

    return jax.process_index() == 0


def wait(name: str) -> None:
    """Go on when all have come here."""
    import jax

    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def as_first(answer: bool) -> bool:
    """What process 0 answers, for all."""
    import jax

    if jax.process_count() == 1:
        return answer
    import numpy as np
    from jax.experimental import multihost_utils

    return bool(multihost_utils.broadcast_one_to_all(np.asarray(answer)))


def agree(what: str, value: str) -> None:
    """Make sure that all processes have the same.

    Raises:
      UserError: this one has another value than process 0.
    """
    import jax

    if jax.process_count() == 1:
        return
    import numpy as np
    from jax.experimental import multihost_utils

    own = np.frombuffer(hashlib.sha256(value.encode()).digest(), np.uint8)
    if not np.array_equal(multihost_utils.broadcast_one_to_all(own), own):
        raise UserError(
            f"process {jax.process_index()} has another {what} than process 0; start all with the "
            "same files, settings and versions"
        )


@contextlib.contextmanager
def losses_named() -> Iterator[None]:
    """Say in one line that another process was lost while this one computed with it."""
    try:
        yield
    except (RuntimeError, ValueError) as error:  # of XLA, from collective operations
        refuse_loss(error)
        raise


def refuse_loss(error: Exception) -> None:
    """Raise a `UserError` if there are other processes, and an error says that one is gone."""
    import jax

    if not jax.distributed.is_initialized() or isinstance(error, UserError):
        return
    if _LOST.search(str(error)):
        raise UserError(f"another process of this run stopped; {_AGAIN}") from error


_LOST = re.compile(r"(?i)gloo|nccl|connection (closed|reset)|coordination|heartbeat|barrier")


@contextlib.contextmanager
def left_alone() -> Iterator[None]:
    """End a process that fails at once, if it has met others: it would wait for them at its end."""
    try:
        yield
    except SystemExit as stop:
        if "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized():
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
            os._exit(stop.code if isinstance(stop.code, int) else 1)
        raise


def watch(cfg: HostsConfig) -> None:
    """Do all that follows in a child of this process, which says in one line if others are lost.

    JAX ends a process whose companions are gone from within, with a trace of its C++. The parent
    holds that back, and speaks. Call it before JAX is loaded.
    """
    if not cfg.asked or not hasattr(os, "fork"):
        return
    sys.stdout.flush()
    reader, writer = os.pipe()
    parent = os.getpid()
    child = os.fork()
    if child:
        os.close(writer)
        os._exit(_watched(child, reader))
    _die_with(parent)
    os.setpgid(0, 0)  # what the terminal sends arrives once, by way of the parent
    os.close(reader)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(of), "w", buffering=1) for of in (1, 2))
    for of in (1, 2):
        os.dup2(writer, of)  # what remains is that of C++


def _die_with(parent: int) -> None:
    """Be killed when the parent is, where the system can be asked for that."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(137)


def _watched(child: int, reader: int) -> int:
    """The exit code of a child; what it says is passed on, but for how it was ended."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: os.kill(child, number))
    held: list[str] = []
    with os.fdopen(reader, errors="replace") as lines:
        for line in lines:
            if held or _FATAL.match(line):
                held.append(line)
            elif not _CHATTER.match(line):
                sys.stderr.write(line)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    said = "".join(held)
    lost = _LOST.search(said)
    if lost and code == -signal.SIGABRT:
        gone = re.search(r"(?:heartbeats\):|tasks are unhealthy)[^\n]*\n([\d, ]+)\n", said)
        who = f"process {gone[1].strip()}" if gone else "process 0, or the way to it,"
        print(f"error: {who} of this run is gone; {_AGAIN}", file=sys.stderr)
        return 2
    if not lost:
        sys.stderr.write(said)
    return code if code >= 0 else 128 - code


_FATAL = re.compile(r"[EF]\d{4} .*coordination|F\d{4} |terminate called|\*\*\* ")
_CHATTER = re.compile(r"\[Gloo\] Rank")
