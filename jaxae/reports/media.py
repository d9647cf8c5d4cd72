"""Images, histograms and tables of a run, for loggers; computed by one process on its own."""

import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxae import scoring
from jaxae.config import ExperimentConfig
from jaxae.detectors import Detector, Scores, evaluation, judging
from jaxae.devices import members
from jaxae.reports.plots import rows, style
from jaxae.stats.conformal import p_values
from jaxae.storage.logs import Log, Logger, Media, Show
from jaxae.types import Dataset, Learner, PyTree, Split

_SHOWN = {3: 8, 2: 4, 1: 4}  # rows of each kind in a picture, by the dimensions of a row
_SCORED = 2048  # the most rows of each kind in a histogram


def log_of(
    cfg: ExperimentConfig,
    folder: Path,
    loggers: Sequence[Logger],
    learner: Learner,
    data: Dataset,
) -> Log:
    """The log of a run, which computes `of_epoch` for loggers that ask for it."""
    return Log(cfg, folder, loggers, functools.partial(of_epoch, cfg, learner, data))


def of_epoch(cfg: ExperimentConfig, learner: Learner, data: Dataset, variables: PyTree) -> Media:
    """Held-out rows, and test anomalies if there are any, after an epoch; always the same rows.

    Args:
      cfg: the run's configuration.
      learner: the one for scoring.
      data: the run's data set.
      variables: after the epoch [E, ...].

    Returns:
      The image "reconstructions", of the first member of an ensemble; histograms "valid_SCORE" and
      "anomaly_SCORE" by the run's score, or by mse if the run's score has to be fitted first.
    """
    devices, anomalies = jax.local_devices(), np.flatnonzero(data.test.y)
    count = _SHOWN[len(data.shape)]
    valid_x = data.valid.x[_spread(len(data.valid.y), _SCORED)]
    anomaly_x = data.test.x[anomalies[_spread(len(anomalies), _SCORED)]]
    of_kind = {"valid": valid_x, "anomaly": anomaly_x}
    shown = [x[_spread(len(x), count)] for x in of_kind.values()]
    x, kind = np.concatenate(shown), np.repeat([*of_kind], [*map(len, shown)])
    x_hat = evaluation.inference(learner, devices)(members.part(variables, 0), x).x_hat[0]
    name = "mse" if scoring.resolve(cfg.score).is_fitted else cfg.score
    score = judging.scores_of(learner, scoring.resolve(name), variables, {}, devices)
    histograms = {f"{kind}_{name}": score(x) for kind, x in of_kind.items() if len(x)}
    return Media({"reconstructions": rows.pairs(x, x_hat, kind)}, histograms, {})


def of_run(
    show: Show,
    data: Dataset,
    detector: Detector,
    scores: Scores,
    figures: Sequence[Path] = (),
) -> Media:
    """The media of a finished run, with its detector's judgement of test rows and its figures."""
    p = p_values(detector.decision, scores.test)
    flagged = np.asarray(scoring.decide(detector.decision, scores.test))
    test = data.test if data.is_labelled else data.test.id
    return judged(show(detector.variables), test, scores.test, p, flagged, figures)


def judged(
    shown: Media,
    test: Split | Int[np.ndarray, " N"],
    score: Float[np.ndarray, " N"],
    p_value: Float[np.ndarray, " N"],
    is_anomaly: Bool[np.ndarray, " N"],
    figures: Sequence[Path] = (),
) -> Media:
    """`shown`, with images "figures/NAME", and with scores and the table "test" of the test rows.

    The histograms "normal_score" and "anomaly_score" are of the scores of normals and anomalies.
    Rows without labels are given as their ids; their histogram is "held_out_score".
    """
    images = {f"figures/{path.stem}": style.read(path) for path in figures}
    if isinstance(test, Split):
        histograms = {"normal_score": score[~test.y], "anomaly_score": score[test.y]}
        columns = {"id": test.id, "class_id": test.class_id, "y": test.y}
    else:
        histograms, columns = {"held_out_score": score}, {"id": test}
    columns |= {
        "score": score,
        "p_value": p_value,
        "is_anomaly": is_anomaly,
    }
    return Media(
        shown.images | images,
        shown.histograms | {name: values for name, values in histograms.items() if len(values)},
        {"test": {name: values.tolist() for name, values in columns.items()}},
    )


def _spread(n: int, count: int) -> Int[np.ndarray, " K"]:
    """At most `count` of n positions, spread evenly."""
    return np.unique(np.linspace(0, n - 1, min(n, count)).astype(int))
