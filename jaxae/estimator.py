"""jaxae as a scikit-learn estimator: arrays in, decisions out, no files."""

import functools
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any

import jax
import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils.validation import check_is_fitted, check_random_state, validate_data

from jaxae import detectors, scoring
from jaxae.config import (
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    OptimConfig,
    ThresholdConfig,
    TrainConfig,
    checks,
    for_scoring,
)
from jaxae.config.checks import AUTO
from jaxae.config.migrations import RENAMED
from jaxae.data import sources, splits
from jaxae.data.raw_data import narrowed
from jaxae.devices import parallel
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.training import train
from jaxae.workflows import auto, experiment


class AutoencoderDetector(OutlierMixin, BaseEstimator):
    """An autoencoder as an outlier detector of scikit-learn.

    `fit` holds out a share of the rows for calibration and trains on the others. As everywhere in
    scikit-learn, a *lower* `score_samples` is more anomalous and `predict` gives -1 for outliers, 1
    for inliers; `decision_scores_`, `labels_`, `threshold_` and `predict_proba` follow PyOD, where
    higher values, and 1, are outliers.

    Args:
      method: "dense", "conv" (images [N, H, W, C]) or "auto".
      anomaly_score: a name in `jaxae.SCORES`, or several joined by "+"; "auto" = mse+row_knn, or
        mse for many rows.
      latent: size of the latent code, or "auto".
      hidden: widths of a dense model's layers between input and code.
      epochs: number of epochs, or "auto".
      batch_size: rows in a training step, or "auto".
      scale: "none", "minmax", "standard" or "auto", fitted on the training rows.
      lr: learning rate of Adam.
      contamination: the share of the rows of `fit` that are flagged as outliers, in (0, 0.5].
      alpha: if not None, it replaces `contamination`: rows with a p-value of at most alpha are
        outliers, and a new inlier is flagged with a probability of at most alpha.
      valid_fraction: the share of rows that are held out.
      settings: other fields of `jaxae.ExperimentConfig` by their dotted names, for example
        {"train.noise_std": 0.1}.
      random_state: seed of initial weights, row order and held-out rows.

    Attributes:
      detector_: the `jaxae.Detector`; `jaxae.detectors.save` writes it.
      offset_: `decision_function(X) = score_samples(X) - offset_`.
      n_features_in_: number of values in a row, or the height of images.
      decision_scores_, labels_, threshold_: PyOD's attributes, for the rows of `fit`.
    """

    def __init__(
        self,
        *,
        method: str = AUTO,
        anomaly_score: str = AUTO,
        latent: int | str = AUTO,
        hidden: tuple[int, ...] = (),
        epochs: int | str = AUTO,
        batch_size: int | str = AUTO,
        scale: str = AUTO,
        lr: float = 1e-3,
        contamination: float = 0.1,
        alpha: float | None = None,
        valid_fraction: float = 0.1,
        settings: Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ):
        self.method = method
        self.anomaly_score = anomaly_score
        self.latent = latent
        self.hidden = hidden
        self.epochs = epochs
        self.batch_size = batch_size
        self.scale = scale
        self.lr = lr
        self.contamination = contamination
        self.alpha = alpha
        self.valid_fraction = valid_fraction
        self.settings = settings
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> "AutoencoderDetector":
        """Train on rows [N, F], or [N, *S] of any shape, and calibrate.

        Args:
          X: numbers; uint8 images are pixels.
          y: ignored.

        Raises:
          UserError: a `ValueError`: a setting is not valid, or there are too few rows.
          FloatingPointError: training diverged, or the model collapsed, for example on equal rows.
        """
        x = self._rows(X, reset=True)
        if len(x) < 3:
            raise UserError(
                f"n_samples = {len(x)}, but at least 3 rows are needed: two to train on, one to "
                "hold out"
            )
        self._check_decision()
        parallel.initialize()
        span = auto.in_floats(sources.span(x))
        make = functools.partial(splits.of_normals, x)
        cfg, data = auto.settle_rows(self._config(), x.shape[1:], span, make)
        experiment.check(cfg, data)
        learner = learners.build(cfg, data.shape)
        devices = train.devices_for(learner, cfg, data.shape)
        state = train.fit(learner, data.train.x, cfg, devices, quiet=True).state
        scoring_learner = learners.build(for_scoring(cfg), data.shape)
        detector, _ = detectors.fit(
            scoring_learner, state.variables, data, cfg, jax.local_devices()
        )
        self.detector_ = detector
        self.decision_scores_ = self._judged(x).score
        if self.alpha is None:  # the threshold is fitted on all rows, p-values on held-out rows
            with parallel.on_host():
                decision = scoring.fit_rule(cfg.threshold.rule, self.decision_scores_)
            decision = decision._replace(calibration=detector.decision.calibration)
            detector = detector._replace(decision=decision)
        self.detector_ = jax.device_get(detector)
        self.threshold_ = float(self.detector_.decision.threshold)
        self.offset_ = -self.threshold_
        self.labels_ = scoring.decide(self.detector_.decision, self.decision_scores_).astype(int)
        return self

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
        """Conformal p-values [N], (1 + #{held-out scores >= s}) / (n + 1), in (0, 1].

        If rows and held-out rows are exchangeable, a p-value is at most alpha with a probability of
        at most alpha. This does not hold for a sum of scores, which is standardised on the held-out
        rows: if you need the guarantee, set `alpha`, or `anomaly_score="mse"`.
        """
        return self._judged(X).p_value.astype(np.float64)

    def predict_proba(self, X: Any) -> np.ndarray:
        """PyOD's [N, 2] for inliers and outliers; scaled scores rather than true probabilities.

        The score of an outlier is scaled so that the rows of `fit` range from 0 to 1.
        """
        check_is_fitted(self)
        low, high = self.decision_scores_.min(), self.decision_scores_.max()
        share = (-self.score_samples(X) - low) / max(float(high - low), np.finfo(np.float32).tiny)
        share = np.clip(share, 0.0, 1.0)
        return np.stack([1.0 - share, share], axis=1)

    def _judged(self, X: Any) -> detectors.Judgement:
        check_is_fitted(self)
        return detectors.judge(self.detector_, self._rows(X, reset=False))

    def _rows(self, X: Any, reset: bool) -> np.ndarray:
        x = validate_data(self, X, reset=reset, allow_nd=True, dtype="numeric")
        if x.dtype != np.uint8 or x.ndim == 2:
            x = narrowed(x)
        return x[..., None] if x.ndim == 3 and x.dtype == np.uint8 else x

    def _config(self) -> ExperimentConfig:
        state = self.random_state
        if not isinstance(state, Integral):
            state = check_random_state(state).randint(2**31)
        quantile, conformal = f"quantile:{1 - self.contamination}", f"conformal:{self.alpha}"
        cfg = ExperimentConfig(
            name="estimator",
            method=self.method,
            score=self.anomaly_score,
            seed=int(state),
            data=DataConfig(
                scale=self.scale, valid_fraction=self.valid_fraction, split_seed=int(state)
            ),
            model=ModelConfig(
                latent=self.latent, hidden=tuple(self.hidden), output_activation=AUTO
            ),
            optim=OptimConfig(lr=float(self.lr)),
            train=TrainConfig(epochs=self.epochs, batch_size=self.batch_size),
            threshold=ThresholdConfig(rule=quantile if self.alpha is None else conformal),
        )
        for name, value in (self.settings or {}).items():
            if name in RENAMED:
                raise UserError(f"settings has {name!r}, which is now {RENAMED[name]!r}")
            setting = checks.described(cfg).get(name)
            if not setting or setting.is_section:
                raise UserError(f"settings has {name!r}, not a field such as train.noise_std")
            cfg = checks.replaced(cfg, name, value)
        return checks.validate(cfg)

    def _check_decision(self) -> None:
        if not (isinstance(self.contamination, Real) and 0 < self.contamination <= 0.5):
            raise UserError(f"contamination is {self.contamination!r}; it must be in (0, 0.5]")
        if self.alpha is not None and not (isinstance(self.alpha, Real) and 0 < self.alpha < 1):
            raise UserError(f"alpha is {self.alpha!r}; it must be between 0 and 1, or None")
