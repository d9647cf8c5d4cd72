"""Studies that show rows with their reconstructions."""

from typing import Any

import numpy as np

from jaxae.data import corruptions
from jaxae.detectors import explanation
from jaxae.reports import unlabelled
from jaxae.reports.studies.context import Context, Findings
from jaxae.storage import checkpoint


def _judged(context: Context, x: np.ndarray, scores: np.ndarray) -> dict[str, Any]:
    """Rows with their reconstructions, their scores and the detector's decisions."""
    return {
        "x": x,
        "x_hat": context.outputs(x).x_hat,
        "score": scores,
        "threshold": np.float32(context.threshold),
        "is_anomaly": context.decide(scores),
    }


def reconstructions(context: Context) -> Findings:
    """Test rows with their reconstructions: eight normal ones, then eight anomalies.

    Without labels, eight held-out rows.
    """
    test = context.data.test
    index = np.concatenate([context.pick(~test.y, 8), context.pick(test.y, 8)])
    judged = _judged(context, test.x[index], context.scores.test[index])
    labelled = np.bool_(context.data.is_labelled)
    return Findings(judged | {"y": test.y[index], "labelled": labelled}, {})


def verdicts(context: Context) -> Findings:
    """Input, reconstruction and difference of a few test rows, each with its verdict.

    Two normal rows, one of them also rotated, inverted and with noise, and two anomalies.
    """
    test = context.data.test
    normal, anomalies = context.pick(~test.y, 2), context.pick(test.y, 2)
    kind = "normal" if context.data.is_labelled else "held-out"
    rows = [(kind, x) for x in test.x[normal]]
    plain = not context.data.raw_shape  # corrupting a feature map is not corrupting the row
    can_corrupt = plain and len(context.data.shape) == 3 and corruptions.takes(context.data.train.x)
    for spec in ("rotation:90", "negative:1", "noise:0.2") if can_corrupt else ():
        rows.append((spec, corruptions.corrupt(spec, test.x[normal[:1]], context.cfg.seed)[0]))
    name = context.cfg.data.corruption or "anomaly"
    kinds = [f"{name}, class {class_id}" for class_id in test.class_id[anomalies]]
    rows += zip(kinds, test.x[anomalies], strict=True)
    x = np.stack([row for _, row in rows])
    judged = _judged(context, x, context.score(x))
    return Findings(judged | {"kind": np.array([kind for kind, _ in rows])}, {})


def residuals(context: Context) -> Findings:
    """The eight most anomalous test rows, with the map of the score; see `explanation.mapper`."""
    test, scores = context.data.test, context.scores.test
    index = np.argsort(-scores, kind="stable")[:8]
    judged = _judged(context, test.x[index], scores[index])
    kinds = np.array([f"row {i}, class {test.class_id[i]}" for i in index])
    if not context.data.is_labelled:
        kinds = np.array([unlabelled.called(i, context.data.names) for i in test.id[index]])
    by = explanation.mapper(context.detector, context.learner, context.devices)
    of = {"map": by.maps(judged["x"]), "map_of": np.array(by.of)}
    return Findings(judged | of | {"kind": kinds}, {})


_SHOWN = 6  # rows of each kind


def cases(context: Context) -> Findings:
    """The most anomalous test rows, those closest to the threshold, and the worst mistakes.

    Missed anomalies and false alarms are the ones furthest on the wrong side of the threshold.
    Without labels, see `_rows_to_look_at`.
    """
    if not context.data.is_labelled:
        return _rows_to_look_at(context)
    test, scores = context.data.test, context.scores.test
    flagged = context.decide(scores)
    rows_by_kind = {
        "most anomalous": _least(-scores),
        "borderline": _least(np.abs(scores - context.threshold)),
        "missed anomalies": _least(scores, test.y & ~flagged),
        "false alarms": _least(-scores, ~test.y & flagged),
    }
    index = np.concatenate(list(rows_by_kind.values()))
    about = {
        "kind": np.repeat([*rows_by_kind], [len(rows) for rows in rows_by_kind.values()]),
        "row": index,
        "y": test.y[index],
        "class_id": test.class_id[index],
        "is_anomaly": flagged[index],  # a rule may decide on all test rows together
    }
    return Findings(_judged(context, test.x[index], scores[index]) | about, {})


def _least(key: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    """The positions of the smallest keys, of all rows or of those under a mask."""
    rows = np.arange(len(key)) if mask is None else np.flatnonzero(mask)
    return rows[np.argsort(key[rows], kind="stable")][:_SHOWN]


def _rows_to_look_at(context: Context) -> Findings:
    """The highest scores of training and held-out rows, and held-out rows near the threshold."""
    data, (train, valid, _) = context.data, context.scores
    chosen = {
        "highest scores of training rows": (data.train, train, _least(-train)),
        "highest scores of held-out rows": (data.valid, valid, _least(-valid)),
        "held-out rows near the threshold": (
            data.valid, valid, _least(np.abs(valid - context.threshold)),
        ),
    }  # fmt: skip
    x = np.concatenate([split.x[rows] for split, _, rows in chosen.values()])
    scores = np.concatenate([of_split[rows] for _, of_split, rows in chosen.values()])
    ids = np.concatenate([split.id[rows] for split, _, rows in chosen.values()])
    about = {
        "kind": np.repeat([*chosen], [len(rows) for *_, rows in chosen.values()]),
        "row": ids,
        "name": np.array([unlabelled.called(int(i), data.names) for i in ids]),
    }
    return Findings(_judged(context, x, scores) | about, {})


def epoch_grid(context: Context) -> Findings:
    """Normal test rows reconstructed by each checkpoint that the run kept."""
    x = context.data.test.x[context.pick(~context.data.test.y, 10)]
    epochs = np.array(checkpoint.epochs(context.manager))
    x_hat = np.stack([context.outputs(x, context.at_epoch(int(e))).x_hat for e in epochs])
    return Findings({"epochs": epochs, "x": x, "x_hat": x_hat}, {})


def denoising(context: Context) -> Findings:
    """Normal test rows, with Gaussian noise clipped to [0, 1], and denoised by the model.

    The noise is the same as in training, or sigma 0.2 for a model trained without noise.
    """
    std = context.cfg.train.noise_std or 0.2
    clean = context.data.test.x[~context.data.test.y]
    noisy = corruptions.corrupt(f"noise:{std}", clean, context.cfg.seed)
    denoised = context.outputs(noisy).x_hat
    images = {"clean": clean[:10], "noisy": noisy[:10], "denoised": denoised[:10]}
    scalars = {
        "mse_noisy_to_clean": float(np.mean((noisy - clean) ** 2)),
        "mse_denoised_to_clean": float(np.mean((denoised - clean) ** 2)),
    }
    return Findings(images | {"noise_std": np.float32(std)}, scalars)


def beats(context: Context) -> Findings:
    """One normal and one abnormal test series, with their reconstructions."""
    test = context.data.test
    x = test.x[[np.flatnonzero(~test.y)[0], np.flatnonzero(test.y)[0]]]
    x_hat = context.outputs(x).x_hat
    names = ("normal", "abnormal", "normal_hat", "abnormal_hat")
    series = np.concatenate([x, x_hat]).reshape(4, -1)
    return Findings(dict(zip(names, series, strict=True)), {})
