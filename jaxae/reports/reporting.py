"""The report of a run: everything that a results table needs, as `report.json` holds it."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from jaxae import detectors, scoring
from jaxae.config import ExperimentConfig
from jaxae.detectors import evaluation
from jaxae.stats import intervals
from jaxae.storage import provenance, runfiles
from jaxae.training import selection
from jaxae.types import Dataset


def arrays(
    detector: detectors.Detector, scores: detectors.Scores, data: Dataset
) -> dict[str, np.ndarray]:
    """Scores, decisions and the truth, as `scores.npz` holds them."""
    return scores._asdict() | {
        "test_is_anomaly": scoring.decide(detector.decision, scores.test),
        "test_y": data.test.y,
        "test_class_id": data.test.class_id,
        "test_id": data.test.id,
    }


def make(
    cfg: ExperimentConfig,
    data: Dataset,
    detector: detectors.Detector,
    scores: detectors.Scores,
    folder: Path,
) -> dict[str, Any]:
    """What a finished run is worth, as JSON holds it; studies add to it what they measure.

    A metric NAME may have a NAME_interval [low, high] beside it: see `intervals.report`.
    """
    epochs = runfiles.read_metrics(folder / "metrics.jsonl")
    selected = selection.summary(cfg, epochs)
    epoch = epochs[selected["selected_epoch"] - 1]
    judged = scores.test, data.test.y, scoring.decide(detector.decision, scores.test)
    return {
        "name": cfg.name,
        "seed": cfg.seed,
        "dataset": cfg.data.name,
        "method": cfg.method,
        "score": cfg.score,
        "threshold_rule": f"{cfg.threshold.rule} on {cfg.threshold.on}",
        "compute_dtype": cfg.model.compute_dtype,
        "score_dtype": cfg.score_dtype,
        "epochs": epochs[-1]["epoch"],
        "train_loss": epoch["loss"],
        "valid_loss": epoch["valid_loss"],
        "steps_per_s": float(np.median([metrics["steps_per_s"] for metrics in epochs])),
        "n_train": len(data.train.y),
        "n_valid": len(data.valid.y),
        "threshold": detector.decision.threshold,
        "deterministic": cfg.deterministic,
        "digest": {
            "parameters": provenance.digest(detector.variables),
            "scores": provenance.digest(scores._asdict()),
        },
        **evaluation.evaluate(*judged),
        **intervals.report(*judged),
        **selected,
    }


def table(report: dict[str, Any]) -> str:
    """The report as an aligned two-column table, intervals beside what they are of.

    Below it a line for each of the report's "warnings".
    """
    flat: dict[str, Any] = {}
    for name, value in report.items():
        parts = value if isinstance(value, dict) else {}
        flat |= {f"{name}.{part}": of for part, of in parts.items()} or {name: value}
    warnings = [f"warning: {words}" for words in flat.pop("warnings", [])]
    shown = [name for name in flat if not name.endswith(_INTERVAL)]
    width = max(map(len, shown))
    lines = [
        f"{name:<{width}}  {_text(flat[name])} {_between(flat.get(name + _INTERVAL))}".rstrip()
        for name in shown
    ]
    rule = "-" * max(map(len, lines))
    return "\n".join([rule, *lines, rule, *warnings])


_INTERVAL = "_interval"
_DIGEST = re.compile("[0-9a-f]{64}")  # SHA-256


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(of)}" for name, of in value.items())
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return value[:12]  # enough to see; `report.json` has all of it
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _between(ends: list[float] | None) -> str:
    return f"[{ends[0]:.4g}, {ends[1]:.4g}]" if ends else ""
