"""Many small images as ONE picture on measured axes, since hundreds of axes take seconds."""

from collections.abc import Sequence

import numpy as np

from jaxae.reports.plots.style import DPI, NARROWEST

CELL = 0.7  # inches from one image to the next
TITLE = 0.52  # inches that the two title lines take
EDGE = 0.1  # inches of white at the border of a figure
_LINE = 222  # grey of the lines between images, visible beside black and beside white


def rgb(images: np.ndarray) -> np.ndarray:
    """Images [..., H, W, C] in [0, 1] as uint8 [..., H, W, 3]; else averages the channels."""
    images = np.asarray(images, np.float32)
    if images.shape[-1] != 3:
        images = np.repeat(images.mean(axis=-1, keepdims=True), 3, axis=-1)
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)


def gap(width: int) -> int:
    """Pixels of the line between images of `width` pixels."""
    return max(1, width // 14)


def mosaic(images: np.ndarray, line: int) -> np.ndarray:
    """Lays uint8 images [R, K, H, W, 3] out as one picture with lines of `line` pixels around each.

    Returns:
      [R (H + line) + line, K (W + line) + line, 3]
    """
    rows, cols, height, width, _ = images.shape
    cells = np.full((rows, height + line, cols, width + line, 3), _LINE, np.uint8)
    cells[:, line:, :, line:] = images.transpose(0, 2, 1, 3, 4)
    whole = cells.reshape(rows * (height + line), cols * (width + line), 3)
    return np.pad(whole, ((0, line), (0, line), (0, 0)), constant_values=_LINE)


def centres(count: int, size: int, line: int) -> np.ndarray:
    """Pixel positions of the middles of `count` images of `size` pixels in a mosaic."""
    return np.arange(count) * (size + line) + line + (size - 1) / 2


def inches(rows: int, cols: int, shape: tuple[int, ...]) -> tuple[float, float]:
    """Width and height on paper of a mosaic of images of `shape` [H, W, C]."""
    height, width = shape[0], shape[1]
    line = gap(width)
    pixel = CELL / (width + line)
    return (cols * CELL + line * pixel), (rows * (height + line) + line) * pixel


def margin(names: Sequence[str]) -> float:
    """Inches that row names need at the left of a mosaic."""
    longest = max((len(part) for name in names for part in name.split("\n")), default=0)
    return EDGE + 0.072 * longest + 0.04 * bool(longest)


def sheet(width: float, height: float):
    """An empty figure of width x height inches, but wide enough for titles; `place` fills it."""
    from matplotlib.figure import Figure

    return Figure(figsize=(max(width, NARROWEST), height), dpi=DPI)


def place(figure, left: float, top: float, width: float, height: float):
    """Bare axes without ticks at a position in inches from the figure's upper left corner."""
    whole_width, whole_height = figure.get_size_inches()
    bottom = 1 - (top + height) / whole_height
    box = (left / whole_width, bottom, width / whole_width, height / whole_height)
    ax = figure.add_axes(box, xticks=[], yticks=[])
    ax.tick_params(length=0, pad=3)
    ax.spines[:].set_visible(False)
    return ax


def show(figure, left: float, top: float, images: np.ndarray, row_names, col_names=()):
    """Places a mosaic of images [R, K, H, W, C]: rows named at the left, columns below."""
    rows, cols, height, width = images.shape[:4]
    line = gap(width)
    ax = place(figure, left, top, *inches(rows, cols, images.shape[2:]))
    ax.imshow(mosaic(rgb(images), line), aspect="auto")
    ax.set_yticks(centres(len(row_names), height, line), row_names, fontsize=8)
    ax.set_xticks(centres(len(col_names), width, line), col_names, fontsize=7)
    return ax
