"""P-values without held-out rows: models of folds or bootstrap samples, trained as one grid.

If there are few normals, holding out a tenth of them leaves fewer to train on and too few to
calibrate on. Here every normal row is used for training, and also for calibration by the models
that were not trained on it; see `jaxae.stats.conformal.folds` for the guarantee.
"""

import dataclasses
import shlex
import time
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxae import detectors, scoring
from jaxae.config import ExperimentConfig, checks, for_scoring
from jaxae.config.grids import CrossConfig, experiment_of
from jaxae.data import sources
from jaxae.detectors import evaluation
from jaxae.devices import hosts, members, parallel
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.reports import derived, media, plots, reporting
from jaxae.rng import Purpose, SplitDraw, host_generator
from jaxae.stats import conformal
from jaxae.storage import checkpoint, disk, logs, manifest, outputs, run_folder
from jaxae.training import grid
from jaxae.types import Dataset, Learner, PyTree, Shape, Source, Split
from jaxae.workflows import auto, course, experiment
from jaxae.workflows.protocol.expansion import refuse_unread


class Parts(NamedTuple):
    """The rows, out of n normals, that each of K models is trained on."""

    used: list[Int[np.ndarray, "..."]]  # rows of each model, some twice in a bootstrap sample
    seen: Bool[np.ndarray, "K n"]


def run(cfg: CrossConfig, loggers: Sequence[logs.Logger] = ()) -> dict:
    """Train the models of all parts side by side, and compute p-values of the test rows.

    A call that was stopped goes on after its last checkpoint.

    Returns:
      The report, as in `report.json`.

    Raises:
      UserError: a model has too few rows, a row is in every part, the score is standardised on
        calibration rows, alpha is too low for so few rows, or `jaxae.workflows.experiment.run`
        refuses the configuration.
      FloatingPointError: a model diverged or collapsed.
    """
    clock = time.perf_counter()
    _check_fields(cfg)
    refuse_unread(cfg)
    outputs.check_run_folder(cfg, may_be_begun=bool(loggers))
    hosts.join(cfg.hosts)
    parallel.start(cfg)
    base, dataset = auto.settle(experiment_of(cfg))
    _refuse_unlabelled(base, dataset)
    experiment.check(base, dataset)
    _check(base)
    normals = _joined(dataset.train, dataset.valid)
    conformal.rank_allowed(len(normals.y), cfg.alpha)  # raises if no p-value can be this small
    models = _models(base, normals.x.shape[1:], _parts(cfg, len(normals.y)))
    learner, layout = grid.learner_and_layout(models, dataset.shape, base.devices)
    learner = run_folder.with_stored_tuning(base.run_path, learner)
    scoring_learner = learners.build(for_scoring(base), dataset.shape)
    loggers = logs.configured(base, loggers)
    settled = CrossConfig(**vars(cfg) | vars(base))
    run_folder.agree(settled, [dataset.digest])
    with parallel.on_host(), run_folder.enter(base, dataset.digest) as folder:
        run_folder.write_tuning(folder, learner)
        log = media.log_of(base, folder, loggers, scoring_learner, dataset)
        this = course.Run(base, _digest(cfg, dataset), log)
        variables = _trained(this, learner, normals.x, models, layout)
        arrays = judged(cfg, base, scoring_learner, dataset, variables)
        derived.withdraw(folder)
        disk.write_arrays(folder / "scores.npz", arrays)
        report = report_of(cfg, base, len(normals.y), arrays)
        report |= {"wall_s": time.perf_counter() - clock}
        disk.write_json(folder / "report.json", report)
        drawn = plots.draw(folder, plots.CROSS_FIGURES) if hosts.first() else []
        names = "test", "p_value", "test_is_anomaly"
        shown = dataset.test, *(arrays[name] for name in names), drawn
        log.finish(report, lambda show: media.judged(show(variables), *shown))
        manifest.seal(folder)
    print(reporting.table(report))
    print(f"figure {', '.join(map(str, drawn))}; p-values are in {folder / 'scores.npz'}")
    return report


def judged(
    cfg: CrossConfig, base: ExperimentConfig, learner: Learner, dataset: Dataset, variables: PyTree
) -> dict[str, np.ndarray]:
    """Scores, p-values, decisions and ground truth of the test rows, for `scores.npz`.

    Args:
      cfg: the settings of parts and alpha.
      base: those of each model.
      learner: built from `config.for_scoring(base)`.
      dataset: the data.
      variables: of the trained models [K E, ...].
    """
    normals = _joined(dataset.train, dataset.valid)
    parts = _parts(cfg, len(normals.y))
    calibration, test = _scores(base, learner, dataset, normals, parts, variables)
    p = _p_values(parts, calibration, test, bool(cfg.bags))
    return {
        "test": test.mean(axis=0),
        "p_value": p,
        "test_y": dataset.test.y,
        "test_is_anomaly": flagged(p, cfg.alpha),
        "test_id": dataset.test.id,
        "test_class_id": dataset.test.class_id,
        **reporting.row_digests(dataset),
    }


def flagged(p: Float[np.ndarray, " N"], alpha: float) -> Bool[np.ndarray, " N"]:
    """The decisions: rows whose p-value is at most alpha."""
    return np.asarray(p <= np.float32(alpha))


def _parts(cfg: CrossConfig, n: int) -> Parts:
    return bootstrap(n, cfg.bags, cfg.seed) if cfg.bags else folds(n, cfg.folds, cfg.seed)


def folds(n: int, count: int, seed: int) -> Parts:
    """Split n rows at random into K parts, equal up to one row; each model leaves out one part.

    Raises:
      UserError: there are fewer than two parts, or more parts than rows.
    """
    conformal.cv_plus_bound(0.5, n, count)  # raises
    fold = host_generator(seed, Purpose.SPLIT, SplitDraw.FOLDS).permutation(n) % count
    seen = fold[None] != np.arange(count)[:, None]
    return Parts([np.flatnonzero(rows) for rows in seen], seen)


def bootstrap(n: int, count: int, seed: int) -> Parts:
    """Draw K samples of n rows with replacement.

    Raises:
      UserError: a row is in all samples, so that no model could score it for calibration.
    """
    used = host_generator(seed, Purpose.SPLIT, SplitDraw.FOLDS).integers(0, n, (count, n))
    seen = np.zeros((count, n), bool)
    np.put_along_axis(seen, used, True, axis=1)
    if seen.all(axis=0).any():
        raise UserError(
            f"bags is {count}: {seen.all(axis=0).sum()} of {n} rows are in every sample, so that "
            "no model can score them for calibration; use more"
        )
    return Parts(list(np.sort(used, axis=1)), seen)


def _check_fields(cfg: CrossConfig) -> None:
    """Refuse fields that cannot work, before any data are read."""
    checks.validate(cfg)
    # An epoch selected by some of the rows would treat them differently, and void the guarantee.
    select = ("train.select", "train.oracle")
    checks.refuse_set(cfg, select, "the guarantee requires the last epoch of every part")
    checks.refuse_set(cfg, checks.fields(cfg, "threshold"), "--alpha decides, by p-values")
    checks.refuse_set(cfg, ("train.monitor",), "models of folds or bags are not monitored")


def _refuse_unlabelled(base: ExperimentConfig, dataset: Dataset) -> None:
    if not dataset.is_labelled:
        raise UserError(
            f"p-values of folds are those of test rows, and {base.data.name} has no labels that "
            f"give any; train one model with jaxae train --data.name {shlex.quote(base.data.name)}"
        )


def _check(base: ExperimentConfig) -> None:
    if scoring.resolve(base.score).standardise:
        raise UserError(
            f"score {base.score!r} is standardised on calibration rows; use a --score without +"
        )
    if base.data.valid == "test":
        raise UserError("parts are made of training rows: use --data.valid holdout")
    if base.data.contamination:
        raise UserError(
            "data.contamination leaves out rows, which voids the guarantee; use "
            "--data.contamination 0"
        )
    if base.data.scale != "none":
        raise UserError(
            f"data.scale {base.data.scale} is fitted on calibration rows; use --data.scale "
            "none, and --model.output-activation linear if rows are not in [0, 1]"
        )


def _joined(train: Split, valid: Split) -> Split:
    """The training and valid rows, joined."""
    x = sources.joined(train.x, valid.x)
    return Split(x, *(np.concatenate(pair) for pair in zip(train[1:], valid[1:], strict=True)))


def _digest(cfg: CrossConfig, dataset: Dataset) -> str:
    """Identifies the data and the parts that the models of a checkpoint were trained on."""
    return f"{dataset.digest}, {f'{cfg.bags} bags' if cfg.bags else f'{cfg.folds} folds'}"


def _models(base: ExperimentConfig, shape: Shape, parts: Parts) -> list[grid.Member]:
    """The models of all parts, each with different initial weights.

    Their scores are averaged, and models with equal initial weights would make similar errors.
    """
    settings = learners.build(base, shape, axis=None).settings
    seeds = host_generator(base.seed, Purpose.INIT, SplitDraw.FOLDS).integers(
        0, 2**32, len(parts.used)
    )
    return [
        grid.Member(
            dataclasses.replace(base, seed=int(seed)), settings, used, np.flatnonzero(~seen)
        )
        for seed, used, seen in zip(seeds, *parts, strict=True)
    ]


def _trained(
    run: course.Run,
    learner: Learner,
    rows: Source,
    models: list[grid.Member],
    layout: parallel.Layout,
) -> PyTree:
    """The variables of the models after training [K E, ...]."""
    with checkpoint.opened(run.cfg.run_path / "checkpoints", run.cfg.train) as manager:
        trained = course.train_runs(
            [run],
            learner,
            rows,
            layout,
            grid.members_of(models),
            grid.valid_losses(learner, rows, models, layout),
            manager,
        )
    return trained.variables


def _scores(
    cfg: ExperimentConfig,
    learner: Learner,
    dataset: Dataset,
    normals: Split,
    parts: Parts,
    variables: PyTree,
) -> tuple[Float[np.ndarray, "K n"], Float[np.ndarray, "K N"]]:
    """The scores that every model gives to the normals and to the test rows."""
    scores = []
    for k, used in enumerate(parts.used):
        train = Split(*(part[np.unique(used)] for part in normals))
        data = dataset._replace(train=train, valid=normals)
        model = members.part(variables, k, cfg.ensemble)
        scores.append(detectors.fit(learner, model, data, cfg, jax.local_devices())[1])
    return np.stack([given.valid for given in scores]), np.stack([given.test for given in scores])


def _p_values(
    parts: Parts, calibration: np.ndarray, test: np.ndarray, bagged: bool
) -> Float[np.ndarray, " N"]:
    if bagged:
        p = conformal.jackknife_after_bootstrap_p_values(calibration, parts.seen, test)
        return np.asarray(p)
    fold = np.argmin(parts.seen, axis=0)
    held_out = np.take_along_axis(calibration, fold[None], axis=0)[0]
    return np.asarray(conformal.cv_plus_p_values(held_out, fold, test))


def report_of(
    cfg: CrossConfig, base: ExperimentConfig, n: int, arrays: dict[str, np.ndarray]
) -> dict:
    """The report of the arrays that `judged` gives, with n calibration rows."""
    metrics = evaluation.evaluate(*(arrays[k] for k in ("test", "test_y", "test_is_anomaly")))
    if cfg.bags:
        p_values, bound = f"jackknife+ after {cfg.bags} bootstrap samples", 2 * cfg.alpha
    else:
        p_values = f"CV+ with {cfg.folds} folds"
        bound = conformal.cv_plus_bound(cfg.alpha, n, cfg.folds)
    return {
        "name": base.name,
        "seed": base.seed,
        "dataset": base.data.name,
        "method": base.method,
        "score": base.score,
        "p_values": p_values,
        "n_calibration": n,
        "alpha": cfg.alpha,
        "fpr_bound": bound,
        **metrics,
    }
