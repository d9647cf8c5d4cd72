"""Training the members of a protocol side by side, and finishing them one by one."""

import contextlib
import json
import shutil
from collections.abc import Sequence
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
from jaxae.storage import checkpoint, disk, run_folder
from jaxae.training import grid, selection, train
from jaxae.types import Dataset, Learner, PyTree, TrainState
from jaxae.workflows import experiment

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
    cfg: ProtocolConfig, todo: list[ExperimentConfig], datasets: dict[DataConfig, Dataset]
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
    failed: Failed = {}
    with contextlib.ExitStack() as locks:
        folders = {
            member: locks.enter_context(run_folder.enter(member, datasets[member.data].digest))
            for member in todo
        }
        if work:
            run_folder.write_tuning(cfg.run_path, work.learner)
            trained, failed = _fitted(cfg, work, [folders[m] for m in fresh])
            variables |= trained
        shape = next(iter(datasets.values())).shape
        learner = learners.build(config.for_scoring(todo[0]), shape)
        for member, folder in folders.items():
            if folder.name in failed:
                continue
            try:
                _finish(member, learner, variables[member], datasets[member.data], folder)
            except FloatingPointError as error:
                failed[folder.name] = str(error)
        if work and not failed:
            shutil.rmtree(_checkpoints(cfg))
    if failed:
        raise FloatingPointError("; ".join(f"{name}: {why}" for name, why in failed.items()))


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
    cfg: ProtocolConfig, work: Work, folders: Sequence[Path]
) -> tuple[dict[ExperimentConfig, PyTree], Failed]:
    """The variables of members after (resumed) training, and the members that diverged."""
    choice = selection.choice_of(work.members[0])
    about = {folder.name: _about(work, m) for folder, m in zip(folders, work.members, strict=True)}
    logs = [folder / "metrics.jsonl" for folder in folders]
    is_due = checkpoint.due(work.members[0].train)
    with checkpoint.open_manager(_checkpoints(cfg), 1) as manager:
        state, best, failed = _resumed(work, about, manager, choice)
        done = manager.latest_step() or 0
        for name, log in zip(about, logs, strict=True):
            if name not in failed:
                run_folder.start_metrics(log, done)
        if best:
            merits = _merits(choice, best.epoch, logs, [m in failed for m in about])
            best = best._replace(merit=merits, variables=work.layout.place(best.variables))

        def on_divergence(member: int, problem: str) -> None:
            failed.setdefault(folders[member].name, problem)

        def on_epoch(
            epoch: int, state: TrainState, metrics: train.EpochMetrics
        ) -> train.EpochMetrics:
            nonlocal best
            if choice:
                best = selection.keep_each(
                    choice, best, epoch, state.variables, metrics, work.layout
                )
            for i, (name, log) in enumerate(zip(about, logs, strict=True)):
                if name in failed:
                    continue
                of_member = {metric: _of_member(values, i) for metric, values in metrics.items()}
                try:
                    train.check_finite(of_member, f"after epoch {epoch}")
                    run_folder.append_metrics(log, epoch, of_member)
                except FloatingPointError as error:
                    failed[name] = str(error)
            if is_due(epoch):
                stored = _stored(work.layout, state, best)
                checkpoint.save(manager, epoch, stored, {"members": about, "failed": failed})
            return metrics

        fitted = train.fit(
            work.learner,
            work.rows,
            work.members[0],
            work.layout,
            members=grid.members_of(work.placed),
            state=state,
            measure=_measure(work),
            on_epoch=on_epoch,
            on_divergence=on_divergence,
        )
        manager.wait_until_finished()
    variables = work.layout.fetch((best or fitted.state).variables)
    trained = {member: members.only(variables, i) for i, member in enumerate(work.members)}
    return trained, {name: why for name, why in failed.items() if name in about}


def _of_member(values: np.ndarray, i: int) -> np.ndarray:
    """One member's value of a metric [E], or the common value []."""
    return np.ravel(values)[i : i + 1] if np.ndim(values) else np.asarray(values)


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


def _about(work: Work, member: ExperimentConfig) -> dict:
    """Everything that determines a member's training, except its length, as JSON values."""
    identity = training_identity(member)
    return json.loads(json.dumps(identity)) | {"digest": work.datasets[member.data].digest}


def _stored(layout: parallel.Layout, state: TrainState, best: selection.Selected | None) -> PyTree:
    """What a checkpoint holds of members [E]; the merit of the selected epochs is in the logs."""
    epoch = best.epoch if best else np.zeros(len(layout.fetch(state.step)), np.int32)
    kept = layout.fetch(best.variables) if best else {}
    return {"state": layout.fetch(state), "kept": kept, "kept_epoch": epoch}


def _resumed(
    work: Work, about: dict, manager: checkpoint.Manager, choice: selection.Choice | None
) -> tuple[TrainState | None, selection.Selected | None, Failed]:
    """Where a stopped call left these members, and who had diverged; (None, None, {}) at the start.

    The merit of the selected epochs is not known yet.
    """
    shape = work.rows.shape[1:]
    saved = manager.latest_step()
    if saved is None:
        return None, None, {}
    description = checkpoint.about(manager, saved)
    stored_members = description["members"]
    failed = description.get("failed")  # older versions did not write it
    epochs = work.members[0].train.epochs
    if failed is None or not about.items() <= stored_members.items() or saved > epochs:
        raise UserError(
            f"{manager.directory} holds other members, settings, data or more epochs; remove it, "
            "or name another --run-dir"
        )
    state = train.abstract_state(work.learner, shape, len(stored_members))
    epoch = jax.ShapeDtypeStruct((len(stored_members),), np.int32)
    kept = {"kept": state.variables if choice else {}, "kept_epoch": epoch}
    template = parallel.placed_like({"state": state, **kept}, work.layout.devices[:1])
    stored = jax.device_get(checkpoint.restore(manager, template))
    at = np.array(
        [[*stored_members].index(name) for name in about]
    )  # others may be finished by now
    stored = jax.tree.map(lambda leaf: leaf[at], stored)
    unknown = np.full(len(about), -np.inf)
    best = selection.Selected(stored["kept_epoch"], unknown, stored["kept"]) if choice else None
    return stored["state"], best, failed


def _merits(
    choice: selection.Choice, epochs: np.ndarray, logs: Sequence[Path], failed: Sequence[bool]
) -> np.ndarray:
    """The merit of each member's selected epoch, from its log; the lowest if it diverged."""
    return np.array(
        [
            -np.inf if is_failed else choice.merit(disk.read_metrics(log)[epoch - 1])
            for log, epoch, is_failed in zip(logs, epochs, failed, strict=True)
        ]
    )


def _finish(
    member: ExperimentConfig, learner: Learner, variables: PyTree, dataset: Dataset, folder: Path
) -> None:
    """Write the files that `experiment.run` writes for a member, without figures."""
    detector, scores, report = experiment.finish(
        member, learner, variables, dataset, jax.local_devices(), folder
    )
    report["warnings"] = experiment.warnings(learner, learner, detector, scores, dataset)
    disk.write_json(folder / "report.json", report)
