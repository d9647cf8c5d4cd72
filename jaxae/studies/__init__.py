"""What experiments look at beyond scores: each study gives arrays to draw and scalars to report.

To add one, write a function `Context -> Findings` and name it in `STUDIES`; `jaxae.plots` draws the
file `arrays/NAME.npz` that it leaves in the run folder.
"""

from collections.abc import Callable

from jaxae import runlog
from jaxae.config import ExperimentConfig
from jaxae.errors import UserError, unknown
from jaxae.studies import detection, latent, pictures
from jaxae.studies.context import Context, Findings
from jaxae.studies.detection import monitor

__all__ = ["STUDIES", "Context", "Findings", "check", "monitor", "run"]

STUDIES: dict[str, Callable[[Context], Findings]] = {
    "reconstructions": pictures.reconstructions,
    "verdicts": pictures.verdicts,
    "epoch_grid": pictures.epoch_grid,
    "denoising": pictures.denoising,
    "beats": pictures.beats,
    "latent_scatter": latent.latent_scatter,
    "latent_grid": latent.latent_grid,
    "tsne": latent.tsne,
    "interpolation": latent.interpolation,
    "corrupted": detection.corrupted,
    "severity": detection.severity,
    "loss_histograms": detection.loss_histograms,
    "batch_threshold": detection.batch_threshold,
    "scores_compared": detection.scores_compared,
    "epoch_scores": detection.epoch_scores,
}
_ALWAYS = ("reconstructions",)


def check(cfg: ExperimentConfig) -> None:
    """Reject what would fail after training.

    Raises:
      UserError: a study is unknown, or the configuration cannot feed it.
    """
    for name in cfg.studies:
        if name not in STUDIES:
            raise unknown("study", name, STUDIES)
    decodes = {"latent_scatter", "latent_grid", "interpolation"} & set(cfg.studies)
    if cfg.method == "alocc" and decodes:
        raise UserError(f"studies {sorted(decodes)} decode codes, which method alocc cannot")
    plane = {"latent_scatter", "latent_grid"} & set(cfg.studies)
    if plane and cfg.model.latent != 2:
        raise UserError(
            f"studies {sorted(plane)} draw a plane of codes, but model.latent is "
            f"{cfg.model.latent}; use --model.latent 2"
        )
    if "epoch_scores" in cfg.studies and not cfg.train.monitor:
        raise UserError("study epoch_scores needs the metrics of each epoch; use --train.monitor")
    if cfg.train.monitor and cfg.score not in (
        "mse",
        "mae",
        "bce",
        "max_error",
        "d_of_r",
        "d_of_x",
    ):
        raise UserError(
            f"train.monitor scores before anything is fitted, which score {cfg.score!r} needs; "
            "use mse, mae, bce, max_error, d_of_r or d_of_x"
        )


def run(context: Context) -> dict[str, float]:
    """Carry the studies out; arrays and tables go to the run folder, scalars come back."""
    scalars = {}
    for name in dict.fromkeys((*_ALWAYS, *context.cfg.studies)):
        found = STUDIES[name](context)
        scalars |= found.scalars
        if found.arrays:
            runlog.write_arrays(context.folder / "arrays" / f"{name}.npz", found.arrays)
        if found.table:
            runlog.write_text(context.folder / f"{name}.md", found.table)
    return scalars
