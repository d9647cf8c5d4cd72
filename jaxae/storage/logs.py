"""Loggers of a run: its `metrics.jsonl`, TensorBoard, and those of users.

`metrics.jsonl` is always written. A `Logger` gets the same numbers; a logger for another service
takes ten lines, see docs/logging.md.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxae.config import ExperimentConfig, to_dict
from jaxae.devices import hosts
from jaxae.errors import UserError
from jaxae.storage import run_folder


class Logger:
    """Base class of loggers, which a run calls; each method does nothing unless overridden.

    A resumed run calls `start` again, with the number of epochs already trained. An error in a
    logger ends the run, which can be resumed from its last checkpoint.
    """

    def start(self, config: dict[str, Any], folder: Path, done: int) -> None:
        """Called before the first epoch; `done` epochs were trained before, in the same `folder`.

        `config` is the content of `config.json` in the folder.
        """

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Called with an epoch's metrics, means over the members; epochs count from 1."""

    def finish(self, report: dict[str, Any]) -> None:
        """Called with the report; not called if the run is stopped."""


class TensorBoard(Logger):
    """Event files in the run folder's `tensorboard/`; a `UserError` without tensorboardX."""

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

    def finish(self, report: dict[str, Any]) -> None:
        """Write the report's numbers, and close the files."""
        for name, value in report.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._writer.add_scalar(f"report/{name}", value)
        self._writer.close()


class Log:
    """Writes `metrics.jsonl` and calls the loggers."""

    def __init__(self, cfg: ExperimentConfig, folder: Path, loggers: Sequence[Logger]):
        self.path = folder / "metrics.jsonl"
        self._cfg, self._folder, self._loggers = cfg, folder, loggers

    def start(self, done: int) -> list[dict[str, Any]]:
        """Start, or resume after `done` epochs: later ones are deleted, the others returned."""
        kept = run_folder.start_metrics(self.path, done)
        for logger in self._loggers:
            logger.start(to_dict(self._cfg), self._folder, done)
        return kept

    def epoch(self, epoch: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Add an epoch."""
        means = run_folder.append_metrics(self.path, epoch, metrics)
        for logger in self._loggers:
            logger.epoch(epoch, means)

    def finish(self, report: dict[str, Any]) -> None:
        """Pass the report to the loggers."""
        for logger in self._loggers:
            logger.finish(report)


def configured(cfg: ExperimentConfig, loggers: Sequence[Logger] = ()) -> list[Logger]:
    """`loggers`, and TensorBoard if `cfg` enables it; none on processes other than the first."""
    if not hosts.first():
        return []
    return [*loggers, *([TensorBoard()] if cfg.tensorboard else [])]
