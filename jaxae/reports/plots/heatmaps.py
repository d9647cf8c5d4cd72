"""Figures of score maps beside their images: where a row is anomalous, and where it truly is."""

import numpy as np
from jaxtyping import Float, Shaped

from jaxae.reports.plots import images, style

SIDE = 128  # pixels; larger images are drawn in blocks
_CELL = 1.25  # inches from one picture to the next
_SPAN = 2.0  # thresholds that the colours reach at least
TRUTH, FOUND = style.SKY, style.VERMILLION


def blocks(values: Shaped[np.ndarray, "N H W *C"], of) -> Shaped[np.ndarray, "N h w *C"]:
    """Square blocks of pixels as one, so that no side exceeds `SIDE`.

    Args:
      values: images or maps.
      of: what a block becomes: `np.mean` for pictures, `np.max` for maps and masks, which lose
        neither a peak nor a defect.
    """
    height, width = values.shape[1:3]
    size = -(-max(height, width) // SIDE)
    if size == 1:
        return values
    margin = ((0, 0), (0, -height % size), (0, -width % size), *((0, 0),) * (values.ndim - 3))
    whole = np.pad(values, margin, mode="edge")
    n, height, width = whole.shape[:3]
    parts = whole.reshape(n, height // size, size, width // size, size, *whole.shape[3:])
    return of(parts, axis=(2, 4))


def heatmaps(data: dict, subtitle: str):
    """Image | reconstruction | score map | mask | image with outlines, a line for each row.

    Args:
      data: "x" and "x_hat" [N, H, W, C], "map" [N, H, W], "score", "is_anomaly" and "kind" [N], the
        rows' "threshold"; "mask" [N, H, W], if the truth is known; "flagged" [N, H, W] and the
        "place_threshold" of pixels, if there are decisions on pixels.
      subtitle: the second title line.
    """
    x, maps = np.asarray(data["x"], np.float32), np.asarray(data["map"], np.float32)
    threshold, mask = data.get("place_threshold"), data.get("mask")
    unit = 1.0 if threshold is None else max(float(threshold), np.finfo(np.float32).tiny)
    top = max(float(np.quantile(maps, 0.995)) / unit, 0.0 if threshold is None else _SPAN)
    scale, coloured = _coloured(maps / unit, top)
    columns = {"image": x, "reconstruction": data["x_hat"], "score map": coloured / 255}
    outlines = []
    if mask is not None:
        columns["mask"] = np.asarray(mask, np.float32)[..., None]
        outlines.append(("blue = mask", TRUTH, 2.4, mask))
    if "flagged" in data:  # over the mask, and thinner
        outlines.append(("vermillion = flagged", FOUND, 0.9, data["flagged"]))
    if outlines:
        columns["outlines"] = 0.35 + 0.65 * x.mean(axis=-1, keepdims=True)
    figure, ax, line = _page_of(np.stack([*map(images.rgb, columns.values())], axis=1), [*columns])
    for _, colour, width, areas in outlines:
        _outline(ax, areas, len(columns) - 1, line, colors=[colour], linewidths=width)
    _describe(ax, data, x.shape[1], line)
    _bar(figure, scale, "score of a pixel" + ("" if threshold is None else " / threshold"))
    note = ", ".join(words for words, *_ in outlines)
    return style.headings(figure, f"Heatmaps ({note})" if note else "Heatmaps", subtitle)


def _coloured(values: Float[np.ndarray, "N H W"], top: float):
    """The scale of colours from 0 to `top`, and the maps in its colours: uint8 [N, H, W, 3]."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(0, top or 1), colormaps["inferno"])
    return scale, np.asarray(scale.cmap(scale.norm(values), bytes=True))[..., :3]


def _page_of(pictures: np.ndarray, names: list[str]):
    """A figure of pictures [N, K, H, W, 3], its axes, and the pixels between pictures."""
    rows, cols, height, width, _ = pictures.shape
    line = max(1, width // 32)
    high = _CELL * (height + line) / (width + line)
    figure, axes = style.canvas(3.3 + _CELL * cols, 0.9 + high * rows)
    ax = axes[0, 0]
    ax.imshow(images.mosaic(pictures, line))
    ax.set_xticks(images.centres(cols, width, line), names, fontsize=8)
    ax.tick_params(length=0, pad=3)
    ax.spines[:].set_visible(False)
    return figure, ax, line


def _outline(ax, areas: Shaped[np.ndarray, "N H W"], column: int, line: int, **look) -> None:
    """The borders of areas over the pictures of a column."""
    height, width = areas.shape[1:]
    left = column * (width + line) + line - 1
    for row, area in enumerate(np.pad(areas, ((0, 0), (1, 1), (1, 1)))):
        if area.any():
            top = row * (height + line) + line - 1
            x, y = left + np.arange(width + 2), top + np.arange(height + 2)
            ax.contour(x, y, area.astype(float), [0.5], **look)


def _describe(ax, data: dict, height: int, line: int) -> None:
    """The kind and the verdict of each row, at its left."""
    verdicts = [style.verdict(data, i) for i in range(len(data["x"]))]
    texts = [f"{kind}\n{words}" for kind, (words, _) in zip(data["kind"], verdicts, strict=True)]
    ax.set_yticks(images.centres(len(texts), height, line), texts, fontsize=7)
    for label, (_, colour) in zip(ax.get_yticklabels(), verdicts, strict=True):
        label.set_color(colour)


def _bar(figure, scale, name: str) -> None:
    bar = figure.colorbar(scale, ax=figure.axes, fraction=0.03, extend="max")
    bar.set_label(name, fontsize=7)
    bar.ax.tick_params(labelsize=6.5, length=2)
