"""The tests that are meant for a device: `pytest -m device`, where pytest is installed."""

import contextlib
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.on_device.part import Order
from benchmarks.on_device.stages import ROOT

# Of pytest's exit codes: all passed, or some failed; it was interrupted; there was no test.
_RAN, _INTERRUPTED, _NONE_SELECTED = (0, 1), 2, 5
_TO_STOP = 10.0  # seconds in which it can report when it is interrupted
_REHEARSED = "tests/test_scoring.py"


def main(order: Order) -> None:
    """Run them, and say how many passed, failed and were skipped, and which failed."""
    missing = [name for name in ("pytest", "beartype") if not find_spec(name)]
    if missing:
        order.journal.write("tests", unavailable=f"{' and '.join(missing)} not installed")
        return
    report = order.out / "tests.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-m", "device and not slow",
               f"--junitxml={report}", "-p", "no:cacheprovider"]  # fmt: skip
    command += [_REHEARSED] if order.rehearsal else []
    if find_spec("xdist") and (workers := min(4, (os.cpu_count() or 1) // 4)) > 1:
        command += ["-n", str(workers)]
    code = run(command, order.clock.left() - _TO_STOP)
    if code == _NONE_SELECTED:
        order.journal.write("tests", unavailable="no test has the marker device")
    elif code not in (*_RAN, _INTERRUPTED) or not report.is_file():
        order.journal.write("tests", error=f"pytest ended with {code}; see tests.log")
    else:
        order.journal.write("tests", whole=code != _INTERRUPTED, **counts(report))


def run(command: list[str], seconds: float) -> int:
    """Run pytest; after so many seconds interrupt it, so that it reports what it has."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        preexec_fn=_heed_interrupts,  # noqa: PLW1509 - this process has no other thread
    )
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(max(1.0, seconds))
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(_TO_STOP)
    process.kill()
    return process.wait()


def _heed_interrupts() -> None:
    """A shell has what it starts in the background ignore them, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def counts(report: Path) -> dict:
    """Of a report in JUnit's XML: passed, failed, skipped, and the names of failures.

    The sums are those of the report: a test that was interrupted stands in it as if it had passed.
    """
    root = ElementTree.parse(report).getroot()
    sums = [
        sum(int(suite.get(name, 0)) for suite in root.iter("testsuite"))
        for name in ("tests", "failures", "errors", "skipped")
    ]
    tests, failures, errors, skipped = sums
    names = [
        f"{case.get('classname')}::{case.get('name')}"
        for case in root.iter("testcase")
        if {"failure", "error"} & {child.tag for child in case}
    ]
    failed = failures + errors
    return {"passed": tests - failed - skipped, "failed": failed, "skipped": skipped,
            "names": names}  # fmt: skip
