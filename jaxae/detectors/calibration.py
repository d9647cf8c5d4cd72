"""The normals that a threshold rule is fitted on, and whether new normals are exchangeable."""

import numpy as np
from jaxtyping import Float, Int

from jaxae import scoring
from jaxae.config import ExperimentConfig
from jaxae.errors import UserError
from jaxae.rng import Purpose, SplitDraw, host_generator


def why_no_guarantee(cfg: ExperimentConfig) -> str:
    """The reason why p-values are only ranks and guarantee no error rate; "" = none is known.

    This does not check how rows were drawn: for example, the first rows (`threshold.limit`) of a
    sorted file are not exchangeable with new normals.
    """
    if cfg.threshold.on == "train":
        return "the model was trained on threshold.on = train; calibrate on --threshold.on valid"
    if reason := why_held_out_differ(cfg):
        return reason
    if windows_overlap(cfg):
        return (
            "windows overlap, so they are not exchangeable; give --data.window and a --data.stride "
            "that is at least as large"
        )
    if scoring.resolve(cfg.score).standardise and not cfg.threshold.standardise_fraction:
        return (
            f"score {cfg.score!r} is standardised on the valid rows; use "
            "--threshold.standardise-fraction 0.3, or a --score without + or ^"
        )
    return ""


def why_held_out_differ(cfg: ExperimentConfig) -> str:
    """The reason why held-out rows, whatever they are scored by, differ from new normals, or ""."""
    if cfg.data.valid == "test":
        return "data.valid = test calibrates on rows that are tested; use --data.valid holdout"
    if cfg.data.contamination:
        return (
            "data.contamination leaves out rows by their values, but new rows are not filtered "
            "that way; use --data.contamination 0"
        )
    return ""


def windows_overlap(cfg: ExperimentConfig) -> bool:
    """Whether rows are windows of a long series that may share steps."""
    series = cfg.data.name.startswith("series:") or cfg.data.window
    return bool(series) and not 0 < cfg.data.window <= cfg.data.stride


def normals(
    cfg: ExperimentConfig, train: Float[np.ndarray, " N"], valid: Float[np.ndarray, " V"]
) -> Float[np.ndarray, " K"]:
    """The calibration scores among those of the training and the valid rows."""
    _, calibrating = split_valid(cfg, len(valid))
    chosen = train if cfg.threshold.on == "train" else valid[calibrating]
    return chosen[: cfg.threshold.limit or None]


def split_valid(
    cfg: ExperimentConfig, n: int
) -> tuple[Int[np.ndarray, " A"], Int[np.ndarray, " K"]]:
    """Positions of the valid rows that standardise a sum of scores, and of those that calibrate.

    `threshold.standardise_fraction` is the share of the first, drawn at random; 0 = all do both.

    Raises:
      UserError: one of the two is empty.
    """
    fraction = cfg.threshold.standardise_fraction
    rows, count = np.arange(n), round(fraction * n)
    if not fraction:
        return rows, rows
    if not 0 < count < n:
        raise UserError(
            f"threshold.standardise_fraction {fraction} of {n} valid rows leaves a part empty; "
            "raise data.valid_fraction"
        )
    order = host_generator(cfg.data.split_seed, Purpose.SPLIT, SplitDraw.CALIBRATION).permutation(n)
    return np.sort(order[:count]), np.sort(order[count:])
