"""Loggers of a run: its `metrics.jsonl`, TensorBoard, and those of users.

`metrics.jsonl` is always written. A `Logger` gets the same numbers, and images, histograms and
tables if it asks for them; docs/logging.md has loggers for other services.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxae.config import ExperimentConfig, to_dict
from jaxae.devices import hosts
from jaxae.errors import UserError
from jaxae.storage import run_folder
from jaxae.types import PyTree


class Media(NamedTuple):
    """What a run shows besides numbers, by name."""

    images: dict[str, Float[np.ndarray, "H W 3"]]  # float32 in [0, 1]
    histograms: dict[str, Float[np.ndarray, " N"]]  # the values themselves
    tables: dict[str, dict[str, list]]  # columns of equal length, by their names


Show = Callable[[PyTree], Media]  # variables [E, ...] -> their media


class Logger:
    """Base class of loggers, which a run calls; each method does nothing unless overridden.

    A resumed run calls `start` again, with the number of epochs already trained. An error in a
    logger ends the run, which can be resumed from its last checkpoint.
    """

    media_every = 0  # epochs from one call of `media` to the next; 0 = only when the run ends

    def start(self, config: dict[str, Any], folder: Path, done: int) -> None:
        """Called before the first epoch; `done` epochs were trained before, in the same `folder`.

        `config` is the content of `config.json` in the folder.
        """

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Called with an epoch's metrics, means over the members; epochs count from 1."""

    def media(self, epoch: int, media: Media) -> None:
        """Called after epochs that are multiples of `media_every`, and before `finish`.

        Computed only for loggers that override it, see `jaxae.reports.media`. The last call adds
        "id", "class_id", "y", "score", "p_value" and "is_anomaly" of the test rows.
        """

    def finish(self, report: dict[str, Any]) -> None:
        """Called with the report; not called if the run is stopped."""


class TensorBoard(Logger):
    """Event files in the run folder's `tensorboard/`; a `UserError` without tensorboardX."""

    media_every = 10

    def __init__(self):
        try:
            import tensorboardX
        except ImportError:
            raise UserError(
                '--tensorboard needs the extra: python -m pip install "jaxae[tensorboard]"'
            ) from None
        self._package = tensorboardX

    def start(self, config: dict[str, Any], folder: Path, done: int) -> None:
        """Open the files; epochs after `done` in existing files are hidden."""
        self._writer = self._package.SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)
        self._writer.add_text("config", f"```\n{config}\n```")

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Write a scalar for each metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def media(self, epoch: int, media: Media) -> None:
        """Write images and histograms; TensorBoard has no tables."""
        for name, image in media.images.items():
            self._writer.add_image(name, image, epoch, dataformats="HWC")
        for name, values in media.histograms.items():
            self._writer.add_histogram(name, values, epoch)

    def finish(self, report: dict[str, Any]) -> None:
        """Write the report's numbers, and close the files."""
        for name, value in report.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._writer.add_scalar(f"report/{name}", value)
        self._writer.close()


class Log:
    """Writes `metrics.jsonl` and calls the loggers.

    Args:
      cfg: the run's configuration.
      folder: the run's folder.
      loggers: those to call.
      show: computes media; called only for loggers that ask for them.
    """

    def __init__(
        self,
        cfg: ExperimentConfig,
        folder: Path,
        loggers: Sequence[Logger],
        show: Show,
    ):
        self.path = folder / "metrics.jsonl"
        self._cfg, self._folder, self._loggers, self._show = cfg, folder, loggers, show
        self._showing = [logger for logger in loggers if type(logger).media is not Logger.media]

    def start(self, done: int) -> list[dict[str, Any]]:
        """Start, or resume after `done` epochs: deletes later ones and returns the others."""
        kept = run_folder.start_metrics(self.path, done)
        for logger in self._loggers:
            logger.start(to_dict(self._cfg), self._folder, done)
        return kept

    def epoch(self, epoch: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Add an epoch."""
        means = run_folder.append_metrics(self.path, epoch, metrics)
        for logger in self._loggers:
            logger.epoch(epoch, means)

    def asking(self, epoch: int) -> list[Logger]:
        """The loggers that want media of an epoch; those of the last one come with the end."""
        return [
            logger
            for logger in self._showing
            if logger.media_every and epoch % logger.media_every == 0
            if epoch < self._cfg.train.epochs
        ]

    def show(self, epoch: int, variables: PyTree) -> None:
        """Compute the media of an epoch for the loggers that want them."""
        media = self._show(variables)
        for logger in self.asking(epoch):
            logger.media(epoch, media)

    def finish(self, report: dict[str, Any], media: Callable[[Show], Media]) -> None:
        """Pass the loggers the media that `media` makes of the finished run, then the report."""
        if self._showing:
            shown = media(self._show)
            for logger in self._showing:
                logger.media(self._cfg.train.epochs, shown)
        for logger in self._loggers:
            logger.finish(report)


def configured(cfg: ExperimentConfig, loggers: Sequence[Logger] = ()) -> list[Logger]:
    """`loggers`, and TensorBoard if `cfg` enables it; none on processes other than the first."""
    if not hosts.first():
        return []
    return [*loggers, *([TensorBoard()] if cfg.tensorboard else [])]
