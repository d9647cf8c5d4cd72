"""Training the members of a protocol side by side, and finishing them one by one."""

import contextlib
import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxae import config, detectors
from jaxae.config import DataConfig, ExperimentConfig
from jaxae.config.checks import training_identity
from jaxae.config.grids import ProtocolConfig
from jaxae.data import sources
from jaxae.devices import members, parallel
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.reports import media
from jaxae.storage import checkpoint, disk, logs, run_folder
from jaxae.training import grid, selection, train
from jaxae.types import Dataset, Learner, PyTree, TrainState
from jaxae.workflows import course, experiment

Failed = dict[str, str]  # name of a member -> why it has no detector


class Work(NamedTuple):
    """The E members that a call trains in one program."""

    members: list[ExperimentConfig]
    datasets: dict[DataConfig, Dataset]  # one for each class
    learner: Learner
    layout: parallel.Layout
    rows: np.ndarray  # of all classes, once
    placed: list[grid.Member]  # where each finds its own


def _work(
    cfg: ProtocolConfig, todo: list[ExperimentConfig], datasets: dict[DataConfig, Dataset]
) -> Work:
    shape = next(iter(datasets.values())).shape
    learner = run_folder.with_stored_tuning(cfg.run_path, learners.build(todo[0], shape, axis=None))
    settings = [learners.build(member, shape, axis=None).settings for member in todo]
    for member, values in zip(todo, settings, strict=True):
        if values.keys() != learner.settings.keys():
            raise UserError(
                f"{member.run_path.name} needs another program than {todo[0].run_path.name}: a "
                "sweep over train.noise_std cannot mix 0 with other values"
            )
    rows: list[np.ndarray] = []
    positions: dict[DataConfig, list[np.ndarray]] = {}  # of training and of valid rows
    for k in dict.fromkeys(member.data for member in todo):
        positions[k] = []
        for split in (datasets[k].train, datasets[k].valid):
            first = sum(map(len, rows))
            rows.append(sources.read(split.x))
            positions[k].append(np.arange(first, first + len(rows[-1])))
    placed = [
        grid.Member(member, values, *positions[member.data])
        for member, values in zip(todo, settings, strict=True)
    ]
    layout = grid.layout_for(learner, placed, shape, cfg.devices)
    return Work(todo, datasets, learner, layout, np.concatenate(rows), placed)


def train_members(
    cfg: ProtocolConfig,
    todo: list[ExperimentConfig],
    datasets: dict[DataConfig, Dataset],
    loggers: Callable[[ExperimentConfig], Sequence[logs.Logger]],
) -> None:
    """Train the remaining members side by side, then finish them one after the other.

    Raises:
      UserError: members need different programs, they do not fit on the devices, or a folder
        contains something else or is in use.
      FloatingPointError: members that diverged or collapsed; all others are finished.
    """
    variables = {member: _trained_before(member, datasets[member.data]) for member in todo}
    fresh = [member for member in todo if variables[member] is None]
    work = _work(cfg, fresh, datasets) if fresh else None
    loggers_of = {member: logs.configured(member, loggers(member)) for member in todo}
    shape = next(iter(datasets.values())).shape
    learner = learners.build(config.for_scoring(todo[0]), shape)
    failed: Failed = {}
    with contextlib.ExitStack() as locks:
        folders = {
            member: locks.enter_context(run_folder.enter(member, datasets[member.data].digest))
            for member in todo
        }
        log = {}
        for member, folder in folders.items():
            show = functools.partial(media.of_epoch, member, learner, datasets[member.data])
            log[member] = logs.Log(member, folder, loggers_of[member], show)
        for member in todo:
            if member not in fresh:
                log[member].start(member.train.epochs)
        if work:
            run_folder.write_tuning(cfg.run_path, work.learner)
            trained, failed = _fitted(cfg, work, log)
            variables |= trained
        for member, folder in folders.items():
            if folder.name in failed:
                continue
            data = datasets[member.data]
            try:
                _finish(member, learner, variables[member], data, folder, log[member])
            except FloatingPointError as error:
                failed[folder.name] = str(error)
        if work and not failed:
            shutil.rmtree(_checkpoints(cfg))
    if failed:
        raise FloatingPointError(course.in_words(failed))


def _trained_before(member: ExperimentConfig, dataset: Dataset) -> PyTree:
    """The variables of a trained member that only needs scoring again; None = it must train."""
    try:
        detector = detectors.load(member.run_path / "detector")
    except UserError:
        return None
    about = detector.about
    same = training_identity(about.config) == training_identity(member)
    same &= about.config.train.epochs == member.train.epochs
    return detector.variables if same and about.data_digest == dataset.digest else None


def _fitted(
    cfg: ProtocolConfig, work: Work, log: Mapping[ExperimentConfig, logs.Log]
) -> tuple[dict[ExperimentConfig, PyTree], Failed]:
    """The variables of members after (resumed) training, and the members that diverged."""
    runs = [
        course.Run(member, work.datasets[member.data].digest, log[member])
        for member in work.members
    ]
    with checkpoint.opened(_checkpoints(cfg), work.members[0].train) as manager:
        trained = course.train_runs(
            runs,
            work.learner,
            work.rows,
            work.layout,
            grid.members_of(work.placed),
            _measure(work),
            manager,
        )
    variables = jax.device_get(trained.variables)
    by_member = {member: members.only(variables, i) for i, member in enumerate(work.members)}
    return by_member, trained.failed


def _checkpoints(cfg: ProtocolConfig) -> Path:
    """The folder of this call's checkpoints, which exists until its members are finished."""
    return cfg.run_path / "checkpoints" / (cfg.members.replace(":", "-") or "all")


def _measure(work: Work) -> train.Measure:
    """Begins what is asked for after each epoch: the validation loss, and what monitors."""
    losses = grid.valid_losses(work.learner, work.rows, work.placed, work.layout)
    first = work.members[0]
    if not first.train.monitor and first.train.select in ("last", "valid_loss"):
        return losses
    watch_class = {
        k: selection.watch(first, work.learner, work.datasets[k], jax.local_devices())
        for k in dict.fromkeys(member.data for member in work.members)
    }

    def begin(state: TrainState) -> train.Measured:
        begun = losses(state)

        def measured() -> train.EpochMetrics:
            variables, metrics = work.layout.fetch(state.variables), []
            for i, member in enumerate(work.placed):
                settings = {name: np.float32([value]) for name, value in member.settings.items()}
                watch = watch_class[member.cfg.data]
                metrics.append(watch(members.only(variables, i), settings)())
            return begun() | jax.tree.map(lambda *values: np.concatenate(values), *metrics)

        return measured

    return begin


def _finish(
    member: ExperimentConfig,
    learner: Learner,
    variables: PyTree,
    dataset: Dataset,
    folder: Path,
    log: logs.Log,
) -> None:
    """Write the files that `experiment.run` writes for a member, without figures."""
    detector, scores, report = experiment.finish(
        member, learner, variables, dataset, jax.local_devices(), folder
    )
    report["warnings"] = experiment.warnings(learner, learner, detector, scores, dataset)
    disk.write_json(folder / "report.json", report)
    log.finish(report, lambda show: media.of_run(show, dataset, detector, scores))
