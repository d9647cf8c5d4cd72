"""The checks of one run, of a member of a grid, or of a detector alone.

What a run has on record follows from its data, and from each other: the description and the
decision from the detector's arrays; decisions, calibration scores and the report from the scores;
the scores from detector and data. Each of these is computed again here.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxae import config, detectors, scoring
from jaxae.config import DataConfig, ExperimentConfig
from jaxae.detectors import calibration, evaluation, health
from jaxae.devices import members, parallel, tuning
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.reports import reporting, unlabelled
from jaxae.reports.plots import contents
from jaxae.storage import archive, disk, provenance, run_folder
from jaxae.training import selection, train
from jaxae.types import Dataset, Learner, PyTree, Split, TrainState, Tuning
from jaxae.workflows.verification import by_pixel, by_step
from jaxae.workflows.verification.checkpoints import of_checkpoints
from jaxae.workflows.verification.outcomes import (
    ROUNDING,
    Check,
    check,
    needing,
    off,
    refuse_differences,
)
from jaxae.workflows.verification.records import Records, of_files

_BESIDE = ("warnings", "compile_s", "wall_s")  # in a report; they follow from no other file
_LOSS = {"float32": 1e-3, "bfloat16": 0.02}  # of a loss by the dtype of activations, relative


def checked(run: Records) -> list[Check]:
    """The checks of a run's folder."""
    # A run that was stopped, or kept in part, has neither a manifest nor a report.
    has_report = run.is_sealed or (run.folder / "report.json").exists()
    return [
        check("files", of_files, run.folder),
        check("detector", of_detector, run.folder / "detector"),
        check("configuration", _of_config, run),
        *of_checkpoints(run, template),
        check("data", of_data, run),
        check("decisions", _of_decisions, run),
        check("scores", _of_scores, run),
        check("losses", _of_losses, run),
        *([check("report", _of_report, run)] if has_report else []),
    ]


def of_detector(folder: Path) -> str:
    """Compare a detector's description with its arrays, and its decision with its rule."""
    detector = detectors.load(folder)
    about, decision = detector.about, detector.decision
    arrays = {name: np.asarray(a) for name, a in archive.flat(detectors.tree(detector)).items()}
    follows = detectors.described(detector) | archive.described(arrays)
    for source in ("format", "config", "schema"):  # read from there; other versions lack fields
        del follows[source]
    is_other = about.version != provenance.version("jaxae")
    recorded = archive.read_description(folder)
    refuse_differences(recorded, follows, archive.DESCRIPTION, is_other)
    state = scoring.fit_rule(about.config.threshold.rule, decision.calibration).state
    size = np.median(np.abs(decision.calibration))
    for name in sorted({*state, *decision.state}):
        new, old = (np.asarray(part.get(name, np.nan)) for part in (state, decision.state))
        if not np.allclose(new, old, rtol=ROUNDING, atol=ROUNDING * size):
            raise UserError(f"{decision.rule} gives {name} {new}, but the decision has {old}")
    by_step.of_detector(detector)
    by_pixel.of_detector(detector)
    if _shapes(detector.variables) != _shapes(template(detector).variables):
        raise UserError(
            f"its arrays are not those of a model of {list(about.shape)} by its configuration"
        )
    return f"description and decision follow; {about.config.method}, score {about.config.score}"


def template(detector: detectors.Detector) -> TrainState:
    """Shapes and dtypes of the training state of a detector's model."""
    about = detector.about
    row = np.zeros((1, *about.shape), about.dtype)
    shape = detectors.prepared(detector, row).shape[1:]
    learner = learners.build(_shared(detector), shape)
    return train.abstract_state(learner, shape, members.count(detector.variables))


def _shapes(variables: PyTree) -> dict[str, str]:
    return {name: f"{a.dtype}{list(a.shape)}" for name, a in archive.flat(variables).items()}


def _of_config(run: Records) -> str:
    """Compare config.json with the detector's configuration; read the records of training."""
    cfg = run.config
    if run.is_sealed and not disk.read_lines(run.folder / "provenance.jsonl"):
        raise UserError("provenance.jsonl is missing, or records no start")
    path = run.folder / run_folder.TUNING
    if path.is_file():
        tuning.merged(Tuning(), disk.read_json(path), run_folder.TUNING)
    with needing("detector"):
        detector = run.detector
    pair = config.to_dict(cfg), config.to_dict(detector.about.config)
    for name, is_there, is_used in provenance.changes(*pair):
        raise UserError(f"{name} is {is_there!r} there, but {is_used!r} in the detector")
    return f"that of the detector; {cfg.name}, seed {cfg.seed}"


def of_data(run: Records) -> str:
    """Compare the digest of the data, and what the detector says of their rows."""
    data = run.data
    if not (run.folder / "detector").is_dir():
        return f"the same, {data.digest[:16]}"
    with needing("detector"):
        about, scaling = run.detector.about, run.detector.scaling
    facts = {
        "data_digest": (about.data_digest, data.digest),
        "shape": (about.shape, data.raw_shape or data.shape),
        "dtype": (about.dtype, data.dtype),
        "schema": (about.schema, data.schema or about.schema),
    }
    for name, (recorded, found) in facts.items():
        if recorded != found:
            raise UserError(f"the detector says {name} {recorded}, but that of the data is {found}")
    for name, recorded, found in zip(scaling._fields, scaling, data.scaling, strict=True):
        if np.shape(recorded) != np.shape(found) or not np.allclose(recorded, found, rtol=1e-5):
            raise UserError(f"the {name} of the detector is not that of the data")
    return f"the same, {data.digest[:16]}"


def _of_decisions(run: Records) -> str:
    """Compare decisions and calibration scores in scores.npz with the detector's."""
    arrays, scores = run.arrays, run.scores
    with needing("detector"):
        decision, cfg = run.detector.decision, run.detector.about.config
    recorded = arrays.get("test_is_anomaly", np.zeros(0, bool))
    decided = scoring.decide(decision, scores.test)
    if recorded.shape != decided.shape or recorded.dtype != bool:
        raise UserError(f"there are {recorded.shape} decisions about {decided.shape} test rows")
    flipped = int(np.sum(recorded != decided))
    if flipped:
        raise UserError(f"{flipped} decisions do not follow from {decision.rule} and the scores")
    by_step.of_decisions(run.detector, arrays)
    normals = calibration.normals(cfg, scores.train, scores.valid)
    if not np.array_equal(normals, decision.calibration):
        raise UserError(
            f"the calibration scores of the detector are not the {cfg.threshold.on} scores"
        )
    return f"{int(decided.sum())} of {len(decided)} test rows flagged, by {decision.rule}"


@parallel.on_host()
def _of_scores(run: Records) -> str:
    """Score all rows again, and compare all arrays in scores.npz."""
    arrays, recorded = run.arrays, run.scores
    with needing("detector"):
        detector = run.detector
    with needing("data"):
        data = run.data
    fresh = detectors.score_all(_scorer(detector, data), data)
    worst = 0.0
    for name, old, new in zip(fresh._fields, recorded, fresh, strict=True):
        if old.shape != new.shape:
            raise UserError(f"{name} has {old.shape} scores on record, and {new.shape} rows")
        largest, is_off = off(old, new)
        worst = max(worst, largest)
        if is_off:
            raise UserError(f"{name} scores differ by up to {largest:.1e}")
    rows = reporting.arrays(detector, recorded, data)
    for name in [name for name in rows if name not in (*fresh._fields, "test_is_anomaly")]:
        if name not in arrays and run.is_other_version:
            continue
        if name not in arrays:
            raise UserError(f"scores.npz lacks {name}")
        if not np.array_equal(arrays[name], rows[name]):
            raise UserError(f"{name} in scores.npz is not that of the data")
    learner, devices = _learner(detector, data), jax.local_devices()
    for of_places in (by_step, by_pixel):
        rows |= of_places.of_scores(run, learner, devices)
    refuse_more(arrays, rows)
    exact = "bit for bit" if not worst else f"to within {worst:.0e}"
    kind = "test" if data.is_labelled else "held-out"
    n = [len(part) for part in fresh]
    decided = scoring.decide(detector.decision, fresh.test)
    flipped = int(np.sum(decided != scoring.decide(detector.decision, recorded.test)))
    scored = f"{n[2]} {kind} and {n[0]} training rows scored as recorded, {exact}"
    return f"{scored}; {flipped} decisions differ"


def refuse_more(recorded: Iterable[str], known: Iterable[str]) -> None:
    """Refuse arrays in scores.npz that no run writes."""
    more = sorted({*recorded} - {*known})
    if more:
        raise UserError(f"{more[0]} in scores.npz is not of this run")


def _scorer(detector: detectors.Detector, data: Dataset) -> Any:
    parallel.initialize()
    return detectors.score_fn(detector, _learner(detector, data), jax.local_devices())


def _learner(detector: detectors.Detector, data: Dataset) -> Learner:
    return learners.build(config.for_scoring(_shared(detector)), data.shape)


def _shared(detector: detectors.Detector) -> ExperimentConfig:
    """The configuration without what no model depends on: members of a grid share programs."""
    return dataclasses.replace(detector.about.config, seed=0, run_dir="", data=DataConfig())


@parallel.on_host()
def _of_losses(run: Records) -> str:
    """Compute the validation loss again, by which epochs and points of a sweep are selected."""
    epochs = disk.read_metrics(run.folder / "metrics.jsonl")
    if not epochs:
        raise UserError("metrics.jsonl is missing, or records no epoch")
    with needing("detector"):
        detector = run.detector
    with needing("data"):
        data = run.data
    cfg = detector.about.config
    learner = learners.build(_shared(detector), data.shape)
    settings = train.ensemble(learner, cfg, len(data.train.x)).settings
    begin = evaluation.loss_fn(learner, data.valid.x, jax.local_devices())
    losses = np.asarray(begin(detector.variables, settings)(), np.float64)
    selected = selection.summary(cfg, epochs)["selected_epoch"]
    metrics = epochs[selected - 1]
    loss, recorded, rounding = losses.mean(), metrics["valid_loss"], _LOSS[cfg.model.compute_dtype]
    if not abs(loss - recorded) <= rounding * abs(loss):
        raise UserError(
            f"valid_loss of epoch {selected} is {recorded:g}, but that of its model {loss:g}"
        )
    of_members = np.asarray(metrics.get("members", {}).get("valid_loss", losses))
    if of_members.shape != losses.shape or not np.allclose(of_members, losses, rtol=rounding):
        raise UserError(f"valid_loss of epoch {selected} is not that of each member")
    return f"that of epoch {selected}, {loss:.6g} on {len(data.valid.y)} held-out rows"


def _of_report(run: Records) -> str:
    """Make the report again, and compare its fields."""
    report = run.report
    with needing("detector"):
        detector, cfg = run.detector, run.detector.about.config
    with needing("scores"):
        scores, rows = run.scores, rows_of(run.arrays)
    computed = reporting.make(cfg, rows, detector, scores, run.folder, run.arrays)
    if not rows.is_labelled:
        computed |= unlabelled.of_scores(cfg, detector, scores)
        try:
            data = run.data
        except Exception:  # then its own check says so
            data = None
        if data is not None:
            score, folder = _scorer(detector, data), cfg.run_path
            computed |= unlabelled.make(cfg, data, detector, scores, score, folder)
    more = {*_BESIDE, *(() if rows.is_labelled else unlabelled.OF_ROWS)}
    if cfg.studies:  # which name values as they like, but not as metrics
        more |= {name for name in report if name.removesuffix("_interval") not in contents.KINDS}
    refuse_differences(report, computed, "report.json", run.is_other_version, more)
    of_scores = [*health.constant_scores(scores.test, "test" if rows.is_labelled else "held-out")]
    of_scores += health.below_chance(scores.test, rows.test.y)
    hidden = [line for line in of_scores if line not in report.get("warnings", of_scores)]
    if hidden:
        raise UserError(f"this warning is not in report.json: {hidden[0]}")
    auroc = f", AUROC {computed['auroc']:.4f} among them" if computed.get("auroc") else ""
    return f"{len(computed)} values follow from the files beside it{auroc}"


def rows_of(arrays: dict[str, np.ndarray]) -> Dataset:
    """The rows that scores.npz records, without their values."""

    def split(name: str, y: np.ndarray | None = None) -> Split:
        zeros = np.zeros(len(arrays[name]), np.int32)
        return Split(zeros[:, None], zeros > 0 if y is None else y, zeros, zeros)

    splits = split("train"), split("valid"), split("test", arrays.get("test_y"))
    none: Any = None
    return Dataset((), *splits, none, "", is_labelled="test_y" in arrays)
