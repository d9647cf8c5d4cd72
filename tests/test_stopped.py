"""What stops a run from outside: Ctrl-C and a scheduler's SIGTERM, at any moment and repeatedly."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxae.errors import user_errors

ROOT = Path(__file__).parents[1]
INTERRUPTED = "interrupted; the same command resumes after the last checkpoint\n"
TERMINATED = INTERRUPTED.replace("interrupted", "terminated")
TRAIN = (
    "train --data.name digits --data.normal 0 --method dense --model.latent 4 --train.epochs 40 "
    "--train.checkpoint-every 1 --train.batch-size 8 --devices 1"
)


PRESS = """
import os, signal, sys
from jaxae.errors import user_errors

def press(number=signal.SIGINT):
    os.kill(os.getpid(), number)

"""


def guarded(body):
    """What a process says and ends with that runs this in `user_errors`."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    code = f"{PRESS}with user_errors():\n{lines}"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("number", "code", "line"), [("SIGINT", 130, INTERRUPTED), ("SIGTERM", 143, TERMINATED)]
)
def test_the_first_signal_unwinds(number, code, line):
    body = f"try:\n    press(signal.{number})\nfinally:\n    print('closed')"
    assert guarded(body) == (code, "closed\n", line)


@pytest.mark.parametrize(
    "body",
    [
        "try:\n    press()\nfinally:\n    press()\n    print('never')",
        "try:\n    press()\nexcept KeyboardInterrupt:\n    pass\npress()\nprint('never')",
        "class Late:\n    def __del__(self):\n        press()\nLate()\nprint('never')",
        "import contextlib, io\nwith contextlib.redirect_stderr(io.StringIO()):\n"
        "    try:\n        press()\n    finally:\n        press()",
    ],
    ids=["while unwinding", "after it was swallowed", "in a finaliser", "while stderr is captured"],
)
def test_where_it_cannot_unwind_it_leaves_at_once(body):
    assert guarded(body) == (130, "", INTERRUPTED)


@pytest.mark.parametrize(
    "body",
    [
        "try:\n    press()\nexcept KeyboardInterrupt:\n    raise OSError('half')",
        "try:\n    press()\nexcept KeyboardInterrupt:\n    raise ValueError from None",
        "exec('press()')",
    ],
    ids=["another error", "another error alone", "in a string"],
)
def test_an_interrupt_is_one_whatever_it_became_on_its_way(body):
    assert guarded(body) == (130, "", INTERRUPTED)


def test_an_import_is_left_at_once(tmp_path):
    """An extension that is being imported does not survive what is raised in it."""
    (tmp_path / "pressing.py").write_text(
        "import os, signal\ntry:\n    os.kill(os.getpid(), signal.SIGINT)\nexcept BaseException:\n"
        "    print('raised')\n"
    )
    body = f"sys.path.append({str(tmp_path)!r})\nimport pressing"
    assert guarded(body) == (130, "", INTERRUPTED)


def test_the_guard_gives_the_signals_back():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    hook = sys.unraisablehook
    with user_errors():
        assert signal.getsignal(signal.SIGINT) != before[0]
    for error in (FloatingPointError, KeyboardInterrupt):
        with pytest.raises(SystemExit), user_errors():
            raise error
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
    assert sys.unraisablehook is hook


class Command:
    """A command of ours in a process of its own, which is on guard already."""

    def __init__(self, *command):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, "-m", *map(str, command)],
            cwd=ROOT,
            stdout=pipe,
            stderr=pipe,
            text=True,
        )
        while self.process.poll() is None and not self._catches(signal.SIGTERM):
            time.sleep(0.002)

    def _catches(self, number):
        known = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(known.partition("SigCgt:")[2].split()[0], 16) >> (number - 1) & 1

    def press(self, number=signal.SIGINT):
        self.process.send_signal(number)

    def end(self):
        """Its code, and what it says beside the progress of training."""
        _, err = self.process.communicate(timeout=120)
        lines = re.sub(r"training: [^]]*]", "\n", err).splitlines(keepends=True)
        return self.process.returncode, "".join(line for line in lines if line.strip())


on_linux = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="asks /proc")


@on_linux
@pytest.mark.parametrize(
    "command", [["jaxae", *TRAIN.split()], ["jaxae", "list"], ["experiments.digits_conv"]], ids=str
)
def test_commands_are_on_guard_before_anything_is_loaded(command, tmp_path):
    own = ["--run-dir", tmp_path / "run"] if "list" not in command else []
    started = Command(*command, *own)
    time.sleep(0.3)
    started.press()
    assert started.end() == (130, INTERRUPTED)
    assert list(tmp_path.iterdir()) == []


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize("often", [False, True])
def test_a_run_may_be_interrupted_at_any_moment(often, tmp_path):
    command = ["jaxae", *TRAIN.split(), "--run-dir", tmp_path / "run"]
    for moment in range(12):  # each goes on where the one before was stopped, or starts
        running = Command(*command)
        time.sleep(0.2 + 0.4 * moment)
        running.press()
        while often and running.process.poll() is None:
            running.press()
            time.sleep(0.003)
        code, line = running.end()
        assert (code, line) in ((0, ""), (130, INTERRUPTED)), line
    assert Command(*command).end() == (0, "")
    finished = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert {"report.json", "detector", "scores.npz"} <= set(finished)
