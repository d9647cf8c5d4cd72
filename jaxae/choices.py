"""What a configuration leaves to the rows: every `auto` becomes a value, and is said.

What is chosen follows from the training rows alone, never from the test rows or their classes.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from jaxae import checks, data, learners, sources
from jaxae.checks import AUTO
from jaxae.config import ExperimentConfig
from jaxae.datasets import splits
from jaxae.datasets.raw import Raw, to_float
from jaxae.types import Dataset, Shape

BATCH, STEPS, LATENT = 128, 8, 32  # the largest batch and code; the fewest steps of an epoch
_LARGE = 16  # pixels on each side of an image that is worth cells of 4 x 4
_KINDS = {1: "vectors", 2: "series", 3: "images"}


def settle(cfg: ExperimentConfig) -> tuple[ExperimentConfig, Dataset]:
    """Load the data and choose what the configuration leaves to them; print what was chosen.

    Method: conv for images, dense for all else. Scaling: none for values in [0, 1], minmax for
    images and for methods that give these only, standard for the rest. Input: cells of gradients of
    images in [0, 1] with at least 16 pixels on each side, none of all else. Output: sigmoid where
    the scaled rows are in [0, 1], else linear. Code: a quarter of a row's values, at most 32.
    Batch: the largest power of two up to 128 that leaves eight steps an epoch.

    Returns:
      The configuration without an `auto`, and the data set that it describes.

    Raises:
      UserError: see `jaxae.data.load`.
    """
    raw = data.raw(cfg.data)
    shape = tuple(raw.x_train.shape[1:])
    span = tuple(to_float(np.array(sources.span(raw.x_train))))
    chosen: dict[str, Any] = {}

    def choose(name: str, choice: Any) -> None:
        """Take a choice where the field is open and its method reads it, else the default."""
        nonlocal cfg
        if checks.value(cfg, name) == AUTO:
            if checks.is_read(cfg, name, learners.METHODS[cfg.method].reads):
                chosen[name] = choice
            cfg = checks.replaced(cfg, name, chosen.get(name, checks.default(cfg, name)))

    if cfg.method == AUTO:
        chosen["method"] = "conv" if len(shape) == 3 else "dense"
        cfg = dataclasses.replace(cfg, method=chosen["method"])
    choose("data.scale", _scale(cfg, shape, span))
    within = sources.within(span, 0.0, 1.0)
    unit = cfg.data.scale == "minmax" or (cfg.data.scale == "none" and within)
    large = len(shape) == 3 and min(shape[:2]) >= _LARGE
    choose("data.input", "gradient_cells" if large and unit else "none")
    choose("model.output_activation", "sigmoid" if unit else "linear")
    choose("model.latent", min(LATENT, max(1, math.prod(shape) // 4)))
    dataset = splits.make(raw, cfg.data)
    choose("train.batch_size", _batch(len(dataset.train.x)))
    if chosen:
        _say(cfg, raw, dataset, span, chosen)
    return cfg, dataset


def _scale(cfg: ExperimentConfig, shape: Shape, span: sources.Span) -> str:
    if sources.within(span, 0.0, 1.0):
        return "none"
    output = "model.output_activation"
    free = checks.replaced(cfg, output, "linear") if checks.value(cfg, output) == AUTO else cfg
    unbounded = learners.METHODS[cfg.method].span(free) == (-math.inf, math.inf)
    return "standard" if unbounded and len(shape) != 3 else "minmax"


def _batch(n: int) -> int:
    return min(BATCH, 1 << (max(n // STEPS, 1).bit_length() - 1))


def _say(
    cfg: ExperimentConfig,
    raw: Raw,
    dataset: Dataset,
    span: sources.Span,
    chosen: dict[str, Any],
) -> None:
    """One line on the data, one on the choices."""
    kind = _KINDS.get(len(dataset.shape), "rows")
    normal, anomaly = splits.choose_classes(raw, cfg.data)
    classes = f"normal class {_listed(normal, raw)}"
    classes += f", anomalies {_listed(anomaly, raw)}" if anomaly else ""
    print(
        f"{cfg.data.name}: {len(dataset.train.x)} training, {len(dataset.valid.x)} held-out and "
        f"{len(dataset.test.x)} test rows; {kind} {list(dataset.shape)} from {span[0]:g} to "
        f"{span[1]:g}; {classes}"
    )
    settings = ", ".join(f"{name} {value}" for name, value in chosen.items())
    print(f"chosen for these rows: {settings}; each can be set")


def _listed(classes: list[int], raw: Raw) -> str:
    return ", ".join(map(raw.schema.called, classes))


def chosen(cfg: ExperimentConfig, settled: ExperimentConfig) -> dict[str, Any]:
    """The fields that a configuration left to the rows, as they were settled."""
    return {name: checks.value(settled, name) for name in checks.open_fields(cfg)}
