"""Images in one size, mode and range of values; only this module imports Pillow."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from jaxae.data.own.schema import Schema
from jaxae.errors import UserError

LARGEST = 64  # pixels on each side, unless the configuration sets a size
_GREY = {"1", "L", "LA", "I", "F"}  # and "I;16..."
_WHITE = (255, 1023, 4095, 16383, 65535)  # the largest values of 8, 10, 12, 14 and 16 bits
_ORIENTATION, _SIDEWAYS = 0x0112, {5, 6, 7, 8}  # the tag of EXIF, and its values that swap sides


def fit(paths: Iterable[Path], side: int) -> tuple[Schema, tuple[str, ...]]:
    """Choose one size, one mode and one range of values for all images, and say what is lost.

    Grey values of more than 8 bits are divided by the largest value of 8, 10, 12, 14 or 16 bits
    that covers all images, because cameras store 12 bits in 16.

    Args:
      paths: the images to train on and to test.
      side: pixels on each side; 0 = their own size if all have the same and it is at most
        `LARGEST`, else `LARGEST`.

    Raises:
      UserError: a file is damaged, or has values that are no grey values.
    """
    modes, sizes, deepest, cut, several = set(), set(), 0, 0, 0
    for path in paths:
        with _opened(path) as image:
            modes.add(image.mode)
            sizes.add(_upright_size(image))
            several += image.format != "MPO" and getattr(image, "n_frames", 1) > 1
            cut += image.mode in ("RGB", "RGBA") and any(";16" in str(tile) for tile in image.tile)
            if image.mode.startswith("I"):
                deepest = max(deepest, int(_in_range(np.asarray(image), _WHITE[-1]).max()))
    grey = all(mode in _GREY or mode.startswith("I;16") for mode in modes)
    size = (side, side)
    if not side:
        is_shared = len(sizes) == 1 and max(next(iter(sizes))) <= LARGEST
        size = next(iter(sizes)) if is_shared else (LARGEST, LARGEST)
    notes = []
    white = next((top for top in _WHITE if deepest <= top), 0) if deepest else _WHITE[-1]
    if white < _WHITE[-1]:
        notes.append(f"grey values of 16 bits reach {deepest}: {white} is read as white")
    if several:
        notes.append(f"{several} files hold several images, of which the first is read")
    if cut:
        notes.append(f"{cut} colour images have 16 bits per channel, of which the upper 8 are read")
    return Schema("images", mode="L" if grey else "RGB", size=size, white=white), tuple(notes)


def _upright_size(image: Any) -> tuple[int, int]:
    """Height and width as viewers show the image; Pillow itself turns TIFFs."""
    is_tagged = image.format != "TIFF" and (image.format != "PNG" or "exif" in image.info)
    turned = is_tagged and image.getexif().get(_ORIENTATION) in _SIDEWAYS
    return (image.width, image.height) if turned else (image.height, image.width)


def decode(paths: list[Path], schema: Schema) -> UInt8[np.ndarray, "N H W C"]:
    """The images as viewers show them, in one size and mode.

    Values of more than 8 bits are rounded to 8 bits; those above `schema.white` are white.

    Raises:
      UserError: a file is damaged, or has values that are no grey values.
    """
    from PIL import Image, ImageOps

    height, width = schema.size
    longer = 2 * max(schema.size)
    x = np.empty((len(paths), height, width, 1 if schema.mode == "L" else 3), np.uint8)
    for i, path in enumerate(paths):
        with _opened(path) as image:
            is_turned = _upright_size(image) != (image.height, image.width)
            draft = (longer, longer) if is_turned else (2 * width, 2 * height)
            image.draft(schema.mode, draft)  # a large JPEG is decoded smaller
            announced = image.size
            image.load()
            if image.format == "TIFF" and image.size != announced:  # Pillow 13, uncompressed
                raise ValueError("it is turned by a tag that cannot be followed; save it upright")
            ImageOps.exif_transpose(image, in_place=True)
            is_deep = image.mode.startswith(("I", "F"))
            shallow = image
            if is_deep:
                shallow = Image.fromarray(_eight_bits(np.asarray(image), schema.white))
            elif image.mode == "P" and "transparency" in image.info:
                shallow = image.convert("RGBA")  # else Pillow warns
            pixels = shallow.convert(schema.mode)
            if pixels.size != (width, height):
                bilinear = Image.Resampling.BILINEAR
                pixels = pixels.resize((width, height), bilinear, reducing_gap=3.0)
            x[i] = np.asarray(pixels).reshape(x.shape[1:])
    return x


def _eight_bits(values: np.ndarray, white: int) -> np.ndarray:
    """Grey values from 0 to `white`, or floats in [0, 1], as 8 bits."""
    is_whole = values.dtype.kind in "iu"
    top = float(white) if is_whole else 1.0
    values = np.minimum(_in_range(values, _WHITE[-1] if is_whole else 1), top)
    return np.round(values.astype(np.float64) / top * 255).astype(np.uint8)


def _in_range(values: np.ndarray, top: int) -> np.ndarray:
    """The values, all of which are from 0 to `top`."""
    if not np.isfinite(values).all() or values.min() < 0 or values.max() > top:
        span = f"{np.min(values):g} to {np.max(values):g}, outside 0 to {top}"
        raise ValueError(f"it has values from {span}; scale them")
    return values


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An open image; errors of reading it become a `UserError` that names the file."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            yield image
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is not a readable image ({error}); replace or remove it") from None
