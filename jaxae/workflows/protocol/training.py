"""Training the members of a protocol side by side, and finishing them one by one."""

import contextlib
import functools
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxae import config, detectors
from jaxae.config import DataConfig, ExperimentConfig
from jaxae.config.grids import ProtocolConfig
from jaxae.data import sources
from jaxae.devices import hosts, members, parallel
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.reports import derived, media
from jaxae.storage import checkpoint, disk, logs, manifest, run_folder
from jaxae.training import grid, selection, train
from jaxae.types import Dataset, Learner, PyTree, Source, TrainState
from jaxae.workflows import course, experiment
from jaxae.workflows.protocol import sharing
from jaxae.workflows.protocol.expansion import training_of

Datasets = dict[DataConfig, Dataset]  # one for each class
Failed = dict[str, str]  # name of a member -> why it has no detector
Loggers = Callable[[ExperimentConfig], Sequence[logs.Logger]]  # member -> its loggers


class Opened(NamedTuple):
    """A member whose folder is locked by this process."""

    dataset: Dataset
    folder: Path
    log: logs.Log


class Work(NamedTuple):
    """The members that are trained in one program."""

    members: list[ExperimentConfig]
    datasets: Datasets
    learner: Learner
    layout: parallel.Layout
    rows: Source  # of all classes, each stored once
    placed: list[grid.Member]  # with the positions of their rows


def _work(cfg: ProtocolConfig, todo: list[ExperimentConfig], datasets: Datasets) -> Work:
    """What to train; raises a `UserError` if that cannot work, before any file exists."""
    shape = next(iter(datasets.values())).shape
    settings = [learners.build(member, shape, axis=None).settings for member in todo]
    for member, values in zip(todo, settings, strict=True):
        if differing := values.keys() ^ settings[0].keys():
            raise UserError(
                f"{member.run_path.name} needs another program than {todo[0].run_path.name}: a "
                f"sweep over {', '.join(sorted(differing))} cannot mix 0 with other values; run "
                "the protocol once with 0 and once with the others"
            )
    parts: list[Source] = []
    positions: dict[DataConfig, list[np.ndarray]] = {}  # of training and of valid rows
    for k in dict.fromkeys(member.data for member in todo):
        positions[k] = []
        for split in (datasets[k].train, datasets[k].valid):
            positions[k].append(sum(map(len, parts)) + np.arange(len(split.x)))
            parts.append(split.x)
    placed = [
        grid.Member(member, values, *positions[member.data])
        for member, values in zip(todo, settings, strict=True)
    ]
    learner, layout = grid.learner_and_layout(placed, shape, cfg.devices)
    learner = run_folder.with_stored_tuning(cfg.run_path, learner)
    return Work(todo, datasets, learner, layout, sources.joined(*parts), placed)


def train_members(
    cfg: ProtocolConfig,
    todo: list[ExperimentConfig],
    datasets: Datasets,
    loggers: Loggers,
    finished: sharing.Finished,
) -> list[ExperimentConfig]:
    """Train the remaining members side by side, then finish them one after the other.

    Members in a checkpoint resume from it; those that were added later train after them. With
    several processes, the first one finishes all members.

    Returns:
      The members that were left to another call, which trains them at the same time.

    Raises:
      UserError: members need different programs, they do not fit on the devices, or a folder
        contains something else.
      FloatingPointError: members that diverged or collapsed; all others are finished.
    """
    stored = {member: _trained_before(member, datasets[member.data]) for member in todo}
    new = [member for member in todo if stored[member] is None]
    hosts.agree({"members without a detector": [member.run_path.name for member in new]})
    learner = learners.build(config.for_scoring(todo[0]), next(iter(datasets.values())).shape)
    logs.configured(todo[0])  # raises before any file exists, as does `_work`
    work = _work(cfg, new, datasets) if new else None
    failed: Failed = {}
    with (
        sharing.claimed(cfg, todo, finished) as mine,
        _opened(cfg, mine, datasets, loggers, learner) as opened,
    ):
        new = [member for member in new if member in opened]
        for checkpoints, batch in _batches(cfg, new) if new else ():
            if work is None or batch != work.members:
                work = _work(cfg, batch, datasets)
            if hosts.first():
                run_folder.write_tuning(cfg.run_path, work.learner)
            trained, diverged = _fitted(work, opened, checkpoints)
            failed |= diverged | _finish_all(trained, learner, opened)
        trained_before = {m: stored[m] for m in mine if stored[m] is not None}
        for member in trained_before:
            opened[member].log.start(member.train.epochs)
        failed |= _finish_all(trained_before, learner, opened)
        if mine and not failed:
            _remove_checkpoints(cfg)
    if failed:
        raise FloatingPointError(course.in_words(failed))
    return [member for member in todo if member not in opened]


@contextlib.contextmanager
def _opened(
    cfg: ProtocolConfig,
    mine: list[ExperimentConfig],
    datasets: Datasets,
    loggers: Loggers,
    learner: Learner,
) -> Iterator[dict[ExperimentConfig, Opened]]:
    """Enter the folders of members that this process has locked, which withdraws the report."""
    with contextlib.ExitStack() as entered:
        opened: dict[ExperimentConfig, Opened] = {}
        with reported(cfg) if mine else contextlib.nullcontext():
            if mine and hosts.first():
                manifest.withdraw(cfg.run_path)
                derived.withdraw(cfg.run_path)
            for member in mine:
                dataset, its_loggers = (
                    datasets[member.data],
                    logs.configured(member, loggers(member)),
                )
                enter = run_folder.enter(member, dataset.digest, by_caller=True)
                folder = entered.enter_context(enter)
                log = media.log_of(member, folder, its_loggers, learner, dataset)
                opened[member] = Opened(dataset, folder, log)
        yield opened


@contextlib.contextmanager
def reported(cfg: ProtocolConfig) -> Iterator[None]:
    """Nobody else makes or withdraws the protocol's report meanwhile; by process 0 only."""
    with contextlib.ExitStack() as lock:
        if hosts.first():
            lock.enter_context(run_folder.locked(cfg.run_path, wait=True))
            lock.enter_context(run_folder.system_errors(cfg.run_path))
        yield


def _remove_checkpoints(cfg: ProtocolConfig) -> None:
    """Remove those of finished members, which another call may have put on record by now."""
    with reported(cfg):
        for checkpoints in filter(Path.is_dir, _checkpoints(cfg)) if hosts.first() else ():
            manifest.withdraw(cfg.run_path)
            shutil.rmtree(checkpoints)


def _checkpoints(cfg: ProtocolConfig) -> list[Path]:
    """Folders of checkpoints in the order of training, kept until all members are finished."""
    first = cfg.run_path / "checkpoints" / sharing.name_of(cfg)
    return [first, *sorted(first.parent.glob(f"{first.name}-then-*"))]


def _batches(
    cfg: ProtocolConfig, new: list[ExperimentConfig]
) -> Iterator[tuple[Path, list[ExperimentConfig]]]:
    """Groups of members that are trained together, each with the folder of its checkpoints."""
    first, *others = _checkpoints(cfg)
    for folder in (first, *others, first.with_name(f"{first.name}-then-{len(others) + 2}")):
        with checkpoint.opened(folder, new[0].train) as manager:
            saved = course.saved_runs(manager)
        batch = [member for member in new if member.run_path.name in saved] if saved else new
        new = [member for member in new if member not in batch]
        if batch:
            yield folder, batch
        if not new:
            return


def _trained_before(member: ExperimentConfig, dataset: Dataset) -> PyTree:
    """The variables of a trained member that only needs scoring again; None = it must train."""
    try:
        detector = detectors.load(member.run_path / "detector")
    except UserError:
        return None
    about = detector.about
    is_same = training_of(about.config) == training_of(member)
    return detector.variables if is_same and about.data_digest == dataset.digest else None


def _fitted(
    work: Work, opened: dict[ExperimentConfig, Opened], checkpoints: Path
) -> tuple[dict[ExperimentConfig, PyTree], Failed]:
    """The variables of members after (resumed) training, and the members that diverged."""
    runs = [
        course.Run(member, opened[member].dataset.digest, opened[member].log)
        for member in work.members
    ]
    with checkpoint.opened(checkpoints, work.members[0].train) as manager:
        try:
            variables, _, failed = course.train_runs(
                runs,
                work.learner,
                work.rows,
                work.layout,
                grid.members_of(work.placed),
                _measure(work),
                manager,
            )
        except course.AllDiverged as error:  # others may still have to be trained or scored
            return {}, error.failed
    size = work.members[0].ensemble
    trained = {m: members.part(variables, i, size) for i, m in enumerate(work.members)}
    return {m: model for m, model in trained.items() if m.run_path.name not in failed}, failed


def _measure(work: Work) -> train.Measure:
    """Measures validation losses after each epoch, and what monitoring or selection asks for."""
    losses = grid.valid_losses(work.learner, work.rows, work.placed, work.layout)
    first = work.members[0]
    if not first.train.monitor and first.train.select in ("last", "valid_loss"):
        return losses
    watch_of_class = {
        k: selection.watch(first, work.learner, work.datasets[k], jax.local_devices())
        for k in dict.fromkeys(member.data for member in work.members)
    }

    def begin(state: TrainState) -> train.Measured:
        begun = losses(state)

        def measured() -> train.EpochMetrics:
            variables, metrics = work.layout.fetch(state.variables), []
            for i, member in enumerate(work.placed):
                size = member.cfg.ensemble
                settings = {n: np.full(size, value, "f") for n, value in member.settings.items()}
                watch = watch_of_class[member.cfg.data]
                metrics.append(watch(members.part(variables, i, size), settings)())
            return begun() | jax.tree.map(lambda *values: np.concatenate(values), *metrics)

        return measured

    return begin


def _finish_all(
    variables: dict[ExperimentConfig, PyTree],
    learner: Learner,
    opened: dict[ExperimentConfig, Opened],
) -> Failed:
    """Write the files that `experiment.run` writes for each member, without figures.

    Returns:
      The members whose model collapsed.
    """
    failed: Failed = {}
    if not variables or not hosts.first():
        return failed
    with train.progress_bar(len(variables), 0, False, "finishing", "member") as bar:
        for member, model in variables.items():
            dataset, folder, log = opened[member]
            (folder / "report.json").unlink(missing_ok=True)  # until its scores are new: unfinished
            try:
                detector, scores, report = experiment.finish(
                    member, learner, learner, model, dataset, jax.local_devices(), folder
                )
                disk.write_json(folder / "report.json", report)
                judged = {"data": dataset, "detector": detector, "scores": scores}
                log.finish(report, functools.partial(media.of_run, **judged))
                manifest.seal(folder)
            except FloatingPointError as error:
                failed[member.run_path.name] = str(error)
            bar.update()
    return failed
