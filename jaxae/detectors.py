"""The detector: all that judges raw rows, in one folder that needs nothing else.

A detector is arrays (the model's variables, the score's fitted state, the decision with its
calibration scores, the scaling) and a description of what they are.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Shaped

from jaxae import (
    archive,
    calibration,
    config,
    evaluation,
    inputs,
    learners,
    members,
    parallel,
    scoring,
)
from jaxae.config import ExperimentConfig
from jaxae.conformal import p_values
from jaxae.datasets.raw import scaled
from jaxae.errors import UserError
from jaxae.provenance import version
from jaxae.types import Dataset, Decision, Learner, PyTree, Scaling, Score, Shape, Source


class Scores(NamedTuple):
    """Anomaly scores of every row of a data set."""

    train: Float[np.ndarray, " N_train"]
    valid: Float[np.ndarray, " N_valid"]
    test: Float[np.ndarray, " N_test"]


class Judgement(NamedTuple):
    """What a detector says of rows."""

    score: Float[np.ndarray, " N"]
    p_value: Float[np.ndarray, " N"]  # the rank of the score; see `jaxae.calibration`
    is_anomaly: Bool[np.ndarray, " N"]


@dataclasses.dataclass(frozen=True)
class Description:
    """What a detector is, without its arrays."""

    config: ExperimentConfig  # method and model, score and its precision, rule, ensemble, scaling
    shape: Shape  # of a raw row
    dtype: str  # of the raw rows that it was made of
    version: str | None  # of jaxae, where it is installed
    data_digest: str = ""  # of the data set that it was made of


class Detector(NamedTuple):
    """Model, score, decision and scaling, with their description; arrays have members [E]."""

    about: Description
    variables: PyTree  # of the model
    fitted: PyTree  # of the score
    decision: Decision
    scaling: Scaling


def units(dtype: str) -> str:
    """What raw rows of a dtype mean."""
    return "pixels 0 ... 255" if dtype == "uint8" else "numbers as they are"


def check(cfg: ExperimentConfig, data: Dataset | None = None) -> None:
    """Reject what no detector could be made of.

    Args:
      cfg: its score and threshold rule are looked at.
      data: None = what can be seen without.

    Raises:
      UserError: an unknown score or rule, a score that the method cannot feed, or a rule whose
        promise would not hold, or which needs more normals than there are.
    """
    rule = scoring.rule(cfg.threshold.rule)
    calibration.check(cfg)
    needed = scoring.resolve(cfg.score).needs - learners.METHODS[cfg.method].outputs
    if needed:
        able = [name for name, method in learners.METHODS.items() if needed <= method.outputs]
        raise UserError(
            f"score {cfg.score!r} needs {', '.join(sorted(needed))}, which method {cfg.method} "
            f"does not give; use another --score{', or --method '.join(['', *able])}"
        )
    if data:
        _, kept = calibration.parts(cfg, len(data.valid.y))
        count = len(data.train.y if cfg.threshold.on == "train" else kept)
        normals = jax.ShapeDtypeStruct((min(count, cfg.threshold.limit or count),), jnp.float32)
        jax.eval_shape(rule.fit, normals)  # raises by the number of rows alone


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
    fitted = fit_score(learner, variables, data, cfg, devices)
    of_rows = _scores_of(learner, score, variables, fitted, devices)
    scores = Scores(*(of_rows(split.x) for split in (data.train, data.valid, data.test)))
    _check_scores(scores, cfg.score)
    _, kept = calibration.parts(cfg, len(scores.valid))
    normals = scores.train if cfg.threshold.on == "train" else scores.valid[kept]
    decision = scoring.fit_rule(cfg.threshold.rule, normals[: cfg.threshold.limit or None])
    shape = data.raw_shape or data.shape
    about = Description(cfg, shape, data.dtype, version("jaxae"), data.digest)
    return Detector(about, variables, fitted, decision, data.scaling), scores


def fit_score(
    learner: Learner,
    variables: PyTree,
    data: Dataset,
    cfg: ExperimentConfig,
    devices: parallel.Devices,
) -> PyTree:
    """The score's own state, of each member; {} where there is nothing to fit."""
    score = scoring.resolve(cfg.score)
    if not score.is_fitted:
        return {}
    outputs = evaluation.inference(learner, devices)
    aside, _ = calibration.parts(cfg, len(data.valid.y))
    scale_rows = data.valid.x[aside] if cfg.threshold.aside else data.valid.x
    found = []
    for member in range(members.count(variables)):
        one = members.pick(variables, member)
        train, valid = (evaluation.Blocks(outputs, one, x) for x in (data.train.x, scale_rows))
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


def _check_scores(scores: Scores, score: str) -> None:
    for name, values in scores._asdict().items():
        if not np.isfinite(values).all():
            raise FloatingPointError(
                f"{np.sum(~np.isfinite(values))} of {len(values)} {name} scores are not finite; "
                "lower optim.lr or choose another --score"
            )
    if len(scores.test) > 1 and (scores.test == scores.test[0]).all():
        raise FloatingPointError(
            f"score {score!r} is {scores.test[0]:g} for every test row, so it tells none apart; "
            "choose another --score"
        )


def score_fn(
    detector: Detector, learner: Learner, devices: parallel.Devices
) -> Callable[[Float[np.ndarray, " N *S"]], Float[np.ndarray, " N"]]:
    """Scores of rows that are scaled already, averaged over the members."""
    score = scoring.resolve(detector.about.config.score)
    return _scores_of(learner, score, detector.variables, detector.fitted, devices)


def _scores_of(
    learner: Learner, score: Score, variables: PyTree, fitted: PyTree, devices: parallel.Devices
) -> Callable[[Source], Float[np.ndarray, " N"]]:
    scorer = evaluation.scorer(learner, score, devices)

    def scores(x: Source) -> Float[np.ndarray, " N"]:
        return np.asarray(scoring.combine(jnp.asarray(scorer(variables, fitted, x))))

    return scores


def judge(detector: Detector, raw: Shaped[np.ndarray, "..."]) -> Judgement:
    """Scores of raw rows, in the units of the data that the detector was made of, and decisions.

    Args:
      detector: see `load`.
      raw: [N, *S]; a single channel may be left out.

    Raises:
      UserError: no rows, or rows of another shape or kind than the detector's, with NaN or infinite
        values, or so far from those it was made of that a score is not finite.
    """
    return judge_prepared(detector, prepared(detector, raw))


def judge_prepared(detector: Detector, x: Float[np.ndarray, " N *S"]) -> Judgement:
    """The same of rows that are `prepared`; a `UserError` where a score is not finite."""
    learner = learners.build(config.for_scoring(detector.about.config), x.shape[1:])
    scores = score_fn(detector, learner, jax.local_devices())(x)
    require(np.isfinite(scores), "rows are too far from those of the detector to have a score")
    decision = detector.decision
    return Judgement(scores, p_values(decision, scores), scoring.decide(decision, scores))


def prepared(detector: Detector, raw: Shaped[np.ndarray, "..."]) -> Float[np.ndarray, " N *S"]:
    """Raw rows as the detector's model sees them: scaled, and mapped by `data.input`.

    Raises:
      UserError: rows that it does not judge; see `judge`.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what leaves float32 is found right below
        x = scaled(_checked(detector.about, raw), detector.scaling)
    require(np.isfinite(x), "rows hold NaN or infinite values")
    return inputs.mapped(detector.about.config.data.input, x)


def _checked(about: Description, raw: np.ndarray) -> np.ndarray:
    """The rows as [N, *S], if the detector can take them."""
    if raw.dtype.kind not in "fiub":
        raise UserError(f"the rows are of type {raw.dtype}; a detector judges real numbers")
    if (raw.dtype == np.uint8) != (about.dtype == "uint8"):
        raise UserError(
            f"the rows are {raw.dtype}, but the detector was made of {about.dtype} rows "
            f"({units(about.dtype)}); convert them to these"
        )
    left_out = about.shape[:-1] if about.shape[-1] == 1 else about.shape
    if raw.ndim < 2 or raw.shape[1:] not in (about.shape, left_out):
        raise UserError(
            f"the rows are given as {list(raw.shape)}; the detector takes {['N', *about.shape]}"
        )
    if not len(raw):
        raise UserError("there are no rows to judge")
    return raw.reshape(-1, *about.shape)


def require(ok: np.ndarray, problem: str) -> None:
    """Refuse rows [N, ...] of which a value is not as it must be; the message names the first."""
    bad = np.flatnonzero(~ok.reshape(len(ok), -1).all(axis=1))
    if bad.size:
        raise UserError(f"{bad.size} {problem}, first row {bad[0]}; remove or mend them")


def save(folder: Path, detector: Detector) -> None:
    """Save a detector, in place of one that the folder may hold."""
    about, decision = detector.about, detector.decision
    description = {
        "format": config.FORMAT,
        "jaxae": about.version,
        "shape": about.shape,
        "dtype": about.dtype,
        "units": units(about.dtype),
        "members": members.count(detector.variables),
        "threshold": decision.threshold,
        "calibration_flaw": calibration.flaw(about.config) or None,
        "data_digest": about.data_digest,
        "config": config.to_dict(about.config),
    }
    tree = {
        "variables": detector.variables,
        "fitted": detector.fitted,
        "decision": {"state": decision.state, "calibration": decision.calibration},
        "scaling": detector.scaling._asdict(),
    }
    archive.write(folder, description, tree)


def load(folder: Path) -> Detector:
    """The detector in a folder.

    Raises:
      UserError: there is none, it is damaged, or another version of jaxae wrote it.
    """
    if not (folder / archive.DESCRIPTION).is_file():
        raise UserError(
            f"no detector in {folder}: it holds no {archive.DESCRIPTION}; name a finished run of "
            "this version of jaxae, or run an older one again"
        )
    try:
        known = archive.read_description(folder)
        cfg = config.from_dict(known["config"])
        tree = archive.read_arrays(folder, known["digest"])
        names = ("dtype", "jaxae", "data_digest")
        about = Description(cfg, tuple(known["shape"]), *(known[name] for name in names))
        decision = Decision(cfg.threshold.rule, **tree["decision"])
        variables, scaling = tree["variables"], Scaling(**tree["scaling"])
    except UserError as error:
        problem = str(error)
    except (KeyError, TypeError) as error:
        problem = f"{type(error).__name__}: {error}"
    else:
        return Detector(about, variables, tree.get("fitted", {}), decision, scaling)
    raise UserError(f"the detector in {folder} cannot be used ({problem}); run it again")
