"""Any detector of scikit-learn or PyOD, with the decisions of this library."""

from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import clone, is_outlier_detector
from sklearn.utils.validation import check_is_fitted, validate_data

from jaxae import scoring
from jaxae.data import splits
from jaxae.devices import parallel
from jaxae.errors import UserError
from jaxae.estimators.decisions import (
    FOLDS,
    OutlierDecisions,
    require_rows,
    require_unmasked,
)
from jaxae.rng import SplitDraw
from jaxae.workflows import crossfit

_METHODS = ("score_samples", "decision_function")


class WrappedDetector(OutlierDecisions):
    """A detector of another library, with thresholds and p-values as `AutoencoderDetector` has.

    The estimator is fitted on all rows (without those that are held out if `alpha` is set), and a
    copy of it on four fifths of them for each fifth that it then scores. So the threshold holds on
    new rows, also for detectors that know the rows that they were fitted on. It cannot be exported
    or saved as a `jaxae.Detector`; pickle it as any estimator.

    Args:
      estimator: has `fit`, and `score_samples` or `decision_function`; it is copied, not fitted.
      contamination: the share of the rows of `fit` that are flagged as outliers, in (0, 0.5].
      alpha: if not None, it replaces `contamination`: a new inlier is flagged with a probability of
        at most alpha, by held-out rows; see `AutoencoderDetector`.
      valid_fraction: the share of rows that are held out if `alpha` is set.
      higher_is_anomalous: what a high score means. None: inlier for `score_samples` and for
        `decision_function` of scikit-learn's outlier detectors, outlier for PyOD's detectors; for
        others it must be set.
      random_state: seed of folds and held-out rows.

    Attributes:
      estimator_: the estimator fitted on all rows that are not held out.
      decision_, threshold_, offset_, decision_scores_, labels_: as of `AutoencoderDetector`.
    """

    def __init__(
        self,
        estimator: Any,
        *,
        contamination: float = 0.1,
        alpha: float | None = None,
        valid_fraction: float = 0.1,
        higher_is_anomalous: bool | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ):
        self.estimator = estimator
        self.contamination = contamination
        self.alpha = alpha
        self.valid_fraction = valid_fraction
        self.higher_is_anomalous = higher_is_anomalous
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "WrappedDetector":
        """Fit on rows [N, F], and calibrate; `y` is ignored.

        Raises:
          UserError: a `ValueError`: a setting is not valid, there are too few rows, or it is not
            known what a score of the estimator means.
          FloatingPointError: a score is not finite in float32, or the same for all rows.
        """
        rule, higher = self._rule(), self._is_higher()
        x = self._rows(X, reset=True)
        require_rows(x)
        parallel.initialize()
        seed = self._seed()
        is_held = splits.draw(len(x), self._held_out(len(x)), seed, SplitDraw.HOLD_OUT)
        held, rest = np.flatnonzero(is_held), np.flatnonzero(~is_held)
        self.estimator_ = clone(self.estimator).fit(x[rest])
        score = np.empty(len(x), np.float32)
        score[held] = anomaly_scores(self.estimator_, x[held], higher) if len(held) else []
        folds = crossfit.draw(len(rest), min(FOLDS, len(rest)), seed)
        for seen, left_out in zip(folds.seen, folds.held_out, strict=True):
            copy = clone(self.estimator).fit(x[rest[seen]])
            score[rest[left_out]] = anomaly_scores(copy, x[rest[left_out]], higher)
        if (score == score[0]).all():
            raise FloatingPointError(
                f"{type(self.estimator).__name__} scores all rows {score[0]:g}, so it separates "
                "none; choose other settings or another detector"
            )
        decision = None
        if len(held):
            with parallel.on_host():
                decision = scoring.fit_rule(rule, score[held])
        self._decide(x, score, rule, decision)
        return self

    def baseline(self, train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
        """Scores [M] of test rows by a copy that is fitted on training rows.

        For a protocol's table: `BASELINES.add("svm", wrap(OneClassSVM()).baseline)`, then
        `--baselines svm`; see `jaxae.workflows.baselines`. The seed is the `random_state` of a copy
        that has one.
        """
        copy, higher = clone(self.estimator), self._is_higher()
        if "random_state" in copy.get_params():
            copy.set_params(random_state=seed)
        return anomaly_scores(copy.fit(train), test, higher)

    def _scored(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        x = self._rows(X, reset=False)
        return x, anomaly_scores(self.estimator_, x, self._is_higher())

    def _rows(self, X: Any, reset: bool) -> np.ndarray:
        require_unmasked(X)
        if not reset:
            check_is_fitted(self)
        return validate_data(self, X, reset=reset, dtype="numeric").astype(np.float64)

    def _held_out(self, n: int) -> int:
        if self.alpha is None:
            return 0
        if not (isinstance(self.valid_fraction, Real) and 0 < self.valid_fraction < 1):
            raise UserError(f"valid_fraction is {self.valid_fraction!r}; it must be in (0, 1)")
        return min(max(1, round(n * self.valid_fraction)), n - 2)

    def _is_higher(self) -> bool:
        return orientation(self.estimator, self.higher_is_anomalous)


wrap = WrappedDetector


def orientation(estimator: Any, higher_is_anomalous: bool | None = None) -> bool:
    """Whether a high value of an estimator's score means an outlier.

    Raises:
      UserError: it has no `fit` or cannot score new rows, or what its score means is not known.
    """
    name = type(estimator).__name__
    if isinstance(estimator, type):
        raise UserError(f"estimator is the class {estimator.__name__}; call it first")
    if not hasattr(estimator, "fit"):
        raise UserError(f"{name} has no fit; give a detector of scikit-learn or PyOD")
    if not any(hasattr(estimator, method) for method in _METHODS):
        raise UserError(
            f"{name} has neither score_samples nor decision_function, so it cannot score new "
            "rows; LocalOutlierFactor needs novelty=True"
        )
    if higher_is_anomalous is not None:
        return bool(higher_is_anomalous)
    if any(base.__module__.startswith("pyod.") for base in type(estimator).__mro__):
        return True
    if hasattr(estimator, "score_samples") or is_outlier_detector(estimator):
        return False
    raise UserError(
        f"what a high decision_function of {name} means is not known; set "
        "higher_is_anomalous=True or False"
    )


def anomaly_scores(estimator: Any, x: np.ndarray, higher: bool) -> np.ndarray:
    """Anomaly scores [N] of rows by a fitted estimator: float32, higher = more anomalous.

    Args:
      estimator: has `score_samples`, or else `decision_function`.
      x: rows [N, F].
      higher: whether a high value of the estimator means an outlier, see `orientation`.

    Raises:
      UserError: the estimator does not give a number for each row.
      FloatingPointError: a score is not finite in float32.
    """
    method = next(name for name in _METHODS if hasattr(estimator, name))
    values = np.asarray(getattr(estimator, method)(x), np.float64)
    name = type(estimator).__name__
    if values.shape != (len(x),):
        raise UserError(f"{name}.{method} gives {list(values.shape)} for {len(x)} rows, not [N]")
    with np.errstate(over="ignore"):
        scores = (values if higher else -values).astype(np.float32)
    if not np.isfinite(scores).all():
        raise FloatingPointError(
            f"{np.sum(~np.isfinite(scores))} of {len(x)} scores of {name} are not finite; scale "
            "the rows, or choose another detector"
        )
    return scores
