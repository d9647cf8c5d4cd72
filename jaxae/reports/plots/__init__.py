"""Figures of a run, drawn from the files in its folder.

Nothing here imports jax: figures can be drawn, or drawn again, on a machine that only has the
files. matplotlib is imported when a figure is drawn.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxae.errors import UserError
from jaxae.reports.plots import curves, detection, files, images, protocols, series
from jaxae.reports.plots.curves import training_curves_over_seeds
from jaxae.reports.plots.style import load, save

__all__ = [
    "CROSS_FIGURES",
    "FIGURES",
    "PROTOCOL_FIGURES",
    "FigureSpec",
    "draw",
    "load",
    "training_curves_over_seeds",
]

RECONSTRUCTIONS = "arrays/reconstructions.npz"
VERDICTS = "arrays/verdicts.npz"
RESIDUALS = "arrays/residuals.npz"
VERDICT_KEYS = ("x", "x_hat", "score", "threshold", "is_anomaly", "kind")
RESIDUAL_KEYS = (*VERDICT_KEYS, "residual")


class FigureSpec(NamedTuple):
    """A figure that a run may have."""

    needs: tuple[str, ...]  # files of the run folder without which it is skipped
    draw: Callable[[Path], Any]  # run folder -> matplotlib Figure; None = nothing to show


def reconstructions(run_dir: Path):
    """Test rows with their reconstructions, as pictures or as lines by the rows' shape."""
    keys = ("x", "x_hat", "y", "score", "threshold", "is_anomaly")
    data = files.arrays(run_dir / RECONSTRUCTIONS, *keys)
    return _by_shape(data).reconstructions(data, files.headline(run_dir))


def verdicts(run_dir: Path):
    """Single rows with the detector's verdict, as pictures or as lines by the rows' shape."""
    return draw_verdicts(files.arrays(run_dir / VERDICTS, *VERDICT_KEYS), files.headline(run_dir))


def residuals(run_dir: Path):
    """Rows with the error of each of their values, as pictures or as lines by the rows' shape."""
    data = files.arrays(run_dir / RESIDUALS, *RESIDUAL_KEYS)
    return _by_shape(data).residuals(data, files.headline(run_dir))


def draw_residuals(data: dict, subtitle: str, path: Path) -> Path:
    """The same figure of rows that belong to no run: arrays of the names `RESIDUAL_KEYS`."""
    return save(_by_shape(data).residuals(data, subtitle), path)


def draw_verdicts(data: dict, subtitle: str):
    """The figure `verdicts` of any rows: arrays of the names `VERDICT_KEYS`."""
    return _by_shape(data).verdicts(data, subtitle)


def _by_shape(data: dict):
    return images if data["x"].ndim == 4 else series


_DETECTION = (files.REPORT, files.SCORES)

FIGURES: dict[str, FigureSpec] = {
    "loss_curves": FigureSpec((files.METRICS,), curves.loss_curves),
    "selection": FigureSpec((files.METRICS, files.REPORT), curves.selection),
    "score_histograms": FigureSpec(_DETECTION, detection.score_histograms),
    "roc_pr": FigureSpec(_DETECTION, detection.roc_and_precision_recall),
    "precision_recall_threshold": FigureSpec(_DETECTION, detection.precision_recall_vs_threshold),
}
"""Of every run; those of a study are named with it, see `jaxae.reports.studies`."""

PROTOCOL_FIGURES = {"one_vs_rest": FigureSpec((files.REPORT,), protocols.one_vs_rest)}
"""Of a protocol's folder."""

CROSS_FIGURES = {"p_values": FigureSpec((files.REPORT, files.SCORES), protocols.p_values)}
"""Of a run without held-out rows."""


def draw(run_dir: Path, figures: Mapping[str, FigureSpec] = FIGURES) -> list[Path]:
    """Draw every figure whose files exist into `run_dir`/figures/NAME.png.

    Args:
      run_dir: a run folder.
      figures: name -> what is drawn; `FIGURES | studies.figures()` are all that there are.

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
