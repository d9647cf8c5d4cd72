"""A user's own arrays, in one .npz or .npy, or in a folder of .npy files."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from jaxae.data import arrayfiles, sources
from jaxae.data.own import class_names, parts
from jaxae.data.own.schema import Schema, numbered
from jaxae.data.raw_data import Raw, are_pixels, narrowed
from jaxae.errors import UserError
from jaxae.types import Shape, Source

SUFFIXES = (".npz", ".npy")
_CLASSES = {"x_train": "y_train", "x": "y"}  # names of training rows -> of their classes


class Stored(NamedTuple):
    """Arrays by their roles; test rows without classes are left out."""

    x_train: Source
    y_train: np.ndarray | None
    x_test: Source | None
    y_test: np.ndarray | None
    names: dict[str, str]  # role -> name in the file, for errors
    notes: tuple[str, ...]


def npz(path: Path, rows: str = "auto") -> Raw:
    """A user's own arrays in one file.

    The file holds `x_train` [N, ...], `x_test` [M, ...], `y_test` [M] and perhaps `y_train` [N]; or
    `X` [N, ...] and its classes `y` [N], without test rows; or `x_train` or `X` alone, without
    labels. The case of names does not matter, and the name of a single array does not either.
    Rows may have any shape: images [H, W, C], series [T, C], vectors [F]. Images of uint8 hold
    pixels, which are divided by 255 later; all else is numbers, taken as they are.
    The y are classes, whole numbers or texts. Without `y_train` but with test rows, every training
    row is normal.

    Args:
      path: the file.
      rows: the meaning of arrays [N, A, B]: "images" without a channel axis, "series" [T, C], or
        "auto": images if they are uint8 or A = B, else series. Arrays [N, T] are vectors, unless
        this is "series": then they are series of one channel.

    Raises:
      UserError: the file is missing, not an .npz, lacks an array, or contains objects, NaN, ragged,
        empty or mismatched arrays; the message names the file and the array.
    """
    return _raw(path, stored(path), rows)


def npy(path: Path, rows: str = "auto") -> Raw:
    """A user's own rows in one .npy file, or arrays in a folder of .npy files, which stay on disk.

    A folder holds `x_train.npy`, or parts of it in the order of their numbers (see
    `jaxae.data.own.parts.find`), `x_test`, `y_test` and perhaps `y_train` in the same way; all else
    is as in `npz`. Rows whose test rows are drawn, and those of a single file, are read into
    memory; all others are read once here, to check their values.

    Raises:
      UserError: a file or part is missing, damaged or there twice, or `npz` would not accept its
        array; names the file, and the row of a wrong value.
    """
    found = stored(path, rows)
    _check_on_disk(path, found)
    return _raw(path, found, rows)


def holds_arrays(folder: Path) -> bool:
    """Whether a folder is one that `npy` reads, by the names of its files."""
    return not {*_CLASSES, "y_test"}.isdisjoint(map(str.lower, parts.names(folder)))


def stored(path: Path, rows: str = "auto", *, to_judge: bool = False) -> Stored:
    """The arrays by their roles: of one .npz or .npy, in memory, or of a folder, on disk.

    In files that are only judged, `x_test` with `y_test` may stand alone, in the role of `x_train`.

    Raises:
      UserError: the file cannot be read, or lacks training rows.
    """
    if path.is_dir():
        found = _Roles.of(parts.names(path), str(path), to_judge)
        return _stored(found, {role: _of_files(path, found, role, rows) for role in found.names})
    if path.suffix.lower() == ".npy":
        return Stored(arrayfiles.read_rows(path), None, None, None, {"x_train": "the array"}, ())
    found = _Roles.of(arrayfiles.npz_names(path), str(path), to_judge)
    read = arrayfiles.read_npz(path, found.names.values())
    return _stored(found, {role: read[name] for role, name in found.names.items()})


class _Roles(NamedTuple):
    names: dict[str, str]  # role -> name
    notes: tuple[str, ...]

    @classmethod
    def of(cls, names: Iterable[str], where: str, to_judge: bool) -> "_Roles":
        """Which arrays are rows and classes, by their names; `where` names the file in errors."""
        names = [*names]
        by_name = {name.lower(): name for name in names}
        twice = [name for name in names if by_name[name.lower()] != name]
        if twice:
            raise UserError(
                f"{where} holds both {twice[0]} and {by_name[twice[0].lower()]}; keep one of them"
            )
        train = next((name for name in _CLASSES if name in by_name), "")
        if not train and len(names) == 1 and not names[0].lower().endswith("_test"):
            return cls({"x_train": names[0]}, ())
        if to_judge and not train and {"x_test", "y_test"} <= by_name.keys():
            return cls({"x_train": by_name["x_test"], "y_train": by_name["y_test"]}, ())
        if not train or ("y_test" in by_name and "x_test" not in by_name):
            lacking = "x_test, the rows of y_test" if train else "x_train (or X), rows to train on"
            raise UserError(f"{where} lacks {lacking}; it holds {', '.join(names) or 'nothing'}")
        roles = {"x_train": train, "y_train": _CLASSES[train]}
        notes = []
        if "y_test" in by_name:
            roles |= {"x_test": "x_test", "y_test": "y_test"}
        elif "x_test" in by_name:
            notes.append("x_test has no labels (y_test), so it is not used; jaxae score judges it")
        found = {role: by_name[name] for role, name in roles.items() if name in by_name}
        if found.keys() == {"x_train"}:
            others = sorted({*names} - {*found.values(), by_name.get("x_test")})
            unread = f"; not read: {', '.join(others)}" if others else ""
            notes.append(
                f"no array holds classes ({_CLASSES[train]}), so all rows of {by_name[train]} are "
                f"taken as normal{unread}"
            )
        return cls(found, tuple(notes))


def _stored(found: _Roles, arrays: dict) -> Stored:
    roles = ("x_train", "y_train", "x_test", "y_test")
    return Stored(*(arrays.get(role) for role in roles), found.names, found.notes)  # type: ignore[arg-type]


def finite(x: np.ndarray, name: str, unit: str) -> Float[np.ndarray, "..."]:
    """Numbers [N, ...], see `narrowed`; `name` and `unit` (row or step) are used in errors.

    Raises:
      UserError: values are NaN, infinite, or too large for float64.
    """
    x = narrowed(x)
    rows = np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(axis=1))
    if rows.size:
        raise UserError(
            f"{name} holds NaN or infinite values in {rows.size} {unit}s, first in {unit} "
            f"{rows[0]}; remove or fill them"
        )
    return x


def classes(
    stored: Stored, counts: tuple[int, int], where: str
) -> tuple[Int[np.ndarray, " N"] | None, Int[np.ndarray, " M"] | None, tuple[str, ...]]:
    """The classes of training and test rows as int32, and their names if they are texts.

    Args:
      stored: the arrays.
      counts: N training and M test rows or steps.
      where: the file, for errors.

    Raises:
      UserError: they are neither whole numbers nor texts, or not one for each row.
    """
    parts, named = [], []
    given = ("y_train", stored.y_train, counts[0]), ("y_test", stored.y_test, counts[1])
    for role, y, count in given:
        if y is not None:
            name = f"{where}: {stored.names[role]}"
            parts.append(_checked(y, name, count))
            numbered(parts[-1], name)  # raises with the name of this array
            named.append(role)
    if not parts:
        return None, None, ()
    ids, names = numbered(np.concatenate(parts), f"{where}: the classes")
    by_role = dict(zip(named, np.split(ids, [len(parts[0])]), strict=False))
    return by_role.get("y_train"), by_role.get("y_test"), names


def _checked(y: np.ndarray, name: str, count: int) -> np.ndarray:
    """Classes [N] as numbers or texts."""
    if y.shape != (count,):
        remedy = ""
        if y.ndim == 2 and len(y) == count:
            remedy = f"; save {'y.ravel()' if y.shape[1] == 1 else 'y.argmax(axis=1)'}"
        raise UserError(
            f"{name} has the shape {y.shape}; it must be ({count},), one class per row{remedy}"
        )
    if y.dtype.kind not in "fiubUS":
        raise UserError(
            f"{name} has the type {y.dtype}, neither whole numbers nor texts; number the classes"
        )
    return np.char.decode(y, "utf-8", "replace") if y.dtype.kind == "S" else y


def _raw(path: Path, stored: Stored, rows: str) -> Raw:
    called = {role: f"{path}: {name}" for role, name in stored.names.items()}
    x_train = _rows(stored.x_train, called["x_train"], rows)
    if sources.is_resident(x_train):
        arrayfiles.check_values(x_train, called["x_train"], _largest("x_train", stored))
    x_test: Source = x_train[:0]
    if stored.x_test is not None:
        x_test = _rows(stored.x_test, called["x_test"], rows)
    elif stored.y_train is not None:
        x_train = _in_memory(sources.read(x_train), called["x_train"])
    pixels = [are_pixels(x.dtype, x.shape[1:]) for x in (x_train, x_test)]
    if x_train.shape[1:] != x_test.shape[1:] or pixels[0] != pixels[1]:
        raise UserError(
            f"{path}: rows of x_train are {x_train.dtype} {x_train.shape[1:]} but rows of x_test "
            f"are {x_test.dtype} {x_test.shape[1:]}; both need the same shape and "
            "must both be uint8 or both not"
        )
    y_train, y_test, names = classes(stored, (len(x_train), len(x_test)), str(path))
    y_test = np.zeros(0, np.int32) if y_test is None else y_test
    schema, normal = Schema(classes=names), class_names.normals(names)
    notes = stored.notes + _meaning(stored.x_train, x_train.shape[1:], rows)
    if stored.x_train.dtype == np.uint8 and not pixels[0]:
        notes += (
            f"{stored.names['x_train']} is uint8 {list(x_train.shape)}: taken as numbers, since "
            "only images, [N, H, W] or [N, H, W, C], hold pixels",
        )
    return Raw(x_train, y_train, x_test, y_test, normal, schema=schema, notes=notes)


def _of_files(folder: Path, found: _Roles, role: str, rows: str) -> Source | np.ndarray:
    """Rows on disk, or classes in memory, from one or several files."""
    name = found.names[role]
    paths = parts.find(folder, name)
    if role[0] == "y":
        return _joined(paths)
    shape = row_shape(arrayfiles.on_disk(paths), f"{folder}: {name}", rows)
    parts.refuse_copies(paths)
    return arrayfiles.on_disk(paths, shape)


def _joined(paths: list[Path]) -> np.ndarray:
    """The classes in one or several files."""
    read = [arrayfiles.read_rows(path) for path in paths]
    if len(paths) == 1:
        return read[0]
    parts.refuse_copies(paths, unless_links=True)
    for path, y in zip(paths, read, strict=True):
        if y.ndim != 1 or (y.dtype.kind in "US") != (read[0].dtype.kind in "US"):
            raise UserError(
                f"{path} holds {y.dtype} {list(y.shape)}, {paths[0]} {read[0].dtype} "
                f"{list(read[0].shape)}; save all as numbers [N], or all as texts [N]"
            )
    return np.concatenate(read)


def _check_on_disk(folder: Path, found: Stored) -> None:
    """Read rows on disk once, and refuse what `npz` would not accept; names file and row."""
    for role, x in (("x_train", found.x_train), ("x_test", found.x_test)):
        if x is not None and not sources.is_resident(x):
            for path in parts.find(folder, found.names[role]):
                arrayfiles.check_values(
                    arrayfiles.on_disk([path]), str(path), _largest(role, found)
                )


def _largest(role: str, found: Stored) -> float:
    """The largest value to accept: training rows, all normal, must be in the range of float32.

    A test row may have any value, which makes it an anomaly; labelled rows may be test rows.
    """
    is_all_normal = role == "x_train" and found.y_train is None
    return float(np.finfo(np.float32).max) if is_all_normal else float(np.finfo(np.float64).max)


def _rows(x: Source, name: str, rows: str) -> Source:
    """Rows [N, *S] with the axes that they mean; those in memory are checked."""
    if not sources.is_resident(x):
        is_counts = x.dtype == np.uint8 and not are_pixels(x.dtype, x.shape[1:])
        return sources.view(x, np.arange(len(x)), narrowed) if is_counts else x
    arrayfiles.check_rows(x.shape, x.dtype, name)
    return _in_memory(x.reshape(len(x), *row_shape(x, name, rows)), name)


def _in_memory(x: np.ndarray, name: str) -> np.ndarray:
    return x if are_pixels(x.dtype, x.shape[1:]) else finite(x, name, "row")


def _meaning(x: Source, row: Shape, rows: str) -> tuple[str, ...]:
    """A line if rows [A, B] could mean images and series."""
    if rows != "auto" or len(x.shape) != 3:
        return ()
    one, other = ("images", "series") if len(row) == 3 else ("series", "images")
    words = f"{row[0]} steps and {row[1]} channels" if one == "series" else "one channel"
    return (f"rows {list(x.shape[1:])} are read as {one} of {words} (--data.rows {other} if not)",)


def row_shape(x: Source, name: str, rows: str) -> Shape:
    """S of images [N, H, W, C] or series [N, T, C]; the axis of a single channel may be missing.

    `rows` is their meaning, as in `npz`; `name` names them in errors.

    Raises:
      UserError: the rows have another number of axes than `rows` says.
    """
    ranks = {"images": (3, 4), "series": (2, 3)}.get(rows)
    rank, row = len(x.shape), tuple(x.shape[1:])
    if ranks and rank not in ranks:
        raise UserError(f"{name} has the shape {x.shape}, not of {rows}; set data.rows to auto")
    square = x.dtype == np.uint8 or (rank == 3 and row[0] == row[1])
    is_grey = rank == 3 and (rows == "images" or (rows == "auto" and square))
    is_one_channel = rank == 2 and rows == "series"
    return (*row, 1) if is_grey or is_one_channel else row
