"""Training the members of a protocol side by side, and finishing each on its own."""

import contextlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxae import config, detectors
from jaxae.config import DataConfig, ExperimentConfig
from jaxae.config.grids import ProtocolConfig
from jaxae.config.identity import training_identity
from jaxae.data import sources
from jaxae.detectors import guards
from jaxae.devices import members, parallel
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.reports import reporting
from jaxae.storage import checkpoint, runfiles, runlog
from jaxae.training import grid, selection, train
from jaxae.types import Dataset, Learner, PyTree


class Work(NamedTuple):
    """What a call has to train."""

    members: list[ExperimentConfig]
    datasets: dict[DataConfig, Dataset]  # one for each class
    learner: Learner
    devices: list[jax.Device]


def _work(
    cfg: ProtocolConfig, todo: list[ExperimentConfig], datasets: dict[DataConfig, Dataset]
) -> Work:
    shape = next(iter(datasets.values())).shape
    learner = runlog.with_stored_tuning(cfg.run_path, learners.build(todo[0], shape, axis=None))
    for member in todo:
        settings = learners.build(member, shape, axis=None).settings
        if settings.keys() != learner.settings.keys():
            raise UserError(
                f"{member.run_path.name} is another program than {todo[0].run_path.name}: a sweep "
                "over train.noise_std cannot hold 0 and other values"
            )
    devices = grid.devices_for(learner, len(todo), shape, cfg.devices)
    return Work(todo, datasets, learner, devices)


def train_members(
    cfg: ProtocolConfig, todo: list[ExperimentConfig], datasets: dict[DataConfig, Dataset]
) -> None:
    """Train members side by side, then finish one after the other.

    Args:
      cfg: of the whole protocol.
      todo: the members.
      datasets: of their classes.

    Raises:
      UserError: members that are not one program, more than the devices can hold, or a folder that
        holds something else or is in use.
      FloatingPointError: members that diverged or collapsed; all others are finished.
    """
    shape = next(iter(datasets.values())).shape
    states = {member: _trained_before(member, datasets[member.data]) for member in todo}
    fresh = [member for member, state in states.items() if state is None]
    work = _work(cfg, fresh, datasets) if fresh else None
    with contextlib.ExitStack() as held:
        folders = {
            member: held.enter_context(runlog.enter(member, datasets[member.data].digest))
            for member in todo
        }
        if work:
            runlog.write_tuning(cfg.run_path, work.learner)
        found, failed = _fitted(cfg, work, [folders[m] for m in fresh]) if work else ({}, {})
        states |= found
        judging = learners.build(config.for_scoring(todo[0]), shape)
        for member in (member for member in todo if member not in failed):
            dataset = datasets[member.data]
            try:
                _finish(dataset, member, judging, folders[member], states[member])
            except FloatingPointError as error:
                failed[member] = str(error)
        if work and not failed:
            shutil.rmtree(_checkpoints(cfg))
    if failed:
        words = (f"{folders[member].name}: {why}" for member, why in failed.items())
        raise FloatingPointError("; ".join(words))


def _trained_before(member: ExperimentConfig, dataset: Dataset) -> PyTree:
    """The variables of a member that is only to be scored in another way; None = it must train."""
    try:
        detector = detectors.load(member.run_path / "detector")
    except UserError:
        return None
    about = detector.about
    same = training_identity(about.config) == training_identity(member)
    same &= about.config.train.epochs == member.train.epochs
    return detector.variables if same and about.data_digest == dataset.digest else None


def _resident(work: Work) -> tuple[np.ndarray, list[grid.Member]]:
    """The rows of all members, once, and where each finds its own."""
    parts, at, first = [], {}, 0
    for of in dict.fromkeys(member.data for member in work.members):
        dataset = work.datasets[of]
        train_rows, valid_rows = sources.read(dataset.train.x), sources.read(dataset.valid.x)
        parts += [train_rows, valid_rows]
        middle = first + len(train_rows)
        at[of] = np.arange(first, middle), np.arange(middle, middle + len(valid_rows))
        first = middle + len(valid_rows)
    placed = [
        grid.Member(
            member, learners.build(member, parts[0].shape[1:], None).settings, *at[member.data]
        )
        for member in work.members
    ]
    return np.concatenate(parts), placed


def _fitted(
    cfg: ProtocolConfig, work: Work, folders: Sequence[Path]
) -> tuple[dict[ExperimentConfig, PyTree], dict[ExperimentConfig, str]]:
    """The variables of members after their training, from where it stood, and who diverged."""
    rows, placed = _resident(work)
    choice = selection.CHOICES[cfg.train.select]
    about = {folder.name: _about(work, m) for folder, m in zip(folders, work.members, strict=True)}
    logs = {name: folder / "metrics.jsonl" for name, folder in zip(about, folders, strict=True)}
    with checkpoint.open_manager(_checkpoints(cfg), 1) as manager:
        progress, done, failed = _resumed(cfg, work, placed, about, manager)
        for name in (name for name in about if name not in failed):
            runlog.start_metrics(logs[name], done)
        if _keeps(cfg) and done:
            merits = _merits(choice, progress.kept_epoch, logs, failed)
            progress = progress._replace(kept_merit=merits)

        def on_epoch(epoch: int, so_far: Any, found: train.EpochMetrics) -> train.EpochMetrics:
            for i, name in enumerate(about):
                if name in failed:
                    continue
                own = {metric: _own(of, i) for metric, of in found.items()}
                try:
                    train.check_finite(own, f"after epoch {epoch}")
                    runlog.append_metrics(logs[name], epoch, own)
                except FloatingPointError as error:
                    failed[name] = str(error)
            if epoch % cfg.train.checkpoint_every == 0 or epoch == cfg.train.epochs:
                held = {"members": about, "failed": failed}
                checkpoint.save(manager, epoch, _stored(so_far()), held)
            return found

        found = grid.fit(
            work.learner,
            rows,
            placed,
            work.devices,
            progress,
            done=done,
            watch=_watch(cfg, work, placed),
            merit=_merit(choice) if _keeps(cfg) else None,
            on_epoch=on_epoch,
        )
        manager.wait_until_finished()
    trained = found.kept if _keeps(cfg) else found.state.variables
    own = {member: members.only(trained, i) for i, member in enumerate(work.members)}
    of_name = dict(zip(about, work.members, strict=True))
    return own, {of_name[name]: why for name, why in failed.items() if name in of_name}


def _keeps(cfg: ProtocolConfig) -> bool:
    """Whether another epoch than the last may be selected."""
    return cfg.train.select != "last"


def _merit(choice: selection.Choice) -> grid.Merit:
    return lambda found: choice.sign * found[choice.metric]


def _own(values: np.ndarray, i: int) -> np.ndarray:
    """Of one member, or of all."""
    return np.ravel(values)[i : i + 1] if np.ndim(values) else np.asarray(values)


def _checkpoints(cfg: ProtocolConfig) -> Path:
    """Of this call's members, until they are finished."""
    return cfg.run_path / "checkpoints" / (cfg.members.replace(":", "-") or "all")


def _watch(cfg: ProtocolConfig, work: Work, placed: Sequence[grid.Member]) -> grid.Watch:
    """What is asked for after each epoch beside the validation loss, of every member [E]."""
    if not cfg.train.monitor and cfg.train.select in ("last", "valid_loss"):
        return lambda variables: {}
    devices, first = jax.local_devices(), work.members[0]
    of_class = {
        of: selection.watch(first, work.learner, dataset, devices)
        for of, dataset in work.datasets.items()
        if of in {member.data for member in work.members}
    }

    def watch(variables: Callable[[], PyTree]) -> train.EpochMetrics:
        states, found = variables(), []
        for i, member in enumerate(placed):
            settings = {name: np.float32([value]) for name, value in member.settings.items()}
            own = members.only(states, i)
            found.append(of_class[member.cfg.data](own, settings)())
        return jax.tree.map(lambda *of: np.concatenate(of), *found)

    return watch


def _about(work: Work, member: ExperimentConfig) -> dict:
    """What fixes the course of a member's training, its length apart, as JSON has it."""
    identity = training_identity(member)
    return json.loads(json.dumps(identity)) | {"digest": work.datasets[member.data].digest}


def _stored(progress: grid.Progress) -> PyTree:
    """What a checkpoint holds of members; the merit of the epochs that they keep is in the logs."""
    held = progress._asdict()
    del held["kept_merit"]
    return held


def _resumed(
    cfg: ProtocolConfig,
    work: Work,
    placed: Sequence[grid.Member],
    about: dict,
    manager: checkpoint.Manager,
) -> tuple[grid.Progress, int, dict[str, str]]:
    """Where a stopped call left these members, their epochs and who had diverged; or the start."""
    shape = next(iter(work.datasets.values())).shape
    saved = manager.latest_step()
    if saved is None:
        return grid.start(work.learner, placed, shape), 0, {}
    held = checkpoint.about(manager, saved)
    known, failed = held["members"], held.get("failed")  # an older version names none
    if failed is None or not about.items() <= known.items() or saved > cfg.train.epochs:
        raise UserError(
            f"{manager.directory} holds other members, settings, data or more epochs; remove it, "
            "or name another --run-dir"
        )
    state = train.abstract_state(work.learner, shape, len(known))
    kept = state.variables if _keeps(cfg) else {}
    epoch = jax.ShapeDtypeStruct((len(known),), np.int32)
    template = {"state": state, "kept": kept, "kept_epoch": epoch}
    template = parallel.placed_like(template, work.devices[:1])
    found = jax.device_get(checkpoint.restore(manager, template))
    at = np.array([[*known].index(name) for name in about])  # others may be finished by now
    found = jax.tree.map(lambda leaf: leaf[at], found)
    return grid.Progress(**found, kept_merit=np.full(len(about), -np.inf)), saved, failed


def _merits(
    choice: selection.Choice, epochs: np.ndarray, logs: dict[str, Path], failed: dict[str, str]
) -> np.ndarray:
    """Of the epoch that each member keeps, from its log; of one that diverged the lowest."""
    merit = _merit(choice)
    return np.array(
        [
            -np.inf if name in failed else merit(runfiles.read_metrics(log)[epoch - 1])
            for (name, log), epoch in zip(logs.items(), epochs, strict=True)
        ]
    )


def _finish(
    dataset: Dataset, member: ExperimentConfig, learner: Learner, folder: Path, variables: PyTree
) -> None:
    """Fit the detector of one member, and leave what `experiment.run` leaves, undrawn."""
    detector, scores = detectors.fit(learner, variables, dataset, member, jax.local_devices())
    detectors.save(folder / "detector", detector)
    runlog.write_about(folder, member, dataset.digest)
    runfiles.write_arrays(folder / "scores.npz", reporting.arrays(detector, scores, dataset))
    report = reporting.make(member, dataset, detector, scores, folder)
    keys = train.ensemble(learner, member, len(dataset.train.x)).init
    initial = train.initial_state(learner, dataset.shape, keys).params
    of_run = (detector, scores, dataset, jax.local_devices())
    report |= {"warnings": guards.look(learner, initial, *of_run)}
    runfiles.write_json(folder / "report.json", report)
