"""Operations on sources, that is rows by index, without reading all rows at once.

For a NumPy array, which is in memory, functions that return a source return an array; any other
source is read in blocks, when its rows are needed.
"""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, TypeGuard

import numpy as np
from jaxtyping import Int, UInt64

from jaxae.devices import tuning
from jaxae.types import Shape, Source

_ROUNDING = 1e-5
Span = tuple[float | np.number, float | np.number]  # the smallest and the largest value
Transform = Callable[[np.ndarray], np.ndarray]  # of rows, independently of each other


def is_resident(source: Source) -> TypeGuard[np.ndarray]:
    """Whether the rows are already in memory."""
    return isinstance(source, np.ndarray) and not isinstance(source, np.memmap)


def blocks(source: Source) -> Iterator[np.ndarray]:
    """All rows in order: as one block if in memory, else some thousands at a time."""
    size = max(len(source), 1) if is_resident(source) else tuning.BLOCK
    for start in range(0, len(source), size):
        yield source[start : start + size]


def read(source: Source) -> np.ndarray:
    """All rows as one array."""
    return source if is_resident(source) else np.concatenate(list(blocks(source)))


def joined(*parts: Source) -> Source:
    """Concatenate sources whose rows have the same shape; they take a dtype that holds all."""
    if all(map(is_resident, parts)):
        return np.concatenate(parts)
    return parts[0] if len(parts) == 1 else _Joined(parts)


def view(
    source: Source, index: np.ndarray, transform: Transform, shape: Shape | None = None
) -> Source:
    """Some rows of a source, transformed to float32 and perhaps to a new shape."""
    if is_resident(source):
        return transform(source[index])
    return _View(source, index, transform, shape or source.shape[1:])


def positions(index: Any, count: int) -> Int[np.ndarray, " N"]:
    """The positions, among `count` rows, that a slice, an array of positions or a mask selects.

    Raises:
      IndexError: a position is beyond the last row.
    """
    if isinstance(index, slice):
        return np.arange(*index.indices(count))
    if index.dtype.kind == "b":
        return np.arange(count)[index]
    if index.size and not -count <= index.min() <= index.max() < count:
        raise IndexError(f"rows {index.min()} to {index.max()} of {count}")
    return np.where(index < 0, index + count, index)


def span(source: Source) -> Span:
    """The smallest and the largest value of all rows, in their dtype."""
    ends = [(block.min(), block.max()) for block in blocks(source)]
    return np.min([low for low, _ in ends]), np.max([high for _, high in ends])  # NaN is kept


def within(span: Span, low: float, high: float) -> bool:
    """Whether a `span` is within two values, up to the rounding of float32."""
    return bool(low - _ROUNDING <= span[0] and span[1] <= high + _ROUNDING)


def digest(source: Source) -> bytes:
    """SHA-256 of dtype, shape and values; if not in memory, only of evenly spaced rows."""
    sha = hashlib.sha256(f"{source.dtype} {tuple(source.shape)}".encode())
    if is_resident(source):
        sha.update(np.ascontiguousarray(source).data)
    elif len(source):
        sampled = np.unique(np.linspace(0, len(source) - 1, tuning.BLOCK).astype(int))
        sha.update(np.ascontiguousarray(source[sampled]).data)
    return sha.digest()


def row_digests(source: Source, rows: Int[np.ndarray, " N"]) -> UInt64[np.ndarray, " N"]:
    """The first 64 bits of the SHA-256 of dtype, shape and values of some rows, each by itself.

    Rows that are equal have equal digests, in whatever order and beside whatever other rows. They
    are read some thousands at a time.
    """
    start = hashlib.sha256(f"{source.dtype} {tuple(source.shape[1:])}".encode())
    found = []
    for first in range(0, len(rows), tuning.BLOCK):
        block = np.ascontiguousarray(source[rows[first : first + tuning.BLOCK]])
        for row in block.reshape(len(block), -1):
            sha = start.copy()
            sha.update(row.data)
            found.append(sha.digest()[:8])
    return np.frombuffer(b"".join(found), np.uint64)


class _Joined:
    """Several sources as one."""

    def __init__(self, parts: tuple[Source, ...]):
        self._parts = parts
        self._ends = np.cumsum([len(part) for part in parts])
        self.shape: Shape = (int(self._ends[-1]), *parts[0].shape[1:])
        self.dtype = np.result_type(*(part.dtype for part in parts))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        wanted = positions(index, len(self))
        rows = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        part_of_row = np.searchsorted(self._ends, wanted, side="right")
        for i in np.unique(part_of_row):
            is_in_part, part = part_of_row == i, self._parts[i]
            rows[is_in_part] = part[wanted[is_in_part] - (self._ends[i] - len(part))]
        return rows


class _View:
    """Selected rows, transformed when they are read."""

    dtype = np.dtype(np.float32)

    def __init__(self, source: Source, index: np.ndarray, transform: Transform, shape: Shape):
        self._source, self._index, self._transform = source, index, transform
        self.shape: Shape = (len(index), *shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        return self._transform(self._source[self._index[index]])
