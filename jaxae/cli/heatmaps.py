"""Images of `jaxae score --heatmaps`: each photograph with its score map, and flagged pixels."""

import io
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8

from jaxae import detectors
from jaxae.data.own import files
from jaxae.detectors import pixels
from jaxae.errors import UserError
from jaxae.storage import disk, outputs

_TINT, _OUTLINE = np.array([255.0, 0, 0]), np.array([255.0, 255, 0])
_SIDE_BY_SIDE = 16  # images whose maps are computed together


def check(detector: detectors.Detector, rows: Path, folder: Path, overwrite: bool) -> None:
    """Refuse heatmaps that cannot be made, or may not be written; makes the folder.

    Raises:
      UserError: the detector does not decide about pixels of image files; or the folder is not
        empty, holds the images, or cannot be written.
    """
    if detector.about.schema.kind != "images" or not pixels.state_of(detector):
        raise UserError(
            "--heatmaps needs a detector that was trained on images with 64 pixels or more or with "
            "masks, by a score with a map, such as --score mse; leave it out"
        )
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise UserError(f"--heatmaps {folder} is not empty; name another folder, or --overwrite")
    if folder.resolve().is_relative_to(rows.resolve()):
        raise UserError(
            f"--heatmaps {folder} is inside of {rows}, whose images are scored; move it"
        )
    with outputs.system_errors(f"--heatmaps {folder}"):
        folder.mkdir(exist_ok=True)
    outputs.check(folder / "1.png", (".png",), [rows], True, "--heatmaps")


def write(detector: detectors.Detector, rows: Path, folder: Path) -> int:
    """Write a PNG for every image, under its name, and return how many.

    Red is as strong as the pixel's value in the score map, in full at the threshold of pixels;
    flagged pixels have a yellow outline. See `jaxae.detectors.pixels`.
    """
    read = files.rows(rows, detector.about.schema)
    names, threshold = read.named["source"], pixels.decision_of(detector).threshold
    for first in range(0, len(names), _SIDE_BY_SIDE):
        part = slice(first, first + _SIDE_BY_SIDE)
        x = np.asarray(read.x[part])
        maps, flagged = pixels.maps_and_flagged(detector, x)
        for i, name in enumerate(names[part]):
            path = folder / (name if name.lower().endswith(".png") else f"{name}.png")
            _save(path, drawn(x[i], maps[i] / max(threshold, 1e-30), flagged[i]))
    return len(names)


def drawn(
    x: UInt8[np.ndarray, "H W C"],
    share: Float[np.ndarray, "H W"],
    flagged: Bool[np.ndarray, "H W"],
) -> UInt8[np.ndarray, "H W 3"]:
    """An image with its map, as a share of the threshold, and the outline of flagged pixels."""
    strength = 0.6 * np.clip(np.nan_to_num(share), 0, 1)[..., None] ** 2
    tinted = (1 - strength) * x + strength * _TINT
    padded = np.pad(flagged, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    tinted[flagged & ~inside] = _OUTLINE
    return np.round(tinted).astype(np.uint8)


def _save(path: Path, image: np.ndarray) -> None:
    from PIL import Image

    held = io.BytesIO()
    Image.fromarray(image).save(held, "PNG")
    with outputs.system_errors(f"--heatmaps {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        disk.write_bytes(path, held.getvalue())
