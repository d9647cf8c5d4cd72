"""Studies of places: which pixels of an image are anomalous."""

import numpy as np
from jaxtyping import Int

from jaxae import detectors, scoring
from jaxae.data.own.schema import Schema
from jaxae.reports import unlabelled
from jaxae.reports.plots import heatmaps as drawing
from jaxae.reports.studies.context import Context, Findings

_LARGE = 64  # pixels of the longer side, from which on heatmaps are always drawn
_ANOMALOUS, _NORMAL = 4, 2  # rows of each kind


def shows_pixels(context: Context) -> bool:
    """Whether a run has heatmaps without being asked: its images are large, and scored by pixel."""
    shape, score = context.data.shape, scoring.resolve(context.cfg.score)
    return len(shape) == 3 and max(shape[:2]) >= _LARGE and score.places is not None


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
    if data.test_place_y is not None and not data.raw_shape:  # else the map has other places
        arrays["mask"] = drawing.blocks(data.test_place_y[index], np.max)
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
