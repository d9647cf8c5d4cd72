"""Folders of images: subfolders are classes, all get one size; only this module imports Pillow."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

from jaxae.data.own.schema import Schema
from jaxae.errors import UserError

SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    *(".pgm", ".ppm", ".pnm"),
)
LARGEST = 64  # pixels on each side, unless the configuration sets a size
_GREY = {"1", "L", "LA", "I", "F"}  # and "I;16..."


def scan(folder: Path) -> tuple[list[Path], list[str], Bool[np.ndarray, " N"] | None]:
    """The images below a folder, in the order of their names.

    The folder holds a subfolder for each class, or `train` and `test` with a subfolder for each
    class; MVTec AD's `ground_truth` next to them is ignored. Images outside such subfolders are of
    class "good".

    Returns:
      Files, their classes, and which are test images; None = the folder does not define it.

    Raises:
      UserError: it is not a folder, or contains no images.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name one with images in it")
    subfolders = {path.name.lower(): path for path in folder.iterdir() if path.is_dir()}
    has_parts = {"train", "test"} <= subfolders.keys()
    roots = [subfolders["train"], subfolders["test"]] if has_parts else [folder]
    images = [(path, root) for root in roots for path in files(root)]
    if not images:
        raise UserError(
            f"{folder} holds no images; put files there that end in {', '.join(SUFFIXES)}"
        )
    below_root = [path.relative_to(root).parts for path, root in images]
    classes = [names[0] if len(names) > 1 else "good" for names in below_root]
    is_test = np.array([root == roots[-1] for _, root in images]) if has_parts else None
    return [path for path, _ in images], classes, is_test


def files(root: Path) -> list[Path]:
    """Every image below a folder, in the order of their names."""
    return sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def fit(paths: Iterable[Path], side: int) -> Schema:
    """Choose one size and one mode for all images.

    Args:
      paths: the images to train on and to test.
      side: pixels on each side; 0 = their own size if all have the same and it is at most
        `LARGEST`, else `LARGEST`.
    """
    modes, sizes = set(), set()
    for path in paths:
        with _opened(path) as image:
            modes.add(image.mode)
            sizes.add((image.height, image.width))
    grey = all(mode in _GREY or mode.startswith("I;16") for mode in modes)
    size = (side, side)
    if not side:
        is_shared = len(sizes) == 1 and max(next(iter(sizes))) <= LARGEST
        size = next(iter(sizes)) if is_shared else (LARGEST, LARGEST)
    return Schema("images", mode="L" if grey else "RGB", size=size)


def decode(paths: list[Path], schema: Schema) -> UInt8[np.ndarray, "N H W C"]:
    """The images in one size and mode; values of more than 8 bits are rounded to 8 bits.

    Raises:
      UserError: a file is damaged.
    """
    from PIL import Image

    height, width = schema.size
    x = np.empty((len(paths), height, width, 1 if schema.mode == "L" else 3), np.uint8)
    for i, path in enumerate(paths):
        with _opened(path) as image:
            image.draft(schema.mode, (2 * width, 2 * height))  # a large JPEG is decoded smaller
            is_deep = image.mode.startswith(("I", "F"))
            shallow = Image.fromarray(_eight_bits(np.asarray(image))) if is_deep else image
            pixels = shallow.convert(schema.mode)
            if pixels.size != (width, height):
                bilinear = Image.Resampling.BILINEAR
                pixels = pixels.resize((width, height), bilinear, reducing_gap=3.0)
            x[i] = np.asarray(pixels).reshape(x.shape[1:])
    return x


def _eight_bits(values: np.ndarray) -> np.ndarray:
    """Grey values of 16 bits, or of floats in [0, 1], as 8 bits."""
    top = 65535.0 if values.dtype.kind in "iu" else 1.0
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > top:
        raise ValueError(f"it has values outside 0 to {top:g}")
    return np.round(values.astype(np.float64) / top * 255).astype(np.uint8)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open image; errors of reading it become a `UserError` that names the file."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a readable image ({error}); replace or remove it") from None
