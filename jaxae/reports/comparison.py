"""Comparing two runs on the same test rows: is one better, or is the difference chance?"""

from pathlib import Path

import numpy as np

from jaxae.detectors import evaluation
from jaxae.errors import UserError
from jaxae.reports import tables
from jaxae.reports.plots import files
from jaxae.rng import Purpose, stream
from jaxae.stats import intervals

_NEEDED = ("test", "test_is_anomaly", "test_y", "test_class_id", "test_id")
_LEVEL = 0.05  # a difference with a smaller p-value is called real


def compare(one: Path, other: Path, seed: int = 0) -> dict[str, dict]:
    """Metrics of two runs, and their difference with its 95 % interval and p-value.

    DeLong's test for the AUROC, the paired bootstrap for average precision and F1; see
    `jaxae.stats.intervals`. Intervals are over test rows, not over seeds.

    Args:
      one: the folder of a finished run.
      other: the folder of another run, scored on the same rows.
      seed: the seed of the bootstrap.

    Returns:
      Metric -> "one", "other", "difference" (one - other), "interval" [low, high] and "p_value".

    Raises:
      UserError: a folder contains no finished run, or the test rows differ.
    """
    for folder in (one, other):
        if not (folder / files.SCORES).is_file():
            raise UserError(f"{folder} holds no scores.npz; name the folder of a finished run")
        files.refuse_unlabelled(folder, "comparing runs needs labelled test rows")
    runs = [files.scores(folder, *_NEEDED) for folder in (one, other)]
    for name in _NEEDED[2:]:
        if not np.array_equal(runs[0][name], runs[1][name]):
            raise UserError(
                f"{one} and {other} were not scored on the same rows: {name} differs; compare runs "
                "of one data set and one split"
            )
    scores, flagged = (np.stack([run[name] for run in runs]) for name in _NEEDED[:2])
    y = runs[0]["test_y"]
    differences = intervals.compare(scores, y, flagged, stream(seed, Purpose.RESAMPLING))
    metrics = [evaluation.evaluate(s, y, f) for s, f in zip(scores, flagged, strict=True)]
    return {
        name: {
            "one": metrics[0][name],
            "other": metrics[1][name],
            "difference": float(difference.value),
            "interval": [float(end) for end in difference.interval],
            "p_value": float(difference.p_value),
            "verdict": "real" if difference.p_value < _LEVEL else "may be chance",
        }
        for name, difference in differences._asdict().items()
    }


def rows(differences: dict[str, dict]) -> list[tuple[str, ...]]:
    """The result of `compare` as cells: metric, one, other, difference, p-value, verdict."""
    return [
        (
            name,
            f"{row['one']:.4f}",
            f"{row['other']:.4f}",
            f"{row['difference']:+.4f} {tables.interval(row['interval'], '+')}",
            f"{row['p_value']:.4f}" if row["p_value"] >= 1e-4 else "<0.0001",
            row["verdict"],
        )
        for name, row in differences.items()
    ]


def table(differences: dict[str, dict]) -> str:
    """The result of `compare` as text, with a line for each metric."""
    heads = ("", "one", "other", "one - other, 95 % interval", "p", "")
    return tables.aligned([heads, *rows(differences)], right=(1, 2, 3, 4))
