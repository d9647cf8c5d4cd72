"""From a trained state to a detector, its scores, and what they are worth. No file I/O."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxae import metrics, parallel, scoring
from jaxae.config import ThresholdConfig
from jaxae.types import (
    Array,
    Dataset,
    Detector,
    Learner,
    Outputs,
    PyTree,
    Rows,
    Score,
    ThresholdRule,
)


class Scores(NamedTuple):
    """Anomaly scores of every row of a data set."""

    train: np.ndarray  # [N_train]
    valid: np.ndarray  # [N_valid]
    test: np.ndarray  # [N_test]


def reconstructor(
    learner: Learner, devices: parallel.Devices
) -> Callable[[PyTree, np.ndarray], Rows]:
    """`(variables of one member, x [N, *S]) -> Rows` on the host; compiled once."""
    run = parallel.rows_fn(learner.infer, devices)

    def rows(variables: PyTree, x: np.ndarray) -> Rows:
        placed = parallel.place(variables, devices)
        return Rows(x, parallel.map_rows(run, placed, parallel.blocks(x, devices), len(x)))

    return rows


def scorer(
    learner: Learner, score: Score, devices: parallel.Devices
) -> Callable[[PyTree, PyTree, np.ndarray], np.ndarray]:
    """`(variables, fitted, x [N, *S]) -> scores [N]` of one member.

    Compiled once for all who ask for the same learner's score: the epochs' monitor, the detector
    and the studies.
    """
    return _scorer(learner, score, tuple(devices))


@functools.lru_cache(maxsize=16)
def _scorer(learner: Learner, score: Score, devices: tuple[jax.Device, ...]) -> Callable:
    def judge(params: tuple[PyTree, PyTree], x: Array) -> Array:
        variables, fitted = params
        out = learner.infer(variables, x)
        return jax.vmap(score.apply, in_axes=(None, 0, 0))(fitted, x, out)

    run = parallel.rows_fn(judge, devices)

    def scores(variables: PyTree, fitted: PyTree, x: np.ndarray) -> np.ndarray:
        placed = parallel.place((variables, fitted), devices)
        return parallel.map_rows(run, placed, parallel.blocks(x, devices), len(x))

    return scores


def detector_scorer(
    learner: Learner, score: Score, detector: Detector, devices: parallel.Devices, ensemble: int
) -> Callable[[np.ndarray], np.ndarray]:
    """`x [N, *S] -> scores [N]` by a detector, averaged over the members of an ensemble."""
    judge = scorer(learner, score, devices)
    parts = list(
        zip(members(detector.variables, ensemble), members(detector.fitted, ensemble), strict=True)
    )
    return lambda x: np.mean([judge(*part, x) for part in parts], axis=0)


def members(variables: PyTree, size: int) -> list[PyTree]:
    """The variables of each member of an ensemble; of the only model where `size` is 1."""
    if size == 1:
        return [variables]
    return [jax.tree.map(lambda leaf, i=i: leaf[i], variables) for i in range(size)]


def _is_fitted(score: Score, shape: tuple[int, ...], learner: Learner, variables: PyTree) -> bool:
    """Whether a score has anything to fit, found without computing anything."""
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    rows = Rows(x, jax.eval_shape(learner.infer, variables, x))
    return bool(jax.tree.leaves(jax.eval_shape(score.fit, rows, rows)))


def fit_score(
    learner: Learner, score: Score, variables: PyTree, data: Dataset, devices: parallel.Devices
) -> PyTree:
    """The score's own parameters, for one member: fitted on training and calibration normals."""
    if not _is_fitted(score, data.shape, learner, variables):
        return score.fit(*[Rows(jnp.zeros((1, *data.shape)), _no_outputs())] * 2)
    rows = reconstructor(learner, devices)
    train, valid = rows(variables, data.train.x), rows(variables, data.valid.x)
    return jax.jit(score.fit)(*jax.tree.map(jnp.asarray, (train, valid)))


def _no_outputs() -> Outputs:
    return Outputs(*[jnp.zeros(1)] * len(Outputs._fields))


def fit_detector(
    learner: Learner,
    score: Score,
    rule: ThresholdRule,
    variables: PyTree,
    data: Dataset,
    threshold: ThresholdConfig,
    devices: parallel.Devices,
    ensemble: int = 1,
) -> tuple[Detector, Scores]:
    """Fit the score, score every row, and set the threshold on normals.

    Args:
      learner: see `jaxae.learners`.
      score: see `jaxae.scoring.resolve`.
      rule: see `jaxae.scoring.rule`.
      variables: of the trained state.
      data: with its calibration rows.
      threshold: which normals calibrate: held-out ones or training ones, and how many.
      devices: to score on.
      ensemble: members; their scores are averaged.

    Raises:
      FloatingPointError: a score is not finite, or the model has collapsed.
    """
    judge = scorer(learner, score, devices)
    fitted, totals = [], []
    for one in members(variables, ensemble):
        _check_not_collapsed(learner, one, data.valid.x[:256])
        fitted.append(fit_score(learner, score, one, data, devices))
        totals.append(
            [judge(one, fitted[-1], split.x) for split in (data.train, data.valid, data.test)]
        )
    scores = Scores(
        *(np.asarray(scoring.combine(jnp.stack(parts))) for parts in zip(*totals, strict=True))
    )
    for name, values in scores._asdict().items():
        if not np.isfinite(values).all():
            raise FloatingPointError(
                f"{np.sum(~np.isfinite(values))} of {len(values)} {name} scores are not finite; "
                "lower optim.lr or choose another --score"
            )
    normals = scores.train if threshold.on == "train" else scores.valid
    normals = normals[: threshold.rows or None]
    stacked = (
        fitted[0] if ensemble == 1 else jax.tree.map(lambda *leaves: jnp.stack(leaves), *fitted)
    )
    line = jax.jit(rule)(jnp.asarray(normals))
    return Detector(
        variables, stacked, line, jnp.asarray(data.shift), jnp.asarray(data.scale)
    ), scores


def _check_not_collapsed(learner: Learner, variables: PyTree, x: np.ndarray) -> None:
    """A collapsed model gives every row the same reconstruction though the rows differ."""
    x_hat = np.asarray(jax.jit(learner.infer)(variables, jnp.asarray(x)).x_hat)
    spread, spread_hat = x.std(axis=0).mean(), x_hat.std(axis=0).mean()
    if not np.isfinite(spread_hat) or spread_hat < 1e-4 * spread:
        raise FloatingPointError(
            f"the model has collapsed: its reconstructions differ by {spread_hat:.2e} from row to "
            f"row, the rows by {spread:.2e}; lower optim.lr, or change the seed or the activation"
        )


class Quality(NamedTuple):
    """What scores are worth; anomaly = positive unless a name says otherwise."""

    auroc: Array
    average_precision: Array
    fpr_at_95_tpr: Array  # false-positive rate where 95 % of the anomalies are found
    accuracy: Array  # from here to recall_normal_positive: at the detector's threshold
    precision: Array
    recall: Array
    f1: Array
    fpr: Array
    precision_normal_positive: Array
    recall_normal_positive: Array
    equal_error_threshold: Array  # where false-positive and false-negative rates meet
    equal_error_f1: Array
    best_f1_oracle: Array  # over all thresholds: it looks at test labels and is no result


def evaluate(scores: np.ndarray, labels: np.ndarray, threshold: float) -> dict[str, float | None]:
    """`Quality` of scores [N] with labels [N] bool, True = anomaly, and both class counts.

    A value that does not exist is None: the equal-error threshold, say, where flagging every row
    is the best cut.
    """
    found = jax.device_get(_measure(jnp.asarray(scores), jnp.asarray(labels), threshold))._asdict()
    values = {name: float(v) if np.isfinite(v) else None for name, v in found.items()}
    return values | {"n_normal": int((~labels).sum()), "n_anomaly": int(labels.sum())}


@jax.jit
def _measure(scores: Array, labels: Array, threshold: Array) -> Quality:
    confusion = metrics.confusion(scores, labels, threshold)
    flipped = metrics.normal_as_positive(scores, labels, threshold)
    equal_error = metrics.equal_error(scores, labels)
    return Quality(
        auroc=metrics.auroc(scores, labels),
        average_precision=metrics.average_precision(scores, labels),
        fpr_at_95_tpr=metrics.fpr_at_tpr(scores, labels),
        accuracy=confusion.accuracy,
        precision=confusion.precision,
        recall=confusion.recall,
        f1=confusion.f1,
        fpr=confusion.fpr,
        precision_normal_positive=flipped.precision,
        recall_normal_positive=flipped.recall,
        equal_error_threshold=equal_error.threshold,
        equal_error_f1=equal_error.f1,
        best_f1_oracle=metrics.best_f1(scores, labels),
    )
