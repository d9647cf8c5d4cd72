"""The detector: all that judges raw rows, in one folder that needs nothing else.

A detector is arrays (the model's variables, the score's fitted state, the decision with its
calibration scores, the scaling) and a description of what they are.
"""

import dataclasses
import hashlib
import importlib.metadata
import json
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Shaped

from jaxae import config, evaluation, learners, members, parallel, runlog, scoring
from jaxae.config import ExperimentConfig
from jaxae.datasets.raw import scaled
from jaxae.errors import UserError
from jaxae.types import Dataset, Decision, Learner, PyTree, Scaling, Score, Shape

DESCRIPTION = "description.json"
UNITS = {"uint8": "pixels 0 ... 255; x / 255 is what is scaled"}  # others: numbers as they are


class Scores(NamedTuple):
    """Anomaly scores of every row of a data set."""

    train: Float[np.ndarray, " N_train"]
    valid: Float[np.ndarray, " N_valid"]
    test: Float[np.ndarray, " N_test"]


class Judgement(NamedTuple):
    """What a detector says of rows."""

    score: Float[np.ndarray, " N"]
    is_anomaly: Bool[np.ndarray, " N"]


@dataclasses.dataclass(frozen=True)
class Description:
    """What a detector is, without its arrays."""

    config: ExperimentConfig  # method and model, score and its precision, rule, ensemble, scaling
    shape: Shape  # of a row
    dtype: str  # of the raw rows that it was made of
    version: str  # of jaxae


class Detector(NamedTuple):
    """Model, score, decision and scaling, with their description; arrays have members [E]."""

    about: Description
    variables: PyTree  # of the model
    fitted: PyTree  # of the score
    decision: Decision
    scaling: Scaling


def check(cfg: ExperimentConfig) -> None:
    """Reject what no detector could be made of.

    Raises:
      UserError: an unknown score or rule, or a score that the method cannot feed.
    """
    scoring.rule(cfg.threshold.rule)
    needed = scoring.resolve(cfg.score).needs - learners.METHODS[cfg.method].outputs
    if needed:
        able = [name for name, method in learners.METHODS.items() if needed <= method.outputs]
        raise UserError(
            f"score {cfg.score!r} needs {', '.join(sorted(needed))}, which method {cfg.method} "
            f"does not give; use another --score, or --method {' or '.join(able)}"
        )


def fit(
    learner: Learner,
    variables: PyTree,
    data: Dataset,
    cfg: ExperimentConfig,
    devices: parallel.Devices,
) -> tuple[Detector, Scores]:
    """Fit the score, score every row, and fit the threshold rule on scores of normals.

    Args:
      learner: that of `config.for_scoring(cfg)`; see `jaxae.learners.build`.
      variables: of the trained state.
      data: the score is fitted on its training rows.
      cfg: names score and rule, and which normals the rule is fitted on.
      devices: to score on.

    Raises:
      FloatingPointError: a score is not finite, or the model has collapsed.
    """
    score = scoring.resolve(cfg.score)
    _check_not_collapsed(learner, variables, data.valid.x[:256], devices)
    fitted = _fit_score(learner, score, variables, data, devices)
    scorer = evaluation.scorer(learner, score, devices)
    scores = Scores(
        *(
            np.asarray(scoring.combine(jnp.asarray(scorer(variables, fitted, split.x))))
            for split in (data.train, data.valid, data.test)
        )
    )
    _check_finite(scores)
    normals = scores.train if cfg.threshold.on == "train" else scores.valid
    decision = scoring.fit_rule(cfg.threshold.rule, normals[: cfg.threshold.limit or None])
    about = Description(cfg, data.shape, data.dtype, importlib.metadata.version("jaxae"))
    return Detector(about, variables, fitted, decision, data.scaling), scores


def _fit_score(
    learner: Learner, score: Score, variables: PyTree, data: Dataset, devices: parallel.Devices
) -> PyTree:
    """The score's own state, of each member."""
    if not score.is_fitted:
        return {}
    outputs = evaluation.inference(learner, devices)
    found = []
    for member in range(members.count(variables)):
        one = members.pick(variables, member)
        train, valid = (evaluation.Blocks(outputs, one, s.x) for s in (data.train, data.valid))
        fitted = score.fit(train) if score.fit else {}
        found.append(score.standardise(fitted, valid) if score.standardise else fitted)
    return members.stack(found)


def _check_not_collapsed(
    learner: Learner, variables: PyTree, x: np.ndarray, devices: parallel.Devices
) -> None:
    """A collapsed model gives every row the same reconstruction though the rows differ."""
    spread = x.std(axis=0).mean()
    for x_hat in evaluation.inference(learner, devices)(variables, x).x_hat:
        spread_hat = x_hat.std(axis=0).mean()
        if not np.isfinite(spread_hat) or spread_hat < 1e-4 * spread:
            raise FloatingPointError(
                f"the model has collapsed: its reconstructions differ by {spread_hat:.2e} from row "
                f"to row, the rows by {spread:.2e}; lower optim.lr, or change the seed or the "
                "activation"
            )


def _check_finite(scores: Scores) -> None:
    for name, values in scores._asdict().items():
        if not np.isfinite(values).all():
            raise FloatingPointError(
                f"{np.sum(~np.isfinite(values))} of {len(values)} {name} scores are not finite; "
                "lower optim.lr or choose another --score"
            )


def score_fn(
    detector: Detector, learner: Learner, devices: parallel.Devices
) -> Callable[[Float[np.ndarray, " N *S"]], Float[np.ndarray, " N"]]:
    """Scores of rows that are scaled already, averaged over the members."""
    scorer = evaluation.scorer(learner, scoring.resolve(detector.about.config.score), devices)

    def scores(x: Float[np.ndarray, " N *S"]) -> Float[np.ndarray, " N"]:
        found = scorer(detector.variables, detector.fitted, x)
        return np.asarray(scoring.combine(jnp.asarray(found)))

    return scores


def judge(detector: Detector, raw: Shaped[np.ndarray, " N *S"]) -> Judgement:
    """Scores of raw rows, in the units of the data that the detector was made of, and decisions.

    Raises:
      UserError: rows of another shape than the detector's, or NaN or infinite values in them.
    """
    about = detector.about
    if raw.shape[1:] not in (about.shape, about.shape[:-1]):
        raise UserError(f"the rows have shape {raw.shape[1:]}; the detector's have {about.shape}")
    x = scaled(raw.reshape(-1, *about.shape), detector.scaling)
    if not np.isfinite(x).all():
        raise UserError("the rows hold NaN or infinite values; remove those rows")
    learner = learners.build(config.for_scoring(about.config), about.shape)
    scores = score_fn(detector, learner, jax.local_devices())(x)
    return Judgement(scores, scoring.decide(detector.decision, scores))


# On disk: DESCRIPTION names the file of arrays, whose digest is part of its name. The arrays are
# written first, so that replacing the description replaces the detector, whole and at once.


def save(folder: Path, detector: Detector) -> None:
    """Save a detector, in place of one that the folder may hold."""
    arrays = _flat(_arrays(detector))
    digest = _digest(arrays)
    about = detector.about
    description = {
        "format": config.FORMAT,
        "jaxae": about.version,
        "shape": about.shape,
        "dtype": about.dtype,
        "units": UNITS.get(about.dtype, "as given"),
        "members": members.count(detector.variables),
        "threshold": detector.decision.threshold,
        "config": config.to_dict(about.config),
        "digest": digest,
        "arrays": {name: f"{a.dtype}{list(a.shape)}" for name, a in arrays.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _arrays_name(digest)
    runlog.write_arrays(path, arrays)
    runlog.write_json(folder / DESCRIPTION, description)
    for old in folder.glob("arrays-*.npz"):
        if old != path:
            old.unlink()


def load(folder: Path) -> Detector:
    """The detector in a folder.

    Raises:
      UserError: there is none, it is damaged, or another version of jaxae wrote it.
    """
    if not (folder / DESCRIPTION).is_file():
        raise UserError(
            f"no detector in {folder}: it holds no {DESCRIPTION}; name a finished run of this "
            "version of jaxae, or run an older one again"
        )
    try:
        return _load(folder)
    except UserError as error:
        problem = str(error)
    except (OSError, KeyError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        problem = f"{type(error).__name__}: {error}"
    raise UserError(f"the detector in {folder} cannot be used ({problem}); run it again")


def _load(folder: Path) -> Detector:
    known = json.loads((folder / DESCRIPTION).read_text())
    cfg = config.from_dict(known["config"])
    path = folder / _arrays_name(known["digest"])
    with np.load(path, allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    if _digest(arrays) != known["digest"]:
        raise UserError(f"{path.name} is not what was written")
    about = Description(cfg, tuple(known["shape"]), known["dtype"], known["jaxae"])
    tree = _nested(arrays)
    decision = tree["decision"]
    return Detector(
        about,
        tree["variables"],
        tree.get("fitted", {}),
        Decision(cfg.threshold.rule, decision["state"], decision["calibration"]),
        Scaling(tree["scaling"]["shift"], tree["scaling"]["scale"]),
    )


def _arrays_name(digest: str) -> str:
    return f"arrays-{digest[:16]}.npz"


def _arrays(detector: Detector) -> dict:
    return {
        "variables": detector.variables,
        "fitted": detector.fitted,
        "decision": {
            "state": detector.decision.state,
            "calibration": detector.decision.calibration,
        },
        "scaling": detector.scaling._asdict(),
    }


def _flat(tree: dict, prefix: str = "") -> dict[str, np.ndarray]:
    """Nested dicts of arrays as one, its keys joined by "/"."""
    flat = {}
    for name, value in tree.items():
        if "/" in name:
            raise UserError(f"an array of a detector is named {name!r}; names must not hold a /")
        at = f"{prefix}/{name}" if prefix else name
        flat |= _flat(value, at) if isinstance(value, dict) else {at: np.asarray(value)}
    return flat


def _nested(flat: dict[str, np.ndarray]) -> dict:
    """The inverse of `_flat`."""
    tree: dict = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def _digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of names, types, shapes and values."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        a = arrays[name]
        found.update(f"{name} {a.dtype.str} {a.shape}\n".encode())
        found.update(np.ascontiguousarray(a).data)
    return found.hexdigest()
