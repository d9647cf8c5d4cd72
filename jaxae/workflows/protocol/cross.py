"""P-values without held-out rows: the models of folds, or of bootstrap samples, as one grid.

Where normals are few, a tenth of them held out is a tenth less to learn from and too few to
calibrate on. Here every normal row trains and every one calibrates, by the models that did not see
it; see `jaxae.stats.conformal.folds` for what is promised.
"""

import dataclasses
import time
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxae import detectors, scoring
from jaxae.config import ExperimentConfig, checks, for_scoring
from jaxae.config.grids import CrossConfig, experiment_of
from jaxae.data import sources
from jaxae.detectors import evaluation
from jaxae.devices import members, parallel
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.reports import plots, reporting
from jaxae.rng import Purpose, SplitDraw, host_generator
from jaxae.stats import conformal
from jaxae.storage import runlog
from jaxae.training import grid
from jaxae.types import Dataset, Learner, PyTree, Split
from jaxae.workflows import choices, experiment
from jaxae.workflows.protocol.expansion import refuse_unread


class Parts(NamedTuple):
    """Who is trained on what, K models and n normals."""

    used: list[Int[np.ndarray, "..."]]  # rows of each model, some twice in a bootstrap sample
    seen: Bool[np.ndarray, "K n"]


def run(cfg: CrossConfig) -> dict:
    """Train the models of all parts side by side, and judge the test rows by p-values.

    Returns:
      The report, as `report.json` holds it.

    Raises:
      UserError: parts that leave a model too little or a row to nobody, a score that is
        standardised on rows that calibrate, a rate that so many rows cannot reach, or what
        `jaxae.workflows.experiment.run` refuses.
      FloatingPointError: a model diverged or collapsed.
    """
    clock = time.perf_counter()
    _check_fields(cfg)
    refuse_unread(cfg)
    parallel.start(cfg)
    base, dataset = choices.settle(experiment_of(cfg))
    experiment.check(base, dataset)
    _check(base)
    normals = _joined(dataset.train, dataset.valid)
    n = len(normals.y)
    conformal.rank_allowed(n, cfg.alpha)  # raises where no p-value is as small
    parts = bootstrap(n, cfg.bags, cfg.seed) if cfg.bags else folds(n, cfg.folds, cfg.seed)
    with parallel.on_host(), runlog.enter(base, dataset.digest) as folder:
        states = _trained(base, sources.read(normals.x), parts)
        own, test = _scores(base, dataset, normals, parts, states)
        p = _p_values(parts, own, test, bool(cfg.bags))
        flagged, y = np.asarray(p <= np.float32(cfg.alpha)), dataset.test.y
        runlog.write_arrays(
            folder / "scores.npz",
            {"test": test.mean(axis=0), "p_value": p, "test_y": y, "test_is_anomaly": flagged,
             "test_id": dataset.test.id, "test_class_id": dataset.test.class_id},
        )  # fmt: skip
        report = _report(cfg, base, n, evaluation.evaluate(test.mean(axis=0), y, flagged))
        report |= {"wall_s": time.perf_counter() - clock}
        runlog.write_json(folder / "report.json", report)
        (drawn,) = plots.draw(folder, plots.CROSS_FIGURES)
    print(reporting.table(report))
    print(f"figure {drawn}; p-values are in {folder / 'scores.npz'}")
    return report


def folds(n: int, count: int, seed: int) -> Parts:
    """K parts of n rows, drawn at random and of one size up to one row; each model lacks its own.

    Raises:
      UserError: fewer than two parts, or more than rows.
    """
    conformal.cv_plus_bound(0.5, n, count)  # raises
    fold = host_generator(seed, Purpose.SPLIT, SplitDraw.FOLDS).permutation(n) % count
    seen = fold[None] != np.arange(count)[:, None]
    return Parts([np.flatnonzero(of) for of in seen], seen)


def bootstrap(n: int, count: int, seed: int) -> Parts:
    """K samples of n rows, drawn with replacement.

    Raises:
      UserError: a row is in all of them, so that no model could judge it.
    """
    used = host_generator(seed, Purpose.SPLIT, SplitDraw.FOLDS).integers(0, n, (count, n))
    seen = np.zeros((count, n), bool)
    np.put_along_axis(seen, used, True, axis=1)
    if seen.all(axis=0).any():
        raise UserError(
            f"bags is {count}: {seen.all(axis=0).sum()} of {n} rows are in every sample, so that "
            "no model could judge them; use more"
        )
    return Parts(list(np.sort(used, axis=1)), seen)


def _check_fields(cfg: CrossConfig) -> None:
    """All that can be refused before any data are read."""
    checks.validate(cfg)
    if cfg.bags < 0:
        raise UserError(f"bags is {cfg.bags}; it must be at least 0")
    checks.refuse_set(cfg, ("ensemble",), "parts are models of their own")
    # An epoch that was picked by rows would not treat the rows alike, and so void the guarantee.
    select = ("train.select", "train.oracle")
    checks.refuse_set(cfg, select, "every part keeps its last epoch, as the guarantee needs")
    checks.refuse_set(cfg, checks.fields(cfg, "threshold"), "--alpha decides, by p-values")
    unread = ("studies", "profile", "tensorboard", "train.monitor", "train.keep_checkpoints")
    checks.refuse_set(cfg, unread, "the parts of a run do without")


def _check(base: ExperimentConfig) -> None:
    if scoring.resolve(base.score).standardise:
        raise UserError(
            f"score {base.score!r} is standardised on rows that calibrate; use a --score without +"
        )
    if base.data.valid == "test":
        raise UserError("parts are made of training rows: use --data.valid holdout")
    if base.data.scale != "none":
        raise UserError(
            f"data.scale {base.data.scale} is fitted on rows that calibrate; use --data.scale "
            "none, and --model.output-activation linear where rows are not in [0, 1]"
        )


def _joined(one: Split, other: Split) -> Split:
    """Training and valid rows together."""
    x = np.concatenate([sources.read(one.x), sources.read(other.x)])
    return Split(x, *(np.concatenate(pair) for pair in zip(one[1:], other[1:], strict=True)))


def _take(split: Split, index: np.ndarray) -> Split:
    return Split(*(part[index] for part in split))


def _trained(cfg: ExperimentConfig, rows: np.ndarray, parts: Parts) -> PyTree:
    """The variables [K, ...] of the models, each from weights of its own.

    Their scores are averaged, and models that start alike err alike.
    """
    learner = learners.build(cfg, rows.shape[1:], axis=None)
    seeds = host_generator(cfg.seed, Purpose.INIT, SplitDraw.FOLDS).integers(
        0, 2**32, len(parts.used)
    )
    left_out = [np.flatnonzero(~of) for of in parts.seen]
    models = [
        grid.Member(dataclasses.replace(cfg, seed=int(seed)), learner.settings, used, valid)
        for seed, used, valid in zip(seeds, parts.used, left_out, strict=True)
    ]
    shape = rows.shape[1:]
    devices = grid.devices_for(learner, len(models), shape, cfg.devices)
    progress = grid.start(learner, models, shape)
    return grid.fit(learner, rows, models, devices, progress).state.variables


def _scores(
    cfg: ExperimentConfig, dataset: Dataset, normals: Split, parts: Parts, variables: PyTree
) -> tuple[Float[np.ndarray, "K n"], Float[np.ndarray, "K N"]]:
    """What every model says of the normals and of the test rows."""
    learner: Learner = learners.build(for_scoring(cfg), dataset.shape)
    found = []
    for k, used in enumerate(parts.used):
        data = dataset._replace(train=_take(normals, np.unique(used)), valid=normals)
        own = members.only(variables, k)
        found.append(detectors.fit(learner, own, data, cfg, jax.local_devices())[1])
    return np.stack([of.valid for of in found]), np.stack([of.test for of in found])


def _p_values(
    parts: Parts, own: np.ndarray, test: np.ndarray, bagged: bool
) -> Float[np.ndarray, " N"]:
    if bagged:
        return np.asarray(conformal.jackknife_after_bootstrap_p_values(own, parts.seen, test))
    fold = np.argmin(parts.seen, axis=0)
    held_out = np.take_along_axis(own, fold[None], axis=0)[0]
    return np.asarray(conformal.cv_plus_p_values(held_out, fold, test))


def _report(cfg: CrossConfig, base: ExperimentConfig, n: int, found: dict) -> dict:
    bound = 2 * cfg.alpha if cfg.bags else conformal.cv_plus_bound(cfg.alpha, n, cfg.folds)
    return {
        "name": base.name,
        "seed": base.seed,
        "dataset": base.data.name,
        "method": base.method,
        "score": base.score,
        "p_values": f"jackknife+ after {cfg.bags} bootstrap samples"
        if cfg.bags
        else f"CV+ with {cfg.folds} folds",
        "n_calibration": n,
        "alpha": cfg.alpha,
        "fpr_bound": bound,
        **found,
    }
