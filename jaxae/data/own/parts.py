"""The files of an array in a folder: NAME.npy, or its parts NAME-00000.npy, NAME-00001.npy, ..."""

import filecmp
import re
from pathlib import Path

from jaxae.errors import UserError

_PART = re.compile(r"([0-9]+)(?:-of-([0-9]+))?")
_COPY = re.compile(r"[ _.(][\W\d_]*(copy)?[\W\d_]*", re.IGNORECASE)  # as programs name copies
_COMPARED = 4096  # bytes in the middle of a file, by which parts are told apart


def names(folder: Path) -> list[str]:
    """The names of the arrays in a folder of .npy files; the parts of an array have one name."""
    return sorted({path.stem.partition("-")[0] for path in _files(folder)})


def find(folder: Path, name: str) -> list[Path]:
    """The file of an array, or its parts in the order of their numbers.

    Parts are numbered from 0 or 1 without a gap, padded with zeros to one width or not at all
    (9, 10; 09, 10), and perhaps with their count: NAME-00000-of-00005.npy.

    Raises:
      UserError: a part is missing, has a number twice, is numbered in another way than the others
        or in none; or whole array and parts are both there.
    """
    files = [path for path in _files(folder) if path.stem.startswith(name)]
    parts = [path for path in files if path.stem[len(name) :].startswith("-")]
    copies = [path for path in files if _COPY.fullmatch(path.stem[len(name) :])]
    whole = [path for path in files if path.stem == name]
    if copies:
        raise _no_part(copies[0], name)
    if whole and parts:
        raise UserError(f"{folder} holds both {name}.npy and {name}-*.npy; put one of them there")
    if len(whole) > 1:
        raise UserError(f"{whole[0]} and {whole[1].name} have the same name; keep one of them")
    return _in_order(folder, name, parts) if parts else [folder / f"{name}.npy", *whole][-1:]


def refuse_copies(paths: list[Path], unless_links: bool = False) -> None:
    """Refuse parts with the same content, whose rows would count twice; such as links to one file.

    Args:
      paths: files that exist.
      unless_links: accept equal content in different files, as of classes.

    Raises:
      UserError: names the two.
    """
    seen: dict[tuple, Path] = {}
    for path in paths:
        status = path.stat()
        key: tuple = (status.st_dev, status.st_ino)
        if not unless_links:
            with path.open("rb") as file:
                file.seek(status.st_size // 2)
                key = (status.st_size, file.read(_COMPARED))
        other = seen.setdefault(key, path)
        if other != path and (unless_links or filecmp.cmp(other, path, shallow=False)):
            raise UserError(
                f"{path} has the same content as {other.name}; remove one of them (if the rows do "
                "repeat, save them in one part)"
            )


def _files(folder: Path) -> list[Path]:
    """The .npy files of a folder, without hidden ones such as macOS leaves on other disks."""
    found = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(path for path in found if path.suffix.lower() == ".npy")


def _in_order(folder: Path, name: str, parts: list[Path]) -> list[Path]:
    by_number: dict[int, Path] = {}
    texts, counts = {}, {}
    for path in parts:
        match = _PART.fullmatch(path.stem[len(name) + 1 :])
        if not match:
            raise _no_part(path, name)
        texts[path], counts[path] = match.groups()
        other = by_number.setdefault(int(texts[path]), path)
        if other != path:
            raise UserError(
                f"{path} has the same number as {other.name}; remove or renumber one of them"
            )
    numbers, first = sorted(by_number), parts[0]
    width = min(map(len, texts.values()))
    shortest = next(path for path in parts if len(texts[path]) == width)
    for number, path in by_number.items():
        if texts[path] != f"{number:0{width}}":
            raise UserError(
                f"{path} and {shortest.name} are numbered in two ways; rename one as the other"
            )
        if counts[path] != counts[first]:
            raise UserError(f"{path} and {first.name} are of two sets; remove one set")
    start = min(1, numbers[0])
    gap = next((i for i, number in enumerate(numbers, start) if i != number), start + len(numbers))
    total = len(numbers) if counts[first] is None else int(counts[first])
    if gap != numbers[-1] + 1 or len(numbers) < total:
        raise UserError(
            f"{folder} lacks part {gap} of {name}, beside {by_number[numbers[0]].name} to "
            f"{by_number[numbers[-1]].name}; restore it, or number the parts without a gap"
        )
    if len(numbers) > total:
        raise UserError(
            f"{folder} holds {len(numbers)} parts of {name}, more than {first.name} says; remove "
            "those that do not belong to it"
        )
    return [by_number[number] for number in numbers]


def _no_part(path: Path, name: str) -> UserError:
    return UserError(
        f"{path} is neither {name}.npy nor a part of it like {name}-00000.npy; rename it, or move "
        "it out of the folder"
    )
