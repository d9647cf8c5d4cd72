"""Arrays in .npy, .npz and .csv files of anybody: none runs code, none allocates what is not there.

What a header announces is held against the bytes that there are before anything is allocated.
"""

import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxae.errors import UserError

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_DAMAGE = (
    *(OSError, EOFError, ValueError, TypeError, KeyError, SyntaxError, RuntimeError),
    *(OverflowError, MemoryError, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


def read_rows(path: Path) -> np.ndarray:
    """Rows to judge: of a .npy, of an .npz its `x_test` or else its only array, or of a .csv.

    Raises:
      UserError: another kind of file, or one that is missing, damaged, or holds something else.
    """
    if path.suffix == ".npy":
        try:
            with path.open("rb") as file:
                return _array(file, path.stat().st_size)
        except _DAMAGE as error:
            raise _unreadable(path, ".npy", error) from None
    if path.suffix == ".npz":
        found = read_npz(path)
        if "x_test" not in found and len(found) != 1:
            raise UserError(
                f"{path} holds {', '.join(found) or 'nothing'}; name the rows x_test, or save them "
                "alone"
            )
        return found["x_test"] if "x_test" in found else next(iter(found.values()))
    if path.suffix == ".csv":
        return _csv(path)
    raise UserError(f"{path} is no .npy, .npz or .csv file; save the rows as one of these")


def names_in(path: Path) -> list[str]:
    """The arrays of an .npz.

    Raises:
      UserError: the file is missing, or no zip archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except _DAMAGE as error:
        raise _unreadable(path, ".npz", error) from None


def read_npz(path: Path, names: Iterable[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays of an .npz; `names` = None takes all.

    Raises:
      UserError: the file is missing or damaged, or an array holds objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            found = {}
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if names is None or name in names:
                    with archive.open(info) as file:
                        found[name] = _array(file, info.file_size)
            return found
    except _DAMAGE as error:
        raise _unreadable(path, ".npz", error) from None


def _unreadable(path: Path, kind: str, problem: object) -> UserError:
    return UserError(f"{path} is no readable {kind} file ({problem}); write it again")


def header(path: Path) -> tuple[tuple[int, ...], np.dtype, int]:
    """Shape and type of the array in a .npy file, and where its values begin.

    Raises:
      UserError: the file is missing or damaged, or holds objects or columns in a row.
    """
    try:
        with path.open("rb") as file:
            shape, in_columns, dtype = _announced(file, path.stat().st_size)
            if in_columns:
                raise ValueError("it holds columns one after another; save it in the order of C")
            return shape, dtype, file.tell()
    except _DAMAGE as error:
        raise _unreadable(path, ".npy", error) from None


def header_of_rows(path: Path) -> tuple[tuple[int, ...], np.dtype, int]:
    """`header` of a .npy file of rows [N, ...] that can be read one by one.

    Raises:
      UserError: see `header`; or it holds no rows, or no real numbers.
    """
    shape, dtype, start = header(path)
    if len(shape) < 2 or 0 in shape:
        raise UserError(f"{path} holds an array {list(shape)}; it must be [N, ...] with rows")
    if dtype.kind not in "fiub":
        raise UserError(f"{path} holds {dtype}; rows are real numbers")
    return shape, dtype, start


def is_rows(path: Path) -> bool:
    """Whether a .npy file holds rows [N, ...] that can be read one by one."""
    try:
        header_of_rows(path)
    except UserError:
        return False
    return True


def _array(file: Any, size: int) -> np.ndarray:
    """One array in NumPy's format, of a file of so many bytes."""
    shape, in_columns, dtype = _announced(file, size)
    return np.ndarray(shape, dtype, file.read(), order="F" if in_columns else "C")


def _announced(file: Any, size: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of NumPy's format is not read")
    shape, in_columns, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError("it holds object arrays (ragged rows?), which may run code")
    count = math.prod(shape)
    if min(shape, default=0) < 0 or file.tell() + count * dtype.itemsize != size:
        raise ValueError(f"it announces {list(shape)} of {dtype}, which are not {size} bytes")
    return shape, in_columns, dtype


def _csv(path: Path) -> np.ndarray:
    """Numbers [N, F] separated by commas; a first line that holds no number names the columns.

    Lines are counted as they stand: an empty one within is an error, not a row less.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
        header = int(bool(lines) and not any(map(_is_number, lines[0].split(","))))
        rows = lines[header:]
        if not rows:
            raise ValueError("it holds no rows")
        if not all(map(str.strip, lines)):
            raise ValueError("it has an empty line before a row")
        return np.loadtxt(rows, delimiter=",", ndmin=2, comments=None)
    except _DAMAGE as error:
        raise _unreadable(path, ".csv", error) from None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
