"""Who is told how a run goes: its own log, TensorBoard, and any logger of the user's.

`metrics.jsonl` is always written. A `Logger` hears the same; one for another service is ten lines,
see docs/logging.md.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxae.config import ExperimentConfig, to_dict
from jaxae.devices import hosts
from jaxae.errors import UserError
from jaxae.storage import runlog


class Logger:
    """Hears how a run goes; every method may be left as it is.

    A run that was stopped and goes on starts its loggers again, with the epochs that are behind it.
    What a logger raises ends the run, which resumes after its last checkpoint.
    """

    def start(self, config: dict[str, Any], folder: Path, done: int) -> None:
        """Hear the configuration, before the first epoch that is trained now.

        Args:
          config: as `config.json` has it.
          folder: of the run.
          done: epochs that are behind it.
        """

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """Hear an epoch's metrics, means over the members; epochs count from 1."""

    def finish(self, report: dict[str, Any]) -> None:
        """Hear the report; not called where the run was stopped."""


class TensorBoard(Logger):
    """Event files in the run folder's `tensorboard/`, written by tensorboardX.

    Raises:
      UserError: the package is not installed.
    """

    def __init__(self):
        try:
            import tensorboardX
        except ImportError:
            raise UserError(
                '--tensorboard needs the extra: python -m pip install "jaxae[tensorboard]"'
            ) from None
        self._package = tensorboardX

    def start(self, config: dict[str, Any], folder: Path, done: int) -> None:
        """Open the files; epochs after `done` in older ones are hidden by the new ones."""
        self._writer = self._package.SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1)
        self._writer.add_text("config", f"```\n{config}\n```")

    def epoch(self, epoch: int, metrics: dict[str, float]) -> None:
        """A scalar for each metric."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, epoch)
        self._writer.flush()

    def finish(self, report: dict[str, Any]) -> None:
        """The report's numbers, and the end."""
        for name, value in report.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                self._writer.add_scalar(f"report/{name}", value)
        self._writer.close()


class Log:
    """`metrics.jsonl` and everyone who hears the same."""

    def __init__(self, cfg: ExperimentConfig, folder: Path, loggers: Sequence[Logger]):
        self.path = folder / "metrics.jsonl"
        self._cfg, self._folder, self._loggers = cfg, folder, loggers

    def start(self, done: int) -> list[dict[str, Any]]:
        """Begin, or go on after so many epochs; what the log has of later ones is dropped.

        Returns:
          The epochs that stay.
        """
        runlog.start_metrics(self.path, done)
        for logger in self._loggers:
            logger.start(to_dict(self._cfg), self._folder, done)
        return runlog.read_metrics(self.path)

    def epoch(self, epoch: int, metrics: Mapping[str, np.ndarray]) -> None:
        """Add an epoch."""
        runlog.append_metrics(self.path, epoch, metrics)
        means = {name: float(np.mean(values)) for name, values in metrics.items()}
        for logger in self._loggers:
            logger.epoch(epoch, means)

    def finish(self, report: dict[str, Any]) -> None:
        """Tell the loggers the end."""
        for logger in self._loggers:
            logger.finish(report)


def configured(cfg: ExperimentConfig, loggers: Sequence[Logger] = ()) -> list[Logger]:
    """The loggers that a configuration asks for, beside those given; of several processes, one's.

    Raises:
      UserError: TensorBoard's package is not installed.
    """
    if not hosts.first():
        return []
    return [*loggers, *([TensorBoard()] if cfg.tensorboard else [])]
