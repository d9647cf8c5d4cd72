"""Rows in .npy files, larger than memory: read where they lie, and let go again."""

import itertools
import math
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxae.data import arrayfiles
from jaxae.errors import UserError, words
from jaxae.types import Shape

# A disk gave 16 thousand rows of 3 kB per second one after another, 79 thousand announced so many
# ahead (virtual disk of an AMD EPYC, Zen 5); out of the system's cache 2 microseconds each.
_AHEAD = 256
_SLOW = 10e-6  # seconds per row: not out of the cache


class Shards:
    """The rows of one .npy file, or of several as if they were one.

    Neighbours in order are read as one piece, other rows one by one, and announced to the system
    some rows ahead where it has to fetch them, so that it fetches several at a time. Nothing is
    mapped: what the system keeps in its cache is not this process's memory.

    Raises:
      UserError: a file is no .npy, was cut off, or holds other rows than the first one.
    """

    def __init__(self, paths: list[Path], shape: Shape | None = None):
        self._files = [_File(path) for path in paths]
        first = self._files[0]
        for file in self._files[1:]:
            if (file.row, file.dtype) != (first.row, first.dtype):
                raise UserError(
                    f"{file.path} holds rows of {file.dtype} {list(file.row)}, but {first.path} of "
                    f"{first.dtype} {list(first.row)}; write them alike"
                )
        self._ends = np.cumsum([file.count for file in self._files])
        self.dtype = first.dtype
        self.shape: Shape = (int(self._ends[-1]), *(first.row if shape is None else shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        at = np.arange(len(self))[index] if _is_mask(index) else np.asarray(_rows(index, len(self)))
        at = np.where(at < 0, at + len(self), at)
        if at.size and not 0 <= at.min() <= at.max() < len(self):
            raise IndexError(f"row {at.max()} of {len(self)}")
        found = _aligned((len(at), *self._files[0].row), self.dtype)
        of_file = np.searchsorted(self._ends, at, side="right")
        for number in np.unique(of_file):
            file = self._files[number]
            own = of_file == number
            rows = at[own] - (self._ends[number] - file.count)
            if own.all():
                file.read(rows, found)
            else:
                part = np.empty((len(rows), *file.row), self.dtype)
                file.read(rows, part)
                found[own] = part
        return found.reshape(len(at), *self.shape[1:])


def _aligned(shape: Shape, dtype: np.dtype) -> np.ndarray:
    """An array that JAX takes on a CPU as it lies, without a copy."""
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + _LINE, np.uint8)
    start = -room.ctypes.data % _LINE
    return room[start : start + size].view(dtype).reshape(shape)


_LINE = 64  # bytes


def _is_mask(index: Any) -> bool:
    return isinstance(index, np.ndarray) and index.dtype.kind == "b"


def _rows(index: Any, count: int) -> Any:
    return range(*index.indices(count)) if isinstance(index, slice) else np.atleast_1d(index)


class _File:
    """One .npy file, mapped when rows are asked for."""

    def __init__(self, path: Path):
        self.path = path
        shape, self.dtype, self.start = arrayfiles.header_of_rows(path)
        self.count, self.row = shape[0], tuple(shape[1:])
        self._bytes = int(np.prod(self.row)) * self.dtype.itemsize
        self._is_slow = False

    def read(self, rows: np.ndarray, out: np.ndarray) -> None:
        """Rows by position into an array of as many."""
        try:
            if len(rows) > 1 and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
                self._read_piece(int(rows[0]), out)
            else:
                self._pick(rows, out)
        except OSError as error:
            raise UserError(f"{self.path} cannot be read ({words(error)})") from None

    def _read_piece(self, first: int, out: np.ndarray) -> None:
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.start + first * self._bytes)
            left = memoryview(out).cast("B")
            while len(left):
                got = file.readinto(left)
                if not got:
                    raise UserError(f"{self.path} {_CUT}")
                left = left[got:]

    def _pick(self, rows: np.ndarray, out: np.ndarray) -> None:
        into, size = memoryview(out).cast("B"), self._bytes
        offsets = (self.start + rows.astype(np.int64) * size).tolist()
        advise: Any = getattr(os, "posix_fadvise", None) if self._is_slow else None
        clock = time.perf_counter()
        with self.path.open("rb", buffering=0) as file:
            number = file.fileno()
            for offset in offsets[:_AHEAD] if advise else ():
                advise(number, offset, size, os.POSIX_FADV_WILLNEED)
            later = itertools.chain(offsets[_AHEAD:], itertools.repeat(None))
            at = got = 0  # a round takes a microsecond
            for offset, following in zip(offsets, later, strict=False):
                if advise is not None and following is not None:
                    advise(number, following, size, os.POSIX_FADV_WILLNEED)
                got += os.preadv(number, [into[at : at + size]], offset)
                at += size
        if got != len(into):
            raise UserError(f"{self.path} {_CUT}")
        self._is_slow = time.perf_counter() - clock > _SLOW * len(rows)


_CUT = "was cut off while it was read; put it back"
