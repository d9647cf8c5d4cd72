"""Figures of a run, drawn from the files in its folder.

Nothing here imports jax: figures can be drawn, or drawn again, on a machine that only has the
files. matplotlib is imported when a figure is drawn.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from jaxae.errors import UserError
from jaxae.plots import curves, detection, files, images, latent, series
from jaxae.plots.curves import training_curves_over_seeds
from jaxae.plots.style import save

__all__ = ["FIGURES", "FigureSpec", "draw", "training_curves_over_seeds"]

RECONSTRUCTIONS = "arrays/reconstructions.npz"
VERDICTS = "arrays/verdicts.npz"


class FigureSpec(NamedTuple):
    """A figure that a run may have."""

    needs: tuple[str, ...]  # files of the run folder without which it is skipped
    draw: Callable[[Path], Any]  # run folder -> matplotlib Figure; None = nothing to show


def reconstructions(run_dir: Path):
    """Test rows with their reconstructions, as pictures or as lines by the rows' shape."""
    keys = ("x", "x_hat", "y", "score", "threshold")
    data = files.arrays(run_dir / RECONSTRUCTIONS, *keys)
    return _by_shape(data).reconstructions(data, files.headline(run_dir))


def verdicts(run_dir: Path):
    """Single rows with the detector's verdict, as pictures or as lines by the rows' shape."""
    keys = ("x", "x_hat", "score", "threshold", "kind")
    data = files.arrays(run_dir / VERDICTS, *keys)
    return _by_shape(data).verdicts(data, files.headline(run_dir))


def _by_shape(data: dict):
    return images if data["x"].ndim == 4 else series


_DETECTION = (files.REPORT, files.SCORES)

FIGURES: dict[str, FigureSpec] = {
    "loss_curves": FigureSpec((files.METRICS,), curves.loss_curves),
    "score_histograms": FigureSpec(_DETECTION, detection.score_histograms),
    "roc_pr": FigureSpec(_DETECTION, detection.roc_and_precision_recall),
    "precision_recall_threshold": FigureSpec(_DETECTION, detection.precision_recall_vs_threshold),
    "reconstructions": FigureSpec((RECONSTRUCTIONS,), reconstructions),
    "verdicts": FigureSpec((VERDICTS,), verdicts),
    "loss_histograms": FigureSpec((detection.LOSS_HISTOGRAMS,), detection.loss_histograms),
    "epoch_grid": FigureSpec((images.EPOCH_GRID,), images.epoch_grid),
    "epoch_scores": FigureSpec((curves.EPOCH_SCORES,), curves.epoch_scores),
    "latent_scatter": FigureSpec((latent.SCATTER,), latent.latent_scatter),
    "latent_grid": FigureSpec((latent.GRID,), latent.latent_grid),
    "tsne": FigureSpec((latent.TSNE,), latent.tsne),
    "interpolation": FigureSpec((images.INTERPOLATION,), images.interpolation),
    "denoising": FigureSpec((images.DENOISING,), images.denoising),
    "severity": FigureSpec((curves.SEVERITY,), curves.severity),
    "severity_examples": FigureSpec((images.SEVERITY,), images.severity_examples),
    "beats": FigureSpec((series.BEATS,), series.beats),
}


def draw(run_dir: Path) -> list[Path]:
    """Draws every figure whose files exist into `run_dir`/figures/NAME.png.

    Args:
      run_dir: a run folder.

    Returns:
      The pictures written, in the order of `FIGURES`.

    Raises:
      UserError: the folder does not exist, or a file is damaged or lacks a value.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise UserError(f"there is no run folder {run_dir}; give the folder of a finished run")
    drawn = []
    for name, spec in FIGURES.items():
        if not all((run_dir / needed).exists() for needed in spec.needs):
            continue
        figure = spec.draw(run_dir)
        if figure is not None:
            drawn.append(save(figure, run_dir / "figures" / f"{name}.png"))
    return drawn
