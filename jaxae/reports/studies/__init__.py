"""What experiments look at beyond scores: each study gives arrays to draw and scalars to report.

To add one, name a `Study` in `STUDIES`, or call `STUDIES.add` from outside of the package: a
function `Context -> Findings`, what it needs, and the figures of the arrays that it leaves in the
run folder as `arrays/NAME.npz`.
"""

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from jaxae.config import ExperimentConfig
from jaxae.data import corruptions
from jaxae.errors import UserError
from jaxae.methods.learners import METHODS
from jaxae.registry import Registry
from jaxae.reports.plots import FigureSpec, curves, images, reconstructions, series
from jaxae.reports.plots import detection as histograms
from jaxae.reports.plots import latent as planes
from jaxae.reports.plots import residuals as residual_figure
from jaxae.reports.plots import verdicts as verdict_figure
from jaxae.reports.studies import costs as decisions
from jaxae.reports.studies import detection, latent, pictures
from jaxae.reports.studies.context import Context, Findings
from jaxae.storage import runfiles
from jaxae.types import Dataset

__all__ = ["STUDIES", "Context", "Findings", "Study", "check", "compiling", "figures", "run"]


class Study(NamedTuple):
    """A study, and what must be known to use it."""

    run: Callable[[Context], Findings]
    needs: frozenset[str] = frozenset()  # of the configuration: names in `NEEDS`
    figures: dict[str, FigureSpec] = {}  # noqa: RUF012 - by the name of the picture
    # Compiles what takes long, beside the training: see `jaxae.workflows.ahead`.
    compile: Callable[[Dataset], object] | None = None


class Need(NamedTuple):
    """What a study may need of a configuration or, where `of_data`, of its data too."""

    holds: Callable[..., bool]  # of the configuration or, where `of_data`, of the data set
    words: str  # why, and the remedy; may name fields of both as {cfg.method} and {data.shape}
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
    "neighbours": Need(
        lambda data: np.sum(~data.test.y) >= latent.NEIGHBOURS,
        f"needs {latent.NEIGHBOURS} normal test rows at least; leave it out",
        of_data=True,
    ),
}


def _figure(name: str, draw: Callable, *others: tuple[str, Callable]) -> dict[str, FigureSpec]:
    """Figures of the arrays of one study, the first of its own name."""
    needs = (f"arrays/{name}.npz",)
    return {title: FigureSpec(needs, drawn) for title, drawn in ((name, draw), *others)}


_IMAGES, _CORRUPTIBLE = frozenset({"images"}), frozenset({"corruptible"})
_DECODED = _IMAGES | {"decoder"}
_PLANE = _DECODED | {"plane"}
STUDIES: Registry[Study] = Registry(
    "study",
    Study,
    {
        "reconstructions": Study(
            pictures.reconstructions, figures=_figure("reconstructions", reconstructions)
        ),
        "cases": Study(pictures.cases),
        "verdicts": Study(pictures.verdicts, figures=_figure("verdicts", verdict_figure)),
        "residuals": Study(pictures.residuals, figures=_figure("residuals", residual_figure)),
        "epoch_grid": Study(pictures.epoch_grid, _IMAGES, _figure("epoch_grid", images.epoch_grid)),
        "denoising": Study(
            pictures.denoising, _CORRUPTIBLE, _figure("denoising", images.denoising)
        ),
        "beats": Study(pictures.beats, figures=_figure("beats", series.beats)),
        "latent_scatter": Study(
            latent.latent_scatter, _PLANE, _figure("latent_scatter", planes.latent_scatter)
        ),
        "latent_grid": Study(
            latent.latent_grid, _PLANE, _figure("latent_grid", planes.latent_grid)
        ),
        "tsne": Study(latent.tsne, frozenset({"neighbours"}), _figure("tsne", planes.tsne)),
        "interpolation": Study(
            latent.interpolation, _DECODED, _figure("interpolation", images.interpolation)
        ),
        "corrupted": Study(detection.corrupted, _IMAGES | _CORRUPTIBLE),
        "severity": Study(
            detection.severity,
            _CORRUPTIBLE,
            _figure("severity", curves.severity, ("severity_examples", images.severity_examples)),
            compile=detection.compile_severity,
        ),
        "loss_histograms": Study(
            detection.loss_histograms,
            figures=_figure("loss_histograms", histograms.loss_histograms),
        ),
        "batch_threshold": Study(detection.batch_threshold),
        "costs": Study(decisions.costs),
        "scores_compared": Study(detection.scores_compared),
        "epoch_scores": Study(
            detection.epoch_scores,
            frozenset({"monitor"}),
            _figure("epoch_scores", curves.epoch_scores),
        ),
    },
)
_ALWAYS = ("reconstructions", "cases")  # the latter is for the page of the run


def check(cfg: ExperimentConfig, data: Dataset | None = None) -> None:
    """Reject what would fail after training.

    Args:
      cfg: its studies are looked at.
      data: None = what can be seen without.

    Raises:
      UserError: a study is unknown, or the configuration or the data cannot feed it.
    """
    for name in cfg.studies:
        for need in map(NEEDS.__getitem__, sorted(STUDIES[name].needs)):
            asked = data if need.of_data else cfg
            if asked is not None and not need.holds(asked):
                raise UserError(f"study {name} {need.words.format(cfg=cfg, data=data)}")


def run(context: Context) -> dict[str, float]:
    """Carry the studies out; arrays and tables go to the run folder, scalars come back."""
    scalars: dict[str, float] = {}
    for name in dict.fromkeys((*_ALWAYS, *context.cfg.studies)):
        found = STUDIES[name].run(context)
        scalars |= found.scalars
        if found.arrays:
            runfiles.write_arrays(context.folder / "arrays" / f"{name}.npz", found.arrays)
        if found.table:
            runfiles.write_text(context.folder / f"{name}.md", found.table)
    return scalars


def compiling(cfg: ExperimentConfig, data: Dataset) -> Iterator[Callable[[], object]]:
    """What the studies of a run would have to wait for, as tasks for another thread."""
    for name in cfg.studies:
        compile = STUDIES[name].compile
        if compile:
            yield functools.partial(compile, data)


def figures() -> dict[str, FigureSpec]:
    """The figures of all studies, by the name of the picture."""
    return {title: spec for study in STUDIES.values() for title, spec in study.figures.items()}
