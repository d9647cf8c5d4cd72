"""An autoencoder as an estimator: settings chosen from the rows, scores out of fold."""

import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from sklearn.utils.validation import check_is_fitted, validate_data

from jaxae import detectors
from jaxae.config import (
    DataConfig,
    ExperimentConfig,
    ModelConfig,
    OptimConfig,
    ThresholdConfig,
    TrainConfig,
    checks,
)
from jaxae.config.checks import AUTO
from jaxae.config.migrations import RENAMED
from jaxae.data import sources, splits
from jaxae.data.own import arrays
from jaxae.data.raw_data import narrowed
from jaxae.devices import parallel
from jaxae.errors import UserError
from jaxae.estimators.decisions import (
    FOLDS,
    OutlierDecisions,
    require_rows,
    require_unmasked,
)
from jaxae.types import Dataset
from jaxae.workflows import auto, crossfit, experiment

_UNUSED = {
    "threshold.rule": "set contamination or alpha",
    "data.limit": "give fit fewer rows",
    "data.contamination": "contamination is the share that is flagged; no row is left out",
}
# JAX keeps every program that it has compiled: 30 MB for each fit of another number of rows.
KEPT_FITS = 16


class AutoencoderDetector(OutlierDecisions):
    """An autoencoder as an outlier detector of scikit-learn.

    As everywhere in scikit-learn, a *lower* `score_samples` is more anomalous and `predict` gives
    -1 for outliers, 1 for inliers; `decision_scores_`, `labels_`, `threshold_` and `predict_proba`
    follow PyOD, where higher values, and 1, are outliers.

    A model fits the rows that it was trained on better than new ones, and each of them is its own
    nearest neighbour. Therefore rows of `fit` are scored out of fold: five models, trained beside
    the detector's own, each leave out a fifth of the rows and score it. The threshold comes from
    these scores, so it holds for new rows. A row that `predict`, `score_samples` or another method
    gets is recognised if it was in `fit`, with equal values, and has its out-of-fold score
    there too; equal rows share their mean score. The scaling is fitted on all rows.

    After `fit`, a process must not be forked to use the estimator there, as JAX would hang: this is
    refused. Start processes with `multiprocessing.get_context("spawn")` or joblib's default, loky.

    Args:
      method: "dense", "conv" (images [N, H, W, C]), "fcn" (also series [N, T, C]) or "auto".
      anomaly_score: a name in `jaxae.SCORES`, or several joined by "+", "^" or "*"; "auto" = the
        best for their shape (see `jaxae.workflows.auto`), or mse for many rows.
      latent: size of the latent code, or "auto".
      hidden: widths of a dense model's layers between input and code; a number is one layer.
      epochs: number of epochs, or "auto".
      batch_size: rows in a training step, or "auto".
      scale: "none", "minmax", "standard" or "auto", fitted on the training rows.
      lr: learning rate of Adam.
      contamination: the share of the rows of `fit` that are flagged as outliers, in (0, 0.5].
      alpha: if not None, it replaces `contamination`: rows with a p-value of at most alpha are
        outliers, and a new inlier is flagged with a probability of at most alpha. For this a share
        of the rows is held out, and no model is trained on them.
      valid_fraction: the share of rows that are held out if `alpha` is set.
      settings: other fields of `jaxae.ExperimentConfig` by their dotted names, for example
        {"train.noise_std": 0.1}.
      random_state: seed of initial weights, row order, folds and held-out rows.

    Attributes:
      detector_: the `jaxae.Detector`; `jaxae.detectors.save` writes it. It does not know the rows
        of `fit`, and scores them as rows that it was trained on.
      offset_: `decision_function(X) = score_samples(X) - offset_`.
      n_features_in_: number of values in a row, or the height of images.
      feature_names_in_: the names of the columns if X was a table with names, all of them strings.
      decision_: the fitted threshold rule.
      decision_scores_, labels_, threshold_: PyOD's attributes, for the rows of `fit`.
    """

    def __init__(
        self,
        *,
        method: str = AUTO,
        anomaly_score: str = AUTO,
        latent: int | str = AUTO,
        hidden: int | Sequence[int] = (),
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
          X: numbers; uint8 images are pixels. [N, A, B] are grey images if they are uint8 or A = B,
            else series of A steps with B values.
          y: ignored.

        Raises:
          UserError: a `ValueError`: a setting is not valid, or there are too few rows.
          FloatingPointError: training diverged, or the model collapsed, for example on equal rows.
        """
        _refuse_fork()
        if next(_fits) % KEPT_FITS == 0:
            jax.clear_caches()
        x = self._rows(X, reset=True)
        require_rows(x)
        parallel.initialize()
        cfg, data = self._settled(x)
        detector, scores = crossfit.fit(cfg, data, min(FOLDS, len(data.train.x)))
        score = np.empty(len(x), np.float32)
        score[data.valid.id], score[data.train.id] = scores.valid, scores.train
        decision = None if self.alpha is None else detector.decision
        self._decide(x, score, cfg.threshold.rule, decision)
        self.detector_ = jax.device_get(detector)._replace(decision=self.decision_)
        return self

    def _settled(self, x: np.ndarray) -> tuple[ExperimentConfig, Dataset]:
        """The configuration without an "auto", and its data; only `alpha` needs held-out rows."""
        asked = self._config()
        make = functools.partial(splits.all_normals if self.alpha is None else splits.of_normals, x)
        span = auto.in_floats(sources.span(x))
        cfg, data = auto.settle_rows(asked, x.shape[1:], span, make)
        auto.require_variation(x, "X")
        within = sources.within(sources.span(data.train.x), 0.0, 1.0)
        if cfg.train.noise_std and not within and "train.noise_clip" not in (self.settings or {}):
            cfg = checks.replaced(cfg, "train.noise_clip", False)  # the default suits rows within
        experiment.check(cfg, data)
        return cfg, data

    def score_maps(self, X: Any) -> np.ndarray:
        """How anomalous each place of rows is: features [N, F], steps [N, T] or pixels [N, H, W].

        The map of `anomaly_score`, at least 0, higher = more anomalous, averaged over channels. All
        rows are judged by `detector_`: rows of `fit` as those that it was trained on.

        Raises:
          UserError: a `ValueError`: the score says nothing of single places.
        """
        check_is_fitted(self)
        _refuse_fork()
        return detectors.score_maps(self.detector_, self._rows(X, reset=False))

    def _scored(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        _refuse_fork()
        x = self._rows(X, reset=False)
        return x, detectors.judge(self.detector_, x).score

    def _rows(self, X: Any, reset: bool) -> np.ndarray:
        require_unmasked(X)
        x = validate_data(self, X, reset=reset, allow_nd=True, dtype="numeric")
        if x.dtype != np.uint8 or x.ndim == 2:
            x = narrowed(x)
        return x.reshape(len(x), *arrays.row_shape(x, "X", "auto"))

    def _config(self) -> ExperimentConfig:
        seed = self._seed()
        hidden = _plain(self.hidden)
        hidden = hidden if isinstance(hidden, tuple) else (hidden,)
        cfg = ExperimentConfig(
            name="estimator",
            method=self.method,
            score=self.anomaly_score,
            seed=seed,
            data=DataConfig(
                scale=self.scale,
                valid_fraction=_plain(self.valid_fraction),
                split_seed=seed,
            ),
            model=ModelConfig(latent=_plain(self.latent), hidden=hidden, output_activation=AUTO),
            optim=OptimConfig(lr=float(self.lr)),
            train=TrainConfig(
                epochs=_plain(self.epochs),
                batch_size=_plain(self.batch_size),
                crop=AUTO,
                crops=AUTO,
            ),
            threshold=ThresholdConfig(rule=self._rule()),
        )
        for name, value in (self.settings or {}).items():
            if name in _UNUSED:
                raise UserError(f"settings has {name!r}; {_UNUSED[name]}")
            if name in RENAMED:
                raise UserError(f"settings has {name!r}, which is now {RENAMED[name]!r}")
            setting = checks.described(cfg).get(name)
            if not setting or setting.is_section:
                raise UserError(f"settings has {name!r}, not a field such as train.noise_std")
            cfg = checks.replaced(cfg, name, _plain(value))
        return checks.validate(cfg)


def _plain(value: Any) -> Any:
    """A setting without NumPy's types: numbers of Python, and tuples."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


_fits = itertools.count(1)
_process: dict[str, int] = {}  # that runs JAX


def _refuse_fork() -> None:
    """Raise a `UserError` in a fork of a process that has used an estimator: JAX would hang."""
    if _process.setdefault("id", os.getpid()) != os.getpid():
        raise UserError(
            "this process was forked after an estimator was used, and JAX would hang in it; start "
            'processes with multiprocessing.get_context("spawn") or joblib\'s loky'
        )
