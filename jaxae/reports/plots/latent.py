"""Figures of the latent space: codes as points, and the decoded plane."""

import numpy as np

from jaxae.reports.plots import style
from jaxae.reports.plots.images import mosaic, rgb


def latent_scatter(data: dict, subtitle: str):
    """Two-dimensional codes coloured by class, with the decoded centroid of each class."""
    figure, ax = style.chart(6.6, 5.8, "latent 1", "latent 2")
    colours = _scatter(ax, data["z"], data["class_id"])
    centroids = zip(data["classes"], data["centroids"], data["centroid_images"], strict=True)
    for class_id, centre, image in centroids:
        _draw_image(ax, centre, image, colours.get(class_id.item(), "black"))
    style.outside_legend(figure, title="class", title_fontsize=8)
    return style.headings(figure, "Latent codes with each class's decoded centroid", subtitle)


def tsne(data: dict, subtitle: str):
    """A t-SNE of the codes coloured by class; the class is written at its median point."""
    figure, ax = style.chart(6.2, 5.6, "t-SNE 1 (no unit)", "t-SNE 2 (no unit)")
    for class_id in _scatter(ax, data["points"], data["class_id"]):
        centre = np.median(data["points"][data["class_id"] == class_id], axis=0)
        box = {"boxstyle": "circle,pad=0.2", "fc": "white", "alpha": 0.8, "ec": "none"}
        look = {"ha": "center", "va": "center", "fontsize": 9, "weight": "bold"}
        ax.text(*centre, str(class_id), bbox=box, **look)
    style.outside_legend(figure, title="class", title_fontsize=8)
    return style.headings(figure, "t-SNE of the latent codes", subtitle)


def latent_grid(data: dict, subtitle: str):
    """A decoded rectangle of the latent plane; y points upwards."""
    rows, cols = data["images"].shape[:2]
    left, right = _edges(data["x_range"], cols)
    bottom, top = _edges(data["y_range"], rows)
    figure, ax = style.chart(7.4, 7.6, "latent 1", "latent 2")
    picture = mosaic(rgb(data["images"]), 0)
    ax.imshow(picture, extent=(left, right, bottom, top), aspect="auto", zorder=1)
    ax.set_box_aspect(picture.shape[0] / picture.shape[1])
    ax.grid(False)
    return style.headings(figure, "The latent plane, decoded", subtitle)


def _edges(ends: np.ndarray, count: int) -> tuple[float, float]:
    """Edges of a picture whose first and last of `count` images are centred on the ends."""
    low, high = float(min(ends)), float(max(ends))
    half = (high - low) / max(count - 1, 1) / 2
    return low - half, high + half


def _scatter(ax, points: np.ndarray, class_id: np.ndarray) -> dict:
    """Draws all points in one call, in mixed order so that no class covers another.

    Returns:
      class -> colour.
    """
    classes = np.unique(class_id)
    palette = np.resize(style.CLASSES, len(classes)).tolist()
    colours = dict(zip(classes.tolist(), palette, strict=True))
    order = np.random.default_rng(0).permutation(len(points))
    point_colours = [colours[name] for name in class_id[order].tolist()]
    size = float(np.clip(3e4 / len(points), 2, 25))
    ax.scatter(*points[order].T, c=point_colours, s=size, alpha=0.6, linewidths=0)
    for name, colour in colours.items():
        ax.plot([], [], "o", color=colour, ms=5, label=str(name))
    return colours


def _draw_image(ax, centre: np.ndarray, image: np.ndarray, colour: str) -> None:
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    picture = OffsetImage(rgb(image), zoom=0.26 * 72 / image.shape[1])
    frame = {"edgecolor": colour, "linewidth": 1.8}
    ax.add_artist(AnnotationBbox(picture, centre, pad=0.05, bboxprops=frame))
