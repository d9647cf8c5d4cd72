"""What a user names for a result, and what it may replace: never a record, and no file unasked.

Every command passes the file that it will write to `check` before any work, and then writes it
through `jaxae.storage.disk` within `system_errors`; a run passes its folder to `check_run_folder`.
"""

import contextlib
import os
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from jaxae.config import ExperimentConfig
from jaxae.errors import UserError, words
from jaxae.storage import disk, manifest

_FILES = {*manifest.FILES, manifest.NAME, ".lock"}  # of a run or a grid
_FOLDERS = {*manifest.FOLDERS, "damaged", "members"}
_LOGS = (".err", ".log", ".out", ".txt")  # a scheduler or the shell may have begun them
_LONGEST = 255  # bytes of a name, in common file systems
_LONG = 300  # characters of a path in a message
_REMEDY = "name another folder with --run-dir"


def check(
    out: Path,
    suffixes: Sequence[str],
    inputs: Iterable[Path] = (),
    overwrite: bool = False,
    name: str = "--out",
) -> None:
    """Refuse a file that cannot be written, or must not be; call it before any work.

    Args:
      out: the file that the user named.
      suffixes: those of the formats that can be written, such as ".csv".
      inputs: the files and folders that are read; neither they nor files in them are replaced.
      overwrite: whether any other file may be replaced.
      name: the argument, for the message.

    Raises:
      UserError: the file has another suffix, is a folder or an input, exists without `overwrite`,
        is part of a run, a grid, a detector or a checkpoint by any spelling, or its folder does not
        exist or cannot be written.
    """
    try:
        why = _why_not(out, suffixes, inputs, overwrite)
    except OSError as error:
        why = f" ({words(error)}); name another file"
    except ValueError:  # a null character
        why = "; a name holds no null character"
    if why:
        raise UserError(f"{name} {_shown(out)} cannot be written{why}")


@contextlib.contextmanager
def system_errors(name: str) -> Iterator[None]:
    """Turn a system error while a file is written, such as a full disk, into a `UserError`.

    `name`: the file, for the message.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{name} cannot be written ({words(error)}); fix that, or name another file"
        ) from None


def check_run_folder(cfg: ExperimentConfig, may_be_begun: bool = False) -> None:
    """Refuse a folder that cannot be, or must not become, that of a run; call it before any work.

    Args:
      cfg: the configuration; without `run_dir` its `name` becomes the name of the folder.
      may_be_begun: whether the folder may hold other files, which loggers may have written.

    Raises:
      UserError: the name is blank, too long, that of an unfinished file, or holds control
        characters; a file is in the way; or the folder is part of another run, of a grid, a
        detector or a checkpoint, or holds files, other than logs, that are not those of a run.
    """
    path = cfg.run_path
    if not cfg.run_dir and (not cfg.name.strip() or "/" in cfg.name):
        raise UserError(
            f"name is {cfg.name!r}, and the run folder would be {str(path)!r}; give a --name "
            f"without /, or {_REMEDY}"
        )
    try:
        why = _no_run_folder(path, may_be_begun)
    except OSError as error:
        why = f"cannot be used ({words(error)})"
    except ValueError:
        why = "has a null character in its name"
    if why:
        raise UserError(f"the run folder {_shown(path)} {why}; {_REMEDY}")


def owner(path: Path) -> Path | None:
    """The run, grid, detector or checkpoint whose record a path is, or would be; None = nobody's.

    Links are followed. In the folder of a run or a grid, files that are not on record are free.
    """
    for place in {path.parent.resolve() / path.name, path.resolve()}:
        for folder in place.parents:
            if _is_of(folder, place.relative_to(folder)):
                return folder
    return None


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, finished or not."""
    return (folder / "config.json").is_file() and (folder / "data.json").is_file()


def _no_run_folder(path: Path, may_be_begun: bool) -> str:
    """What is wrong with a run folder, "" if nothing is."""
    if not str(path).strip() or any(map(_is_control, str(path))):
        return "has a blank name, or control characters in it"
    if disk.UNFINISHED.fullmatch(path.name):
        return "has the name of an unfinished file"
    with contextlib.suppress(FileNotFoundError):
        path.lstat()  # raises if the path is too long, or has a file for a folder
    if any(len(os.fsencode(part)) > _LONGEST for part in path.parts):
        return f"has a name of more than {_LONGEST} bytes"
    above = next((p for p in (path, *path.parents) if p.exists()), path)
    if above.exists() and not above.is_dir():
        return f"cannot be made: {_shown(above)} is a file"
    whose = owner(path) or next(filter(is_run, path.resolve().parents), None)
    if whose:
        return f"is inside {_shown(whose)}, which is kept as it was written"
    others = [] if may_be_begun or not path.is_dir() else _others(path)
    if others and not _is_begun(path):  # asked last: another process may just begin it
        return f"holds other files, such as {_shown(Path(min(others)))}"
    return ""


def _others(folder: Path) -> list[str]:
    """The names in a folder that is not yet a run's of what may not be there."""
    return [
        path.name
        for path in folder.iterdir()
        if not (
            (path.is_file() and (path.name.startswith(".") or path.suffix in _LOGS))
            or (path.is_dir() and path.name in ("arrays", "figures") and not any(path.iterdir()))
        )
    ]


def _is_begun(folder: Path) -> bool:
    """Whether a run or a grid has been begun in a folder."""
    by_name = (any(folder.glob(name)) for name in (".*lock", "config.json", "tuning.json"))
    return any(by_name) or _is_grid(folder)


def _is_control(character: str) -> bool:
    return unicodedata.category(character) == "Cc"


def _why_not(out: Path, suffixes: Sequence[str], inputs: Iterable[Path], overwrite: bool) -> str:
    """The end of the message, "" if the file may be written."""
    kinds = " or ".join(suffixes)
    if out.suffix not in suffixes or not out.parent.is_dir():
        return f"; name a {kinds} in an existing folder"
    if out.is_dir():
        return f": it is a folder; name a {kinds}"
    if folder := owner(out):
        return f": it is part of {folder}, which is kept as it was written; name another file"
    if out.exists() and any(out.samefile(file) for file in _files(inputs)):
        return ": it is read by this command; name another file"
    if out.exists() and not out.is_file():
        return ": it is not a file; name another"
    if (out.exists() or out.is_symlink()) and not overwrite:
        return ": it exists; add --overwrite to replace it, or name another file"
    disk.probe(out)
    return ""


def _files(inputs: Iterable[Path]) -> Iterator[Path]:
    """The files that exist among paths, and in the folders among them."""
    for path in inputs:
        yield from (file for file in (path, *path.rglob("*")) if file.exists())


def _is_of(folder: Path, path: Path) -> bool:
    """Whether a path, relative to a folder, is that of a record in it."""
    if (folder / manifest.DESCRIPTION).is_file() and any(folder.glob("arrays-*.npz")):
        return True
    if (folder / manifest.DIGESTS).is_file() and (folder / "state").is_dir():
        return True
    recorded = _on_record(folder)
    if not (recorded or is_run(folder) or _is_grid(folder)):
        return False
    return path.parts[0] in _FOLDERS or str(path) in _FILES or path.as_posix() in recorded


def _is_grid(folder: Path) -> bool:
    return any(map(is_run, folder.glob("members/*")))


def _on_record(folder: Path) -> Collection[str]:
    try:
        return manifest.read(folder)
    except UserError:  # none, or damaged: the names above remain
        return ()


def _shown(path: Path) -> str:
    """A path in one line, which shows blanks and what cannot be printed."""
    text = str(path) if len(str(path)) < _LONG else f"{str(path)[:_LONG]}..."
    return text if text.isprintable() and text == text.strip() else repr(text)
