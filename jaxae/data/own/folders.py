"""Folders of images: which files count, and what the names of the folders say about them."""

import glob
import os
import re
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from jaxae.data.own import class_names
from jaxae.errors import UserError, words

SUFFIXES = (
    *(".png", ".apng", ".jpg", ".jpeg", ".jfif", ".jpe", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".webp", ".avif", ".jp2", ".j2k", ".tga", ".pgm", ".ppm", ".pnm", ".pbm"),
)
# What a file without a suffix begins with if it is a PNG, JPEG, GIF, TIFF or WebP.
_BEGINNINGS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"RIFF")
# Files that usually lie beside images; other files are mentioned.
_COMPANIONS = {"", ".txt", ".md", ".json", ".xml", ".yaml", ".yml", ".db", ".ini", ".html", ".py"}
# Folders that systems and viewers create, besides the hidden ones.
_SYSTEM = {"@eadir", "@__thumb", "__macosx", "#recycle", "#snapshot", "$recycle.bin"}
_SYSTEM |= {"system volume information", "lost+found"}
_MASKS = {"ground truth", "groundtruth", "gt", "masks", "annotation", "annotations", "segmentation"}
_MASK_FILES = ("_mask", "_label", "_gt")  # of an image beside it, without this ending
_PARTS = {
    "train": {"train", "training", "trainset"},
    "valid": {"val", "valid", "validation", "valset", "validset"},
    "test": {"test", "testing", "testset"},
}
_FILLERS = {"set", "data", "dataset", "images", "image", "imgs", "img", "public", "split"}
LOOSE = "good"  # the class of images that are in no subfolder


class Images(NamedTuple):
    """The images of a folder in the order of their names."""

    paths: list[Path]
    classes: list[str]
    is_test: Bool[np.ndarray, " N"] | None  # None = the folder does not define it
    notes: tuple[str, ...]


class Layout(NamedTuple):
    """Where the images of each part are; a part without folders is empty."""

    root: Path
    train: list[Path]
    valid: list[Path]
    test: list[Path]
    others: list[Path]  # folders that are no part, such as classes


def scan(folder: Path, keep_test: bool = False) -> Images:
    """The images below a folder, their classes and which are test images.

    The folder holds a subfolder for each class, or parts with a subfolder for each class: `train`,
    `test` and `validation`, whose images join the training images. Without `test`, a validation
    part that has a further class takes its place. Folders of masks are left out. Images outside
    of class folders are of the class `LOOSE`, but a test part that has only such images has no
    classes and is left out, as is a test part without a second class unless `keep_test`.

    Raises:
      UserError: it is not a folder, contains no images, or several data sets, or parts and classes
        side by side.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name one with images in it")
    layout = _layout(_unwrapped(folder))
    if not (layout.train or layout.valid or layout.test):
        found = _of_classes(layout.root)
    else:
        found = _of_parts(layout, keep_test)
    if not found.paths:
        raise UserError(
            f"{folder} holds no images; put files there that end in {', '.join(SUFFIXES)}"
        )
    return found


def files(root: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Every image below a folder, in the order of their names, and notes on what is left out.

    Links are followed. Hidden files, folders that systems create, and masks are left out.

    Raises:
      UserError: a folder cannot be read.
    """
    found, broken, masks = [], [], 0
    known: dict[Path, bool] = {}
    unread: Counter[str] = Counter()
    for path in _walk(root, frozenset()):
        if not path.exists():
            broken += [path] if path.suffix.lower() in SUFFIXES else []
        elif not _is_image(path):
            unread[path.suffix.lower()] += path.suffix.lower() not in _COMPANIONS
        elif _is_mask(path, root, known):
            masks += 1
        else:
            found.append(path)
    notes = [f"{root}: {masks} masks are not read as images"] if masks else []
    if broken:
        notes.append(f"{len(broken)} links lead nowhere and are skipped, first {broken[0]}")
    suffixes = ", ".join(f"{suffix} ({count})" for suffix, count in unread.items() if count)
    if suffixes:
        notes.append(f"{root}: files of other kinds are left out: {suffixes}")
    return sorted(found), tuple(notes)


def masks(root: Path) -> list[Path]:
    """Every mask below a folder, in the order of their names; see `files`."""
    known: dict[Path, bool] = {}
    found = [path for path in _walk(root, frozenset()) if path.exists() and _is_image(path)]
    return sorted(path for path in found if _is_mask(path, root, known))


def identity(path: Path, root: Path, is_mask: bool = False) -> tuple[str, ...]:
    """What an image and its mask have in common: folders below the root, and the name.

    Folders of parts and masks, and those such as `Data` or `images`, do not count, nor do suffixes
    and the end `_mask` of a mask's name.
    """
    stem = path.stem.casefold()
    ending = next((end for end in _MASK_FILES if is_mask and stem.endswith(end)), "")
    above = [folder for folder in reversed(path.parents) if folder.is_relative_to(root)][1:]
    named = [one.name.casefold() for one in above if not _part(one) and not _is_filler(one)]
    return (*named, stem.removesuffix(ending))


def _is_filler(folder: Path) -> bool:
    return {*_words(folder.name)} <= _FILLERS and bool(_words(folder.name))


def printable(name: str) -> str:
    """The name of a file, in which bytes that are no text are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _of_classes(root: Path) -> Images:
    """The images of a folder without parts."""
    paths, notes = files(root)
    _refuse_nested(paths, root)
    loose = sum(path.parent == root for path in paths)
    if 0 < loose < len(paths):
        notes += (
            f"{root}: {loose} images beside the class folders are taken as the class {LOOSE!r}",
        )
    return Images(paths, [_class(path, root) for path in paths], None, notes)


def _of_parts(layout: Layout, keep_test: bool) -> Images:
    """The images of train, valid and test."""
    notes = tuple[str, ...]()
    parts: list[list[tuple[Path, Path]]] = []
    for roots in (layout.train, layout.valid, layout.test):
        parts.append([])
        for root in roots:
            paths, said = files(root)
            parts[-1] += [(path, root) for path in paths]
            notes += said
    train, valid, test = parts
    kinds = [{_class(*image) for image in part} for part in (train, valid, test)]
    if test and train and all(path.parent == root for path, root in test):
        notes += (_unjudged(layout.test[0], "no subfolder for each class"),)
        test = []
    elif test and train and len(set().union(*kinds)) == 1 and not keep_test:
        notes += (_unjudged(layout.test[0], "no second class"),)
        test = []
    if not layout.test and train and kinds[1] - kinds[0]:
        valid, test = [], valid
        notes += (f"{layout.root} has no test folder: {layout.valid[0].name}/ holds the test rows",)
    elif valid and train:
        notes += (f"the {len(valid)} images in {layout.valid[0]} join the training rows",)
    elif not train:
        notes += (f"{layout.root} has no training folder: its images are split by class",)
    left = [path for path in layout.others if _holds_images(path)]
    loose = sum(_is_image(path) for path in _visible(layout.root) if path.is_file())
    if left or loose:
        named = [f"{path.name}/" for path in left] + [f"{loose} images"] * bool(loose)
        notes += (f"{layout.root}: {', '.join(named)} beside the parts are left out",)
    images = [*train, *valid, *test]
    is_test = np.arange(len(images)) >= len(images) - len(test) if train and test else None
    return Images(
        [path for path, _ in images], [_class(*image) for image in images], is_test, notes
    )


def _refuse_nested(paths: list[Path], root: Path) -> None:
    """Refuse folders whose own subfolders are normals and anomalies by their names."""
    sides: dict[str, set[str]] = {}
    for folder in {path.relative_to(root).parent for path in paths}:
        top, *inner = folder.parts or ("",)
        sides.setdefault(top, set()).update(map(class_names.side, inner))
    several = sorted(top for top, found in sides.items() if {"normal", "anomalous"} <= found)
    if several:
        raise UserError(
            f"{root} has normals and anomalies inside of {', '.join(map(printable, several))}; "
            f"name one of them: --data.name {shlex.quote(printable(str(root / several[0])))}"
        )


def _unjudged(test: Path, why: str) -> str:
    return f"{test} has {why}: it is left out; judge it with jaxae score once the run is finished"


def _class(path: Path, root: Path) -> str:
    """The name of the folder below the root."""
    names = path.relative_to(root).parts
    return printable(names[0]) if len(names) > 1 else LOOSE


def _unwrapped(folder: Path) -> Path:
    """The folder, or the one that it merely wraps, as an unpacked archive often does."""
    inner = [path for path in _visible(folder) if path.is_dir() and _part(path) != "masks"]
    if len(inner) != 1 or _part(inner[0]) or class_names.normals((inner[0].name,)):
        return folder
    if any(_is_image(path) for path in _visible(folder) if path.is_file()):
        return folder
    holds = [path for path in _visible(inner[0]) if path.is_dir() and _part(path) != "masks"]
    return _unwrapped(inner[0]) if any(map(_holds_images, holds)) else folder


def _layout(root: Path) -> Layout:
    """The parts of a folder.

    Raises:
      UserError: parts and classes are side by side, or subfolders have parts of their own.
    """
    folders = [path for path in _visible(root) if path.is_dir() and _part(path) != "masks"]
    train, valid, test, others = (
        [_doubled(path) for path in folders if _part(path) == part]
        for part in ("train", "valid", "test", "")
    )
    inside = {path: {_part(inner) for inner in _visible(path)} - {""} for path in others}
    several = [path for path, found in inside.items() if len(found) > 1]
    if several and not (train and test):
        named = ", ".join(path.name for path in several)
        raise UserError(
            f"{root} has parts such as train and test inside of {named}; name one of them with "
            f"--data.name, or put the classes into the parts: train/{several[0].name}"
        )
    parts = [*train, *valid, *test]
    holds_classes = [path for path in others if _holds_images(path)]
    if parts and holds_classes and not (train and test):
        names, classes = (", ".join(path.name for path in part) for part in (parts, holds_classes))
        raise UserError(
            f"{root} holds the part {names} beside {classes}; put classes into train and test "
            "folders, or rename the part if it is a class"
        )
    return Layout(root, train, valid, test, others)


def _doubled(part: Path) -> Path:
    """A part, or the one of the same kind that it merely wraps: training_set/training_set."""
    inner = [path for path in _visible(part) if path.is_dir()]
    wraps = _part(part) and len(inner) == 1 and _part(inner[0]) == _part(part)
    return _doubled(inner[0]) if wraps else part


def _part(path: Path) -> str:
    """The part that a folder holds by its name: train, valid, test, masks; "" = none of them.

    Digits, signs and words such as set or images do not count: "training_set", "val2017". A folder
    "mask" is a class if another name beside it says mask too, as "no_mask" does.
    """
    words = _words(path.name)
    if " ".join(words) in _MASKS:
        return "masks"
    if words == ["mask"]:
        others = [one for one in path.parent.iterdir() if "mask" in one.name.lower()]
        return "masks" if len(others) == 1 else ""
    first, more = words[:1], {*words[1:]}
    return next((p for p, names in _PARTS.items() if names & {*first} and more <= _FILLERS), "")


def _words(name: str) -> list[str]:
    return re.findall(r"[^\W\d_]+", name.lower())


def _is_mask(path: Path, root: Path, known: dict[Path, bool]) -> bool:
    """Whether an image is a mask, by a folder between it and the root or by the end of its name.

    `known` holds what is known of folders.
    """
    folder, stem = path.parent, path.stem
    if folder not in known:
        inside = [one for one in (folder, *folder.parents) if one.is_relative_to(root)]
        known[folder] = any(_part(one) == "masks" for one in inside if one != root)
    ending = next((end for end in _MASK_FILES if stem.lower().endswith(end)), "")
    is_beside = ending and any(folder.glob(f"{glob.escape(stem[: -len(ending)])}.*"))
    return known[folder] or bool(is_beside)


def _holds_images(folder: Path) -> bool:
    return any(map(_is_image, _walk(folder, frozenset())))


def _walk(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    """Files and broken links below a folder; links to a folder above are not followed."""
    here = os.path.realpath(folder)
    if here in above:
        return
    for path in _visible(folder):
        if path.is_dir():
            yield from _walk(path, above | {here})
        else:
            yield path


def _visible(folder: Path) -> list[Path]:
    """The entries of a folder that are neither hidden nor made by a system; [] of a file."""
    if not folder.is_dir():
        return []
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({words(error)}); change its rights") from None
    return [p for p in entries if not p.name.startswith(".") and p.name.lower() not in _SYSTEM]


def _is_image(path: Path) -> bool:
    """Whether a file is an image by its suffix or, without one, by its first bytes."""
    if path.suffix:
        return path.suffix.lower() in SUFFIXES and path.is_file()
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(12)
    return start.startswith(_BEGINNINGS) and (start[:4] != b"RIFF" or start[8:] == b"WEBP")
