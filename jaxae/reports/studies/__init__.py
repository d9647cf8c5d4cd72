"""Extra evaluations of a finished run, which give arrays to draw and scalars to report.

To add one, enter a `Study` in `STUDIES`, or call `STUDIES.add` from outside the package: a function
`Context -> Findings`, its needs, and figures of its arrays, which are saved in the run folder as
`arrays/NAME.npz`.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from jaxae import scoring
from jaxae.config import ExperimentConfig
from jaxae.data import corruptions
from jaxae.errors import UserError
from jaxae.methods.learners import METHODS
from jaxae.registry import Registry
from jaxae.reports.plots import STUDY_FIGURES, FigureSpec
from jaxae.reports.studies import detection, latent, pictures, places
from jaxae.reports.studies.context import Context, Findings
from jaxae.storage import disk
from jaxae.types import Dataset

__all__ = ["STUDIES", "Context", "Findings", "Study", "check", "compiling", "figures", "run"]


class Study(NamedTuple):
    """A study, its needs and its figures."""

    run: Callable[[Context], Findings]
    needs: frozenset[str] = frozenset()  # of the configuration: names in `NEEDS`
    figures: dict[str, FigureSpec] = {}  # noqa: RUF012 - by the name of the picture
    # Compiles in advance, during training: see `jaxae.workflows.precompile`.
    compile: Callable[[Dataset], object] | None = None


class Need(NamedTuple):
    """A requirement of a study on the configuration or, if `of_data`, on the data set."""

    holds: Callable[..., bool]  # takes the configuration or the data set
    words: str  # why, and the remedy; may contain {cfg.method}, {data.shape} and the like
    of_data: bool = False


NEEDS: dict[str, Need] = {
    "decoder": Need(
        lambda cfg: METHODS[cfg.method].decodes,
        "decodes codes, which method {cfg.method} cannot; leave it out, or use another --method",
    ),
    "plane": Need(
        lambda cfg: cfg.model.latent == 2,
        "draws a plane of codes, but model.latent is {cfg.model.latent}; use --model.latent 2",
    ),
    "monitor": Need(
        lambda cfg: cfg.train.monitor, "needs the metrics of each epoch; use --train.monitor"
    ),
    "map": Need(
        lambda cfg: scoring.resolve(cfg.score).places is not None,
        "draws score maps, and score {cfg.score} has none; leave it out, or use --score mse",
    ),
    "steps": Need(
        lambda data: data.steps is not None,
        "draws the steps of a long series, and these rows are no windows of one; leave it out",
        of_data=True,
    ),
    "images": Need(
        lambda data: len(data.shape) == 3,
        "draws images, and these rows are of shape {data.shape}; leave it out",
        of_data=True,
    ),
    "corruptible": Need(
        lambda data: not data.raw_shape and corruptions.takes(data.train.x),
        "corrupts images in [0, 1], and these rows have other values or went through data.input; "
        "use --data.scale minmax with --data.input none, or leave it out",
        of_data=True,
    ),
    "labels": Need(
        lambda data: data.is_labelled,
        "compares with the truth, and these rows have no labels; leave it out",
        of_data=True,
    ),
    "neighbours": Need(
        lambda data: np.sum(~data.test.y) >= latent.NEIGHBOURS,
        f"needs at least {latent.NEIGHBOURS} normal test rows; leave it out",
        of_data=True,
    ),
}


def _figures(*names: str) -> dict[str, FigureSpec]:
    return {name: STUDY_FIGURES[name] for name in names}


_IMAGES, _CORRUPTIBLE = frozenset({"images"}), frozenset({"corruptible"})
_DECODED = _IMAGES | {"decoder"}
_PLANE = _DECODED | {"plane"}
_LABELS = frozenset({"labels"})
STUDIES: Registry[Study] = Registry(
    "study",
    Study,
    {
        "reconstructions": Study(pictures.reconstructions, figures=_figures("reconstructions")),
        "cases": Study(pictures.cases),
        "verdicts": Study(pictures.verdicts, figures=_figures("verdicts")),
        "residuals": Study(pictures.residuals, figures=_figures("residuals")),
        "heatmaps": Study(places.heatmaps, _IMAGES | {"map"}, _figures("heatmaps")),
        "alarms": Study(places.alarms, frozenset({"steps"}), _figures("alarms")),
        "epoch_grid": Study(pictures.epoch_grid, _IMAGES, _figures("epoch_grid")),
        "denoising": Study(pictures.denoising, _CORRUPTIBLE, _figures("denoising")),
        "beats": Study(pictures.beats, _LABELS, figures=_figures("beats")),
        "latent_scatter": Study(latent.latent_scatter, _PLANE, _figures("latent_scatter")),
        "latent_grid": Study(latent.latent_grid, _PLANE, _figures("latent_grid")),
        "tsne": Study(latent.tsne, frozenset({"neighbours"}), _figures("tsne")),
        "interpolation": Study(latent.interpolation, _DECODED, _figures("interpolation")),
        "corrupted": Study(detection.corrupted, _IMAGES | _CORRUPTIBLE),
        "severity": Study(
            detection.severity,
            _CORRUPTIBLE,
            _figures("severity", "severity_examples"),
            compile=detection.compile_severity,
        ),
        "loss_histograms": Study(detection.loss_histograms, figures=_figures("loss_histograms")),
        "batch_threshold": Study(detection.batch_threshold, _LABELS),
        "costs": Study(detection.costs, _LABELS),
        "scores_compared": Study(detection.scores_compared, _LABELS),
        "epoch_scores": Study(detection.epoch_scores, _LABELS | {"monitor"}),
    },
)
_ALWAYS = ("reconstructions", "cases")  # the page of the run shows the cases
# Also without being asked.
_WHERE_IT_SHOWS = {"heatmaps": places.shows_pixels, "alarms": places.shows_steps}


def check(cfg: ExperimentConfig, data: Dataset | None = None) -> None:
    """Reject studies that would fail after training.

    Args:
      cfg: the configuration, with its studies.
      data: the data set; None = check the configuration only.

    Raises:
      UserError: a study is unknown, or its needs are not met.
    """
    for name in cfg.studies:
        for need in map(NEEDS.__getitem__, sorted(STUDIES[name].needs)):
            subject = data if need.of_data else cfg
            if subject is not None and not need.holds(subject):
                raise UserError(f"study {name} {need.words.format(cfg=cfg, data=data)}")


def run(context: Context) -> dict[str, float]:
    """Run the studies: write their arrays and tables to the run folder, return their scalars."""
    scalars: dict[str, float] = {}
    unasked = (name for name, shows in _WHERE_IT_SHOWS.items() if shows(context))
    for name in dict.fromkeys((*_ALWAYS, *unasked, *context.cfg.studies)):
        findings = STUDIES[name].run(context)
        scalars |= findings.scalars
        arrays, table = written(name)
        if findings.arrays:
            disk.write_arrays(context.folder / arrays, findings.arrays)
        if findings.table:
            disk.write_text(context.folder / table, findings.table)
    return scalars


def tables(cfg: ExperimentConfig) -> list[str]:
    """The names of the tables that the studies of a run may have written."""
    return [written(name)[1] for name in cfg.studies]


def written(name: str) -> tuple[str, str]:
    """The files that a study may write into the run folder: its arrays and its table."""
    return f"arrays/{name}.npz", f"{name}.md"


def compiling(cfg: ExperimentConfig, data: Dataset) -> Iterator[Callable[[], object]]:
    """Compilations for the studies of a run, as tasks for another thread."""
    for name in cfg.studies:
        compile = STUDIES[name].compile
        if compile:
            yield functools.partial(compile, data)


def figures() -> dict[str, FigureSpec]:
    """The figures of all studies, by the name of the picture."""
    return {title: spec for study in STUDIES.values() for title, spec in study.figures.items()}
