"""Images in one size, mode and range of values; only this module imports Pillow."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxae.data.own.schema import Schema
from jaxae.errors import UserError

SIDES = (64, 128, 256)  # pixels of square images, unless the configuration sets a size
LARGEST = SIDES[-1]  # pixels on the longer side, unless the configuration sets a size
_GREY = {"1", "L", "LA", "I", "F"}  # and "I;16..."
_WHITE = (255, 1023, 4095, 16383, 65535)  # the largest values of 8, 10, 12, 14 and 16 bits
_ORIENTATION, _SIDEWAYS = 0x0112, {5, 6, 7, 8}  # the tag of EXIF, and its values that swap sides


def fit(paths: Iterable[Path], side: int) -> tuple[Schema, tuple[str, ...]]:
    """Choose one size, one mode and one range of values for all images, and say what is lost.

    Grey values of more than 8 bits are divided by the largest value of 8, 10, 12, 14 or 16 bits
    that covers all images, because cameras store 12 bits in 16.

    Args:
      paths: the images to train on and to test.
      side: pixels on each side; 0 = their own size if all have the same, reduced to `LARGEST` on
        the longer side; for images of several sizes, the least of `SIDES` on each side that is not
        below the longer side of half of them, or `LARGEST`.

    Raises:
      UserError: a file is damaged, or has values that are no grey values.
    """
    modes, sizes, deepest, cut, several = set(), [], 0, 0, 0
    for path in paths:
        with _opened(path) as image:
            modes.add(image.mode)
            sizes.append(_upright_size(image))
            several += image.format != "MPO" and getattr(image, "n_frames", 1) > 1
            cut += image.mode in ("RGB", "RGBA") and any(";16" in str(tile) for tile in image.tile)
            if image.mode.startswith("I"):
                deepest = max(deepest, int(_in_range(np.asarray(image), _WHITE[-1]).max()))
    grey = all(mode in _GREY or mode.startswith("I;16") for mode in modes)
    size = (side, side) if side else _size(sizes)
    notes = []
    if len({*sizes}) > 1 or size != sizes[0]:
        notes.append(_reduction(sizes, size) + "; --data.size sets another size" * (not side))
    white = next((top for top in _WHITE if deepest <= top), 0) if deepest else _WHITE[-1]
    if white < _WHITE[-1]:
        notes.append(f"grey values of 16 bits reach {deepest}: {white} is read as white")
    if several:
        notes.append(f"{several} files hold several images, of which the first is read")
    if cut:
        notes.append(f"{cut} colour images have 16 bits per channel, of which the upper 8 are read")
    return Schema("images", mode="L" if grey else "RGB", size=size, white=white), tuple(notes)


def _size(sizes: list[tuple[int, int]]) -> tuple[int, int]:
    """Height and width for images of these sizes."""
    if len({*sizes}) == 1:
        scale = min(1.0, LARGEST / max(sizes[0]))
        height, width = (max(1, round(scale * pixels)) for pixels in sizes[0])
        return height, width
    usual = np.median([max(size) for size in sizes])
    side = next((side for side in SIDES if usual <= side), LARGEST)
    return side, side


def _reduction(sizes: list[tuple[int, int]], size: tuple[int, int]) -> str:
    """A line on how sizes of images change."""
    (least, _), (most, _) = (find((max(one), one) for one in sizes) for find in (min, max))
    given = f"{least} to {most} pixels" if least != most else f"{most} pixels"
    height, width = size
    stretched = any(abs(height * w - width * h) > max(h, w) for h, w in sizes)
    how = ", without keeping their aspect ratio" if stretched else ""
    return f"images with {given} on the longer side are resized to {height} x {width}{how}"


def upright_size(path: Path) -> tuple[int, int]:
    """Height and width of an image as viewers show it."""
    with _opened(path) as image:
        return _upright_size(image)


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


def marked(path: Path) -> tuple[Bool[np.ndarray, "H W"], bool]:
    """The pixels that a mask marks, and whether it has shades of grey.

    Whatever is not black is marked: white, the number of a class, or a colour of a palette. In
    shades of grey, pixels from half of white on are marked, because compressed or smoothed edges
    are dark grey.

    Raises:
      UserError: the file is damaged.
    """
    from PIL import Image, ImageOps

    with _opened(path) as image:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        is_palette, shown = image.mode == "P", image
        if image.mode in ("PA", "RGBA", "LA") or "transparency" in image.info:
            black = Image.new("RGBA", image.size, (0, 0, 0, 255))
            shown = Image.alpha_composite(black, image.convert("RGBA")).convert("RGB")
        elif not image.mode.startswith(("1", "L", "I", "F", "RGB")):
            shown = image.convert("RGB")
        values = np.asarray(shown)
    values = values.max(axis=-1) if values.ndim == 3 else values
    white = {"b": 1, "f": 1.0, "u": 256**values.dtype.itemsize - 1}.get(values.dtype.kind, 65535)
    if is_palette or values.max() < white / 2:
        return values > 0, False
    return values >= white / 2, bool(((values > 0) & (values < white)).any())


def resized(marks: Bool[np.ndarray, "h w"], size: tuple[int, ...]) -> Float[np.ndarray, "H W"]:
    """The share of each pixel that is marked, after a mask got this height and width."""
    from PIL import Image

    grey = Image.fromarray(np.where(marks, np.uint8(255), np.uint8(0)))
    return np.asarray(grey.resize(size[::-1], Image.Resampling.BOX)) / np.float32(255)


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
