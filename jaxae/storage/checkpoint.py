"""Checkpoints of training states with Orbax, written atomically and verified before reading.

Each contains the SHA-256 of its files, computed before Orbax commits the checkpoint by renaming it,
and compared before Orbax reads it: Orbax does not notice most flipped bits, and when it does, it
leaves tasks of a closed event loop behind.
"""

import contextlib
import errno
import functools
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
from jaxae.storage import disk
from jaxae.storage.manifest import DIGESTS
from jaxae.types import PyTree

_PARTS = ("about", "state")  # the items of every checkpoint, each in its own folder
_CHOSEN = "chosen"  # one more item, if the run selects an epoch other than the last


class Manager(ocp.CheckpointManager):
    """Orbax's manager; a checkpoint that cannot be written raises `OSError`."""

    def wait_until_finished(self) -> None:
        """Wait until all is on disk; raises `OSError` if it cannot be written."""
        with _writing(Path(self.directory)):
            super().wait_until_finished()


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Raise TensorStore's `ValueError` as an `OSError` with the system's error number."""
    with naming(folder):
        try:
            yield
        except ValueError as error:
            hosts.refuse_loss(error)
            code = re.search(r"os_error_code='(\d+)'", str(error))
            number = int(code[1]) if code else errno.EIO
            reason = os.strerror(number) if code else str(error).partition("\n")[0]
            raise OSError(number, reason) from error


@functools.cache
def _silence_raised_errors() -> None:
    """Suppress printed reports of write errors that Orbax raises anyway.

    Orbax logs them, and so does asyncio if two tasks fail. If one of several writes fails, the
    others outlive their event loop, and TensorStore prints a traceback for each; or they never
    start, and Python prints a warning.
    """
    for name in ("absl", "asyncio"):
        logging.getLogger(name).addFilter(
            lambda record: "orbax" not in f"{record.pathname} {record.getMessage()}"
        )
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    hook = sys.unraisablehook

    def filtered(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            hook(unraisable)

    sys.unraisablehook = filtered


def open_manager(folder: Path, keep: int, fall_back: bool = False) -> Manager:
    """The checkpoints in a folder, numbered by epoch.

    Args:
      folder: created if it does not exist; unfinished checkpoints in it are removed.
      keep: the number of checkpoints to keep; 0 = all.
      fall_back: move checkpoints newer than the newest intact one to `damaged/` next to the folder.

    Raises:
      UserError: the newest checkpoint is incomplete, or, with `fall_back`, all are damaged.
    """
    _silence_raised_errors()
    if fall_back:
        if hosts.first():
            _move_damaged(folder)
        hosts.wait("damaged checkpoints moved")
    saved = numbered(folder)
    if saved:
        _check_parts(folder / str(max(saved)))
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep or None,
        create=True,
        async_options=ocp.AsyncOptions(post_finalization_callback=functools.partial(_seal, folder)),
    )
    return Manager(folder.absolute(), options=options)


def opened(folder: Path, cfg: TrainConfig) -> Manager:
    """`open_manager` with the settings of a configuration."""
    return open_manager(folder, cfg.keep_checkpoints, cfg.fall_back)


def reader(folder: Path) -> Manager:
    """The checkpoints in a folder, which is only read."""
    _silence_raised_errors()
    options = ocp.CheckpointManagerOptions(read_only=True, create=False)
    return Manager(folder.absolute(), options=options)


def numbered(folder: Path) -> list[int]:
    """The epochs of the checkpoints in a folder, whole or not."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def _move_damaged(folder: Path) -> None:
    """Move checkpoints newer than the newest intact one; a `UserError` if all are damaged."""
    damaged: dict[Path, UserError] = {}
    for path in (folder / str(epoch) for epoch in reversed(numbered(folder))):
        try:
            check_whole(path)
            break
        except UserError as error:
            damaged[path] = error
    else:
        for problem in damaged.values():  # raises for the newest; empty without checkpoints
            raise UserError(f"every checkpoint in {folder} is damaged: {problem}")
    target = folder.parent / "damaged"
    for path in damaged:
        target.mkdir(exist_ok=True)
        to = next(p for n in itertools.count() if not (p := target / f"{path.name}-{n}").exists())
        path.rename(to)
        print(f"the checkpoint of epoch {path.name} is damaged and was moved to {to}")


def epochs(manager: Manager) -> list[int]:
    """The epochs that have a complete checkpoint.

    Orbax renames a checkpoint into place once it is complete. If one is incomplete, the process was
    killed while removing it; Orbax removes it the next time.
    """
    return [e for e in sorted(manager.all_steps()) if not _missing(_path(manager, e))]


def due(cfg: TrainConfig) -> Callable[[int], bool]:
    """`epoch -> whether to save`: every n-th, the last, and after `checkpoint_minutes`."""
    saved = time.monotonic()

    def is_due(epoch: int) -> bool:
        nonlocal saved
        now = epoch % cfg.checkpoint_every == 0 or epoch == cfg.epochs
        if not now and cfg.checkpoint_minutes:  # clocks differ, so process 0 decides
            now = hosts.as_first(time.monotonic() - saved >= 60 * cfg.checkpoint_minutes)
        saved = time.monotonic() if now else saved
        return now

    return is_due


def save(manager: Manager, epoch: int, state: PyTree, about: dict, chosen: PyTree = None) -> None:
    """Save the state after an epoch; returns once the state is copied, before it is written.

    `about` is JSON-able and describes what the run is made from, see `run_folder.about`. `chosen`
    is the number and the variables of the best epoch so far, if epochs are compared.

    Raises:
      OSError: this checkpoint or the previous one cannot be written.
    """
    about = {**about, "leaves": _leaves(state)}
    # For arrays on several devices Orbax would compile one slice per device.
    single = parallel.local_copy if jax.process_count() == 1 else lambda tree: tree
    items = {"state": ocp.args.StandardSave(single(state)), "about": ocp.args.JsonSave(about)}
    if chosen is not None:
        items[_CHOSEN] = ocp.args.StandardSave(single(chosen))
    with _writing(Path(manager.directory)):
        manager.save(epoch, args=ocp.args.Composite(**items))


def _seal(folder: Path) -> None:
    """Add digests to a checkpoint before Orbax renames it, and to complete ones that have none."""
    if not hosts.first():
        return
    for path in folder.iterdir():
        if not (_missing(path) or (path / DIGESTS).exists()):
            disk.write_json(path / DIGESTS, _digests(path))


def _missing(path: Path) -> list[str]:
    return [part for part in _PARTS if not any((path / part).glob("*"))]


def _digests(path: Path) -> dict[str, str]:
    """File -> SHA-256, for files in the items; Orbax writes other, optional files later."""
    digests = {}
    for file in sorted(f for part in (*_PARTS, _CHOSEN) for f in (path / part).rglob("*")):
        if file.is_file():
            digests[file.relative_to(path).as_posix()] = disk.digest_of(file)
    return digests


def check_whole(path: Path) -> None:
    """Raise a `UserError` that names a file whose digest differs; older versions wrote none."""
    _check_parts(path)
    if not (path / DIGESTS).exists():
        return
    digests = _digests(path)
    try:
        saved = json.loads((path / DIGESTS).read_bytes()).items() or [(DIGESTS, "")]
        damaged = [name for name, digest in saved if digests.get(name) != digest]
    except (OSError, ValueError, AttributeError):
        damaged = [DIGESTS]
    if damaged:
        raise UserError(f"{path / damaged[0]} is damaged; {_REMEDY}")


def _check_parts(path: Path) -> None:
    missing = _missing(path)
    if missing:
        raise UserError(f"the checkpoint {path} lacks {' and '.join(missing)}; {_REMEDY}")


_REMEDY = "restore it, or resume from the newest intact checkpoint with --train.fall-back"


def _leaves(state: PyTree) -> dict[str, str]:
    """Path -> dtype and shape of every array; those of a template must be equal."""
    flat = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in flat}


def about(manager: Manager, epoch: int) -> dict:
    """The `about` that was passed to `save`, with "leaves", the state's dtypes and shapes.

    Raises:
      UserError: the checkpoint is damaged.
    """
    check_whole(_path(manager, epoch))
    return _read(manager, epoch, "about", ocp.args.JsonRestore())


def restore(manager: Manager, template: PyTree, epoch: int | None = None) -> PyTree:
    """A saved state, bit for bit.

    `template` has shapes, dtypes and shardings, for instance from `jax.eval_shape` of the
    initialisation; the saved state must have the same shapes and dtypes. `epoch` None = the last.

    Raises:
      UserError: there is no such checkpoint, it is damaged, or its shapes or dtypes differ.
    """
    epoch = manager.latest_step() if epoch is None else epoch
    if epoch not in epochs(manager):
        raise UserError(
            f"no checkpoint of epoch {epoch} in {manager.directory}; there are {epochs(manager)}"
        )
    # Compared here, because Orbax's own error would leave tasks of a closed event loop behind.
    saved, expected = about(manager, epoch)["leaves"], _leaves(template)
    for path in sorted(saved | expected):
        if saved.get(path) != expected.get(path):
            raise UserError(
                f"the checkpoint of epoch {epoch} in {manager.directory} is of another model: "
                f"{path} is {saved.get(path)} there and {expected.get(path)} here; "
                "remove the run folder or name another"
            )
    return _read(manager, epoch, "state", ocp.args.StandardRestore(template))


def restore_chosen(manager: Manager, template: PyTree, epoch: int) -> PyTree:
    """The `chosen` that was passed to `save`, bit for bit; call `restore` first: it finds damage.

    Raises:
      UserError: none was saved, or its shapes or dtypes differ from the template's.
    """
    return _read(manager, epoch, _CHOSEN, ocp.args.StandardRestore(template))


def _read(manager: Manager, epoch: int, item: str, args: ocp.args.CheckpointArgs) -> Any:
    """Read an item of a checkpoint; without digests, Orbax may find damage here."""
    try:
        return manager.restore(epoch, args=ocp.args.Composite(**{item: args}))[item]
    except (ValueError, KeyError, FileNotFoundError) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{_path(manager, epoch)} cannot be read: {reason}; {_REMEDY}") from error


def _path(manager: Manager, epoch: int) -> Path:
    return Path(manager.directory) / str(epoch)
