"""Figures of a run, drawn from the files in its folder.

Nothing here imports JAX: figures can be drawn on any machine that has the files. matplotlib is
imported when a figure is drawn. To add a figure of an array file, write a function of the arrays
and the second title line, and name it in `STUDY_FIGURES`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxae.errors import UserError
from jaxae.reports.plots import (
    curves,
    detection,
    files,
    heatmaps,
    images,
    latent,
    protocols,
    rows,
    series,
)
from jaxae.reports.plots.curves import training_curves_over_seeds
from jaxae.reports.plots.rows import residuals, verdicts
from jaxae.reports.plots.style import load, save

__all__ = [
    "CROSS_FIGURES",
    "FIGURES",
    "PROTOCOL_FIGURES",
    "STUDY_FIGURES",
    "FigureSpec",
    "draw",
    "load",
    "residuals",
    "save",
    "training_curves_over_seeds",
    "verdicts",
]

_VERDICT = ("x", "x_hat", "score", "threshold", "is_anomaly", "kind")


class FigureSpec(NamedTuple):
    """A figure that a run may have."""

    needs: tuple[str, ...]  # files of the run folder; without them it is skipped
    draw: Callable[[Path], Any]  # run folder -> matplotlib Figure; None = nothing to show


def _of_arrays(name: str, draw: Callable[[dict, str], Any], *keys: str) -> FigureSpec:
    """A figure of arrays/NAME.npz, which must contain `keys`."""
    path = f"arrays/{name}.npz"

    def draw_run(run_dir: Path):
        return draw(files.arrays(run_dir / path, *keys), files.headline(run_dir))

    return FigureSpec((path,), draw_run)


_DETECTION = (files.REPORT, files.SCORES)

FIGURES: dict[str, FigureSpec] = {
    "loss_curves": FigureSpec((files.METRICS,), curves.loss_curves),
    "selection": FigureSpec((files.METRICS, files.REPORT), curves.selection),
    "score_histograms": FigureSpec(_DETECTION, detection.score_histograms),
    "roc_pr": FigureSpec(_DETECTION, detection.roc_and_precision_recall),
    "precision_recall_threshold": FigureSpec(_DETECTION, detection.precision_recall_vs_threshold),
}
"""Of every run."""

_SEVERITY = ("names", "severities", "unit")
STUDY_FIGURES: dict[str, FigureSpec] = {
    "reconstructions": _of_arrays(
        "reconstructions",
        rows.reconstructions,
        *("x", "x_hat", "y", "score", "threshold", "is_anomaly"),
    ),
    "verdicts": _of_arrays("verdicts", verdicts, *_VERDICT),
    "residuals": _of_arrays("residuals", residuals, *_VERDICT, "map", "map_of"),
    "heatmaps": _of_arrays(
        "heatmaps",
        heatmaps.heatmaps,
        *("x", "x_hat", "map", "score", "threshold", "is_anomaly", "kind"),
    ),
    "alarms": _of_arrays("alarms", series.alarms, *series.NEEDED),
    "epoch_grid": _of_arrays("epoch_grid", images.epoch_grid, "epochs", "x", "x_hat"),
    "denoising": _of_arrays(
        "denoising", images.denoising, "clean", "noisy", "denoised", "noise_std"
    ),
    "beats": _of_arrays("beats", rows.beats, "normal", "abnormal", "normal_hat", "abnormal_hat"),
    "latent_scatter": _of_arrays(
        "latent_scatter",
        latent.latent_scatter,
        *("z", "class_id", "centroid_images", "centroids", "classes"),
    ),
    "latent_grid": _of_arrays("latent_grid", latent.latent_grid, "images", "x_range", "y_range"),
    "tsne": _of_arrays("tsne", latent.tsne, "points", "class_id"),
    "interpolation": _of_arrays(
        "interpolation", images.interpolation, "images", "ends", "class_id"
    ),
    "severity": _of_arrays("severity", curves.severity, *_SEVERITY, "auroc", "flagged"),
    "severity_examples": _of_arrays("severity", images.severity_examples, *_SEVERITY),
    "loss_histograms": _of_arrays("loss_histograms", detection.loss_histograms, "train", "valid"),
}
"""Figures of `jaxae.reports.studies`, by the name of the picture."""

PROTOCOL_FIGURES = {"one_vs_rest": FigureSpec((files.REPORT,), protocols.one_vs_rest)}
"""Figures of a protocol's folder."""

CROSS_FIGURES = {"p_values": FigureSpec((files.REPORT, files.SCORES), protocols.p_values)}
"""Figures of a run without held-out rows."""


def draw(run_dir: Path, figures: Mapping[str, FigureSpec] = FIGURES) -> list[Path]:
    """Draw every figure whose files exist into `run_dir`/figures/NAME.png.

    Args:
      run_dir: a run folder.
      figures: by the name of the picture; `FIGURES | studies.figures()` are all of them.

    Returns:
      The pictures written, in the order of `figures`.

    Raises:
      UserError: the folder does not exist, or a file is damaged or lacks a value.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise UserError(f"there is no run folder {run_dir}; give the folder of a finished run")
    paths = []
    for name, spec in figures.items():
        if all((run_dir / needed).exists() for needed in spec.needs):
            figure = spec.draw(run_dir)
            if figure is not None:
                paths.append(save(figure, run_dir / "figures" / f"{name}.png"))
    return paths
