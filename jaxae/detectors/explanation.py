"""Explanations: at which pixel, sample or feature of a row the reconstruction fails."""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxae import config, detectors
from jaxae.detectors import evaluation
from jaxae.methods import learners
from jaxae.types import Shape

_FAR = 1e18  # squares of values beyond it are infinite in float32, and so is the score
_KINDS = {1: "feature", 2: "sample", 3: "pixel"}  # the name of a row's value, by number of axes


class Explanation(NamedTuple):
    """Rows as inputs of the model, their reconstructions, and the error of each value."""

    x: Float[np.ndarray, " N *S"]  # scaled, and mapped by `data.input`
    x_hat: Float[np.ndarray, " N *S"]  # mean over the members
    residual: Float[np.ndarray, " N *S"]  # (x - x_hat)^2, mean over the members, in float64


class Leading(NamedTuple):
    """The K worst reconstructed values of each row, the worst first."""

    index: Int[np.ndarray, "N K A"]  # type: ignore[assignment] # position along each of the row's A axes
    share: Float[np.ndarray, "N K"]  # of the row's total squared error, in [0, 1]


def explain(detector: detectors.Detector, x: Float[np.ndarray, " N *S"]) -> Explanation:
    """The squared error of each value of rows, as `jaxae.detectors.prepared` gives them.

    It shows where the reconstruction error is, not necessarily its cause: one extreme value changes
    the code, and thus the reconstruction of all others. A score that uses codes or neighbours may
    flag a row for reasons that no single value shows.

    For a row that is too far away to have a finite score, the reconstruction is taken as 0.
    """
    learner = learners.build(config.for_scoring(detector.about.config), x.shape[1:])
    outputs = evaluation.inference(learner, jax.local_devices())(detector.variables, x)
    x, x_hat = np.nan_to_num(x), np.asarray(outputs.x_hat)
    is_near = (np.abs(x) < _FAR).all(axis=tuple(range(1, x.ndim)), keepdims=True)
    return from_outputs(x, np.where(is_near & np.isfinite(x_hat), x_hat, np.float32(0)))


def from_outputs(x: Float[np.ndarray, " N *S"], x_hat: Float[np.ndarray, "E N *S"]) -> Explanation:
    """The explanation of rows by each member's reconstructions."""
    # In float64: in float32 the square of an error may be infinite though the score is finite.
    residual = np.mean([np.square(x.astype(np.float64) - member) for member in x_hat], axis=0)
    return Explanation(x, x_hat.mean(axis=0), residual)


def leading(residual: Float[np.ndarray, " N *S"], count: int = 3) -> Leading:
    """The `count` values (or all, if fewer) with the largest residual; of ties the first."""
    flat = residual.reshape(len(residual), -1)
    order = np.argsort(-flat, axis=1, kind="stable")[:, :count]
    whole = flat.sum(axis=1, keepdims=True)
    share = np.take_along_axis(flat, order, axis=1) / np.where(whole > 0, whole, 1)
    return Leading(np.stack(np.unravel_index(order, residual.shape[1:]), axis=-1), share)


def kind(cfg: config.ExperimentConfig, shape: Shape) -> str:
    """The name of a single value in rows of a shape: pixel, sample, feature, or cell of a map."""
    if cfg.data.input != "none":
        return "cell"
    return _KINDS.get(len(shape), "value")
