"""A user's own arrays, in one .npz or a folder of .npy files."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from jaxae.data import arrayfiles
from jaxae.data.own.schema import numbered
from jaxae.data.raw_data import Raw
from jaxae.errors import UserError
from jaxae.types import Shape, Source

_NEEDED = ("x_train", "x_test", "y_test")


def npz(path: Path, rows: str = "auto") -> Raw:
    """A user's own arrays in one file.

    The file holds `x_train` [N, ...], `x_test` [M, ...], `y_test` [M] and perhaps `y_train` [N].
    Rows may have any shape: images [H, W, C], series [T, C], vectors [F]. uint8 means pixels, which
    are divided by 255 later; every other type of number is taken as it is.
    The y are classes, whole numbers. Without `y_train` every training row is normal.

    Args:
      path: the file.
      rows: the meaning of arrays [N, A, B]: "images" without a channel axis, "series" [T, C], or
        "auto": images if they are uint8 or A = B, else series. Arrays [N, T] are vectors, unless
        this is "series": then they are series of one channel.

    Raises:
      UserError: the file is missing, not an .npz, lacks an array, or contains objects, NaN, ragged,
        empty or mismatched arrays; the message names the file and the array.
    """
    arrays = arrayfiles.read_npz(path, (*_NEEDED, "y_train"), needed=_NEEDED)
    x_train, x_test = (_rows(arrays[name], f"{path}: {name}", rows) for name in _NEEDED[:2])
    return _raw(path, x_train, arrays.get("y_train"), x_test, arrays["y_test"])


def npy(folder: Path, rows: str = "auto") -> Raw:
    """A user's own arrays, each in one or several .npy files, which stay on disk.

    The folder holds `x_train.npy`, or parts of it in the order of their names, `x_train-00000.npy`,
    `x_train-00001.npy` ..., `x_test` in the same way, `y_test.npy` and perhaps `y_train.npy`; all
    else is as in `npz`.

    Raises:
      UserError: a file is missing or damaged, or `npz` would not accept its array.
    """
    if not (folder / "y_test.npy").is_file():
        raise UserError(f"{folder} lacks y_test.npy; name a folder with x_train, x_test and y_test")
    x_train, x_test = (_on_disk(folder, name, rows) for name in _NEEDED[:2])
    labels = folder / "y_train.npy"
    y_train = arrayfiles.read_rows(labels) if labels.is_file() else None
    return _raw(folder, x_train, y_train, x_test, arrayfiles.read_rows(folder / "y_test.npy"))


def finite(x: np.ndarray, name: str, unit: str) -> Float[np.ndarray, "..."]:
    """Numbers [N, ...] as float32; `name` and `unit` (row or step) are the words used in errors.

    Raises:
      UserError: values are NaN, infinite, or too large for float32.
    """
    with np.errstate(over="ignore"):  # values beyond float32 become infinite, refused below
        x = x.astype(np.float32)
    rows = np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(axis=1))
    if rows.size:
        raise UserError(
            f"{name} holds NaN or infinite values in {rows.size} {unit}s, first in {unit} "
            f"{rows[0]}; remove or fill them"
        )
    return x


def classes(y: np.ndarray, name: str, count: int) -> Int[np.ndarray, " N"]:
    """The classes of rows or steps, as int32.

    Raises:
      UserError: they are not `count` whole numbers.
    """
    if y.shape != (count,):
        raise UserError(f"{name} has the shape {y.shape}; it must be ({count},), one class per row")
    if y.dtype.kind not in "fiub":
        raise UserError(f"{name} has the type {y.dtype}, not whole numbers; number the classes")
    return numbered(y, name)[0]


def _raw(
    path: Path, x_train: Source, y_train: np.ndarray | None, x_test: Source, y_test: np.ndarray
) -> Raw:
    if x_train.shape[1:] != x_test.shape[1:] or x_train.dtype != x_test.dtype:
        raise UserError(
            f"{path}: rows of x_train are {x_train.dtype} {x_train.shape[1:]} but rows of x_test "
            f"are {x_test.dtype} {x_test.shape[1:]}; both need the same shape and "
            "must both be uint8 or both not"
        )
    if y_train is not None:
        y_train = classes(y_train, f"{path}: y_train", len(x_train))
    return Raw(x_train, y_train, x_test, classes(y_test, f"{path}: y_test", len(x_test)))


def _on_disk(folder: Path, name: str, rows: str) -> Source:
    whole, parts = folder / f"{name}.npy", sorted(folder.glob(f"{name}-*.npy"))
    if whole.is_file() == bool(parts):
        which = "both" if parts else "neither"
        raise UserError(
            f"{folder} holds {which} {name}.npy and {name}-*.npy; put one of them there"
        )
    paths = parts or [whole]
    stored = arrayfiles.on_disk(paths)
    return arrayfiles.on_disk(paths, _row_shape(stored, f"{folder}: {name}", rows))


def _rows(x: np.ndarray, name: str, rows: str) -> np.ndarray:
    arrayfiles.check_rows(x.shape, x.dtype, name)
    x = x.reshape(len(x), *_row_shape(x, name, rows))
    return x if x.dtype == np.uint8 else finite(x, name, "row")


def _row_shape(x: Source, name: str, rows: str) -> Shape:
    """S of images [N, H, W, C] or series [N, T, C]; the axis of a single channel may be missing."""
    ranks = {"images": (3, 4), "series": (2, 3)}.get(rows)
    rank, row = len(x.shape), tuple(x.shape[1:])
    if ranks and rank not in ranks:
        raise UserError(f"{name} has the shape {x.shape}, not of {rows}; set data.rows to auto")
    square = x.dtype == np.uint8 or (rank == 3 and row[0] == row[1])
    is_grey = rank == 3 and (rows == "images" or (rows == "auto" and square))
    is_one_channel = rank == 2 and rows == "series"
    return (*row, 1) if is_grey or is_one_channel else row
