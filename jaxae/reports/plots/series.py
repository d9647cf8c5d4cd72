"""Figures of series and of plain vectors: a row, its reconstruction and the error between."""

from collections.abc import Callable

import numpy as np

from jaxae.reports.plots.style import (
    ANOMALY,
    CLASSES,
    NORMAL,
    ORIGINAL,
    RECONSTRUCTION,
    canvas,
    headings,
    outside_legend,
    row_verdict,
    rows_for,
    style,
    whole_number_ticks,
)

_AMPLITUDE = "scaled amplitude"


def reconstructions(data: dict, subtitle: str):
    """At most four normals and four anomalies, each titled with its class and the verdict on it."""
    y = data["y"].astype(bool)
    chosen = np.append(np.flatnonzero(~y)[:4], np.flatnonzero(y)[:4])
    shown = {key: data[key][chosen] for key in ("x", "x_hat", "score", "is_anomaly")}
    shown["threshold"] = data["threshold"]
    kinds = np.where(y[chosen], "truth: anomaly", "truth: normal")
    return _panels(shown, kinds, "Reconstructions", subtitle)


def verdicts(data: dict, subtitle: str):
    """Rows with their reconstructions, each titled with the verdict in its colour."""
    return _panels(data, data["kind"], "Verdicts (score against threshold)", subtitle)


def residuals(data: dict, subtitle: str):
    """The share of every sample or feature in the squared error of its row, a line per channel."""
    error = data["residual"].reshape(*data["residual"].shape[:2], -1)
    total = error.sum(axis=(1, 2), keepdims=True)
    shares = 100 * error / np.where(total > 0, total, 1)

    def draw(ax, i: int) -> None:
        steps = np.arange(error.shape[1])
        for channel, values in enumerate(shares[i].T):
            ax.fill_between(
                steps, values, step="mid", color=CLASSES[channel % 10], alpha=0.35, lw=0
            )
            ax.step(steps, values, where="mid", color=CLASSES[channel % 10], lw=0.9)

    title, y = "Residuals (the most anomalous rows first)", "% of squared error"
    return _grid(data, data["kind"], draw, (y, y), (title, subtitle))[0]


def beats(data: dict, subtitle: str):
    """A normal and an abnormal beat together, then each with reconstruction and filled error."""
    figure, axes = canvas(9.6, 3.2, 1, 3, sharex=True, sharey=True)
    both, *single = axes[0]
    style(both, "A normal and an abnormal beat", "sample", _AMPLITUDE)
    both.plot(data["normal"], color=NORMAL, lw=1.3, label="normal")
    both.plot(data["abnormal"], "--", color=ANOMALY, lw=1.3, label="abnormal")
    both.legend(fontsize=7.5, frameon=False)
    for ax, name in zip(single, ("normal", "abnormal"), strict=True):
        error = np.abs(data[f"{name}_hat"] - data[name]).mean()
        style(ax, f"{name.capitalize()} (mean absolute error {error:.3g})", "sample")
        with_error(ax, data[name], data[f"{name}_hat"])
    whole_number_ticks(both)  # the samples count for all three panels
    outside_legend(figure, single[0], "lower center", ncols=3)
    headings(figure, "Beats and their reconstructions", subtitle)
    return figure


def with_error(ax, x: np.ndarray, x_hat: np.ndarray) -> None:
    """Draws a row [T], [T, C] or [F], its reconstruction, and fills the error between them.

    Several channels are shifted apart by the range of the row.
    """
    x, x_hat = x.reshape(len(x), -1), x_hat.reshape(len(x), -1)
    shift = np.arange(x.shape[1]) * 1.1 * np.ptp(x)
    at = np.arange(len(x))
    for channel, (line, line_hat) in enumerate(zip((x + shift).T, (x_hat + shift).T, strict=True)):
        names = ("input", "reconstruction", "error") if channel == 0 else (None, None, None)
        ax.fill_between(at, line, line_hat, color=ANOMALY, alpha=0.3, lw=0, label=names[2])
        ax.plot(at, line, color=ORIGINAL, lw=1.1, label=names[0])
        ax.plot(at, line_hat, color=RECONSTRUCTION, lw=1.1, ls="--", label=names[1])


def _panels(data: dict, kinds, title: str, subtitle: str):
    def draw(ax, i: int) -> None:
        with_error(ax, data["x"][i], data["x_hat"][i])

    names = (_AMPLITUDE, "scaled value")
    figure, first = _grid(data, kinds, draw, names, (title, subtitle))
    outside_legend(figure, first, "lower center", ncols=3)
    return figure


def _grid(data: dict, kinds, draw: Callable, names: tuple[str, str], titles: tuple[str, str]):
    """A panel for each row, titled with its kind and verdict; the figure and its first axes."""
    count = len(data["x"])
    cols = min(4, count)
    rows = rows_for(count, cols)
    size = (0.5 + 2.3 * cols, 1.0 + 1.55 * rows)
    figure, axes = canvas(*size, rows, cols, sharex=True, sharey=True)
    is_series = data["x"].ndim == 3
    for i, ax in enumerate(axes.flat):
        if i >= count:
            ax.set_visible(False)
            continue
        is_lowest = i >= count - cols  # in its column
        words, colour = row_verdict(data, i)
        style(
            ax,
            x=("sample" if is_series else "feature") if is_lowest else "",
            y="" if i % cols else names[0 if is_series else 1],
        )
        ax.set_title(f"{kinds[i]}\n{words}", fontsize=7.5, loc="left", color=colour)
        ax.tick_params(labelbottom=is_lowest)
        whole_number_ticks(ax)
        draw(ax, i)
    headings(figure, *titles)
    return figure, axes[0, 0]
