"""Studies that show rows beside what the model makes of them."""

import numpy as np

from jaxae.data import corruptions
from jaxae.detectors import explanation
from jaxae.reports.studies.context import Context, Findings
from jaxae.storage import checkpoint


def reconstructions(context: Context) -> Findings:
    """Test rows with their reconstructions: eight normal ones, then eight anomalies."""
    test = context.data.test
    index = np.concatenate([context.pick(~test.y, 8), context.pick(test.y, 8)])
    x, scores = test.x[index], context.scores.test[index]
    arrays = {
        "x": x,
        "x_hat": context.outputs(x).x_hat,
        "y": test.y[index],
        "score": scores,
        "threshold": np.float32(context.threshold),
        "is_anomaly": context.decide(scores),
    }
    return Findings(arrays, {})


def verdicts(context: Context) -> Findings:
    """Input, reconstruction and difference of a few test rows, each with its verdict.

    Two normal rows, one of them also turned, negated and made noisy, and two anomalies.
    """
    test = context.data.test
    normal, anomalies = context.pick(~test.y, 2), context.pick(test.y, 2)
    rows = [("normal", x) for x in test.x[normal]]
    plain = not context.data.raw_shape  # corrupting a feature map is not mapping a corrupted row
    can_corrupt = plain and len(context.data.shape) == 3 and corruptions.takes(context.data.train.x)
    for spec in ("rotation:90", "negative:1", "noise:0.2") if can_corrupt else ():
        rows.append((spec, corruptions.corrupt(spec, test.x[normal[:1]], context.cfg.seed)[0]))
    name = context.cfg.data.corruption or "anomaly"
    kinds = [f"{name}, class {class_id}" for class_id in test.class_id[anomalies]]
    rows += zip(kinds, test.x[anomalies], strict=True)
    x = np.stack([row for _, row in rows])
    scores = context.score(x)
    arrays = {
        "x": x,
        "x_hat": context.outputs(x).x_hat,
        "score": scores,
        "threshold": np.float32(context.threshold),
        "is_anomaly": context.decide(scores),
        "kind": np.array([kind for kind, _ in rows]),
    }
    return Findings(arrays, {})


def residuals(context: Context) -> Findings:
    """The eight most anomalous test rows, and where their error lies."""
    test, scores = context.data.test, context.scores.test
    index = np.argsort(-scores, kind="stable")[:8]
    explained = explanation.from_outputs(test.x[index], context.outputs(test.x[index]).x_hat[None])
    arrays = {
        **explained._asdict(),
        "score": scores[index],
        "threshold": np.float32(context.threshold),
        "is_anomaly": context.decide(scores[index]),
        "kind": np.array([f"row {i}, class {test.class_id[i]}" for i in index]),
    }
    return Findings(arrays, {})


_SHOWN = 6  # rows of each kind


def cases(context: Context) -> Findings:
    """Test rows worth a look: the most anomalous, the closest to the threshold, the mistakes.

    Missed anomalies and false alarms are those that are furthest on the wrong side.
    """
    test, scores = context.data.test, context.scores.test
    flagged = context.decide(scores)
    away = np.abs(scores - context.threshold)

    def least(key: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        rows = np.arange(len(key)) if mask is None else np.flatnonzero(mask)
        return rows[np.argsort(key[rows], kind="stable")][:_SHOWN]

    rows_by_kind = {
        "most anomalous": least(-scores),
        "borderline": least(away),
        "missed anomalies": least(scores, test.y & ~flagged),
        "false alarms": least(-scores, ~test.y & flagged),
    }
    index = np.concatenate(list(rows_by_kind.values()))
    x = test.x[index]
    arrays = {
        "kind": np.repeat([*rows_by_kind], [len(rows) for rows in rows_by_kind.values()]),
        "row": index,
        "x": x,
        "x_hat": context.outputs(x).x_hat,
        "y": test.y[index],
        "class_id": test.class_id[index],
        "score": scores[index],
        "is_anomaly": flagged[index],
    }
    return Findings(arrays, {})


def epoch_grid(context: Context) -> Findings:
    """The same normal test rows reconstructed by every checkpoint that the run kept."""
    x = context.data.test.x[context.pick(~context.data.test.y, 10)]
    epochs = np.array(checkpoint.epochs(context.manager))
    x_hat = np.stack([context.outputs(x, context.at_epoch(int(e))).x_hat for e in epochs])
    return Findings({"epochs": epochs, "x": x, "x_hat": x_hat}, {})


def denoising(context: Context) -> Findings:
    """Normal test rows, with Gaussian noise clipped to [0, 1], and what the model makes of them.

    The noise is that of training, or sigma 0.2 for a model trained without.
    """
    std = context.cfg.train.noise_std or 0.2
    clean = context.data.test.x[~context.data.test.y]
    noisy = corruptions.corrupt(f"noise:{std}", clean, context.cfg.seed)
    denoised = context.outputs(noisy).x_hat
    shown = slice(0, 10)
    arrays = {
        "clean": clean[shown],
        "noisy": noisy[shown],
        "denoised": denoised[shown],
        "noise_std": np.float32(std),
    }
    scalars = {
        "mse_noisy_to_clean": float(np.mean((noisy - clean) ** 2)),
        "mse_denoised_to_clean": float(np.mean((denoised - clean) ** 2)),
    }
    return Findings(arrays, scalars)


def beats(context: Context) -> Findings:
    """One normal and one abnormal test series, with their reconstructions."""
    test = context.data.test
    x = test.x[[np.flatnonzero(~test.y)[0], np.flatnonzero(test.y)[0]]]
    x_hat = context.outputs(x).x_hat
    flat, flat_hat = x.reshape(2, -1), x_hat.reshape(2, -1)
    arrays = {
        "normal": flat[0],
        "abnormal": flat[1],
        "normal_hat": flat_hat[0],
        "abnormal_hat": flat_hat[1],
    }
    return Findings(arrays, {})
