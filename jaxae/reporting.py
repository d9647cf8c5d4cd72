"""The report of a run: everything that a results table needs, as `report.json` holds it."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxae import detectors, evaluation, intervals, runlog, scoring
from jaxae.config import ExperimentConfig
from jaxae.types import Dataset


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
    epochs = runlog.read_metrics(folder / "metrics.jsonl")
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
        "train_loss": epochs[-1]["loss"],
        "valid_loss": epochs[-1]["valid_loss"],
        "steps_per_s": float(np.median([metrics["steps_per_s"] for metrics in epochs])),
        "n_train": len(data.train.y),
        "n_valid": len(data.valid.y),
        "threshold": detector.decision.threshold,
        **evaluation.evaluate(*judged),
        **intervals.report(*judged),
    }


def table(report: dict[str, Any]) -> str:
    """The report as an aligned two-column table, intervals beside what they are of."""
    shown = {name: value for name, value in report.items() if not name.endswith(_INTERVAL)}
    width = max(map(len, shown))
    lines = [
        " ".join([f"{name:<{width}} ", _text(value), _between(report.get(name + _INTERVAL))])
        for name, value in shown.items()
    ]
    lines = [line.rstrip() for line in lines]
    rule = "-" * max(map(len, lines))
    return "\n".join([rule, *lines, rule])


_INTERVAL = "_interval"


def _text(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _between(ends: list[float] | None) -> str:
    return f"[{ends[0]:.4g}, {ends[1]:.4g}]" if ends else ""
