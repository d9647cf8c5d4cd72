"""The manifest of a run folder: the digests of all files that the run wrote, written last.

It covers `FILES`, the folders in `FOLDERS`, and tables of studies. Other files in the folder, such
as those of loggers, are the user's and stay free. A checkpoint has the digests of its own files in
`DIGESTS`, which `jaxae.storage.checkpoint` compares; the manifest covers that file and all others.
A grid's manifest covers the manifest of each member.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jaxae.devices import hosts
from jaxae.errors import UserError
from jaxae.storage import disk

NAME = "manifest.json"
DESCRIPTION = "description.json"  # of an archive, such as a detector
DIGESTS = "digests.json"  # of a checkpoint: file -> SHA-256
FILES = (
    *("config.json", "data.json", "report.json", "tuning.json"),
    *("metrics.jsonl", "provenance.jsonl", "scores.npz", "report.html"),
)
FOLDERS = ("arrays", "baselines", "checkpoints", "detector", "figures")
_FORMAT = 1


def seal(folder: Path, more: Iterable[str] = ()) -> None:
    """Write the manifest of a finished run, the last file that it writes; by process 0 only.

    Args:
      folder: the run folder.
      more: further files to cover, by their path in the folder, if they exist.
    """
    if not hosts.first():
        return
    names = dict.fromkeys((*_covered(folder), *(n for n in more if (folder / n).is_file())))
    _write(folder, {name: disk.digest_of(folder / name) for name in names})


def withdraw(folder: Path) -> None:
    """Remove the manifest, before a file that it covers is replaced."""
    (folder / NAME).unlink(missing_ok=True)


def add(folder: Path, path: Path) -> None:
    """Cover one more file in a sealed folder, such as a page; the other digests stay as they are.

    Without a manifest, nothing happens.

    Raises:
      UserError: the manifest is damaged.
    """
    if (folder / NAME).is_file():
        _write(folder, read(folder) | {path.relative_to(folder).as_posix(): disk.digest_of(path)})


def read(folder: Path) -> dict[str, str]:
    """The digests on record: path in the folder, with "/" -> SHA-256 in hexadecimal.

    Raises:
      UserError: there is none, or it is damaged.
    """
    path, remedy = folder / NAME, "restore the file, or remove it and run the same command again"
    stored = disk.read_json(path, remedy)
    files: Any = stored.get("files") if isinstance(stored, dict) else None
    is_whole = isinstance(files, dict) and all(isinstance(d, str) for d in files.values())
    if not is_whole or path.read_bytes() != disk.json_bytes(_content(files)):
        raise UserError(f"{path} is not as it was written; {remedy}")
    return files


def changed(folder: Path, names: Iterable[str] | None = None) -> dict[str, str]:
    """The files that are not as recorded.

    Args:
      folder: the run folder.
      names: compare only these, as far as they exist or are on record; None = all.

    Returns:
      Name -> "has changed", "is missing" or "is not on record".

    Raises:
      UserError: there is no manifest, or it is damaged.
    """
    files, found = read(folder), dict[str, str]()
    for name in dict.fromkeys((*files, *_covered(folder)) if names is None else names):
        is_there = (folder / name).is_file()
        if name not in files:
            found |= {name: "is not on record"} if is_there else {}
        elif not is_there:
            found[name] = "is missing"
        elif disk.digest_of(folder / name) != files[name]:
            found[name] = "has changed"
    return found


def refuse_changed(folder: Path, names: Iterable[str] | None, remedy: str) -> None:
    """Refuse to use files of a finished run that are not as recorded.

    Without a manifest, nothing is known of them.

    Args:
      folder: the run folder.
      names: as in `changed`.
      remedy: the end of the message.

    Raises:
      UserError: a file differs, or the manifest is damaged.
    """
    if (folder / NAME).is_file():
        for name, how in changed(folder, names).items():
            when = " since the run ended" if how == "has changed" else ""
            raise UserError(f"{folder / name} {how}{when}; {remedy}")


def _covered(folder: Path) -> Iterator[str]:
    """The files to cover that exist, in order."""
    of_checkpoints = (folder / "checkpoints").rglob(DIGESTS)
    in_checkpoints = {path for digests in of_checkpoints for path in _in_checkpoint(digests)}
    yield from (name for name in FILES if (folder / name).is_file())
    for path in (path for name in FOLDERS for path in sorted((folder / name).rglob("*"))):
        if path.is_file() and not path.name.startswith(".") and path not in in_checkpoints:
            yield path.relative_to(folder).as_posix()
    for member in sorted(folder.glob(f"members/*/{NAME}")):
        yield member.relative_to(folder).as_posix()


def _in_checkpoint(digests: Path) -> list[Path]:
    """The files whose digests a checkpoint has; [] if its own file of digests is damaged."""
    try:
        return [digests.parent / name for name in dict(json.loads(digests.read_bytes()))]
    except (OSError, ValueError, TypeError):
        return []


def _content(files: dict[str, str]) -> dict:
    """The content of the file; its own digest tells a damaged manifest from damaged files."""
    files = dict(sorted(files.items()))
    lines = "".join(f"{digest}  {name}\n" for name, digest in files.items())
    return {
        "format": _FORMAT,
        "files": files,
        "digest": hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest(),
    }


def _write(folder: Path, files: dict[str, str]) -> None:
    disk.write_json(folder / NAME, _content(files))
