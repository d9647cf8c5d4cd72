"""One-line errors for invalid input, and the handling of signals that stop a command."""

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any


class UserError(ValueError):
    """Invalid input; the message is one sentence that names the problem and the remedy.

    The command line prints the message without a traceback and exits with code 2; library callers
    catch it as a `ValueError`.
    """


class Missing(UserError):
    """Data that a configuration names are not there, or cannot be fetched."""


class Unchecked(Exception):
    """Something cannot be checked, because what it would be compared with is not there.

    The command line prints the message and exits with code 3: nothing was found to be wrong.
    """


def unknown(kind: str, name: str, names) -> UserError:
    """The error for a name that is not registered; it lists the names that are."""
    return UserError(f"unknown {kind} {name!r}; known: {', '.join(sorted(names))}")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file's name to system errors, because those of a full disk lack it."""
    try:
        yield
    except OSError as error:
        if error.errno:  # without a number, the file name would replace the message
            error.filename = str(path)
        raise


@contextlib.contextmanager
def naming_input(path: Path) -> Iterator[None]:
    """Add the name of the file or folder that was read to a `UserError` that lacks it."""
    try:
        yield
    except UserError as error:
        prefix = "" if str(path) in str(error) else f"{path}: "
        raise UserError(f"{prefix}{error}") from None


def words(error: OSError) -> str:
    """The system's message for an error: "No space left on device"."""
    return error.strerror or str(error)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Report errors to the user in one line, without a traceback.

    Exit code 2: invalid input; 3: something could not be checked; 1: training diverged; 130:
    interrupted (Ctrl-C); 143: terminated, for example by a scheduler that preempts the job. After
    130 and 143 the last checkpoint remains, and the same command resumes. Exit code 141, without a
    message: the reader of the output closed the pipe.
    """
    with _Interrupts() as interrupts:
        try:
            yield
            sys.stdout.flush()
        except BaseException as error:
            if interrupts.code or isinstance(error, KeyboardInterrupt):
                interrupts.end()  # an interrupt may have been turned into another error on its way
            if isinstance(error, UserError):
                print(f"error: {error}", file=sys.stderr)
                sys.exit(2)
            if isinstance(error, Unchecked):
                print(f"note: {error}", file=sys.stderr)
                sys.exit(3)
            if isinstance(error, FloatingPointError):
                print(f"training failed: {error}", file=sys.stderr)
                sys.exit(1)
            if isinstance(error, BrokenPipeError):  # the reader has exited, as `head` does
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(141)
            raise


_WORDS = {130: "interrupted", 143: "terminated"}  # 128 + the signal number, as in shells


class _Interrupts:
    """Handles the signals that stop a run.

    The first signal raises an exception, so that open files are closed and a running save finishes.
    A second one exits at once, like a kill, which a run folder survives by design. So does the
    first one where no exception may be raised: extensions crash if one is raised while they are
    imported, and Python only prints one that is raised in a finaliser.
    """

    code = 0  # the exit code after a signal
    leaving = 0  # the thread that prints the line and exits
    lock = threading.RLock()  # held by that thread until the process ends

    def __enter__(self) -> "_Interrupts":
        self.before: dict[int, Any] = {}
        self.hook = sys.unraisablehook
        if threading.current_thread() is threading.main_thread():  # only it may set handlers
            sys.unraisablehook = self._unraisable
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._handle)
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # all is done by then
        return self

    def __exit__(self, *raised: object) -> None:
        if self.code:
            return  # the process ends: the handlers stay, in case of further signals
        if sys.unraisablehook == self._unraisable:
            sys.unraisablehook = self.hook
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def end(self) -> None:
        """Print the line and exit; further signals are ignored."""
        if not self.code:  # raised without a signal: the caller of the command may go on
            print(_line(130), file=sys.stderr)
            sys.exit(130)
        for number in self.before:  # a mask covers only this thread
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        self._leave()  # at once: threads of extensions may abort if Python ends first

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.code = bool(self.code), self.code or 128 + number
        if again or _imports(frame):
            return self._leave()
        raise KeyboardInterrupt

    def _unraisable(self, unraisable: Any) -> None:
        if self.code:
            return self._leave()
        return self.hook(unraisable)

    def _leave(self) -> None:
        """Print the line once, in the first thread that gets here, and exit.

        A signal may have interrupted `print`, so the line is written without it. Returns only to a
        thread that is already in here, so that a signal handler lets it go on.
        """
        if self.leaving == threading.get_ident():
            return
        with self.lock:  # any other thread waits here for the exit
            self.leaving = threading.get_ident()
            number = 2  # stderr is in memory while arguments are parsed
            with contextlib.suppress(AttributeError, OSError, ValueError):
                number = sys.stderr.fileno()
            with contextlib.suppress(OSError):
                os.write(number, f"{_line(self.code)}\n".encode())
            os._exit(self.code)


def _imports(frame: FrameType | None) -> bool:
    """Whether this frame runs during the import of a module."""
    while frame and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _line(code: int) -> str:
    return f"{_WORDS[code]}; the same command resumes after the last checkpoint"
