"""Checkpoints of states with Orbax: written whole or not at all, and read only if they are whole.

Each holds the SHA-256 of its files, taken before Orbax commits it by renaming it, and compared
before Orbax reads it: its own readers take most flipped bits for data, and what they do notice
leaves tasks of a closed event loop behind.
"""

import contextlib
import errno
import functools
import hashlib
import itertools
import json
import logging
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxae.config import TrainConfig
from jaxae.devices import hosts, parallel
from jaxae.errors import UserError, naming
from jaxae.storage import runlog
from jaxae.types import PyTree

DIGESTS = "digests.json"
_PARTS = ("about", "state")  # the items of a checkpoint, a folder each
_CHOSEN = "chosen"  # one more, where a run selects another epoch than the last


class Manager(ocp.CheckpointManager):
    """Orbax's, whose failures to write are errors of the system, as they are of any other file."""

    def wait_until_finished(self) -> None:
        """Wait until what was saved is whole.

        Raises:
          OSError: it cannot be written.
        """
        with _writing(Path(self.directory)):
            super().wait_until_finished()


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """TensorStore's errors are `ValueError`s that hold the number that the system gave."""
    with naming(folder):
        try:
            yield
        except ValueError as error:
            hosts.refuse_loss(error)
            known = re.search(r"os_error_code='(\d+)'", str(error))
            number = int(known[1]) if known else errno.EIO
            reason = os.strerror(number) if known else str(error).partition("\n")[0]
            raise OSError(number, reason) from error


@functools.cache
def _say_errors_once() -> None:
    """Leave out what is printed of Orbax's errors beside what it raises.

    It logs them itself, and asyncio does where two tasks fail. Where one write of several fails,
    the others end after their event loop, and TensorStore prints a traceback for each; or they are
    never begun, which Python remarks upon.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(
            lambda record: "orbax" not in f"{record.pathname} {record.getMessage()}"
        )
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    hook = sys.unraisablehook

    def hook_but_for_late_ends(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    sys.unraisablehook = hook_but_for_late_ends


def open_manager(folder: Path, keep: int, fall_back: bool = False) -> Manager:
    """The checkpoints in a folder, numbered by epoch.

    Args:
      folder: made if it does not exist; unfinished checkpoints in it are removed.
      keep: how many stay; 0 = all.
      fall_back: put aside newer ones that are damaged, where an older one is whole.

    Raises:
      UserError: the newest lacks a part; none is whole.
    """
    _say_errors_once()
    if fall_back:
        if hosts.first():
            _put_damaged_aside(folder)
        hosts.wait("damaged checkpoints put aside")
    numbered = _numbered(folder)
    if numbered:
        _check_parts(folder / str(max(numbered)))
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep or None,
        create=True,
        async_options=ocp.AsyncOptions(post_finalization_callback=functools.partial(_seal, folder)),
    )
    return Manager(folder.absolute(), options=options)


def opened(folder: Path, cfg: TrainConfig) -> Manager:
    """`open_manager` as a configuration has it."""
    return open_manager(folder, cfg.keep_checkpoints, cfg.fall_back)


def _numbered(folder: Path) -> list[int]:
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def _put_damaged_aside(folder: Path) -> None:
    """Move what is damaged and newer than the newest whole one; a `UserError` if none is whole."""
    damaged: dict[Path, UserError] = {}
    for path in (folder / str(epoch) for epoch in reversed(_numbered(folder))):
        try:
            check_whole(path)
            break
        except UserError as error:
            damaged[path] = error
    else:
        for problem in damaged.values():  # the newest one's
            raise UserError(f"no checkpoint in {folder} is whole: {problem}")
    aside = folder.parent / "damaged"
    for path in damaged:
        aside.mkdir(exist_ok=True)
        to = next(p for n in itertools.count() if not (p := aside / f"{path.name}-{n}").exists())
        path.rename(to)
        print(f"the checkpoint of epoch {path.name} is damaged; it lies in {to} now")


def epochs(manager: Manager) -> list[int]:
    """Those that there is a checkpoint of; a folder that lost a part is none.

    Orbax renames a checkpoint into its place when it is whole. What is not was being removed when
    the process was killed, and older ones are kept: Orbax removes it next time.
    """
    return [e for e in sorted(manager.all_steps()) if not _missing(_path(manager, e))]


def due(cfg: TrainConfig) -> Callable[[int], bool]:
    """`epoch -> whether it is to be saved`: each n-th, the last, and one after so many minutes."""
    saved = time.monotonic()

    def is_due(epoch: int) -> bool:
        nonlocal saved
        now = epoch % cfg.checkpoint_every == 0 or epoch == cfg.epochs
        if not now and cfg.checkpoint_minutes:  # clocks differ: process 0's counts
            now = hosts.as_first(time.monotonic() - saved >= 60 * cfg.checkpoint_minutes)
        saved = time.monotonic() if now else saved
        return now

    return is_due


def save(manager: Manager, epoch: int, state: PyTree, about: dict, chosen: PyTree = None) -> None:
    """Save the state after an epoch, with what it is of; returns once the state is copied.

    Args:
      manager: see `open_manager`.
      epoch: the checkpoint's number.
      state: of training.
      about: JSON.
      chosen: what is kept of an earlier epoch: it comes and goes with the state; None = nothing.

    Raises:
      OSError: this one or the one before it cannot be written.
    """
    about = {**about, "leaves": _leaves(state)}
    # Of arrays on several devices Orbax would compile a slice for each, so that all of them write.
    alone = parallel.on_one if jax.process_count() == 1 else lambda tree: tree
    items = {"state": ocp.args.StandardSave(alone(state)), "about": ocp.args.JsonSave(about)}
    if chosen is not None:
        items[_CHOSEN] = ocp.args.StandardSave(alone(chosen))
    with _writing(Path(manager.directory)):
        manager.save(epoch, args=ocp.args.Composite(**items))


def _seal(folder: Path) -> None:
    """Write down the digests of a checkpoint whose files are written; it lies aside until then.

    One that was made without is sealed as it is found: that it is in its place says that it is
    whole.
    """
    if not hosts.first():
        return
    for path in folder.iterdir():
        if not (_missing(path) or (path / DIGESTS).exists()):
            runlog.write_json(path / DIGESTS, _digests(path))


def _missing(path: Path) -> list[str]:
    return [part for part in _PARTS if not any((path / part).glob("*"))]


def _digests(path: Path) -> dict[str, str]:
    """File -> SHA-256; what lies beside the parts is written later, and can be done without."""
    found = {}
    for file in sorted(f for part in (*_PARTS, _CHOSEN) for f in (path / part).rglob("*")):
        if file.is_file():
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
            found[file.relative_to(path).as_posix()] = digest
    return found


def check_whole(path: Path) -> None:
    """Compare a checkpoint with its digests; without them, as an older version left it, look at it.

    Raises:
      UserError: it is damaged; names a file.
    """
    _check_parts(path)
    if not (path / DIGESTS).exists():
        return
    found = _digests(path)
    try:
        known = json.loads((path / DIGESTS).read_bytes()).items() or [(DIGESTS, "")]
        damaged = [name for name, digest in known if found.get(name) != digest]
    except (OSError, ValueError, AttributeError):
        damaged = [DIGESTS]
    if damaged:
        raise UserError(f"{path / damaged[0]} is damaged; {_AWAY}")


def _check_parts(path: Path) -> None:
    missing = _missing(path)
    if missing:
        raise UserError(f"{path} is no checkpoint: it holds no {' and no '.join(missing)}; {_AWAY}")


_AWAY = "put it back, or go on after the newest whole one with --train.fall-back"


def _leaves(state: PyTree) -> dict[str, str]:
    """Path -> dtype and shape of every array: what a template must have too."""
    flat = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in flat}


def about(manager: Manager, epoch: int) -> dict:
    """What `save` was told of a checkpoint.

    Raises:
      UserError: it is damaged.
    """
    check_whole(_path(manager, epoch))
    args = ocp.args.Composite(about=ocp.args.JsonRestore())
    with _readable(manager, epoch):
        return manager.restore(epoch, args=args).about


def restore(manager: Manager, template: PyTree, epoch: int | None = None) -> PyTree:
    """A saved state, bit for bit.

    Args:
      manager: see `open_manager`.
      template: shapes, dtypes and shardings, for instance from `jax.eval_shape` of the
        initialisation; the saved state must have the same.
      epoch: None = the last one.

    Raises:
      UserError: there is no such checkpoint, it is damaged, or it does not fit the template.
    """
    epoch = manager.latest_step() if epoch is None else epoch
    if epoch not in epochs(manager):
        raise UserError(
            f"no checkpoint of epoch {epoch} in {manager.directory}; there are {epochs(manager)}"
        )
    _check_leaves(manager, template, epoch)
    args = ocp.args.Composite(state=ocp.args.StandardRestore(template))
    with _readable(manager, epoch):
        return manager.restore(epoch, args=args).state


def restore_chosen(manager: Manager, template: PyTree, epoch: int) -> PyTree:
    """What was kept beside a state, bit for bit; `restore` that first, which looks for damage.

    Raises:
      UserError: nothing was, or not such as the template.
    """
    args = ocp.args.Composite(**{_CHOSEN: ocp.args.StandardRestore(template)})
    with _readable(manager, epoch):
        return manager.restore(epoch, args=args)[_CHOSEN]


@contextlib.contextmanager
def _readable(manager: Manager, epoch: int) -> Iterator[None]:
    """Say of a checkpoint without digests what Orbax finds wrong with it."""
    try:
        yield
    except (ValueError, KeyError, FileNotFoundError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{_path(manager, epoch)} cannot be read: {reason}; {_AWAY}") from error


def _path(manager: Manager, epoch: int) -> Path:
    return Path(manager.directory) / str(epoch)


def _check_leaves(manager: Manager, template: PyTree, epoch: int) -> None:
    """Compare before Orbax does: its own mismatch leaves tasks of a closed event loop behind."""
    saved, wanted = about(manager, epoch)["leaves"], _leaves(template)
    for path in sorted(saved | wanted):
        if saved.get(path) != wanted.get(path):
            raise UserError(
                f"the checkpoint of epoch {epoch} in {manager.directory} is of another model: "
                f"{path} is {saved.get(path)} there and {wanted.get(path)} here; "
                "remove the run folder or name another"
            )
