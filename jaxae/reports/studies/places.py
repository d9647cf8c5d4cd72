"""Studies of places: which pixels of an image, and which steps of a series, are anomalous."""

import numpy as np
from jaxtyping import Float, Int

from jaxae import detectors
from jaxae.data.own import windows
from jaxae.data.own.schema import Schema
from jaxae.detectors import pixels, steps
from jaxae.reports import unlabelled
from jaxae.reports.plots import files, series
from jaxae.reports.plots import heatmaps as drawing
from jaxae.reports.studies.context import Context, Findings
from jaxae.types import Dataset

_ANOMALOUS, _NORMAL = 4, 2  # rows of each kind
_BLOCK = 4096  # windows that are read at a time


def shows_pixels(context: Context) -> bool:
    """Whether a run decides about pixels, and so has heatmaps without being asked."""
    return pixels.state_of(context.detector) is not None


def heatmaps(context: Context) -> Findings:
    """Score maps of the four most anomalous test rows and two normal ones, with their masks.

    Large images are stored as blocks of pixels, see `jaxae.reports.plots.heatmaps.blocks`.
    """
    data, scores = context.data, context.scores.test
    index = _most_anomalous_and_normal(context)
    x = data.test.x[index]
    maps = detectors.maps_fn(context.detector, context.learner, context.devices)(x)
    arrays = {
        "x": drawing.blocks(x, np.mean),
        "x_hat": drawing.blocks(np.asarray(context.outputs(x).x_hat), np.mean),
        "map": drawing.blocks(maps, np.max),
        "score": scores[index],
        "threshold": np.float32(context.threshold),
        "is_anomaly": context.decide(scores)[index],
        "kind": np.array([_called(context, i) for i in index.tolist()]),
    }
    if data.raw_shape:  # decisions and masks are of other places
        return Findings(arrays, {})
    if data.test_place_y is not None:
        arrays["mask"] = drawing.blocks(data.test_place_y[index], np.max)
    if pixels.state_of(context.detector):
        decision = pixels.decision_of(context.detector)
        arrays["flagged"] = drawing.blocks(pixels.decided(decision, maps), np.max)
        arrays["place_threshold"] = np.float32(decision.threshold)
    return Findings(arrays, {})


def _most_anomalous_and_normal(context: Context) -> Int[np.ndarray, " K"]:
    first = np.argsort(-context.scores.test, kind="stable")[:_ANOMALOUS]
    others = ~context.data.test.y
    others[first] = False
    return np.concatenate([first, context.pick(others, _NORMAL)])


def _called(context: Context, i: int) -> str:
    """The name of a test row and, if there are labels, its class."""
    data = context.data
    name = unlabelled.called(int(data.test.id[i]), data.names)
    if not data.is_labelled:
        return name
    return f"{name}\nclass {(data.schema or Schema()).called(int(data.test.class_id[i]))}"


def shows_steps(context: Context) -> bool:
    """Whether a run has decisions about the steps of a long series."""
    return context.data.steps is not None and steps.state_of(context.detector) is not None


def alarms(context: Context) -> Findings:
    """The tested steps of a series with their scores, true ranges and alarms, in columns.

    See `jaxae.reports.plots.series.condensed`; every step is in scores.npz.
    """
    stored = files.arrays(context.folder / files.SCORES, "step_score", "step_is_anomaly")
    return Findings(
        series.condensed(
            stored["step_score"],
            stored["step_is_anomaly"],
            steps.decision_of(context.detector).threshold,
            stored["step_index"],
            stored.get("step_y"),
            _tested_values(context.data),
        ),
        {},
    )


def _tested_values(data: Dataset) -> Float[np.ndarray, "T C"] | None:
    """The values of the steps that test windows hold, as in the file; None of mapped windows."""
    if data.raw_shape:
        return None
    assert data.steps
    start, window = data.steps.start[data.test.id], data.shape[0]
    is_tested = windows.covered(start, window, len(data.steps.row))
    place = np.cumsum(is_tested) - 1
    values = np.empty((int(is_tested.sum()), *data.shape[1:]))
    for first in range(0, len(start), _BLOCK):
        rows = slice(first, first + _BLOCK)
        x = np.asarray(data.test.x[rows], np.float64)
        at = place[start[rows, None] + np.arange(window)]
        values[at] = x * data.scaling.scale + data.scaling.shift
    return values
