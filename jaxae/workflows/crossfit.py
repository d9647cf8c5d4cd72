"""Training on all rows, with scores of each row by a model that was not trained on it.

The models of the folds and the detector's own model train as one grid, side by side. A threshold
from their scores holds on new rows, which one from rows that a model has seen does not.
"""

from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Int

from jaxae import detectors
from jaxae.config import ExperimentConfig, for_scoring
from jaxae.devices import members
from jaxae.methods import learners
from jaxae.rng import Purpose, SplitDraw, host_generator
from jaxae.training import grid, train
from jaxae.types import Dataset


class Folds(NamedTuple):
    """Positions of rows, for each of K models."""

    seen: list[Int[np.ndarray, " m"]]  # all of one length, so that their programs are the same
    held_out: list[Int[np.ndarray, " h"]]  # each row once


def fit(
    cfg: ExperimentConfig, data: Dataset, count: int
) -> tuple[detectors.Detector, detectors.Scores]:
    """Train `count` folds and a model on all training rows, and fit the detector on their scores.

    All models take equally many steps: folds see some rows twice in an epoch. With fewer steps they
    would reconstruct all rows worse, and their scores would be higher than those of new rows.

    See `jaxae.detectors.fit_on_folds` for the scores.

    Raises:
      UserError: a batch is larger than the rows of a fold, or memory does not suffice.
      FloatingPointError: training diverged, or a model collapsed.
    """
    n = len(data.train.x)
    folds = draw(n, count, cfg.data.split_seed)
    settings = learners.build(cfg, data.shape, axis=None).settings
    repeated = (np.resize(seen, n) for seen in folds.seen)
    runs = [
        grid.Member(cfg, settings, rows, held_out)
        for rows, held_out in zip(repeated, folds.held_out, strict=True)
    ]
    runs.append(grid.Member(cfg, settings, np.arange(n), np.arange(0)))
    learner, layout = grid.learner_and_layout(runs, data.shape, cfg.devices)
    together = grid.members_of(runs)
    state = train.fit(learner, data.train.x, cfg, layout, members=together, quiet=True).state
    variables = layout.fetch(state.variables)
    *of_folds, own = (members.part(variables, k, cfg.ensemble) for k in range(len(runs)))
    return detectors.fit_on_folds(
        learners.build(for_scoring(cfg), data.shape),
        own,
        [detectors.Fold(*fold) for fold in zip(of_folds, *folds, strict=True)],
        data,
        cfg,
        jax.local_devices(),
    )


def draw(n: int, count: int, seed: int) -> Folds:
    """Split n rows at random into `count` parts, equal up to one row; each fold holds out one.

    A fold that holds out one row less leaves out another one. Rows seen are in random order.
    """
    order = host_generator(seed, Purpose.SPLIT, SplitDraw.FOLDS).permutation(n)
    parts = np.array_split(order, count)
    length = n - len(parts[0])
    others = (np.concatenate(parts[:k] + parts[k + 1 :]) for k in range(count))
    return Folds([rows[:length] for rows in others], [np.sort(part) for part in parts])
