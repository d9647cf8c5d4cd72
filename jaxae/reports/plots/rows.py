"""Figures of single rows with their reconstructions: images as pictures, other rows as lines."""

import numpy as np

from jaxae.reports.plots import images, style

_AMPLITUDE = "scaled amplitude"


def reconstructions(data: dict, subtitle: str):
    """Test rows with reconstructions; for series and vectors at most four normals and anomalies."""
    if data["x"].ndim == 4:
        return images.reconstructions(data, subtitle)
    y = data["y"].astype(bool)
    chosen = np.append(np.flatnonzero(~y)[:4], np.flatnonzero(y)[:4])
    shown = {key: data[key][chosen] for key in ("x", "x_hat", "score", "is_anomaly")}
    normal = "truth: normal" if data.get("labelled", True) else "held-out row"
    kinds = np.where(y[chosen], "truth: anomaly", normal)
    figure = _lines(shown | {"threshold": data["threshold"], "kind": kinds})
    return style.headings(figure, "Reconstructions", subtitle)


def pairs(x: np.ndarray, x_hat: np.ndarray, kind: np.ndarray) -> np.ndarray:
    """Rows [N, *S] of some kinds [N] with their reconstructions, as one picture.

    Images above their reconstructions, or a panel of lines for each row.

    Returns:
      Float32 [H, W, 3] in [0, 1].
    """
    if x.ndim == 4:
        picture = images.pairs(x, x_hat)
    else:
        picture = style.pixels(_lines({"x": x, "x_hat": x_hat, "kind": kind}))
    return picture.astype(np.float32) / 255


def verdicts(data: dict, subtitle: str):
    """Single rows with their reconstructions, each titled with the verdict in its colour.

    Images: input | reconstruction | difference. Other rows: lines with the error filled.

    Args:
      data: "x" and "x_hat" [N, ...], "score", "is_anomaly" and "kind" [N], and the "threshold".
      subtitle: the second title line.
    """
    if data["x"].ndim == 4:
        difference = np.asarray(data["x_hat"] - data["x"], np.float32).mean(axis=-1)
        names = "difference", "reconstruction - input"
        figure = _trios(data, difference, (-1, 1), "RdBu_r", names)
    else:
        figure = _lines(data)
    return style.headings(figure, "Verdicts (score against threshold)", subtitle)


def residuals(data: dict, subtitle: str):
    """Rows with the map of a score; `data` as in `verdicts`, "map" [N, *P] and "map_of", its score.

    Images: shares of the map's largest value. Other rows: shares of its sum, with a line for each
    channel that the map tells apart.
    """
    maps, of = np.asarray(data["map"], np.float64), str(data["map_of"])  # sums are finite
    if data["x"].ndim == 4:
        maps = maps.sum(axis=-1) if maps.ndim == 4 else maps
        shares = maps / _unless_zero(maps.max(axis=(1, 2), keepdims=True))
        names = "score map", "value / the map's largest"
        figure = _trios(_visible(data), shares, (0, 1), "inferno", names)
    else:
        maps = maps.reshape(*maps.shape[:2], -1)
        shares = 100 * maps / _unless_zero(maps.sum(axis=(1, 2), keepdims=True))
        figure, axes = _line_panels(data, "% of the map")
        for ax, share in zip(axes, shares, strict=True):
            steps = np.arange(len(share))
            colours = np.resize(style.CLASSES, share.shape[1])
            for colour, values in zip(colours, share.T, strict=True):
                ax.fill_between(steps, values, step="mid", color=colour, alpha=0.35, lw=0)
                ax.step(steps, values, where="mid", color=colour, lw=0.9)
    return style.headings(figure, f"Maps of {of} (most anomalous rows first)", subtitle)


def beats(data: dict, subtitle: str):
    """A normal and an abnormal beat in one panel, and each with its reconstruction and error."""
    figure, axes = style.canvas(9.6, 3.2, 1, 3, sharex=True, sharey=True)
    both, *single = axes[0]
    style.label(both, "A normal and an abnormal beat", "sample", _AMPLITUDE)
    both.plot(data["normal"], color=style.NORMAL, lw=1.3, label="normal")
    both.plot(data["abnormal"], "--", color=style.ANOMALY, lw=1.3, label="abnormal")
    both.legend(fontsize=7.5, frameon=False)
    for ax, name in zip(single, ("normal", "abnormal"), strict=True):
        error = np.abs(data[f"{name}_hat"] - data[name]).mean()
        style.label(ax, f"{name.capitalize()} (mean absolute error {error:.3g})", "sample")
        _with_error(ax, data[name], data[f"{name}_hat"])
    style.whole_number_ticks(both)  # all three panels share the x axis
    style.outside_legend(figure, single[0], "lower center", ncols=3)
    return style.headings(figure, "Beats and their reconstructions", subtitle)


def _unless_zero(divisor: np.ndarray) -> np.ndarray:
    return np.where(divisor > 0, divisor, 1)


def _visible(data: dict) -> dict:
    """Feature maps as grey images: channels are summed and scaled to the row's largest value."""
    if data["x"].shape[-1] in (1, 3):
        return data
    x, x_hat = (np.asarray(data[name]).sum(axis=-1, keepdims=True) for name in ("x", "x_hat"))
    unit = _unless_zero(x.max(axis=(1, 2, 3), keepdims=True))
    return data | {"x": x / unit, "x_hat": x_hat / unit}


def _trios(data: dict, values: np.ndarray, limits, colours: str, names: tuple[str, str]):
    """Input | reconstruction | values [N, H, W] in colours for each row, and their colour bar.

    `names` are the names of the values, below the pictures and next to the bar.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    scale = ScalarMappable(Normalize(*limits), colormaps[colours])
    coloured = np.asarray(scale.cmap(scale.norm(values)))[..., :3]
    pictures = [images.rgb(part) for part in (data["x"], data["x_hat"], coloured)]
    width, height = images.inches(1, 3, data["x"].shape[1:])
    cols = 2 if len(values) < 9 else 3
    figure, axes = style.panels(len(values), cols, width + 0.2, height + 0.45)
    for i, (ax, trio) in enumerate(zip(axes, np.stack(pictures, axis=1), strict=True)):
        is_lowest = i >= len(values) - cols  # in its column
        below = ("input", "reconstruction", names[0]) if is_lowest else ()
        images.show(ax, trio[None], (), below, 6.5)
        _title(ax, data, i)
    bar = figure.colorbar(scale, ax=figure.axes, fraction=0.04)
    bar.set_label(names[1], fontsize=7)
    bar.ax.tick_params(labelsize=6.5, length=2)
    return figure


def _title(ax, data: dict, i: int) -> None:
    """Title axes with the kind of row i and, if it has a score, its verdict."""
    words, colour = style.verdict(data, i) if "score" in data else ("", style.BLACK)
    ax.set_title(f"{data['kind'][i]}\n{words}", fontsize=7.5, loc="left", color=colour)


def _line_panels(data: dict, y: str):
    """A figure with axes for each row, and the axes."""
    count, cols = len(data["x"]), 4
    figure, axes = style.panels(count, cols, 2.3, 1.55, sharex=True, sharey=True)
    x = "sample" if data["x"].ndim == 3 else "feature"
    for i, ax in enumerate(axes):
        is_lowest = i >= count - cols  # in its column
        style.label(ax, x=x if is_lowest else "", y="" if i % cols else y)
        ax.tick_params(labelbottom=is_lowest)
        style.whole_number_ticks(ax)
        _title(ax, data, i)
    return figure, axes


def _lines(data: dict):
    figure, axes = _line_panels(data, _AMPLITUDE if data["x"].ndim == 3 else "scaled value")
    for ax, x, x_hat in zip(axes, data["x"], data["x_hat"], strict=True):
        _with_error(ax, x, x_hat)
    style.outside_legend(figure, axes[0], "lower center", ncols=3)
    return figure


def _with_error(ax, x: np.ndarray, x_hat: np.ndarray) -> None:
    """Draw a row [T], [T, C] or [F] and its reconstruction, and fill the error between them.

    Several channels are shifted apart by the range of the row.
    """
    x, x_hat = x.reshape(len(x), -1), x_hat.reshape(len(x), -1)
    shift = np.arange(x.shape[1]) * 1.1 * np.ptp(x)
    at = np.arange(len(x))
    for channel, (line, line_hat) in enumerate(zip((x + shift).T, (x_hat + shift).T, strict=True)):
        names = ("input", "reconstruction", "error") if channel == 0 else (None, None, None)
        ax.fill_between(at, line, line_hat, color=style.ANOMALY, alpha=0.3, lw=0, label=names[2])
        ax.plot(at, line, color=style.ORIGINAL, lw=1.1, label=names[0])
        ax.plot(at, line_hat, color=style.RECONSTRUCTION, lw=1.1, ls="--", label=names[1])
