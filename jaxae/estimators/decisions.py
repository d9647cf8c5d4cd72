"""What the estimators of scikit-learn share: from scores to decisions, p-values and metrics."""

import hashlib
from numbers import Integral, Real
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted, check_random_state

from jaxae import detectors, scoring
from jaxae.detectors import evaluation, health
from jaxae.devices import parallel
from jaxae.errors import UserError
from jaxae.stats import conformal, intervals
from jaxae.types import Decision

FOLDS = 5  # each row of `fit` is scored by a model that was fitted on the other four


class OutlierDecisions(OutlierMixin, BaseEstimator):
    """Decisions by a threshold on anomaly scores, with the scores of `fit`'s rows out of fold.

    A class that derives from this one has the parameters `contamination`, `alpha` and
    `random_state`, calls `_decide` at the end of `fit`, and has the method `_scored`.
    """

    contamination: float
    alpha: float | None
    random_state: int | np.random.RandomState | None

    def _scored(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """The rows [N, *S] of X and their anomaly scores [N], by the model of all rows."""
        raise NotImplementedError

    def score_samples(self, X: Any) -> np.ndarray:
        """The negated anomaly score [N]: lower is more anomalous."""
        return -self._judged(X).score.astype(np.float64)

    def decision_function(self, X: Any) -> np.ndarray:
        """`score_samples` minus `offset_` [N]: below zero for outliers."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> np.ndarray:
        """-1 for outliers, 1 for inliers [N]."""
        return np.where(self._judged(X).is_anomaly, -1, 1)

    def p_values(self, X: Any) -> np.ndarray:
        """P-values [N], (1 + #{scores >= s}) / (n + 1), in (0, 1]: ranks among n scores.

        These are the out-of-fold scores of all rows of `fit`; with `alpha`, the scores of the
        held-out rows. Only the latter have a guarantee: if new and held-out rows are exchangeable,
        a p-value is at most alpha with a probability of at most alpha.
        """
        return self._judged(X).p_value.astype(np.float64)

    def select(self, X: Any, fdr: float) -> np.ndarray:
        """True for rows [N] that are selected as outliers; a share of at most `fdr` is false.

        Benjamini and Hochberg's selection by p-values; the share is the expected one if new inliers
        and the held-out rows are exchangeable. See `jaxae.stats.conformal.benjamini_hochberg`.

        Raises:
          UserError: a `ValueError`: `fdr` is not in (0, 1), or `alpha` was None, so that no row was
            held out for p-values.
        """
        check_is_fitted(self)
        if self.alpha is None:
            raise UserError(
                "select needs p-values of held-out rows; fit again with alpha=0.05, for example"
            )
        return conformal.benjamini_hochberg(self.p_values(X), float(fdr))

    def predict_proba(self, X: Any) -> np.ndarray:
        """PyOD's [N, 2] for inliers and outliers; scaled scores rather than true probabilities.

        The score of an outlier is scaled so that the rows of `fit` range from 0 to 1.
        """
        check_is_fitted(self)
        low, high = self.decision_scores_.min(), self.decision_scores_.max()
        share = (-self.score_samples(X) - low) / max(float(high - low), np.finfo(np.float32).tiny)
        share = np.clip(share, 0.0, 1.0)
        return np.stack([1.0 - share, share], axis=1)

    def evaluate(self, X: Any, y: Any) -> dict[str, Any]:
        """Metrics of labelled rows with 95 % intervals, as `jaxae evaluate` prints them.

        Args:
          X: rows [N, F] or [N, *S] that were not in `fit`.
          y: the truth [N]: bool, or 1 = outlier and 0 = inlier.

        Raises:
          UserError: a `ValueError`: `y` holds other values, or another number of them.
        """
        truth = np.asarray(y)
        if truth.dtype != bool and not (truth.dtype.kind in "iuf" and np.isin(truth, (0, 1)).all()):
            raise UserError(
                "y must be bool, or 1 for outliers and 0 for inliers; for scikit-learn's -1 and 1 "
                "give y == -1"
            )
        judged = self._judged(X)
        if truth.shape != judged.score.shape:
            raise UserError(f"y is {list(truth.shape)} for {len(judged.score)} rows; give [N]")
        outcome = judged.score, truth == 1, judged.is_anomaly
        result = {"threshold": self.threshold_, **evaluation.evaluate(*outcome)}
        result |= intervals.report(*outcome)
        return result | {"warnings": list(health.below_chance(judged.score, truth == 1))}

    def _decide(
        self, x: np.ndarray, score: np.ndarray, rule: str, decision: Decision | None = None
    ) -> None:
        """Keep the rows [N, *S] of `fit` with their scores [N], and fit the rule on these scores.

        Args:
          x: the rows.
          score: out of fold.
          rule: the threshold rule.
          decision: of held-out rows alone, if there are such.
        """
        self._fitted_rows, self.decision_scores_ = _shared(_digests(x), score)
        if decision is None:  # equal rows have one score now
            with parallel.on_host():
                decision = scoring.fit_rule(rule, self.decision_scores_)
        self.decision_ = jax.device_get(decision)
        self.threshold_ = float(self.decision_.threshold)
        self.offset_ = -self.threshold_
        self.labels_ = scoring.decide(self.decision_, self.decision_scores_).astype(int)

    def _judged(self, X: Any) -> detectors.Judgement:
        check_is_fitted(self)
        x, score = self._scored(X)
        (known, shared), digests = self._fitted_rows, _digests(x)
        at = np.minimum(np.searchsorted(known, digests), len(known) - 1)
        score = np.where(known[at] == digests, shared[at], score)
        decision = self.decision_
        return detectors.Judgement(
            score, conformal.p_values(decision, score), scoring.decide(decision, score)
        )

    def _seed(self) -> int:
        """The seed that `random_state` is, or draws."""
        state = self.random_state
        return int(
            state if isinstance(state, Integral) else check_random_state(state).randint(2**31)
        )

    def _rule(self) -> str:
        """The threshold rule that `contamination` or `alpha` names.

        Raises:
          UserError: they are out of range.
        """
        if not (isinstance(self.contamination, Real) and 0 < self.contamination <= 0.5):
            raise UserError(f"contamination is {self.contamination!r}; it must be in (0, 0.5]")
        if self.alpha is None:
            return f"quantile:{1 - float(self.contamination)}"
        if not (isinstance(self.alpha, Real) and 0 < self.alpha < 1):
            raise UserError(f"alpha is {self.alpha!r}; it must be between 0 and 1, or None")
        return f"conformal:{float(self.alpha)}"


def require_rows(x: np.ndarray) -> None:
    """Refuse fewer than three rows."""
    if len(x) < 3:
        raise UserError(
            f"n_samples = {len(x)}, but at least 3 rows are needed: two to train on, one to hold "
            "out"
        )


def require_unmasked(X: Any) -> None:
    """Refuse masked values: scikit-learn would drop the mask."""
    if np.ma.is_masked(X):
        raise UserError("X holds masked values; fill them, or leave their rows out")


def _digests(x: np.ndarray) -> np.ndarray:
    """64 bits of each row's values [N]."""
    x = x if x.dtype == np.uint8 else x.astype(np.float64)  # the dtype may depend on all rows
    rows = np.ascontiguousarray(x).reshape(len(x), -1)
    digests = [hashlib.blake2b(row.data, digest_size=8).digest() for row in rows]
    return np.frombuffer(b"".join(digests), np.uint64)


def _shared(
    digests: np.ndarray, score: Float[np.ndarray, " N"]
) -> tuple[tuple[np.ndarray, np.ndarray], Float[np.ndarray, " N"]]:
    """Each digest once, ascending, with the mean score of its rows; and that of every row [N]."""
    once, of_row = np.unique(digests, return_inverse=True)
    mean = np.bincount(of_row, score) / np.bincount(of_row)
    return (once, mean.astype(np.float32)), mean.astype(np.float32)[of_row]
