"""Errors of input, said in one line, and what happens when a command is stopped."""

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
    """Input that cannot work; the message is one sentence that names the thing and the remedy.

    The command line prints the message without a traceback and exits with code 2; library callers
    catch it as a `ValueError`.
    """


def unknown(kind: str, name: str, names) -> UserError:
    """The error for a name that is not registered; it lists the names that are."""
    return UserError(f"unknown {kind} {name!r}; known: {', '.join(sorted(names))}")


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file's name to system errors, since those of a full disk do not have it."""
    try:
        yield
    except OSError as error:
        if error.errno:  # without a number, the file name would replace the message
            error.filename = str(path)
        raise


@contextlib.contextmanager
def naming_input(path: Path) -> Iterator[None]:
    """Add the name of the file or folder that was read to a `UserError` without it."""
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
    """Say errors as a person needs them: one line, no traceback.

    Exits with code 2 on bad input and with code 1 if training diverges; with code 130 if it is
    interrupted (Ctrl-C), and with 143 if it is terminated, as a scheduler does that preempts a job:
    the last checkpoint stays, and the same command resumes. With code 141, without a word, where
    nobody reads the output any more.
    """
    with _Interrupts() as interrupts:
        try:
            yield
            sys.stdout.flush()
        except BaseException as error:
            if interrupts.code or isinstance(error, KeyboardInterrupt):
                interrupts.end()  # on its way here an interrupt may have become any other error
            if isinstance(error, UserError):
                print(f"error: {error}", file=sys.stderr)
                sys.exit(2)
            if isinstance(error, FloatingPointError):
                print(f"training failed: {error}", file=sys.stderr)
                sys.exit(1)
            if isinstance(error, BrokenPipeError):  # whoever read the output has left, as `head`
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                sys.exit(141)
            raise


_WORDS = {130: "interrupted", 143: "terminated"}  # 128 + the signal, as shells have it


class _Interrupts:
    """The signals that stop a run.

    The first one unwinds, so that what is open is closed and a save under way is finished. Another
    one leaves at once, as a kill does, which a run folder survives by design. So does the first
    where nothing can be raised: extensions crash while they are imported, and what is raised in a
    finaliser Python prints and forgets.
    """

    code = 0  # to exit with, once there was a signal
    leaving = 0  # the thread that writes the line and exits
    lock = threading.RLock()  # held by that thread until the process ends

    def __enter__(self) -> "_Interrupts":
        self.before: dict[int, Any] = {}
        self.hook = sys.unraisablehook
        if threading.current_thread() is threading.main_thread():  # no other may set handlers
            sys.unraisablehook = self._unraisable
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._handle)
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # all is done by then
        return self

    def __exit__(self, *raised: object) -> None:
        if self.code:
            return  # the process ends: the handlers stay, for whoever presses on
        if sys.unraisablehook == self._unraisable:
            sys.unraisablehook = self.hook
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def end(self) -> None:
        """Tell, and exit; whatever comes meanwhile adds nothing."""
        if not self.code:  # raised, not signalled: whoever called the command may go on
            print(_line(130), file=sys.stderr)
            sys.exit(130)
        for number in self.before:  # a mask is this thread's alone: another one would be told
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(OSError):
            sys.stdout.flush()
        self._leave()  # all is closed; threads of extensions may abort if Python ends first

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
        """Print the line once, whichever thread comes first, and exit.

        Returns only to a thread that is here already: what interrupted it must let it go on.
        """
        if self.leaving == threading.get_ident():
            return
        with self.lock:  # any other thread waits here for the exit
            self.leaving = threading.get_ident()
            with contextlib.suppress(OSError, ValueError):  # print may be what was interrupted
                os.write(sys.stderr.fileno(), f"{_line(self.code)}\n".encode())
            os._exit(self.code)


def _imports(frame: FrameType | None) -> bool:
    """Whether a module is being imported there."""
    while frame and not frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    return frame is not None


def _line(code: int) -> str:
    return f"{_WORDS[code]}; the same command resumes after the last checkpoint"
