"""Automatic settings: every `auto` is replaced with a value chosen from the rows, and printed.

The choices depend on the training rows alone, never on the test rows or their classes.
"""

import collections
import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jaxae import data, scoring
from jaxae.config import DataConfig, ExperimentConfig, checks
from jaxae.config.checks import AUTO
from jaxae.data import sources, splits
from jaxae.data.raw_data import Raw, numbers
from jaxae.detectors import calibration, steps
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.methods.networks.fcn import code_places, depth_of
from jaxae.ops import ceil_div
from jaxae.types import Dataset, Shape, Source

BATCH, STEPS, LATENT = 128, 8, 32  # largest batch, fewest steps of an epoch, largest code
# On tables, series and images of a few hundred rows, AUROC rose up to about 1,600 steps and no
# further. The scores are those that came closest to the better one of PCA and neighbours: see
# "Default score" in docs/own_data.md.
EPOCHS, LONGEST, ALL_STEPS = 30, 200, 1600
BUDGET = 60  # seconds; see `jaxae.workflows.budget`
HIDDEN, NOISE = (128,), 0.5  # of windows of a series, which are standardised
_SIMPLE = "mse"
# Distances to neighbours in three views of the columns: see "Default score" in docs/own_data.md.
_TABLE = "local_ranks+robust_knn+local_compressed"
_LOCAL = 10_000  # the most training rows, of which each is compared with all others
_FEW = 500  # training images, of which neighbours say less than principal components
_KEPT = 10_000_000  # the most values of training rows that a detector keeps to find neighbours
_REPEATED = 0.95  # share of training rows
_CELLS = 16  # the fewest pixels on each side for which an image is divided into cells of 4 x 4
_LARGE = 64  # the most pixels on a side of images that are trained on whole
_CROP, _CROPS, _CROPS_OF_STEP = 32, 16, 64  # pixels; crops of an image, and of a whole step
_CODE = 8  # the largest code of a place
_KINDS = {1: "vectors", 2: "series", 3: "images"}


def settle(cfg: ExperimentConfig) -> tuple[ExperimentConfig, Dataset]:
    """Load the data, choose a value for every `auto` and print the choices.

    Returns the configuration without `auto`, and the data set that it describes; raises a
    `UserError` as `jaxae.data.load` does, or if all training rows are equal.
    """
    if cfg.train.epochs != AUTO and cfg.train.budget == AUTO:
        cfg = checks.replaced(cfg, "train.budget", 0)  # it has no say
    raw = data.raw(cfg.data)
    shape, span = tuple(raw.x_train.shape[1:]), in_floats(sources.span(raw.x_train))
    settled, dataset = settle_rows(cfg, shape, span, functools.partial(splits.make, raw))
    require_variation(dataset.train.x, cfg.data.name)
    notes = [*raw.notes, *splits.class_notes(raw, cfg.data)]
    if dataset.left_out:
        notes.append(
            f"data.contamination {cfg.data.contamination:g}: the {dataset.left_out} rows that the "
            "others explain worst are left out"
        )
    print(*notes, sep="\n", end="\n" if notes else "")
    if chosen(cfg, settled):
        _print(cfg, settled, raw, dataset, span)
    return settled, dataset


def settle_rows(
    cfg: ExperimentConfig, shape: Shape, span: sources.Span, make: Callable[[DataConfig], Dataset]
) -> tuple[ExperimentConfig, Dataset]:
    """Choose a value for every `auto` from the rows.

    Method: see `_method`. Crops: for fcn and large images 16 of 32 x 32 pixels in each step, else
    none. Scaling: none for images in [0, 1], minmax for others and for methods that output only
    such values, else standard. Input: cells of gradients for images in [0, 1] with at least 16
    pixels on each side, except for fcn, else none. Output: sigmoid if the scaled rows are in [0,
    1], else linear. Code: see `_latent`. Batch: the largest power of two, up to 128 rows or 64
    crops, that gives eight steps per epoch. Epochs: 30, or as many as give 1,600 steps, at most
    200. Budget: 60 seconds, if epochs are auto. Score: distances to neighbours in three views for
    up to 10,000 vectors, row_nearest for more, mse+row_nearest if nearly all of them have two equal
    ones; mse*shape_nearest for windows of a long series, mse^row_nearest^row_pca for other series,
    patches for large images, mse+row_pca for up to 500 others, else mse+row_knn; but, except for
    large images, mse if the training rows have more than ten million values, or if the guarantee of
    the threshold rule would be lost. Windows are trained on as `_denoising` says, if the method is
    auto.

    Args:
      cfg: may contain `auto`.
      shape: the shape of a raw row.
      span: see `in_floats`; of the training rows, and perhaps of other rows that are already known.
      make: makes the data set after its settings are chosen.

    Returns:
      The configuration without an `auto`, and the data set.
    """

    def choose(name: str, choice: Any) -> None:
        """Set a field that is `auto`: to the choice if the method reads it, else to its default."""
        nonlocal cfg
        if checks.value(cfg, name) == AUTO:
            read = checks.is_read(cfg, name, learners.METHODS[cfg.method].reads)
            cfg = checks.replaced(cfg, name, choice if read else checks.default(cfg, name))

    is_open = cfg.method == AUTO
    if is_open:
        cfg = dataclasses.replace(cfg, method=_method(cfg, shape))
    choose("train.crop", _CROP if _is_large(cfg, shape) and cfg.fcn.spatial else 0)
    choose("train.crops", _CROPS if cfg.train.crop else 1)
    choose("data.scale", _scale(cfg, shape, span))
    within = sources.within(span, 0.0, 1.0)
    unit = cfg.data.scale == "minmax" or (cfg.data.scale == "none" and within)
    has_cells = len(shape) == 3 and min(shape[:2]) >= _CELLS and cfg.method != "fcn"
    choose("data.input", "gradient_cells" if has_cells and unit else "none")
    choose("model.output_activation", "sigmoid" if unit else "linear")
    choose("model.latent", _latent(cfg, shape))
    dataset = make(cfg.data)
    if is_open and dataset.steps:
        cfg = _denoising(cfg)
    n = len(dataset.train.x)
    most = max(1, _CROPS_OF_STEP // cfg.train.crops) if cfg.train.crop else BATCH
    choose("train.batch_size", min(most, 1 << (max(n // STEPS, 1).bit_length() - 1)))
    in_epoch = ceil_div(n, cfg.train.batch_size)
    choose("train.budget", BUDGET)
    choose("train.epochs", max(EPOCHS, min(LONGEST, ceil_div(ALL_STEPS, in_epoch))))
    choose("score", _score(cfg, dataset.train.x, dataset.steps is not None))
    return cfg, dataset


def in_floats(span: sources.Span) -> sources.Span:
    """The smallest and the largest raw value as real numbers: pixels in [0, 1]."""
    return tuple(numbers(np.array(span)))


def require_variation(x: Source, name: str) -> None:
    """Raise a `UserError` if training rows in memory are all equal."""
    # The last row nearly always differs from the first, which spares a look at all rows.
    if sources.is_resident(x) and (x[-1] == x[0]).all() and (x == x[:1]).all():
        raise UserError(
            f"{name}: all {len(x)} training rows are equal, so nothing can be learnt of how normal "
            "rows vary; whatever differs from them is an anomaly, without a model"
        )


def _method(cfg: ExperimentConfig, shape: Shape) -> str:
    """The method for rows of a shape: fcn for large images, conv for others, else dense.

    Large images have more than 64 pixels on each side. On `defects` (256 x 256 x 3), fcn on 16
    crops of 32 pixels finds defects far better than fcn on whole images in about the same time: a
    pixel AUROC of the blurred squared error of .990 instead of .587.

    On windows of series fcn was better than dense by its error alone, in five times the processor
    time. It is not the default, since it was not measured together with the distances to neighbours
    that the scores of series contain.
    """
    if len(shape) != 3:
        return "dense"
    return "fcn" if _is_large(cfg, shape) else "conv"


def _is_large(cfg: ExperimentConfig, shape: Shape) -> bool:
    """Whether rows are images that are better trained on by crops; cells of gradients are small."""
    large = len(shape) == 3 and min(shape[:2]) > _LARGE
    return large and cfg.data.input != "gradient_cells"


def _latent(cfg: ExperimentConfig, shape: Shape) -> int:
    """A quarter of a row's values, at most 32; of fcn, a share of that at each place, at most 8."""
    if cfg.method != "fcn":
        return min(LATENT, max(1, math.prod(shape) // 4))
    trained = learners.trained_shape(cfg, shape)
    depth = cfg.fcn.depth or depth_of(trained)
    count = math.prod(code_places(trained, depth, cfg.fcn.spatial))
    return min(_CODE, max(1, math.prod(trained) // 4 // count))


def _scale(cfg: ExperimentConfig, shape: Shape, span: sources.Span) -> str:
    if len(shape) >= 3 and sources.within(span, 0.0, 1.0):
        return "none"
    output = "model.output_activation"
    free = checks.replaced(cfg, output, "linear") if checks.value(cfg, output) == AUTO else cfg
    unbounded = learners.METHODS[cfg.method].span(free) == (-math.inf, math.inf)
    return "standard" if unbounded and len(shape) != 3 else "minmax"


def _denoising(cfg: ExperimentConfig) -> ExperimentConfig:
    """A hidden layer and noise on the input, unless one of them was set.

    Without them a dense autoencoder is linear: on the series of benchmarks/series.py the AUC-PR of
    its reconstruction error is .45 instead of .49.
    """
    if cfg.model.hidden or cfg.train.noise_std:
        return cfg
    model = dataclasses.replace(cfg.model, hidden=HIDDEN)
    train = dataclasses.replace(cfg.train, noise_std=NOISE, noise_clip=False)
    return dataclasses.replace(cfg, model=model, train=train)


def _score(cfg: ExperimentConfig, x: Source, is_windows: bool) -> str:
    """The best score of rows [N, *S], unless it keeps too many or voids a rule's guarantee."""
    shape = x.shape
    if _is_large(cfg, shape[1:]):
        return "patches"  # it keeps a bounded bank, and is not standardised on held-out rows
    images = "mse+row_pca" if shape[0] <= _FEW else "mse+row_knn"
    table = _TABLE if shape[0] <= _LOCAL else "row_nearest"
    best = {2: table, 3: "mse^row_nearest^row_pca", 4: images}.get(len(shape), "mse+row_knn")
    if is_windows:
        best = "mse*shape_nearest"
    if best == table and _repeat(x):  # distances are 0 for them
        best = "mse+row_nearest"

    def voids(score: str) -> bool:
        # Of windows that overlap, steps have a guarantee.
        why = steps.why_no_guarantee if is_windows else calibration.why_no_guarantee
        with_score = dataclasses.replace(cfg, score=score)
        return scoring.rule(cfg.threshold.rule).exchangeable and bool(why(with_score))

    if best == _TABLE and voids(best):
        best = _TABLE.replace("+", "*")  # which standardises nothing
    return _SIMPLE if math.prod(shape) > _KEPT or voids(best) else best


def _repeat(x: Source) -> bool:
    """Whether nearly all rows in memory have two equal ones, as rows of a few categories do."""
    if not sources.is_resident(x) or x.size > _KEPT:
        return False
    counts = np.array([*collections.Counter(row.tobytes() for row in x).values()])
    return bool(counts[counts > 2].sum() >= _REPEATED * len(x))


def _print(
    asked: ExperimentConfig,
    cfg: ExperimentConfig,
    raw: Raw,
    dataset: Dataset,
    span: sources.Span,
) -> None:
    """Print one line about the data and one about the choices."""
    kind = _KINDS.get(len(dataset.shape), "rows")
    counts = f"{len(dataset.train.x)} training, {len(dataset.valid.x)} held-out"
    classes = "no labels: all rows are taken as normal"
    if raw.is_labelled:
        counts += f" and {len(dataset.test.x)} test"
        normal, anomaly = (
            ", ".join(map(raw.schema.called, ids)) for ids in splits.choose_classes(raw, cfg.data)
        )
        classes = f"normal class {normal}" + (f", anomalies {anomaly}" if anomaly else "")
    print(
        f"{cfg.data.name}: {counts} rows; {kind} {list(dataset.shape)} from {span[0]:g} to "
        f"{span[1]:g}; {classes}"
    )
    settings = ", ".join(f"{name} {value}" for name, value in chosen(asked, cfg).items())
    print(f"chosen for these rows: {settings}; each can be set")


def chosen(cfg: ExperimentConfig, settled: ExperimentConfig) -> dict[str, Any]:
    """The settings that were `auto` and that the method reads, with the chosen values."""
    reads = learners.METHODS[settled.method].reads
    names = checks.open_fields(cfg)
    if settled.model.hidden != cfg.model.hidden:
        names += ["model.hidden", "train.noise_std", "train.noise_clip"]
    return {
        name: checks.value(settled, name) for name in names if checks.is_read(settled, name, reads)
    }
