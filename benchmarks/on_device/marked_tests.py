"""Run the tests marked for a device (`pytest -m device`), if pytest is installed."""

import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

from benchmarks.on_device import outcomes
from benchmarks.on_device.part import Order
from benchmarks.on_device.stages import ROOT

# Of pytest's exit codes: all passed, or some failed; there was no test.
_RAN, _NONE_SELECTED = (0, 1), 5
_TO_STOP = 3.0  # seconds of the part's time that are left for what follows
_REHEARSED = "tests/test_scoring.py"


def main(order: Order) -> None:
    """Run the tests; record how many passed, failed and were skipped, and which failed."""
    missing = [name for name in ("pytest", "beartype") if not find_spec(name)]
    if missing:
        order.journal.write("tests", unavailable=f"{' and '.join(missing)} not installed")
        return
    said = order.out / "tests.txt"
    said.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "device and not slow",
               "-p", "benchmarks.on_device.outcomes", "-p", "no:cacheprovider"]  # fmt: skip
    command += [_REHEARSED] if order.rehearsal else []
    if find_spec("xdist") and (workers := min(8, (os.cpu_count() or 1) // 2)) > 1:
        command += ["-n", str(workers)]
    code = run(command, order.clock.left() - _TO_STOP, said)
    if code == _NONE_SELECTED:
        order.journal.write("tests", unavailable="no test has the marker device")
    elif code not in (*_RAN, None) or not said.is_file():
        order.journal.write("tests", error=f"pytest ended with {code}; see tests.log")
    else:
        order.journal.write("tests", whole=code is not None, **counts(said))


def run(command: list[str], seconds: float, said: Path) -> int | None:
    """Run pytest with `benchmarks.on_device.outcomes` writing to `said`; returns its exit code.

    Returns None if it is stopped after the time limit. Its workers end together with this part,
    which leads their process group.
    """
    env = os.environ | {outcomes.FILE: str(said), "PYTHONPATH": _with(ROOT)}
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, env=env)
    try:
        return process.wait(max(1.0, seconds))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


def _with(folder: Path) -> str:
    known = os.environ.get("PYTHONPATH")
    return f"{folder}{os.pathsep}{known}" if known else str(folder)


def counts(said: Path) -> dict:
    """Passed, failed, skipped, and the names of failed tests, each once."""
    found = [line.split(" ", 1) for line in said.read_text().splitlines()]
    of = Counter(outcome for outcome, _ in found)
    names = list(dict.fromkeys(name for outcome, name in found if outcome == "failed"))
    return {"passed": of["passed"], "failed": len(names), "skipped": of["skipped"],
            "names": names}  # fmt: skip
