"""Explanations: at which pixel, sample or feature a row is anomalous, by the map of a score."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxae import config, detectors, scoring
from jaxae.detectors import evaluation
from jaxae.devices import parallel
from jaxae.methods import learners
from jaxae.scoring import pooling
from jaxae.types import Learner, Shape, Source

_KINDS = {1: "feature", 2: "sample", 3: "pixel"}  # the name of a row's value, by number of axes
_INSTEAD = "mse"  # of a score without a map


class Explanation(NamedTuple):
    """Rows as inputs of the model, their reconstructions, and the map of a score."""

    x: Float[np.ndarray, " N *S"]  # scaled, and mapped by `data.input`
    x_hat: Float[np.ndarray, " N *S"]  # mean over the members
    map: Float[np.ndarray, " N *P"]  # with channels where the score tells them apart
    map_of: str  # the score that the map is of


class Leading(NamedTuple):
    """The K largest values of each row's map, the largest first."""

    index: Int[np.ndarray, "N K A"]  # type: ignore[assignment] # position along each of the map's A axes
    share: Float[np.ndarray, "N K"]  # of the sum of the row's map, in [0, 1]


class Mapper(NamedTuple):
    """The maps that explain a detector's decisions."""

    of: str  # the score
    maps: Callable[[Source], Float[np.ndarray, " N *P"]]  # of scaled rows, with channels


def mapper(detector: detectors.Detector, learner: Learner, devices: parallel.Devices) -> Mapper:
    """Maps of the detector's own score, or else of the squared error of the reconstruction."""
    spec, fitted = detector.about.config.score, detector.fitted
    score, (sign, names) = scoring.resolve(spec), scoring.parts_of(spec)
    if score.places:  # of a sum, those of the parts that have one
        of = sign.join(name for name in names if scoring.resolve(name).places)
    else:
        of, score, fitted = _INSTEAD, scoring.resolve(_INSTEAD), {}
    maps = detectors.maps_of(learner, score, detector.variables, fitted, devices, detailed=True)
    return Mapper(of, maps)


def explain(detector: detectors.Detector, x: Float[np.ndarray, " N *S"]) -> Explanation:
    """The map of the score for rows, as `jaxae.detectors.prepared` gives them.

    A map shows where a row is unusual, not necessarily why: one extreme value changes the code, and
    thus the reconstruction of all others. A score without a map, of codes for instance, may flag a
    row for reasons that no single value shows; then the map is that of the squared error.

    For a row that is too far away to have a finite score, the reconstruction is taken as 0.
    """
    learner = learners.build(config.for_scoring(detector.about.config), x.shape[1:])
    devices = jax.local_devices()
    by = mapper(detector, learner, devices)
    values = by.maps(x)
    outputs = evaluation.inference(learner, devices)(detector.variables, x)
    x, x_hat = np.nan_to_num(x), np.asarray(outputs.x_hat)
    is_near = (np.abs(x) < pooling.FAR).all(axis=tuple(range(1, x.ndim)), keepdims=True)
    x_hat = np.where(is_near & np.isfinite(x_hat), x_hat, np.float32(0)).mean(axis=0)
    return Explanation(x, x_hat, values, by.of)


def leading(maps: Float[np.ndarray, " N *P"], count: int = 3) -> Leading:
    """The `count` largest values of each map (or all, if fewer); of ties the first."""
    flat = maps.reshape(len(maps), -1).astype(np.float64)  # whose sum is finite
    order = np.argsort(-flat, axis=1, kind="stable")[:, :count]
    whole = flat.sum(axis=1, keepdims=True)
    share = np.take_along_axis(flat, order, axis=1) / np.where(whole > 0, whole, 1)
    return Leading(np.stack(np.unravel_index(order, maps.shape[1:]), axis=-1), share)


def kind(cfg: config.ExperimentConfig, shape: Shape) -> str:
    """The name of a single value in rows of a shape: pixel, sample, feature, or cell of a map."""
    if cfg.data.input != "none":
        return "cell"
    return _KINDS.get(len(shape), "value")
