"""Run stages with deadlines; each part is a process that can be stopped with all its children."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.on_device.results import Journal, Record

ROOT = Path(__file__).parents[2]
_HERE = "benchmarks.on_device"
LEAST = 10.0  # seconds; a stage with less time is not started
_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
# For parts that time nothing: autotuning of kernels takes most of the compile time.
_UNTUNED = "--xla_gpu_autotune_level=0"


# Parts that share the models; the first one also verifies a run made on a CPU.
EXACTNESS = ("exactness", "exactness-2", "exactness-3")


class Part(NamedTuple):
    """A process of a stage.

    Attributes:
      module: its module with `main(order)`, see `benchmarks.on_device.part`.
      label: name of its log; distinguishes parts that run the same module.
      flags: XLA flags added to those already set.
      keeps: whether compiled programs are cached on disk; False where compilation is timed.
    """

    module: str
    label: str
    flags: str = ""
    keeps: bool = False


class Stage(NamedTuple):
    """Parts that run concurrently.

    Attributes:
      name: name for `--stages`.
      share: share of the time, relative to the other stages.
      rehearsed: the same in a rehearsal, where most of the time is spent compiling.
      parts: its processes; several only if nothing is timed.
    """

    name: str
    share: float
    rehearsed: float
    parts: tuple[Part, ...]


STAGES = {
    stage.name: stage
    for stage in (
        Stage("equality", 0.22, 0.5, (
            *(
                Part(f"{_HERE}.exactness", label, _UNTUNED, keeps=True)
                for label in EXACTNESS
            ),
            Part(f"{_HERE}.repeats", "repeats", keeps=True),
            Part(f"{_HERE}.repeats", "deterministic", _DETERMINISTIC, keeps=True),
            Part(f"{_HERE}.marked_tests", "tests", _UNTUNED),
        )),
        Stage("speed", 0.42, 0.25, (Part(f"{_HERE}.speed", "speed"),)),
        Stage("members", 0.25, 0.15, (Part(f"{_HERE}.members", "members"),)),
        Stage("whole", 0.11, 0.1, (Part(f"{_HERE}.whole", "whole"),)),
    )
}  # fmt: skip


def environment(part: Part, order: Record) -> dict[str, str]:
    """Environment variables of a part; processes share the device's memory."""
    known = os.environ | order["environment"]
    known |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONUNBUFFERED": "1"}
    if order["rehearsal"]:
        known["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    if part.flags:
        known["XLA_FLAGS"] = f"{known.get('XLA_FLAGS', '')} {part.flags}".strip()
    if part.keeps:
        known["JAX_COMPILATION_CACHE_DIR"] = str(Path(order["out"], "programs"))
        known["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    return known


class _Running(NamedTuple):
    part: Part
    process: subprocess.Popen
    began: float
    log: Path


def run_all(stages: Sequence[Stage], order: Record, budget: float, journal: Journal) -> bool:
    """Run stages one after another; time that one does not use is left to the next ones.

    Args:
      stages: the stages, in order.
      order: parameters for every part, see `benchmarks.on_device.part`.
      budget: seconds for all stages.
      journal: records how each part ended.

    Returns:
      Whether every part of every stage finished.
    """
    deadline, ran = time.monotonic() + budget, True
    shares = [stage.rehearsed if order["rehearsal"] else stage.share for stage in stages]
    for i, stage in enumerate(stages):
        left = deadline - time.monotonic()
        allowed = left * shares[i] / sum(shares[i:])
        if allowed < LEAST:
            journal.write("stage", stage=stage.name, no_time=f"{left:.0f} s are left")
            print(f"{stage.name}: no time", flush=True)
            ran = False
            continue
        print(f"{stage.name}: up to {allowed:.0f} s", flush=True)
        ran &= run(stage, order, allowed, journal)
    return ran


def run(stage: Stage, order: Record, allowed: float, journal: Journal) -> bool:
    """Run a stage's parts concurrently for at most `allowed` seconds.

    Results written so far are kept, however a part ends. All processes of the stage are stopped
    when this function returns or raises.

    Returns:
      Whether all parts finished.
    """
    running: list[_Running] = []
    try:
        for part in stage.parts:
            running.append(_start(stage, part, order, allowed))
        deadline = time.monotonic() + allowed
        outcomes = _wait(running, deadline)
    finally:
        for one in running:
            end(one.process)
    for one, (outcome, seconds) in zip(running, outcomes, strict=True):
        _tell(stage, one, outcome, seconds, journal)
    return all(outcome == "ran" for outcome, _ in outcomes)


def _start(stage: Stage, part: Part, order: Record, allowed: float) -> _Running:
    out = Path(order["out"])
    log = out / f"{part.label}.log"
    told = order | {"stage": stage.name, "part": part.label}
    told |= {"until": time.time() + 0.95 * allowed}  # the rest is for an orderly exit
    command = [sys.executable, "-m", "benchmarks.on_device.part", part.module, json.dumps(told)]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=ROOT,
            env=environment(part, order), start_new_session=True,
        )  # fmt: skip
    return _Running(part, process, time.monotonic(), log)


def _wait(running: Sequence[_Running], deadline: float) -> list[tuple[str, float]]:
    """The outcome of each part and its seconds: ran, failed, or overran the deadline."""
    found: dict[int, tuple[str, float]] = {}
    while len(found) < len(running):
        for i, one in enumerate(running):
            code, seconds = one.process.poll(), time.monotonic() - one.began
            if i in found or (code is None and time.monotonic() < deadline):
                continue
            outcome = "overran" if code is None else "failed" if code else "ran"
            found[i] = outcome, seconds
        time.sleep(0.05)
    return [found[i] for i in range(len(running))]


def end(process: subprocess.Popen) -> None:
    """Stop a process that leads its own process group, with all its children."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tell(stage: Stage, one: _Running, outcome: str, seconds: float, journal: Journal) -> None:
    found = {"part": one.part.label, "outcome": outcome,
             "seconds": round(seconds, 1)}  # fmt: skip
    if outcome == "overran":
        found["error"] = f"ended after {seconds:.0f} s; {one.log.name} has what it said"
    elif outcome == "failed":
        lines = one.log.read_text(errors="replace").strip().splitlines() or ["without a word"]
        found["error"] = f"exit code {one.process.returncode}: {lines[-1][:200]}"
    journal.write("stage", stage=stage.name, **found)
    print(f"  {found['part']}: {outcome} after {seconds:.0f} s", flush=True)


class Clock:
    """The remaining time of a part."""

    def __init__(self, until: float):
        self._until = until

    def left(self) -> float:
        """Seconds left."""
        return self._until - time.time()

    def allows(self, seconds: float) -> bool:
        """Whether there is time for something that takes so many seconds."""
        return self.left() > seconds
