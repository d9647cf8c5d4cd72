"""The part of a run's page that shows a long series: its steps and alarms at any threshold."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxae.reports.pages import frame
from jaxae.reports.plots import STUDY_FIGURES, files, series
from jaxae.stats.ranges import apart, coverage, detection, ranges

_CUTS = 300  # the most positions of the slider
_LANES = ("truth", "alarms", "slider")
_OF_STEPS = {
    "vus_pr": ("VUS-PR", ""),
    "step_average_precision": ("AUC-PR by step", ""),
    "range_precision": ("Precision by range", "at the run's own threshold"),
    "range_recall": ("Recall by range", "at the run's own threshold"),
    "step_false_alarm_rate": ("Flagged steps", "of held-out normals"),
}
_COUNTS = {
    "step-cut": "Threshold",
    "step-alarms": "Alarms",
    "step-flagged": "Share of steps flagged",
    "step-precision": "Precision by range",
    "step-recall": "Recall by range",
    "step-f1": "F1 by range",
    "step-found": "Share of true ranges found",
    "step-delay": "Mean delay in steps",
}
_MEANING = (
    '<p class="soft">Precision by range is the mean over runs of flagged steps of the share that '
    "is true, recall the mean over true ranges of the share that is flagged. The delay is that of "
    "the ranges found.</p>"
)
_WITHOUT_TRUTH = ("step-cut", "step-alarms", "step-flagged")


class Steps(NamedTuple):
    """The tested steps of a run, those of all stretches one after the other."""

    score: Float[np.ndarray, " T"]
    stretch: Int[np.ndarray, " T"]  # rises where the series is interrupted
    y: Bool[np.ndarray, " T"] | None


def section(folder: Path, report: dict[str, Any]) -> Iterator[str]:
    """The series with its alarms, and the slider; nothing of a run without decisions by step."""
    path = folder / STUDY_FIGURES["alarms"].needs[0]
    if "step_threshold" not in report or not path.is_file():
        return
    columns = files.arrays(path, *series.NEEDED)
    stored = files.arrays(folder / files.SCORES, "step_score", "step_stretch")
    steps = Steps(stored["step_score"], stored["step_stretch"], stored.get("step_y"))
    yield "<h2>Alarms by step</h2>"
    yield frame.heads(frame.values(report, _OF_STEPS, ".4f"))
    figure = series.alarms(columns, files.headline(folder), _LANES)
    of_columns = len(columns["edges"]) <= len(steps.score)
    yield frame.figure(
        figure,
        "The series by step with its true ranges and alarms, and the score of each step",
        "The dashed line and the bars of alarms are the run's own, the solid ones the slider's."
        + (f" {series.RULE}" if of_columns else ""),
        '<path id="step-bars" class="bars"/><line id="step-line" class="mark"/>',
    )
    cuts, own = thresholds(steps.score, report["step_threshold"])
    yield (
        '<label for="step-threshold">Threshold: steps with a higher score are flagged</label>'
        f'<input type="range" id="step-threshold" min="0" max="{len(cuts) - 1}" value="{own}">'
        '<button id="step-own" type="button">The run\'s own threshold</button>'
        '<div class="counts" aria-live="polite">'
    )
    values = counts(steps, cuts)
    for key in values:
        yield f'<div>{_COUNTS[key]}<output id="{key}" for="step-threshold"></output></div>'
    yield "</div>"
    if steps.y is not None:
        yield _MEANING
    lanes, scores = figure.axes[-2:]
    data = {
        "values": {key: frame.floats(of_cuts) for key, of_cuts in values.items()},
        "high": frame.floats(columns["score_high"]),
        "edges": (columns["edges"] / len(steps.score)).round(6).tolist(),
        "own": own,
        "lane": frame.axes_box(lanes),
        "lanes": len(lanes.get_yticks()),
        "box": frame.axes_box(scores),
    }
    yield f'<script type="application/json" id="steps">{json.dumps(data)}</script>'


def thresholds(
    score: Float[np.ndarray, " T"], threshold: float
) -> tuple[Float[np.ndarray, " K"], int]:
    """The thresholds of the slider in ascending order, and the position of the run's own.

    They flag numbers of steps that grow by a constant factor, from one step to all.
    """
    descending = np.sort(score.astype(np.float32))[::-1]
    ranks = np.unique(np.geomspace(1, len(descending), _CUTS).astype(int)) - 1
    flags_all = np.nextafter(descending[-1], np.float32(-np.inf))
    own = np.float32(threshold)
    cuts = np.unique(np.concatenate([descending[ranks], [flags_all, own]]))
    return cuts, int(np.searchsorted(cuts, own))


def counts(steps: Steps, cuts: Float[np.ndarray, " K"]) -> dict[str, Float[np.ndarray, " K"]]:
    """What the slider shows at each threshold, by the id of its field; NaN where there is none."""
    rows = [_at(steps, cut) for cut in cuts]
    keys = _COUNTS if steps.y is not None else _WITHOUT_TRUTH
    return {key: np.array([row[key] for row in rows]) for key in keys}


def _at(steps: Steps, cut: np.float32) -> dict[str, float]:
    flagged = steps.score > cut
    is_alarm = apart(flagged, steps.stretch)
    found = {
        "step-cut": float(cut),
        "step-alarms": float(len(ranges(is_alarm))),
        "step-flagged": float(np.mean(flagged)),
    }
    if steps.y is None:
        return found
    y = apart(steps.y, steps.stretch)
    covered, detected = coverage(is_alarm, y), detection(is_alarm, y)
    return found | {
        "step-precision": covered.precision,
        "step-recall": covered.recall,
        "step-f1": covered.f1,
        "step-found": detected.found,
        "step-delay": detected.delay,
    }
