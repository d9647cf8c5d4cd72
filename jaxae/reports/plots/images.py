"""Figures of many small images, drawn as one picture, because hundreds of axes take seconds."""

import numpy as np

from jaxae.reports.plots import style

_CELL = 0.7  # inches from one image to the next
_LINE = 222  # grey of the lines between images, visible next to black and to white


def reconstructions(data: dict, subtitle: str):
    """Originals above their reconstructions, normals above anomalies, each with its score."""
    y = data["y"].astype(bool)
    normal = "normal" if data.get("labelled", True) else "held-out"
    groups = [(name, rows) for name, rows in ((normal, ~y), ("anomaly", y)) if rows.any()]
    width, height = inches(2, max(rows.sum() for _, rows in groups), data["x"].shape[1:])
    figure, axes = style.canvas(1.2 + width, 0.5 + len(groups) * (height + 0.3), len(groups))
    for ax, (name, rows) in zip(axes[:, 0], groups, strict=True):
        pictures = np.stack([data["x"][rows], data["x_hat"][rows]])
        scores = [f"{score:.3g}" for score in data["score"][rows]]
        show(ax, rgb(pictures), (name, "reconstruction"), scores)
        for text, flagged in zip(ax.get_xticklabels(), data["is_anomaly"][rows], strict=True):
            text.set_color(style.ANOMALY if flagged else style.NORMAL)
            text.set_fontweight("bold" if flagged else "normal")
    note = f"scores below; bold red = flagged, threshold {float(data['threshold']):.3g}"
    return style.headings(figure, f"Reconstructions ({note})", subtitle)


def epoch_grid(data: dict, subtitle: str):
    """Rows of the data above their reconstructions after each saved epoch."""
    pictures = np.concatenate([data["x"][None], data["x_hat"]])
    names = ["original", *(f"epoch {epoch}" for epoch in data["epochs"])]
    return _one_mosaic(subtitle, "Reconstructions during training", pictures, names)


def interpolation(data: dict, subtitle: str):
    """Decoded codes on the straight line between the codes of two originals, shown at the ends."""
    first, last = data["ends"]
    pictures = np.concatenate([first[None], data["images"], last[None]])[None]
    steps = [f"{step:.2f}" for step in np.linspace(0, 1, len(data["images"]))]
    names = [f"class {data['class_id'][0]}", *steps, f"class {data['class_id'][1]}"]
    title = "Between two latent codes (originals at both ends)"
    return _one_mosaic(subtitle, title, pictures, [], names)


def denoising(data: dict, subtitle: str):
    """Clean, noisy and denoised images in three rows; None if rows are not images."""
    if data["clean"].ndim != 4:
        return None
    pictures = np.stack([data["clean"], data["noisy"], data["denoised"]])
    title = f"Denoising (Gaussian noise, standard deviation {float(data['noise_std']):.3g})"
    return _one_mosaic(subtitle, title, pictures, ["clean", "noisy", "denoised"])


def severity_examples(data: dict, subtitle: str):
    """One image under each corruption at each severity; None when the file has no examples."""
    if "examples" not in data:
        return None
    pictures = data["examples"]
    names = [f"{name}\n{unit}" for name, unit in zip(data["names"], data["unit"], strict=True)]
    figure = _one_mosaic(subtitle, "Corruptions and their severities", pictures, names)
    height, width = pictures.shape[2:4]
    line = _gap(width)
    look = {"va": "top", "ha": "right", "color": "white", "fontsize": 6.5}
    box = {"facecolor": "black", "alpha": 0.65, "edgecolor": "none", "pad": 1}
    for (i, j), value in np.ndenumerate(data["severities"]):
        at = (j + 1) * (width + line) - 2, i * (height + line) + line + height / 28
        figure.axes[0].text(*at, f"{value:.3g}", bbox=box, **look)
    return figure


def _one_mosaic(subtitle: str, title: str, pictures: np.ndarray, row_names, col_names=()):
    width, height = inches(*pictures.shape[:2], pictures.shape[2:])
    longest = max((len(part) for name in row_names for part in name.split("\n")), default=0)
    figure, axes = style.canvas(0.2 + 0.08 * longest + width, (0.85 if col_names else 0.6) + height)
    show(axes[0, 0], rgb(pictures), row_names, col_names)
    return style.headings(figure, title, subtitle)


def rgb(images: np.ndarray) -> np.ndarray:
    """Images [..., H, W, C] in [0, 1] as uint8 [..., H, W, 3]; averages channels if C is not 3."""
    images = np.asarray(images, np.float32)
    if images.shape[-1] != 3:
        images = np.repeat(images.mean(axis=-1, keepdims=True), 3, axis=-1)
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)


def pairs(x: np.ndarray, x_hat: np.ndarray) -> np.ndarray:
    """Images [N, H, W, C] above their reconstructions, as one picture: uint8 [..., ..., 3]."""
    return mosaic(rgb(np.stack([x, x_hat])), _gap(x.shape[2]))


def _gap(width: int) -> int:
    """The width of the line between images of `width` pixels."""
    return max(1, width // 14)


def mosaic(images: np.ndarray, line: int) -> np.ndarray:
    """Lays uint8 images [R, K, H, W, 3] out as one picture with lines of `line` pixels around each.

    Returns:
      [R (H + line) + line, K (W + line) + line, 3]
    """
    rows, cols, height, width, _ = images.shape
    cells = np.full((rows, height + line, cols, width + line, 3), _LINE, np.uint8)
    cells[:, line:, :, line:] = images.transpose(0, 2, 1, 3, 4)
    picture = cells.reshape(rows * (height + line), cols * (width + line), 3)
    return np.pad(picture, ((0, line), (0, line), (0, 0)), constant_values=_LINE)


def centres(count: int, size: int, line: int) -> np.ndarray:
    """Pixel positions of the centres of `count` images of `size` pixels in a mosaic."""
    return np.arange(count) * (size + line) + line + (size - 1) / 2


def inches(rows: int, cols: int, shape: tuple[int, ...]) -> tuple[float, float]:
    """Width and height in inches of a mosaic of images of `shape` [H, W, C]."""
    height, width = shape[:2]
    line = _gap(width)
    pixel = _CELL / (width + line)
    return cols * _CELL + line * pixel, (rows * (height + line) + line) * pixel


def show(ax, images: np.ndarray, row_names, col_names, fontsize: float = 7) -> None:
    """A mosaic of uint8 images [R, K, H, W, 3] in axes; rows named at the left, columns below."""
    height, width = images.shape[2:4]
    line = _gap(width)
    ax.imshow(mosaic(images, line))
    ax.set_anchor("W")
    ax.set_yticks(centres(len(row_names), height, line), row_names, fontsize=8)
    ax.set_xticks(centres(len(col_names), width, line), col_names, fontsize=fontsize)
    ax.tick_params(length=0, pad=3)
    ax.spines[:].set_visible(False)
