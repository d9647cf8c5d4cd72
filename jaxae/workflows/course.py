"""Training one run, or many side by side: resuming, logging, saving and selecting the epoch.

A single run, an ensemble and the members of a protocol differ only in the number of runs and in the
number of models in each run; everything they share is done here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxae.config import ExperimentConfig
from jaxae.devices import hosts, parallel
from jaxae.devices import members as array_members
from jaxae.errors import UserError
from jaxae.storage import checkpoint, logs, run_folder
from jaxae.training import selection, train
from jaxae.types import Learner, PyTree, Source, TrainState


class Run(NamedTuple):
    """One of the runs that are trained together.

    Attributes:
      cfg: epochs, checkpoints, choice of the epoch and ensemble size are the same in all runs.
      digest: of its data set.
      log: writes its metrics and calls its loggers.
    """

    cfg: ExperimentConfig
    digest: str
    log: logs.Log

    @property
    def name(self) -> str:
        """The name of its folder, which identifies it in a checkpoint of several runs."""
        return self.cfg.run_path.name


class Trained(NamedTuple):
    """The result of training."""

    variables: PyTree  # of the epoch that each run selects [E, ...], on the host
    compile_s: float
    failed: dict[str, str]  # name of a run -> why it has no result


class AllDiverged(FloatingPointError):
    """No run is left to train; `failed` maps the name of each run to the reason."""

    def __init__(self, failed: dict[str, str]):
        super().__init__(in_words(failed) if len(failed) > 1 else next(iter(failed.values())))
        self.failed = failed


class _Start(NamedTuple):
    """Where training starts: at the beginning, or from a checkpoint."""

    epochs: int
    state: TrainState | None
    best: selection.Selected | None
    failed: dict[str, str]


def train_runs(
    runs: Sequence[Run],
    learner: Learner,
    x: Source,
    layout: parallel.Layout,
    members: train.Members,
    measure: train.Measure,
    manager: checkpoint.Manager,
) -> Trained:
    """Train, from the last checkpoint if there is one.

    Args:
      runs: each has the same number of members; those of the first run come first, and so on.
      learner: what to train; see also `jaxae.training.train.fit`.
      x: training rows of all runs.
      layout: the members on their devices.
      members: how the members differ.
      measure: measures the metrics by which epochs are compared.
      manager: of the checkpoints, which all runs share.

    Raises:
      UserError: the checkpoint holds other runs, or more epochs than are asked for.
      AllDiverged: every run has diverged.
    """
    start = _resumed(runs, learner, x.shape[1:], members, manager)
    course = _Course(runs, len(members.steps) // len(runs), layout, manager, start)
    fitted = train.fit(
        learner,
        x,
        runs[0].cfg,
        layout,
        members=members,
        state=start.state,
        measure=measure,
        on_epoch=course.on_epoch,
        on_divergence=course.on_divergence,
    )
    manager.wait_until_finished()
    selected = course.best or fitted.state
    return Trained(layout.fetch(selected.variables), fitted.compile_s, course.failed)


class _Course:
    """After every epoch, gives up the runs that diverged, and logs and saves the others.

    Attributes:
      best: the best epoch of each run so far, if epochs are compared.
      failed: name of a run -> why it has no result.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        size: int,
        layout: parallel.Layout,
        manager: checkpoint.Manager,
        start: _Start,
    ):
        self._runs, self._size, self._layout, self._manager = runs, size, layout, manager
        self.best, self.failed = start.best, start.failed
        self._choice = selection.choice_of(runs[0].cfg)
        self._is_due = checkpoint.due(runs[0].cfg.train)
        logged = {i: run.log.start(start.epochs) for i, run in self._remaining()}
        if self._choice and self.best:
            courses, where = [logged.get(i) for i in range(len(runs))], Path(manager.directory)
            best = selection.with_merits(self._choice, self.best, courses, where)
            self.best = best._replace(variables=layout.place(best.variables))

    def _remaining(self) -> list[tuple[int, Run]]:
        """The runs that have not diverged, with their numbers."""
        return [(i, run) for i, run in enumerate(self._runs) if run.name not in self.failed]

    def on_divergence(self, member: int, problem: str) -> None:
        """Give up the member's run; raises `AllDiverged` if it was the last one."""
        name, number = self._runs[member // self._size].name, member % self._size
        self.failed.setdefault(name, train.of_member(number, self._size, problem))
        if not self._remaining():
            raise AllDiverged(self.failed)

    def on_epoch(
        self, epoch: int, state: TrainState, metrics: train.EpochMetrics
    ) -> train.EpochMetrics:
        """Compare, log and save an epoch."""
        for member, problem in train.not_finite(metrics, f"after epoch {epoch}"):
            self.on_divergence(member, problem)
        if self._choice:
            self.best = selection.keep(
                self._choice, self.best, epoch, state.variables, metrics, len(self._runs),
                self._layout,
            )  # fmt: skip
        # Log before saving the state: resuming deletes the lines of epochs after the saved state.
        common = {name: values for name, values in metrics.items() if not np.ndim(values)}
        by_member = {name: values for name, values in metrics.items() if name not in common}
        for i, run in self._remaining():
            run.log.epoch(epoch, array_members.part(by_member, i, self._size) | common)
        self._show(epoch, state)
        if self._is_due(epoch):
            self._save(epoch, state)
        return metrics

    def _show(self, epoch: int, state: TrainState) -> None:
        """Give loggers the images and histograms they ask for; only process 0 has loggers."""
        asking = [(i, run) for i, run in self._remaining() if run.log.asking(epoch)]
        is_shown = bool(asking)
        if self._layout.groups > 1:  # all processes have to take part in the fetch
            is_shown = hosts.as_first(is_shown)
        if is_shown:
            variables = self._layout.fetch(state.variables)
            for i, run in asking:
                run.log.show(epoch, array_members.part(variables, i, self._size))

    def _save(self, epoch: int, state: TrainState) -> None:
        runs = {run.name: run_folder.about(run.cfg, run.digest) for run in self._runs}
        about, saved, best = {"runs": runs, "failed": self.failed}, self._layout.saved, self.best
        chosen = best and {"epoch": best.epoch, "variables": saved(best.variables)}
        checkpoint.save(self._manager, epoch, saved(state), about, chosen)


def in_words(failed: dict[str, str]) -> str:
    """Why runs have no result."""
    return "; ".join(f"{name}: {why}" for name, why in failed.items())


def _resumed(
    runs: Sequence[Run],
    learner: Learner,
    shape: tuple[int, ...],
    members: train.Members,
    manager: checkpoint.Manager,
) -> _Start:
    """The state of these runs in the last checkpoint, which may hold others that are now finished.

    All arrays are on the host. The merits of the best epochs are -inf here; the logs have them.
    """
    saved = manager.latest_step()
    if saved is None:
        return _Start(0, None, None, {})
    about = checkpoint.about(manager, saved)
    positions = _positions(runs, about, saved, Path(manager.directory))
    shape_of_runs = () if "config" in about else (len(about["runs"]),)  # () in older versions
    epochs, size = np.zeros(shape_of_runs, np.int32), len(members.steps) // len(runs)
    kept = np.concatenate([np.arange(i * size, (i + 1) * size) for i in positions])

    def picked(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[kept], tree)

    template = train.abstract_state(learner, shape, epochs.size * size)
    template = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), template)
    state, best = picked(checkpoint.restore(manager, template, saved)), None
    if (done := train.epochs_done(state, members.steps)) != saved:
        raise UserError(f"{manager.directory / str(saved)} holds {done} epochs; rename it back")
    if selection.choice_of(runs[0].cfg):
        chosen = {"epoch": epochs, "variables": template.variables}
        chosen = checkpoint.restore_chosen(manager, chosen, saved)
        epoch, unknown = np.atleast_1d(chosen["epoch"])[positions], np.full(len(runs), -np.inf)
        best = selection.Selected(epoch, unknown, picked(chosen["variables"]))
    failed = {run.name: why for run in runs if (why := about.get("failed", {}).get(run.name))}
    return _Start(saved, state, best, failed)


def saved_runs(manager: checkpoint.Manager) -> list[str]:
    """The names of the runs that the last checkpoint holds; [] without a checkpoint.

    Raises:
      UserError: the checkpoint is damaged, or an older version wrote it for a grid.
    """
    saved = manager.latest_step()
    about = {} if saved is None else checkpoint.about(manager, saved)
    if "members" in about:
        raise UserError(
            f"{manager.directory} holds unfinished members from an older version, which this one "
            "cannot read; remove it to train them again, or name another --run-dir"
        )
    return [*about.get("runs", {})]


def _positions(runs: Sequence[Run], about: dict, saved: int, folder: Path) -> list[int]:
    """The positions of these runs among those of a checkpoint.

    Raises:
      UserError: a run is missing or has other settings or data, or there are too many epochs.
    """
    cfg = runs[0].cfg
    if saved > cfg.train.epochs:
        raise UserError(
            f"train.epochs is {cfg.train.epochs}, but {folder} holds {saved} epochs; ask for at "
            "least as many, or name another --run-dir"
        )
    stored = {runs[0].name: about} if "config" in about else about.get("runs", {})
    if len(stored) == len(runs) == 1:  # a folder may have been renamed
        stored = {runs[0].name: next(iter(stored.values()))}
    for run in runs:
        if run.name not in stored:
            raise UserError(
                f"{folder} does not hold run {run.name}; remove it, or name another --run-dir"
            )
        run_folder.refuse_other(stored[run.name], run.cfg, run.digest, folder)
    return [[*stored].index(run.name) for run in runs]
