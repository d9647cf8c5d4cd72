"""Figures over epochs and over corruption severity."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jaxae.errors import UserError
from jaxae.reports.plots import files, style

_LOSSES = {"loss": "train", "valid_loss": "validation"}
_MONITORED = {
    "test_auroc": "AUROC",
    "test_equal_error_f1": "F1 at equal error",
    "pseudo_auroc": "AUROC, pseudo-anomalies",
}


def loss_curves(run_dir: Path):
    """Train and validation loss per epoch, a method's partial losses, and monitored metrics.

    A y axis is logarithmic when its curves span more than a factor of ten.
    """
    rows = files.metrics(run_dir)
    partial = {key: key[5:] for row in rows for key in row if key.startswith("loss_")}
    panels = [
        ("Loss", "mean loss per row", _curves(rows, _LOSSES)),
        ("Partial losses", "mean loss per row", _curves(rows, partial)),
        ("Detection, monitored", "value in 0..1", _curves(rows, _MONITORED)),
    ]
    panels = [panel for panel in panels if panel[2]]
    if not panels:
        where = run_dir / files.METRICS
        raise UserError(f"{where} holds no losses; write loss and valid_loss for each epoch")
    figure, axes = style.canvas(1.0 + 4.2 * len(panels), 3.3, 1, len(panels))
    for ax, (title, label, curves) in zip(axes[0], panels, strict=True):
        style.label(ax, title, "epoch", label)
        for colour, (name, (epochs, values)) in zip(style.CLASSES, curves.items(), strict=False):
            ax.plot(epochs, values, marker=".", markersize=4, lw=1.3, color=colour, label=name)
        if style.spans_decades(np.concatenate([values for _, values in curves.values()]), 10):
            ax.set_yscale("log")
        style.whole_number_ticks(ax)
        style.legend(ax)
    return style.headings(figure, "Training", files.headline(run_dir))


def _curves(rows: list[dict], names: dict[str, str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Legend name -> (epochs, values) for each key that at least one row contains."""
    curves = {}
    for key, name in names.items():
        points = [(row["epoch"], row[key]) for row in rows if row.get(key) is not None]
        if points:
            epochs, values = np.asarray(points, float).T
            curves[name] = epochs, values
    return curves


_CHOICES = (
    ("last", "last epoch", ":", style.PURPLE),
    ("valid_loss", "validation loss", "-.", style.ORANGE),
    ("pseudo_anomalies", "pseudo-anomalies", "-", style.GREEN),
    ("oracle", "oracle (test labels)", "--", style.VERMILLION),
)


def selection(run_dir: Path):
    """AUROC per epoch, and the epochs that four rules select; None if epochs were not monitored.

    The oracle uses test labels: its lead over the others is the cost of selecting without labels.
    """
    report = files.report(run_dir)
    if "selection" not in report:
        return None
    chosen, rows = report["selection"], files.metrics(run_dir)
    figure, ax = style.chart(7.4, 3.4, "epoch", "AUROC")
    for key, line, colour in (
        ("test_auroc", ".-", style.BLUE),
        ("pseudo_auroc", ".--", style.GREY),
    ):
        for name, (epochs, values) in _curves(rows, {key: _MONITORED[key]}).items():
            ax.plot(epochs, values, line, lw=1.3, markersize=4, color=colour, label=name)
    shift = 0.006 * len(rows)  # equal choices stay visible side by side
    for i, (key, name, line, colour) in enumerate(_CHOICES):
        epoch, auroc = chosen[key]["epoch"], chosen[key]["auroc"]
        at = epoch + (i - 1.5) * shift
        ax.axvline(at, ls=line, lw=1.3, color=colour, label=f"{name}: {epoch}, AUROC {auroc:.4f}")
    style.whole_number_ticks(ax)
    style.outside_legend(figure)
    return style.headings(figure, "Which epoch becomes the detector", files.headline(run_dir))


def severity(data: dict, subtitle: str):
    """AUROC and flagged share against severity, one small panel per corruption."""
    figure, axes = style.panels(len(data["names"]), 4, 2.3, 1.75, sharey=True)
    for i, ax in enumerate(axes):
        y = "" if i % 4 else "AUROC, share"
        style.label(ax, str(data["names"][i]), str(data["unit"][i]), y)
        x = data["severities"][i]
        ax.axhline(0.5, color="#9A9A9A", lw=0.8, ls=":")
        ax.plot(x, data["auroc"][i], ".-", color=style.BLUE, lw=1.3, label="AUROC (chance 0.5)")
        ax.plot(x, data["flagged"][i], ".--", color=style.VERMILLION, lw=1.3, label="share flagged")
        ax.set_ylim(-0.03, 1.03)
    style.outside_legend(figure, axes[0], "lower center", ncols=2)
    return style.headings(figure, "Corruption of growing severity", subtitle)


def training_curves_over_seeds(run_dirs: Sequence[Path], out: Path) -> Path:
    """Draw the test AUROC per epoch of several runs: one panel per experiment, one line per run.

    Runs whose report.json has the same name share a panel; all panels share one scale.

    Args:
      run_dirs: run folders, each with report.json and with test_auroc in metrics.jsonl.
      out: the PNG to write.

    Returns:
      `out`.

    Raises:
      UserError: no folder is given, or one has no AUROC per epoch.
    """
    if not run_dirs:
        raise UserError("no run folders to compare; give at least one")
    groups: dict[str, list[tuple[int, Path]]] = {}
    for run_dir in map(Path, run_dirs):
        report = files.report(run_dir, "name", "seed")
        groups.setdefault(str(report["name"]), []).append((report["seed"], run_dir))
    count = len(groups)
    figure, axes = style.canvas(0.9 + 3.6 * count, 3.9, 1, count, sharey=True, sharex=True)
    for ax, (name, members) in zip(axes[0], groups.items(), strict=True):
        style.label(ax, name, "epoch", "" if ax is not axes[0, 0] else "AUROC on the test set")
        ax.axhline(0.5, color="#9A9A9A", lw=0.8, ls=":")
        for i, (seed, run_dir) in enumerate(members):
            monitored = _curves(files.metrics(run_dir), _MONITORED)
            if "AUROC" not in monitored:
                where = run_dir / files.METRICS
                raise UserError(f"{where} has no test_auroc; use --train.monitor to compare runs")
            epochs, auroc = monitored["AUROC"]
            colour = style.CLASSES[i % len(style.CLASSES)]
            label = f"seed {seed}: {auroc[-1]:.3f}"
            ax.plot(epochs, auroc, ".-", lw=1.3, markersize=4, color=colour, label=label)
        style.whole_number_ticks(ax)
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.17), "ncols": 3}
        style.legend(ax, title="after the last epoch", title_fontsize=7.5, **below)
    style.headings(figure, "AUROC during training over repeated runs", "dotted: chance")
    return style.save(figure, Path(out))
