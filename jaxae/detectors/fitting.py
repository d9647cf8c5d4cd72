"""From a trained model to a detector: fitting the score, scoring rows, fitting the rule."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxae import scoring
from jaxae.config import ExperimentConfig
from jaxae.data import sources
from jaxae.data.own.schema import Schema
from jaxae.detectors import calibration, evaluation
from jaxae.detectors.detector import Description, Detector, Scores
from jaxae.detectors.judging import saturated, scores_of
from jaxae.devices import members, parallel
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.storage.provenance import version
from jaxae.types import Dataset, Learner, PyTree

_FAR = 1e9  # scales: squares of values beyond it drown all others in float32


def check(cfg: ExperimentConfig, data: Dataset | None = None) -> None:
    """Refuse a score or threshold rule that cannot work, with these data if given.

    Raises:
      UserError: the score or rule is unknown, the method lacks an output that the score needs, the
        rule would lose its guarantee or needs more normals than there are, or a held-out row has a
        value that is no measurement.
    """
    rule = scoring.rule(cfg.threshold.rule)
    reason = calibration.why_no_guarantee(cfg)
    if rule.exchangeable and reason:
        raise UserError(f"threshold rule {cfg.threshold.rule!r} would have no guarantee: {reason}")
    score = scoring.resolve(cfg.score)
    fraction = cfg.threshold.standardise_fraction
    if fraction and not score.standardise:
        raise UserError(
            f"threshold.standardise_fraction is {fraction}, but {cfg.score!r} is not a sum of "
            "scores, the only one that is standardised; use 0"
        )
    needed = score.needs - learners.METHODS[cfg.method].outputs
    if needed:
        methods = [name for name, method in learners.METHODS.items() if needed <= method.outputs]
        raise UserError(
            f"score {cfg.score!r} needs {', '.join(sorted(needed))}, which method {cfg.method} "
            f"does not give; use another --score{', or --method '.join(['', *methods])}"
        )
    if data:
        _refuse_far(data)
        _, calibrating = calibration.split_valid(cfg, len(data.valid.y))
        count = len(data.train.y if cfg.threshold.on == "train" else calibrating)
        normals = jax.ShapeDtypeStruct((min(count, cfg.threshold.limit or count),), jnp.float32)
        jax.eval_shape(rule.fit, normals)  # raises if there are too few rows


def _refuse_far(data: Dataset) -> None:
    """Refuse held-out rows in memory that are too far away to say how normals are scored."""
    x = data.valid.x
    if data.raw_shape or not sources.is_resident(x) or np.abs(x).max(initial=0) < _FAR:
        return
    at = np.unravel_index(int(np.abs(x).argmax()), x.shape)
    shift, scale = (np.broadcast_to(part, x.shape[1:])[at[1:]] for part in data.scaling)
    names = data.schema.features if data.schema else []
    feature = names[at[-1]] if len(names) == x.shape[-1] else int(at[-1])
    raise UserError(
        f"feature {feature!r} is {x[at] * np.float64(scale) + shift:.6g} in a held-out row, "
        f"{abs(x[at]):.0e} times its scale away from the training rows; remove such rows (is it a "
        "mark for missing values?) or label them as anomalies"
    )


@parallel.on_host()
def fit(
    learner: Learner,
    variables: PyTree,
    data: Dataset,
    cfg: ExperimentConfig,
    devices: parallel.Devices,
) -> tuple[Detector, Scores]:
    """Fit the score, score every row, and fit the threshold rule on scores of normals.

    `learner` is built from `config.for_scoring(cfg)`; the score is fitted on training rows.

    Raises:
      FloatingPointError: a score is not finite, or the model has collapsed.
    """
    score = scoring.resolve(cfg.score)
    _check_not_collapsed(learner, variables, data.valid.x[:256], devices)
    fitted = fit_score(learner, variables, data, cfg, devices)
    score_rows = scores_of(learner, score, variables, fitted, devices)
    train, valid = (score_rows(split.x) for split in (data.train, data.valid))
    for name, of_normals in (("train", train), ("valid", valid)):
        _check_finite(of_normals, name)
    test = [saturated(score_rows(block), block) for block in sources.blocks(data.test.x)]
    scores = Scores(train, valid, np.concatenate(test))
    _check_spread(scores, cfg.score)
    _, calibrating = calibration.split_valid(cfg, len(scores.valid))
    normals = scores.train if cfg.threshold.on == "train" else scores.valid[calibrating]
    decision = scoring.fit_rule(cfg.threshold.rule, normals[: cfg.threshold.limit or None])
    raw = data.raw_shape or data.shape, data.dtype
    about = Description(cfg, *raw, version("jaxae"), data.digest, data.schema or Schema())
    return Detector(about, variables, fitted, decision, data.scaling), scores


def fit_score(
    learner: Learner,
    variables: PyTree,
    data: Dataset,
    cfg: ExperimentConfig,
    devices: parallel.Devices,
) -> PyTree:
    """The fitted state of the score for each member; {} if there is nothing to fit."""
    score = scoring.resolve(cfg.score)
    if not score.is_fitted:
        return {}
    outputs = evaluation.inference(learner, devices)
    standardising, _ = calibration.split_valid(cfg, len(data.valid.y))
    scale_rows = data.valid.x[standardising] if cfg.threshold.standardise_fraction else data.valid.x
    variables, states = jax.device_get(variables), []
    for member in range(members.count(variables)):
        one = members.pick(variables, member)
        train, valid = (evaluation.Blocks(outputs, one, x) for x in (data.train.x, scale_rows))
        fitted = score.fit(train) if score.fit else {}
        states.append(score.standardise(fitted, valid) if score.standardise else fitted)
    return members.stack(states)


def _check_not_collapsed(
    learner: Learner, variables: PyTree, x: np.ndarray, devices: parallel.Devices
) -> None:
    """Raise if the model has collapsed: different rows all have the same reconstruction."""
    spread = x.std(axis=0).mean()
    for x_hat in evaluation.inference(learner, devices)(variables, x).x_hat:
        spread_hat = x_hat.std(axis=0).mean()
        if not np.isfinite(spread_hat) or spread_hat < 1e-4 * spread:
            raise FloatingPointError(
                f"the model has collapsed: its reconstructions differ by {spread_hat:.2e} from row "
                f"to row, the rows by {spread:.2e}; lower optim.lr, or change the seed or the "
                "activation"
            )


def _check_finite(scores: np.ndarray, name: str) -> None:
    if not np.isfinite(scores).all():
        raise FloatingPointError(
            f"{np.sum(~np.isfinite(scores))} of {len(scores)} {name} scores are not finite; lower "
            "optim.lr or choose another --score"
        )


def _check_spread(scores: Scores, score: str) -> None:
    # Two rows may tie by chance, in a sum of scores that are standardised by these two rows.
    rows = scores.test if len(scores.test) > 2 else np.concatenate([scores.train, scores.test])
    if len(scores.test) > 1 and (rows == rows[0]).all():
        raise FloatingPointError(
            f"score {score!r} is {scores.test[0]:g} for every test row, so it separates none; "
            "choose another --score"
        )
