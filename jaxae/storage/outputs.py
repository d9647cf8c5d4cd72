"""What a user names for a result, and what it may replace: never a record, and no file unasked.

Every command passes the file that it will write to `check` before any work, and then writes it
through `jaxae.storage.disk`.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from jaxae.errors import UserError, words
from jaxae.storage import archive, disk, manifest

_FILES = {*manifest.FILES, manifest.NAME, ".lock"}  # of a run or a grid
_FOLDERS = {*manifest.FOLDERS, "damaged", "members"}


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
        return f": it exists; add --overwrite to replace it, or name another {kinds}"
    disk.probe(out)
    return ""


def _files(inputs: Iterable[Path]) -> Iterator[Path]:
    """The files that exist among paths, and in the folders among them."""
    for path in inputs:
        yield from (file for file in (path, *path.rglob("*")) if file.exists())


def _is_of(folder: Path, path: Path) -> bool:
    """Whether a path, relative to a folder, is that of a record in it."""
    if (folder / archive.DESCRIPTION).is_file() and any(folder.glob("arrays-*.npz")):
        return True
    if (folder / manifest.DIGESTS).is_file() and (folder / "state").is_dir():
        return True
    recorded = _on_record(folder)
    if not (recorded or is_run(folder) or any(map(is_run, folder.glob("members/*")))):
        return False
    return path.parts[0] in _FOLDERS or str(path) in _FILES or path.as_posix() in recorded


def _on_record(folder: Path) -> Collection[str]:
    try:
        return manifest.read(folder).files
    except UserError:  # none, or damaged: the names above remain
        return ()


def _shown(path: Path) -> str:
    """A path as it is written in a shell, in one line."""
    text = str(path)
    return text if text.isprintable() else repr(text)
