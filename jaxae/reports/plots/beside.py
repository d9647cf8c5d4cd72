"""A second process that draws beside this one: a process runs one line of Python at a time.

The other one imports matplotlib and what draws, never JAX. It takes orders on its standard input
and answers each with a byte. What it cannot do is left to whoever asked, who has the words for it.
"""

import contextlib
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jaxae.reports.plots import style

Draw = Callable[[Path], Any]  # run folder -> matplotlib Figure; None = nothing to show
Order = tuple[Draw, Path, Path]  # what draws, the run's folder, where the picture goes

_DREW, _NOTHING, _FAILED = b"d", b"n", b"f"


def picture(draw: Draw, run_dir: Path, path: Path) -> bool:
    """Draws a figure into a file; false = there was nothing to show."""
    figure = draw(run_dir)
    if figure is None:
        return False
    style.save(figure, path)
    return True


def pictures(orders: Sequence[Order], helper: "Helper | None" = None) -> list[Path]:
    """Draws all that there is to show, from the front, and a helper from the back.

    Returns:
      The pictures, in the order asked for.
    """
    todo, made, left = deque(orders), set[Path](), list[Order]()

    def help(helper: Helper) -> None:
        for order in _taken(todo.pop):
            drew = helper.picture(*order)
            if drew is None:
                left.append(order)
            elif drew:
                made.add(order[-1])

    with _beside(lambda: help(helper)) if helper else contextlib.nullcontext():
        try:
            made |= {order[-1] for order in _taken(todo.popleft) if picture(*order)}
        finally:
            todo.clear()
    made |= {order[-1] for order in left if picture(*order)}
    return [path for *_, path in orders if path in made]


def _taken(take: Callable[[], Order]) -> Iterator[Order]:
    with contextlib.suppress(IndexError):
        while True:
            yield take()


@contextlib.contextmanager
def _beside(work: Callable[[], None]) -> Iterator[None]:
    thread = threading.Thread(target=work, name="beside")
    thread.start()
    try:
        yield
    finally:
        thread.join()


# The same code as this process has, whatever lies in the folder that it runs in.
_ROOT = str(Path(__file__).parents[3])
_START = f"import sys; sys.path.insert(0, sys.argv[1]); from {__name__} import serve; serve()"


class Helper:
    """The other process; it ends when it is closed, and with this one.

    Raises:
      OSError: there can be no other process.
    """

    def __init__(self) -> None:
        # Errors are those of whoever draws what it could not.
        self._process = subprocess.Popen(
            [sys.executable or "", "-P", "-c", _START, _ROOT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def picture(self, draw: Draw, run_dir: Path, path: Path) -> bool | None:
        """What `picture` gives; None = it could not, or would have to load who knows what."""
        where, name = (getattr(draw, of, "") for of in ("__module__", "__qualname__"))
        if not f"{where}.".startswith(f"{__package__}."):
            return None
        orders: Any = self._process.stdin
        answers: Any = self._process.stdout
        try:
            orders.write(json.dumps([where, name, *map(str, (run_dir, path))]).encode() + b"\n")
            orders.flush()
            return {_DREW: True, _NOTHING: False}.get(answers.read(1))
        except (OSError, ValueError):
            return None

    def close(self) -> None:
        """End it; nobody waits for a picture any more."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()  # type: ignore[union-attr]


def serve() -> None:
    """What the other process does until its input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who was interrupted decides
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what anything prints is no answer
    style.load()
    gc.freeze()
    for order in sys.stdin.buffer:
        answers.write(_served(order))
    os._exit(0)


def _served(order: bytes) -> bytes:
    try:
        where, name, run_dir, path = json.loads(order)
        draw = getattr(importlib.import_module(where), name)
        return _DREW if picture(draw, Path(run_dir), Path(path)) else _NOTHING
    except Exception:
        return _FAILED
