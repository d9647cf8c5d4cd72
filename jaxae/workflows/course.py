"""The course of a training, of one run or of many side by side: resumed, logged, saved, selected.

A run on its own, an ensemble, and the members of a protocol differ in how many runs there are and
in how many models each has; everything else is the same and is done here.
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
      cfg: its epochs, checkpoints, choice of an epoch and size of an ensemble are those of all.
      digest: of its data.
      log: its metrics and loggers.
    """

    cfg: ExperimentConfig
    digest: str
    log: logs.Log

    @property
    def name(self) -> str:
        """The name of its folder, by which a checkpoint of several runs finds it again."""
        return self.cfg.run_path.name


class Trained(NamedTuple):
    """The end of a training."""

    variables: PyTree  # of the epochs that the runs select [E, ...], on the host
    compile_s: float
    failed: dict[str, str]  # name of a run -> why it has no result


class AllDiverged(FloatingPointError):
    """No run is left to train; `failed` says of each by its name why."""

    def __init__(self, failed: dict[str, str]):
        super().__init__(in_words(failed) if len(failed) > 1 else next(iter(failed.values())))
        self.failed = failed


class _Start(NamedTuple):
    """Where a training stands when it begins or goes on."""

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
    """Train from the last checkpoint, if there is one.

    Args:
      runs: equally many members belong to each, in this order.
      learner: see `jaxae.training.train.fit`, which describes the next arguments too.
      x: training rows of all runs.
      layout: the members on their devices.
      members: how they differ.
      measure: metrics of an epoch by which epochs are compared.
      manager: of the checkpoints that all runs share.

    Raises:
      UserError: the checkpoint is of other runs, or of more epochs.
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
    """What happens after every epoch: runs that diverge are given up, the others logged and saved.

    Attributes:
      best: the best epochs so far, if epochs are compared.
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
        logged = {i: run.log.start(start.epochs) for i, run in self._going()}
        if self._choice and self.best:
            epochs, where = [*map(logged.get, range(len(runs)))], Path(manager.directory)
            best = selection.with_merits(self._choice, self.best, epochs, where)
            self.best = best._replace(variables=layout.place(best.variables))

    def _going(self) -> list[tuple[int, Run]]:
        """The runs that are still trained, with their numbers."""
        return [(i, run) for i, run in enumerate(self._runs) if run.name not in self.failed]

    def on_divergence(self, member: int, problem: str) -> None:
        """Give up the member's run; raises `AllDiverged` if it was the last one."""
        name, of_run = self._runs[member // self._size].name, member % self._size
        self.failed.setdefault(name, train.of_member(of_run, self._size, problem))
        if not self._going():
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
        # The log is written before the state: what no state has behind it is dropped on resuming.
        common = {name: values for name, values in metrics.items() if not np.ndim(values)}
        of_members = {name: values for name, values in metrics.items() if name not in common}
        for i, run in self._going():
            run.log.epoch(epoch, array_members.part(of_members, i, self._size) | common)
        self._show(epoch, state)
        if self._is_due(epoch):
            self._save(epoch, state)
        return metrics

    def _show(self, epoch: int, state: TrainState) -> None:
        """Give images and histograms to the loggers that ask for them; only process 0 has any."""
        asking = [(i, run) for i, run in self._going() if run.log.asking(epoch)]
        is_shown = bool(asking)
        if self._layout.groups > 1:  # then all processes have to fetch
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
    """What the last checkpoint holds of these runs; it may hold others, which are finished by now.

    All is on the host. The merits of the best epochs are in the logs.
    """
    saved = manager.latest_step()
    if saved is None:
        return _Start(0, None, None, {})
    about = checkpoint.about(manager, saved)
    at = _positions(runs, about, saved, Path(manager.directory))
    stored = () if "config" in about else (len(about["runs"]),)  # older single runs have a scalar
    epochs, size = np.zeros(stored, np.int32), len(members.steps) // len(runs)
    rows = np.concatenate([np.arange(i * size, (i + 1) * size) for i in at])

    def of_runs(tree: PyTree) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[rows], tree)

    template = train.abstract_state(learner, shape, epochs.size * size)
    template = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), template)
    state, best = of_runs(checkpoint.restore(manager, template, saved)), None
    if (done := train.epochs_done(state, members.steps)) != saved:
        raise UserError(f"{manager.directory / str(saved)} holds {done} epochs; rename it back")
    if selection.choice_of(runs[0].cfg):
        chosen = {"epoch": epochs, "variables": template.variables}
        chosen = checkpoint.restore_chosen(manager, chosen, saved)
        epoch, unknown = np.atleast_1d(chosen["epoch"])[at], np.full(len(runs), -np.inf)
        best = selection.Selected(epoch, unknown, of_runs(chosen["variables"]))
    failed = {run.name: why for run in runs if (why := about.get("failed", {}).get(run.name))}
    return _Start(saved, state, best, failed)


def saved_runs(manager: checkpoint.Manager) -> list[str]:
    """The names of the runs that the last checkpoint holds; [] without a checkpoint.

    Raises:
      UserError: the checkpoint is damaged, or of a grid and from an older version.
    """
    saved = manager.latest_step()
    about = {} if saved is None else checkpoint.about(manager, saved)
    if "members" in about:
        raise UserError(
            f"{manager.directory} holds members in training of an older version, which this one "
            "cannot read; remove it, to train them again, or name another --run-dir"
        )
    return [*about.get("runs", {})]


def _positions(runs: Sequence[Run], about: dict, saved: int, folder: Path) -> list[int]:
    """Which of a checkpoint's runs these are.

    Raises:
      UserError: it holds others, or one with other settings or data, or of more epochs.
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
                f"{folder} holds other runs than {run.name}; remove it, or name another --run-dir"
            )
        run_folder.refuse_other(stored[run.name], run.cfg, run.digest, folder)
    return [[*stored].index(run.name) for run in runs]
