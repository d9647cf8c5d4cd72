"""From a trained model to a detector: fitting the score, scoring rows, fitting the rule."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from jaxae import scoring
from jaxae.config import ExperimentConfig
from jaxae.data import sources
from jaxae.data.own.schema import Schema
from jaxae.data.raw_data import place
from jaxae.detectors import calibration, evaluation, pixels, steps
from jaxae.detectors.detector import Description, Detector, Scores
from jaxae.detectors.judging import saturated, scores_of
from jaxae.devices import members, parallel
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.storage.provenance import version
from jaxae.types import Dataset, Learner, PyTree, Score, Source

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
    is_of_held_out = cfg.threshold.on != "train" and not cfg.data.corruption
    if is_of_held_out and calibration.windows_overlap(cfg):
        reason = steps.why_no_guarantee(cfg)  # the guarantee is that of blocks of steps
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
        if score.side and (len(data.shape) != 3 or min(data.shape[:2]) < score.side):
            raise UserError(
                f"score {cfg.score!r} takes images [H, W, C] of {score.side} x {score.side} values "
                f"or more, but the model's rows have the shape {list(data.shape)}; use --score mse"
            )
        _, calibrating = calibration.split_valid(cfg, len(data.valid.y))
        count = len(data.train.y if cfg.threshold.on == "train" else calibrating)
        normals = jax.ShapeDtypeStruct((min(count, cfg.threshold.limit or count),), jnp.float32)
        jax.eval_shape(rule.fit, normals)  # raises if there are too few rows
        steps.refuse_few(cfg, data)


def _refuse_far(data: Dataset) -> None:
    """Refuse held-out rows in memory that are too far away to say how normals are scored."""
    x = data.valid.x
    if data.raw_shape or not sources.is_resident(x) or np.abs(x).max(initial=0) < _FAR:
        return
    at = np.unravel_index(int(np.abs(x).argmax()), x.shape)
    shift, scale = (np.broadcast_to(part, x.shape[1:])[at[1:]] for part in data.scaling)
    names = data.schema.features if data.schema else []
    raise UserError(
        f"feature {place(at[1:], x.shape[1:], names)} is "
        f"{x[at] * np.float64(scale) + shift:.6g} in a held-out row, "
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
    scores = score_all(scores_of(learner, score, variables, fitted, devices), data)
    _check_spread(scores, cfg.score, data.is_labelled)
    detector = _decided(variables, fitted, scores, data, cfg)
    if data.steps:
        of_steps = steps.held_out(detector, learner, data, devices)
        detector = detector._replace(places=detector.places | {steps.NAME: of_steps})
    if pixels.are_decided(cfg, data):
        of_pixels = pixels.held_out(detector, learner, data, devices)
        detector = detector._replace(places=detector.places | {pixels.NAME: of_pixels})
    return detector, scores


def score_all(score_rows: Callable[[Source], Float[np.ndarray, " N"]], data: Dataset) -> Scores:
    """The scores of every row of a data set, whose rows may lie on disk.

    Raises:
      FloatingPointError: the score of a normal is not finite.
      UserError: a test row holds NaN.
    """
    train, valid = (score_rows(split.x) for split in (data.train, data.valid))
    for name, of_normals in (("train", train), ("valid", valid)):
        _check_finite(of_normals, name)
    test = []
    for block in sources.blocks(data.test.x):
        if np.isnan(block).any() and not data.raw_shape:  # not refused yet where rows are on disk
            raise UserError("test rows hold NaN values; remove or fill such rows")
        test.append(saturated(score_rows(block), block))
    return Scores(train, valid, np.concatenate(test))


class Fold(NamedTuple):
    """The model of a fold, with positions of the training rows that it saw and that it did not."""

    variables: PyTree  # [E, ...]
    seen: Int[np.ndarray, " N"]
    held_out: Int[np.ndarray, " H"]


@parallel.on_host()
def fit_on_folds(
    learner: Learner,
    variables: PyTree,
    folds: Sequence[Fold],
    data: Dataset,
    cfg: ExperimentConfig,
    devices: parallel.Devices,
) -> tuple[Detector, Scores]:
    """As `fit`, but each training row is scored by the model of the fold that holds it out.

    A sum of scores is standardised on these scores, and on valid rows that are set aside for this,
    for all models alike. Where the valid rows are the training rows, they get the same scores, and
    the rule is fitted on them.

    Args:
      learner: built from `config.for_scoring(cfg)`.
      variables: those of the detector's own model [E, ...], trained on all of `data.train`.
      folds: each training row is held out of one.
      data: its test rows are the valid rows, as in `jaxae.data.splits.of_normals`.
      cfg: the configuration.
      devices: to score on.

    Raises:
      FloatingPointError: a score is not finite, or a model has collapsed.
    """
    score, x = scoring.resolve(cfg.score), data.train.x
    models = [_Model(fold.variables, x[fold.seen], x[fold.held_out]) for fold in folds]
    repeats = np.array_equal(data.valid.id, data.train.id)
    standardising, _ = calibration.split_valid(cfg, len(data.valid.y))
    is_set_aside = bool(cfg.threshold.standardise_fraction) and not repeats
    set_aside = data.valid.x[standardising if is_set_aside else standardising[:0]]
    models.append(_Model(variables, x, set_aside))
    for model in models:
        _check_not_collapsed(learner, model.variables, model.train[:256], devices)
    *states, fitted = _fit_scores(learner, models, score, devices)
    by_row = np.empty(len(x), np.float32)
    for fold, model, state in zip(folds, models, states, strict=False):
        score_rows = scores_of(learner, score, model.variables, state, devices)
        by_row[fold.held_out] = saturated(score_rows(model.held_out), model.held_out)
    valid = by_row
    if not repeats:
        valid = scores_of(learner, score, variables, fitted, devices)(data.valid.x)
        _check_finite(valid, "valid")
    scores = Scores(by_row, valid, valid)
    _check_spread(scores, cfg.score)
    return _decided(variables, fitted, scores, data, cfg), scores


def _decided(
    variables: PyTree, fitted: PyTree, scores: Scores, data: Dataset, cfg: ExperimentConfig
) -> Detector:
    """The detector, its rule fitted on the scores that the configuration names."""
    decision = scoring.fit_rule(
        cfg.threshold.rule, calibration.normals(cfg, scores.train, scores.valid)
    )
    raw = data.raw_shape or data.shape, data.dtype
    about = Description(cfg, *raw, version("jaxae"), data.digest, data.schema or Schema())
    return Detector(about, variables, fitted, decision, data.scaling)


def fit_score(
    learner: Learner,
    variables: PyTree,
    data: Dataset,
    cfg: ExperimentConfig,
    devices: parallel.Devices,
) -> PyTree:
    """The fitted state of the score for each member; {} if there is nothing to fit."""
    standardising, _ = calibration.split_valid(cfg, len(data.valid.y))
    scale_rows = data.valid.x[standardising] if cfg.threshold.standardise_fraction else data.valid.x
    model = _Model(variables, data.train.x, scale_rows)
    return _fit_scores(learner, [model], scoring.resolve(cfg.score), devices)[0]


class _Model(NamedTuple):
    variables: PyTree  # [E, ...]
    train: Source
    held_out: Source


def _fit_scores(
    learner: Learner, models: Sequence[_Model], score: Score, devices: parallel.Devices
) -> list[PyTree]:
    """The fitted state of a score for some models, on one scale."""
    if not score.is_fitted:
        return [{} for _ in models]
    outputs = evaluation.inference(learner, devices)
    variables = [jax.device_get(model.variables) for model in models]
    by_member = []
    for member in range(members.count(variables[0])):
        ones = [members.pick(tree, member) for tree in variables]

        def blocks(rows: Sequence[Source], ones: Sequence[PyTree] = ones) -> list:
            pairs = zip(ones, rows, strict=True)
            return [evaluation.Blocks(outputs, one, x) for one, x in pairs]

        train = blocks([model.train for model in models])
        fitted = [score.fit(rows) if score.fit else {} for rows in train]
        if score.standardise:
            fitted = score.standardise(fitted, blocks([model.held_out for model in models]))
        by_member.append(fitted)
    return [members.stack(list(states)) for states in zip(*by_member, strict=True)]


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


def _check_spread(scores: Scores, score: str, is_labelled: bool = True) -> None:
    # Two rows may tie by chance, in a sum of scores that are standardised by these two rows; and
    # held-out rows, the test rows where there are no labels, while a series stood still.
    is_chance = len(scores.test) <= 2 or not is_labelled
    rows = np.concatenate([scores.train, scores.test]) if is_chance else scores.test
    if len(scores.test) > 1 and (rows == rows[0]).all():
        raise FloatingPointError(
            f"score {score!r} is {scores.test[0]:g} for every test row, so it separates none; "
            "choose another --score"
        )
