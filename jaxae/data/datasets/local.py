"""Data sets that need no download: scikit-learn's digits and a user's own .npz file."""

from pathlib import Path

import numpy as np

from jaxae.data import arrayfiles
from jaxae.data.datasets.raw import Raw
from jaxae.data.datasets.schema import numbered
from jaxae.data.shards import Shards
from jaxae.errors import UserError
from jaxae.types import Source

_SIDE = 28  # of the resized digits
_DIGITS_TEST = 0.3  # about 54 test digits per class, enough for a steady AUROC


def digits() -> Raw:
    """scikit-learn's bundled 1,797 handwritten digits, resized to [28, 28, 1] in [0, 1].

    Values / 16 (Alpaydin and Kaynak, UCI optical recognition of handwritten digits), enlarged from
    8 x 8 by bilinear interpolation. The bundle has no official split: 30 % of every class are the
    test rows, drawn once and for all, in the order of the bundle.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    grow = _interpolation(bunch.images.shape[1], _SIDE)
    x = np.clip(grow @ (bunch.images / 16.0) @ grow.T, 0.0, 1.0).astype(np.float32)[..., None]
    y = bunch.target.astype(np.int32)
    rows = train_test_split(np.arange(len(y)), test_size=_DIGITS_TEST, random_state=0, stratify=y)
    train, test = map(np.sort, rows)
    return Raw(x[train], y[train], x[test], y[test], normal=(0,))


def _interpolation(small: int, large: int) -> np.ndarray:
    """Weights [large, small] of linear interpolation between pixel centres, edges repeated."""
    at = np.clip((np.arange(large) + 0.5) * small / large - 0.5, 0, small - 1)
    return np.maximum(0.0, 1.0 - np.abs(at[:, None] - np.arange(small)))


def npz(path: str, rows: str = "auto") -> Raw:
    """A user's own arrays.

    The file holds `x_train` [N, ...], `x_test` [M, ...], `y_test` [M] and perhaps `y_train` [N].
    Rows may have any shape: images [H, W, C], series [T, C], vectors [F]. uint8 means pixels, which
    are divided by 255 later; every other type of number is taken as it is.
    The y are classes, whole numbers. Without `y_train` every training row is normal.

    Args:
      path: the file.
      rows: what arrays [N, A, B] are: "images" without their channel, "series" [T, C] or "auto":
        images where they are uint8 or A = B, as of no usual series. Series [N, T] of one channel
        are told from vectors by "series" alone.

    Raises:
      UserError: the file is missing, no .npz, lacks an array, or holds objects, NaN, ragged,
        empty or mismatched arrays; it names the file and the array.
    """
    arrays = _read(Path(path).expanduser())
    x_train, x_test = (_rows(arrays[name], name, path, rows) for name in ("x_train", "x_test"))
    _refuse_unlike(x_train, x_test, path)
    y_train = None
    if "y_train" in arrays:
        y_train = _classes(arrays["y_train"], "y_train", len(x_train), path)
    return Raw(x_train, y_train, x_test, _classes(arrays["y_test"], "y_test", len(x_test), path))


def npy(folder: Path, rows: str = "auto") -> Raw:
    """A user's own arrays, each in a .npy file or in several, which stay on disk.

    The folder holds `x_train.npy`, or parts of it in the order of their names, `x_train-00000.npy`,
    `x_train-00001.npy` ..., `x_test` in the same way, `y_test.npy` and perhaps `y_train.npy`; all
    else is as in `npz`.

    Raises:
      UserError: a file is missing or damaged, or its array is not such as `npz` takes.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; name one with x_train.npy, x_test.npy, y_test.npy")
    x_train, x_test = (_shards(folder, name, rows) for name in ("x_train", "x_test"))
    _refuse_unlike(x_train, x_test, str(folder))
    y_test, y_train = folder / "y_test.npy", folder / "y_train.npy"
    if not y_test.is_file():
        raise UserError(f"{folder} lacks y_test.npy, the classes of its test rows")

    def classes(path: Path, count: int) -> np.ndarray:
        return _classes(arrayfiles.read_rows(path), path.stem, count, str(folder))

    train = classes(y_train, len(x_train)) if y_train.is_file() else None
    return Raw(x_train, train, x_test, classes(y_test, len(x_test)))


def _shards(folder: Path, name: str, rows: str) -> Shards:
    whole, parts = folder / f"{name}.npy", sorted(folder.glob(f"{name}-*.npy"))
    if whole.is_file() == bool(parts):
        which = "both" if parts else "neither"
        raise UserError(
            f"{folder} holds {which} {name}.npy and {name}-*.npy; put one of them there"
        )
    found = Shards(parts or [whole])
    none = np.empty((0, *found.shape[1:]), found.dtype)
    shape = _with_channel(none, name, str(folder), rows).shape[1:]
    return found if shape == found.shape[1:] else Shards(parts or [whole], shape)


def _refuse_unlike(x_train: Source, x_test: Source, path: str) -> None:
    if x_train.shape[1:] != x_test.shape[1:] or x_train.dtype != x_test.dtype:
        raise UserError(
            f"{path}: rows of x_train are {x_train.dtype} {x_train.shape[1:]} but rows of x_test "
            f"are {x_test.dtype} {x_test.shape[1:]}; both need one shape, and both or none uint8"
        )


def _read(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f"the file {path} of data.name npz:{path} does not exist; check the path")
    names = arrayfiles.names_in(path)
    missing = [name for name in ("x_train", "x_test", "y_test") if name not in names]
    if missing:
        raise UserError(
            f"{path} lacks {', '.join(missing)}; it holds {', '.join(names) or 'nothing'}, "
            "and needs x_train, x_test, y_test (y_train if training rows have classes)"
        )
    return arrayfiles.read_npz(path, ("x_train", "y_train", "x_test", "y_test"))


def _rows(x: np.ndarray, name: str, path: str, rows: str) -> np.ndarray:
    if x.ndim < 2 or 0 in x.shape:
        raise UserError(f"{path}: {name} has the shape {x.shape}; it must be [N, ...] with rows")
    if x.dtype.kind not in "fiub":
        raise UserError(f"{path}: {name} has the type {x.dtype}; it must hold real numbers")
    x = _with_channel(x, name, path, rows)
    if x.dtype == np.uint8:
        return x
    with np.errstate(over="ignore"):  # what does not fit float32 becomes infinite, caught below
        x = x.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(x).reshape(len(x), -1).all(axis=1))
    if bad.size:
        raise UserError(
            f"{path}: {name} holds NaN or infinite values in {bad.size} rows, first in row "
            f"{bad[0]}; remove or fill them"
        )
    return x


def _with_channel(x: np.ndarray, name: str, path: str, rows: str) -> np.ndarray:
    """Images [N, H, W, C] or series [N, T, C], whose only channel may have been left out."""
    if rows == "images" and x.ndim not in (3, 4):
        raise UserError(f"{path}: {name} has the shape {x.shape}, no images; set data.rows to auto")
    if rows == "series" and x.ndim not in (2, 3):
        raise UserError(f"{path}: {name} has the shape {x.shape}, no series; set data.rows to auto")
    square = x.dtype == np.uint8 or (x.ndim == 3 and x.shape[1] == x.shape[2])
    grey = x.ndim == 3 and (rows == "images" or (rows == "auto" and square))
    one = x.ndim == 2 and rows == "series"
    return x[..., None] if grey or one else x


def _classes(y: np.ndarray, name: str, rows: int, path: str) -> np.ndarray:
    if y.shape != (rows,):
        raise UserError(
            f"{path}: {name} has the shape {y.shape}; it must be ({rows},), one class per row"
        )
    if y.dtype.kind not in "fiub":
        raise UserError(
            f"{path}: {name} has the type {y.dtype}, no whole numbers; number the classes"
        )
    return numbered(y, f"{path}: {name}")[0]
