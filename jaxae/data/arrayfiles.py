"""Arrays in .npy and .npz files. Files need not be trusted: reading one runs no code.

A header is checked against the size of the file before memory is allocated. Rows in .npy files
may be larger than memory: `on_disk` reads them on demand.
"""

import contextlib
import math
import os
import time
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxae.data import sources
from jaxae.errors import UserError, words
from jaxae.types import Shape, Source

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_DAMAGE = (
    *(OSError, EOFError, ValueError, TypeError, KeyError, SyntaxError, RuntimeError),
    *(OverflowError, MemoryError, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
# The number of reads to announce to the system in advance. A virtual disk (AMD EPYC, Zen 5) gave 14
# thousand rows of 3 kB per second without this, 70 thousand with it, and 13 thousand by a memory
# map. For rows in the system's cache, a memory map is a quarter as fast as these reads.
_AHEAD = 256
_SLOW = 10e-6  # seconds per piece; reads from the system's cache take 2 microseconds


def read_rows(path: Path) -> np.ndarray:
    """Rows to judge: from a .npy, or `x_test`, `X` or else the only array of an .npz.

    Raises:
      UserError: the file is of another kind, missing or damaged, or contains something else.
    """
    if path.suffix.lower() == ".npy":
        with _reading(path, ".npy"), path.open("rb") as file:
            return _array(file, path.stat().st_size)
    if path.suffix.lower() == ".npz":
        arrays = read_npz(path)
        named = {name.lower(): rows for name, rows in arrays.items()}
        found = [named[name] for name in ("x_test", "x") if name in named]
        if not found and len(arrays) != 1:
            raise UserError(
                f"{path} holds {', '.join(arrays) or 'nothing'}; name the rows x_test, or save "
                "only the rows"
            )
        return found[0] if found else next(iter(arrays.values()))
    raise UserError(f"{path} is not a .npy, .npz or .csv file; save the rows as one of these")


def open_rows(path: Path) -> Source:
    """Like `read_rows`, but the rows of a .npy stay on disk if they can be read one by one."""
    if path.suffix.lower() == ".npy":
        with contextlib.suppress(UserError):
            return on_disk([path])
    return read_rows(path)


def npz_names(path: Path) -> list[str]:
    """The names of the arrays in an .npz, in its order.

    Raises:
      UserError: the file is missing or damaged.
    """
    with _reading(path, ".npz"), zipfile.ZipFile(path) as archive:
        return [info.filename.removesuffix(".npy") for info in archive.infolist()]


def read_npz(
    path: Path, names: Iterable[str] | None = None, needed: Iterable[str] = ()
) -> dict[str, np.ndarray]:
    """Arrays of an .npz.

    Args:
      path: the file.
      names: the arrays to read, if they exist; None = all.
      needed: the arrays that must exist.

    Raises:
      UserError: the file is missing or damaged, lacks an array, or an array holds objects.
    """
    with _reading(path, ".npz"), zipfile.ZipFile(path) as archive:
        files = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
        missing = [name for name in needed if name not in files]
        wanted = [name for name in files if names is None or name in names]
        arrays = {}
        for name in wanted if not missing else ():
            with _naming(name), archive.open(files[name]) as file:
                arrays[name] = _array(file, files[name].file_size)
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing)}; it needs {', '.join(needed)} and holds "
            f"{', '.join(files) or 'nothing'}"
        )
    return arrays


def on_disk(paths: list[Path], row_shape: Shape | None = None) -> Source:
    """The rows of one .npy file, or of several as if they were one, read on demand.

    Args:
      paths: files of arrays [N, ...].
      row_shape: the shape to give each row; None = as stored.

    Raises:
      UserError: a file is not a .npy, is truncated or empty, or its rows differ from the first's.
    """
    files = [_StoredRows(path, row_shape) for path in paths]
    first = files[0]
    for file in files[1:]:
        if (file.shape[1:], file.dtype) != (first.shape[1:], first.dtype):
            raise UserError(
                f"{file.path} holds rows of {file.dtype} {list(file.shape[1:])}, but {first.path} "
                f"of {first.dtype} {list(first.shape[1:])}; give all files one type and row shape"
            )
    return sources.joined(*files)


def check_values(x: Source, name: str, largest: float) -> None:
    """Read all rows [N, ...] once, and refuse values that are NaN or beyond +-`largest`.

    Raises:
      UserError: there is one; gives `name` and the first such row.
    """
    if x.dtype.kind != "f":
        return
    largest, first = min(largest, float(np.finfo(x.dtype).max)), 0
    for block in sources.blocks(x):
        if not (-largest <= block.min() and block.max() <= largest):  # true for NaN too
            is_fine = (np.abs(block) <= largest).reshape(len(block), -1)
            row = int(np.argmin(is_fine.all(axis=1)))
            value = block[row].reshape(-1)[np.argmin(is_fine[row])]
            what = (
                f"{value:g}, beyond float32," if np.isfinite(value) else "NaN or infinite values,"
            )
            raise UserError(
                f"{name} holds {what} first in row {first + row}; remove or fill such rows"
            )
        first += len(block)


class _StoredRows:
    """The rows of one .npy file; the system's cache does not count as this process's memory."""

    def __init__(self, path: Path, row_shape: Shape | None):
        self.path = path
        with _reading(path, ".npy"), path.open("rb") as file:
            shape, is_by_column, self.dtype = _header(file, path.stat().st_size)
            self._start = file.tell()  # where the values start
            if is_by_column:
                raise ValueError("it is stored column by column; save it in the order of C")
        check_rows(shape, self.dtype, str(path))
        self.shape: Shape = (shape[0], *(shape[1:] if row_shape is None else row_shape))
        self._row_bytes = math.prod(shape[1:]) * self.dtype.itemsize
        self._is_slow = False

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        positions = sources.positions(index, len(self))
        rows = np.empty((len(positions), *self.shape[1:]), self.dtype)
        if len(positions):
            try:
                self._read(positions, rows.reshape(-1).view(np.uint8).data)
            except OSError as error:
                raise UserError(f"{self.path} cannot be read ({words(error)})") from None
        return rows

    def _read(self, positions: np.ndarray, buffer: memoryview) -> None:
        """Read adjacent rows as one piece; announce pieces to the system if reading is slow."""
        first = np.flatnonzero(np.diff(positions, prepend=-2) != 1)
        sizes = (np.diff(first, append=len(positions)) * self._row_bytes).tolist()
        offsets = (self._start + positions[first].astype(np.int64) * self._row_bytes).tolist()
        announce: Any = getattr(os, "posix_fadvise", None)  # not on macOS
        is_slow, done, clock = self._is_slow and announce, 0, time.perf_counter()
        with self.path.open("rb", buffering=0) as file:
            number = file.fileno()
            for i, (offset, size) in enumerate(zip(offsets, sizes, strict=True)):
                if is_slow and i % _AHEAD == 0:
                    for piece in zip(offsets[i : i + _AHEAD], sizes[i : i + _AHEAD], strict=True):
                        announce(number, *piece, os.POSIX_FADV_WILLNEED)
                end = done + size
                while done < end:
                    count = os.preadv(number, [buffer[done:end]], offset + size - (end - done))
                    if not count:
                        raise UserError(f"{self.path} was truncated while it was read; restore it")
                    done += count
        self._is_slow = time.perf_counter() - clock > _SLOW * len(sizes)


def check_rows(shape: Shape, dtype: np.dtype, name: str) -> None:
    """Refuse an array (`name` in the error) that does not consist of rows [N, ...] of numbers."""
    if dtype.kind not in "fiub":
        raise UserError(f"{name} has the type {dtype}; it must hold real numbers")
    if len(shape) < 2 or 0 in shape:
        is_series = len(shape) == 1 and 0 not in shape
        remedy = "; a long series is cut into rows by --data.window" if is_series else ""
        raise UserError(f"{name} has the shape {shape}; it must be [N, ...] with rows{remedy}")


@contextlib.contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    """Add the name of the file and its expected kind to errors of reading it."""
    try:
        yield
    except _DAMAGE as error:
        raise UserError(f"{path} is not a readable {kind} file ({error}); write it again") from None


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Add the name of an array to errors of its header."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _array(file: Any, size: int) -> np.ndarray:
    """One array in NumPy's format, from a file of `size` bytes."""
    shape, is_by_column, dtype = _header(file, size)
    return np.ndarray(shape, dtype, file.read(), order="F" if is_by_column else "C")


def _header(file: Any, size: int) -> tuple[Shape, bool, np.dtype]:
    """Shape, whether stored by columns, and dtype; checked against the size of the file."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"version {version} of NumPy's format is not read")
    shape, is_by_column, dtype = _HEADERS[version](file)
    if dtype.hasobject:
        raise ValueError(
            "it holds object arrays (ragged rows, or texts of pandas?), which may run code; save "
            "numbers, or texts by .astype(str)"
        )
    count = math.prod(shape)
    if min(shape, default=0) < 0 or file.tell() + count * dtype.itemsize != size:
        raise ValueError(
            f"its header says {list(shape)} of {dtype}, which does not match its {size} bytes"
        )
    return shape, is_by_column, dtype
