"""The course of a training, of one run or of many side by side: resumed, logged, saved, selected.

A run on its own, an ensemble, and the members of a protocol differ in how many runs there are and
in how many members each has; everything else is the same and is done here.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxae.config import ExperimentConfig
from jaxae.devices import parallel
from jaxae.errors import UserError
from jaxae.storage import checkpoint, logs, run_folder
from jaxae.training import selection, train
from jaxae.types import Learner, PyTree, Source, TrainState


class Run(NamedTuple):
    """One of the runs that are trained together.

    Attributes:
      cfg: its epochs, checkpoints and choice of an epoch are those of all.
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


class _Start(NamedTuple):
    """Where a training stands when it begins or goes on."""

    done: int  # epochs
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
      runs: as many members belong to each, in this order.
      learner: see `jaxae.training.train.fit`, which describes the next arguments too.
      x: training rows of all runs.
      layout: the members on their devices.
      members: how they differ.
      measure: metrics of an epoch by which epochs are compared.
      manager: of the checkpoints that all runs share.

    Raises:
      UserError: the checkpoint is of other runs, or of more epochs.
      FloatingPointError: every run has diverged.
    """
    cfg, size = runs[0].cfg, len(members.steps) // len(runs)
    choice, is_due = selection.choice_of(cfg), checkpoint.due(cfg.train)
    done, state, best, failed = _resumed(runs, size, learner, x.shape[1:], layout, manager)
    if state is not None and (epochs := train.epochs_done(state, members.steps)) != done:
        raise UserError(f"{manager.directory / str(done)} holds {epochs} epochs; rename it back")
    lines = {run.name: run.log.start(done) for run in runs if run.name not in failed}
    if best:
        courses = [lines.get(run.name) for run in runs]
        best = selection.with_merits(choice, best, courses, Path(manager.directory))
        best = best._replace(variables=layout.place(best.variables))

    def on_divergence(member: int, problem: str) -> None:
        run = runs[member // size].name
        failed.setdefault(run, train.of_member(member % size, size, problem))
        if len(failed) == len(runs):
            raise FloatingPointError(in_words(failed) if len(runs) > 1 else failed[run])

    def on_epoch(epoch: int, state: TrainState, metrics: train.EpochMetrics) -> train.EpochMetrics:
        nonlocal best
        for member, problem in train.not_finite(metrics, f"after epoch {epoch}"):
            on_divergence(member, problem)
        if choice:
            best = selection.keep(choice, best, epoch, state.variables, metrics, len(runs), layout)
        # The log is written before the state: what no state has behind it is dropped on resuming.
        for i, run in enumerate(runs):
            if run.name not in failed:
                run.log.epoch(epoch, _part(metrics, slice(i * size, (i + 1) * size)))
        if is_due(epoch):
            about = {run.name: run_folder.about(run.cfg, run.digest) for run in runs}
            about = {"runs": about, "failed": failed}
            chosen = best and {"epoch": best.epoch, "variables": layout.saved(best.variables)}
            checkpoint.save(manager, epoch, layout.saved(state), about, chosen)
        return metrics

    fitted = train.fit(
        learner,
        x,
        cfg,
        layout,
        members=members,
        state=state,
        measure=measure,
        on_epoch=on_epoch,
        on_divergence=on_divergence,
    )
    manager.wait_until_finished()
    return Trained(layout.fetch((best or fitted.state).variables), fitted.compile_s, failed)


def in_words(failed: dict[str, str]) -> str:
    """Why runs have no result."""
    return "; ".join(f"{name}: {why}" for name, why in failed.items())


def _part(metrics: train.EpochMetrics, of: slice) -> train.EpochMetrics:
    """The metrics of some members; what has one value for all members stays as it is."""
    return {name: values[of] if np.ndim(values) else values for name, values in metrics.items()}


def _resumed(
    runs: Sequence[Run],
    size: int,
    learner: Learner,
    shape: tuple[int, ...],
    layout: parallel.Layout,
    manager: checkpoint.Manager,
) -> _Start:
    """What the last checkpoint holds of these runs; it may hold others, which are finished by now.

    The merits of the best epochs are in the logs.
    """
    saved = manager.latest_step()
    if saved is None:
        return _Start(0, None, None, {})
    about = checkpoint.about(manager, saved)
    at = _positions(runs, about, saved, manager)
    stored = () if "config" in about else (len(about["runs"]),)  # older single runs have a scalar
    epochs = np.zeros(stored, np.int32)
    template = train.abstract_state(learner, shape, epochs.size * size)
    is_same = at == [*range(epochs.size)]
    if layout.groups == 1 and is_same:
        template = parallel.placed_like(template, layout.devices)
    else:  # on the host, to be placed again
        template = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), template)
    state = checkpoint.restore(manager, template, saved)
    best = None
    if selection.choice_of(runs[0].cfg):
        chosen = {"epoch": epochs, "variables": template.variables}
        chosen = checkpoint.restore_chosen(manager, chosen, saved)
        merits = np.full(epochs.size, -np.inf)
        best = selection.Selected(np.atleast_1d(chosen["epoch"]), merits, chosen["variables"])
    if not is_same:
        rows = np.concatenate([np.arange(i * size, (i + 1) * size) for i in at])
        state = jax.tree.map(lambda leaf: leaf[rows], state)
        if best:
            variables = jax.tree.map(lambda leaf: leaf[rows], best.variables)
            best = selection.Selected(best.epoch[at], best.merit[at], variables)
    failed = {run.name: why for run in runs if (why := about.get("failed", {}).get(run.name))}
    return _Start(saved, state, best, failed)


def _positions(
    runs: Sequence[Run], about: dict, saved: int, manager: checkpoint.Manager
) -> list[int]:
    """Which of a checkpoint's runs these are.

    Raises:
      UserError: it holds others, or one with other settings or data, or of more epochs.
    """
    cfg, folder = runs[0].cfg, Path(manager.directory)
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
