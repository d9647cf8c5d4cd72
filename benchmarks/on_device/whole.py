"""Time a protocol from the start of Python to its report."""

import os
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.on_device import cpu_run
from benchmarks.on_device.part import Order
from benchmarks.on_device.stages import ROOT

_MEMBERS = 10  # classes, of one seed each


def main(order: Order) -> None:
    """Run one-vs-rest on digits, first without compiled programs, then with those kept from it."""
    seconds = 0.0
    settings = ("nothing compiled before", "programs kept")
    for setting in settings[:1] if order.rehearsal else settings:
        if not order.clock.allows(max(5.0, 0.9 * seconds)):
            order.journal.write("run", "dense", setting, no_time=f"{order.clock.left():.0f} s left")
            continue
        seconds = _run(order, setting)


def _run(order: Order, setting: str) -> float:
    run = order.out / "whole" / f"{order.part}-{os.getpid()}-{setting.replace(' ', '-')}"
    env = os.environ | {"JAXAE_CACHE_DIR": str(order.out / "whole" / f"kept-{os.getpid()}")}
    command = [sys.executable, "-m", "experiments.one_vs_rest", *_arguments(order, run)]
    began = time.perf_counter()
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=env, capture_output=True, text=True, check=False,
            timeout=max(1.0, order.clock.left()), stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as late:
        for said in filter(None, (late.stdout, late.stderr)):
            print(said.decode(errors="replace") if isinstance(said, bytes) else said, flush=True)
        order.journal.write("run", "dense", setting, no_time="it takes longer")
        return float("inf")
    seconds = time.perf_counter() - began
    print(done.stdout, done.stderr, sep="\n", flush=True)
    members = len(list(run.glob("members/*/report.json")))
    found = {"seconds": round(seconds, 2), "code": done.returncode, "members": members}
    if done.returncode or members != _MEMBERS:
        lines = done.stderr.strip().splitlines() or ["without a word"]
        found["error"] = f"exit code {done.returncode}, {members} members: {lines[-1][:200]}"
    order.journal.write("run", "dense", setting, **found)
    return seconds


def _arguments(order: Order, run: Path) -> list[str]:
    name = cpu_run.rows_name(order.out)
    found = ["--data.name", name, "--method", "dense", "--seeds", "1", "--run-dir", str(run)]
    # Without scikit-learn there are no baselines either.
    found += [] if name == "digits" else ["--baselines"]
    return found + (["--train.epochs", "2"] if order.rehearsal else [])
