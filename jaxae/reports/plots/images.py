"""Figures of image rows: many small images as ONE picture, since hundreds of axes take seconds."""

from collections.abc import Sequence

import numpy as np

from jaxae.reports.plots.style import (
    ANOMALY,
    DPI,
    NARROWEST,
    NORMAL,
    headings,
    row_verdict,
    rows_for,
)

CELL = 0.7  # inches from one image to the next
TITLE = 0.52  # inches that the two title lines take
EDGE = 0.1  # inches of white at the border of a figure
_LINE = 222  # grey of the lines between images, visible beside black and beside white
_NAMES_BELOW = 0.22  # inches for a line of column names


def reconstructions(data: dict, subtitle: str):
    """Originals over reconstructions, normals above anomalies, each with its score."""
    y = data["y"].astype(bool)
    groups = [("normal", ~y), ("anomaly", y)]
    groups = [(name, rows) for name, rows in groups if rows.any()]
    names = [(name, "reconstruction") for name, _ in groups]
    left = margin(["reconstruction"])
    width, height = inches(2, max(rows.sum() for _, rows in groups), data["x"].shape[1:])
    block = height + _NAMES_BELOW + EDGE
    figure = sheet(left + width + EDGE, TITLE + len(groups) * block)
    for i, (pair, (_, rows)) in enumerate(zip(names, groups, strict=True)):
        scores = data["score"][rows]
        pictures = np.stack([data["x"][rows], data["x_hat"][rows]])
        below = [f"{score:.3g}" for score in scores]
        ax = show(figure, left, TITLE + i * block, pictures, pair, below)
        for text, flagged in zip(ax.get_xticklabels(), data["is_anomaly"][rows], strict=True):
            text.set_color(ANOMALY if flagged else NORMAL)
            text.set_fontweight("bold" if flagged else "normal")
    note = f"scores below; bold red = flagged, threshold {float(data['threshold']):.3g}"
    headings(figure, f"Reconstructions ({note})", subtitle)
    return figure


def verdicts(data: dict, subtitle: str):
    """Input | reconstruction | difference for each row, titled with the verdict in its colour."""
    difference = np.asarray(data["x_hat"] - data["x"], np.float32).mean(axis=-1)
    figure, bar = _trios(data, difference, (-1, 1), "RdBu_r", "difference")
    bar.set_ticks([-1, -0.5, 0, 0.5, 1])
    bar.set_label("reconstruction - input", fontsize=7, labelpad=1)
    headings(figure, "Verdicts (score against threshold)", subtitle)
    return figure


def residuals(data: dict, subtitle: str):
    """Input | reconstruction | squared error for each row, as shares of the row's largest error."""
    error = np.asarray(data["residual"]).sum(axis=-1)
    largest = error.max(axis=(1, 2), keepdims=True)
    shares = error / np.where(largest > 0, largest, 1)
    figure, bar = _trios(_visible(data), shares, (0, 1), "inferno", "squared error")
    bar.set_ticks([0, 0.5, 1])
    bar.set_label("error / the row's largest", fontsize=7, labelpad=1)
    headings(figure, "Residuals (the most anomalous rows first)", subtitle)
    return figure


def _visible(data: dict) -> dict:
    """Feature maps as grey images, their channels added up and as bright as the row allows."""
    if data["x"].shape[-1] in (1, 3):
        return data
    x, x_hat = (np.asarray(data[name]).sum(axis=-1, keepdims=True) for name in ("x", "x_hat"))
    brightest = x.max(axis=(1, 2, 3), keepdims=True)
    unit = np.where(brightest > 0, brightest, 1)
    return data | {"x": x / unit, "x_hat": x_hat / unit}


def _trios(data: dict, values: np.ndarray, limits: tuple[float, float], colours: str, name: str):
    """Input | reconstruction | values [N, H, W] in colours for each row, and their colour bar."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    count, _, width = data["x"].shape[:3]
    cols = 1 if count < 3 else 2 if count < 9 else 3
    rows = rows_for(count, cols)
    scale = ScalarMappable(Normalize(*limits), colormaps[colours])
    coloured = rgb(np.asarray(scale.cmap(scale.norm(values)))[..., :3])
    trios = np.stack([rgb(data["x"]), rgb(data["x_hat"]), coloured], axis=1)
    block = inches(1, 3, data["x"].shape[1:])
    step = block[0] + 0.2, block[1] + 0.36  # room for two lines of words above each block
    body = max(rows * step[1], 1.7)  # the colour bar and its name need that much
    figure = sheet(EDGE + cols * step[0] + 0.75, TITLE + body + _NAMES_BELOW)
    for i, trio in enumerate(trios):
        row, col = divmod(i, cols)
        ax = place(figure, EDGE + col * step[0], TITLE + row * step[1] + 0.34, *block)
        ax.imshow(mosaic(trio[None], gap(width)), aspect="auto")
        words, colour = row_verdict(data, i)
        ax.set_title(words, fontsize=7.5, loc="left", color=colour, weight="bold", pad=2.5)
        kind = {"xytext": (0, 13), "textcoords": "offset points", "va": "bottom", "fontsize": 7.5}
        ax.annotate(str(data["kind"][i]), (0, 1), xycoords="axes fraction", color="#444444", **kind)
        if i + cols >= count:
            names = ["input", "reconstruction", name]
            ax.set_xticks(centres(3, width, gap(width)), names, fontsize=6.5)
    bar = place(figure, EDGE + cols * step[0], TITLE + 0.36, 0.12, min(2.0, body - 0.36))
    drawn = figure.colorbar(scale, cax=bar)
    bar.tick_params(labelsize=6.5, length=2)
    return figure, drawn


def epoch_grid(data: dict, subtitle: str):
    """Rows of the data over their reconstructions after each saved epoch."""
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
    """Clean, noisy and denoised images in three rows; None of rows that are no images."""
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
    pairs = zip(data["names"], data["unit"], strict=True)
    names = [f"{name}\n{unit}" for name, unit in pairs]
    figure = _one_mosaic(subtitle, "Corruptions and their severities", pictures, names)
    height, width = pictures.shape[2:4]
    line = gap(width)
    look = {"va": "top", "ha": "right", "color": "white", "fontsize": 6.5}
    box = {"facecolor": "black", "alpha": 0.65, "edgecolor": "none", "pad": 1}
    for (i, j), value in np.ndenumerate(data["severities"]):
        at = (j + 1) * (width + line) - 2, i * (height + line) + line + height / 28
        figure.axes[0].text(*at, f"{value:.3g}", bbox=box, **look)
    return figure


def _one_mosaic(subtitle: str, title: str, images: np.ndarray, row_names, col_names=()):
    left = margin(row_names)
    width, height = inches(*images.shape[:2], images.shape[2:])
    below = _NAMES_BELOW if len(col_names) else EDGE
    figure = sheet(left + width + EDGE, TITLE + height + below)
    show(figure, left, TITLE, images, row_names, col_names)
    headings(figure, title, subtitle)
    return figure


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
    picture = cells.reshape(rows * (height + line), cols * (width + line), 3)
    return np.pad(picture, ((0, line), (0, line), (0, 0)), constant_values=_LINE)


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
