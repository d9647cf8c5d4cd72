"""The report of a run, for `report.json` and as a table."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxae import detectors, scoring
from jaxae.config import ExperimentConfig
from jaxae.detectors import evaluation
from jaxae.reports import by_pixel, by_step, tables
from jaxae.stats import intervals
from jaxae.storage import disk, provenance
from jaxae.training import selection
from jaxae.types import Dataset


def arrays(
    detector: detectors.Detector, scores: detectors.Scores, data: Dataset
) -> dict[str, np.ndarray]:
    """Scores, decisions and ground truth, for `scores.npz`.

    Without labels, the test rows are the held-out rows, and there is no truth.
    """
    flagged = scoring.decide(detector.decision, scores.test)
    truth = {"test_y": data.test.y, "test_class_id": data.test.class_id}
    judged = scores._asdict() | {"test_is_anomaly": flagged} | (truth if data.is_labelled else {})
    return judged | {"test_id": data.test.id} | row_digests(data)


def row_digests(data: Dataset) -> dict[str, np.ndarray]:
    """The digests of the test rows [N], for `scores.npz`, by which `jaxae compare` pairs rows."""
    return {"test_row_digest": data.test_digests()} if data.test_digests else {}


def make(
    cfg: ExperimentConfig,
    data: Dataset,
    detector: detectors.Detector,
    scores: detectors.Scores,
    folder: Path,
    by_place: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> dict[str, Any]:
    """The report of a finished run, ready for JSON; studies add their scalars to it.

    `by_place` are the arrays of scores.npz that say something of the places of test rows.

    A metric NAME may come with NAME_interval [low, high]: see `intervals.report`. "labelled" says
    whether there are metrics; without labels see `jaxae.reports.unlabelled`.
    """
    epochs = disk.read_metrics(folder / "metrics.jsonl")
    selected = selection.summary(cfg, epochs)
    epoch = epochs[selected["selected_epoch"] - 1]
    outcome = scores.test, data.test.y, scoring.decide(detector.decision, scores.test)
    metrics: dict[str, Any] = {}
    if data.is_labelled:
        metrics = evaluation.evaluate(*outcome) | intervals.report(*outcome)
    return {
        "name": cfg.name,
        "seed": cfg.seed,
        "dataset": cfg.data.name,
        "labelled": data.is_labelled,
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
        **metrics,
        **by_step.make(detector, by_place),
        **by_pixel.make(detector, by_place),
        **selected,
    }


_INTERVAL = "_interval"


def table(report: dict[str, Any]) -> str:
    """The report as a two-column table, with intervals beside values; sentences stand below."""
    flat: dict[str, Any] = {}
    for name, value in report.items():
        parts = value if isinstance(value, dict) else {}
        flat |= {f"{name}.{part}": inner for part, inner in parts.items()} or {name: value}
    sentences = {"no_metrics": "{}", "p_value_flaw": "the false-alarm rate is not guaranteed: {}"}
    below = {name: flat.pop(name, None) for name in sentences}
    lines_below = [sentences[name].format(words) for name, words in below.items() if words]
    lines_below += [f"warning: {words}" for words in flat.pop("warnings", [])]
    rows = [
        (name, f"{tables.text(value)} {tables.interval(flat.get(name + _INTERVAL))}")
        for name, value in flat.items()
        if not name.endswith(_INTERVAL)
    ]
    lines = tables.aligned(rows)
    rule = "-" * max(map(len, lines.splitlines()))
    return "\n".join([rule, lines, rule, *lines_below])
