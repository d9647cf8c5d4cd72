"""Which normals a threshold rule is fitted on, and whether they are exchangeable with new ones."""

import numpy as np
from jaxtyping import Int

from jaxae import scoring
from jaxae.config import ExperimentConfig
from jaxae.errors import UserError
from jaxae.rng import Purpose, SplitDraw, host_generator


def why_no_guarantee(cfg: ExperimentConfig) -> str:
    """Why p-values are only ranks and guarantee no error rate; "" = no reason is known.

    How rows were drawn is not checked: the first ones (`threshold.limit`) of a sorted file are not
    exchangeable with new normals.
    """
    if cfg.threshold.on == "train":
        return "the model was trained on threshold.on = train; calibrate on --threshold.on valid"
    if cfg.data.valid == "test":
        return "data.valid = test calibrates on rows that are tested; use --data.valid holdout"
    series = cfg.data.name.startswith("series:") or cfg.data.window
    if series and not 0 < cfg.data.window <= cfg.data.stride:
        return (
            "windows overlap, so that they are not exchangeable; give --data.window and a "
            "--data.stride that is no smaller"
        )
    if scoring.resolve(cfg.score).standardise and not cfg.threshold.standardise_fraction:
        return (
            f"score {cfg.score!r} is standardised on the valid rows; use "
            "--threshold.standardise-fraction 0.3, or a --score without +"
        )
    return ""


def split_valid(
    cfg: ExperimentConfig, n: int
) -> tuple[Int[np.ndarray, " A"], Int[np.ndarray, " K"]]:
    """Positions of the valid rows for standardising a sum of scores, and of those that calibrate.

    `threshold.standardise_fraction` is the share of the first, drawn at random; 0 = both are all.

    Raises:
      UserError: one of both is empty.
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
