"""One experiment from configuration to report: the module to read first."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from jaxae import config, detectors
from jaxae.config import ExperimentConfig, checks
from jaxae.detectors import health, pixels, steps
from jaxae.devices import hosts, parallel
from jaxae.methods import learners
from jaxae.reports import derived, media, plots, reporting, studies, unlabelled
from jaxae.storage import checkpoint, disk, logs, manifest, outputs, run_folder
from jaxae.training import selection, train
from jaxae.types import Dataset, Learner, PyTree
from jaxae.workflows import auto, budget, course, precompile


def run(cfg: ExperimentConfig, loggers: Sequence[logs.Logger] = ()) -> dict:
    """Train, fit, score, draw and report (also to loggers), or resume from the run folder.

    If the folder contains the same experiment, training goes on after its last checkpoint. A
    finished run is only scored again, with another score, rule or study if `cfg` names one.

    Returns:
      The report, as `report.json` holds it.

    Raises:
      UserError: see the modules called in the body; all that can be checked before training is
        checked before training.
      FloatingPointError: training diverged or the model collapsed.
    """
    clock = time.perf_counter()
    check(cfg)  # before a download
    outputs.check_run_folder(cfg, may_be_begun=bool(loggers))
    hosts.join(cfg.hosts)
    parallel.start(cfg)
    asked, (cfg, dataset) = cfg, auto.settle(cfg)
    check(cfg, dataset)
    learner = run_folder.with_stored_tuning(cfg.run_path, learners.build(cfg, dataset.shape))
    scoring_learner = learners.build(config.for_scoring(cfg), dataset.shape)
    devices = train.devices_for(learner, cfg, dataset.shape)
    all_devices = parallel.all_devices()  # scoring does not depend on a batch size
    loggers = logs.configured(cfg, loggers)
    run_folder.agree(cfg, [dataset.digest])
    cfg = budget.settle(asked, cfg, learner, dataset.train.x, devices)
    members = train.ensemble(learner, cfg, len(dataset.train.x))
    members.plan(0, len(devices))  # raises if the batch does not match, before any file exists
    with (
        parallel.on_host(),
        run_folder.enter(cfg, dataset.digest) as folder,
        checkpoint.opened(cfg.run_path / "checkpoints", cfg.train) as manager,
        precompile.meanwhile(precompile.tasks(cfg, dataset, learner, scoring_learner, all_devices)),
    ):
        run_folder.write_tuning(folder, learner)
        log = media.log_of(cfg, folder, loggers, scoring_learner, dataset)
        watch = selection.watch(cfg, learner, dataset, all_devices)
        this, layout = course.Run(cfg, dataset.digest, log), parallel.Layout(devices)
        variables, compile_s, _ = course.train_runs(
            [this], learner, dataset.train.x, layout, members,
            lambda state: watch(state.variables, members.settings), manager,
        )  # fmt: skip
        detector, scores, report = finish(
            cfg, learner, scoring_learner, variables, dataset, all_devices, folder
        )
        # From here on each process works on its own.
        context = studies.Context(
            cfg, dataset, scoring_learner, jax.local_devices(), detector, scores, manager, folder
        )
        report |= studies.run(context) | {"compile_s": compile_s}
        drawn = _drawn(cfg, folder, report, clock)
        log.finish(report, lambda show: media.of_run(show, dataset, detector, scores, drawn))
    print(reporting.table(report))
    print(f"{len(drawn)} figures in {folder / 'figures'}; the run is in {folder}")
    return report


def _drawn(cfg: ExperimentConfig, folder: Path, report: dict[str, Any], clock: float) -> list[Path]:
    """Write the report, figures, which read it, and the manifest; adds seconds since `clock`."""
    path, figures = folder / "report.json", plots.FIGURES | studies.figures()
    report["wall_s"] = time.perf_counter() - clock
    disk.write_json(path, report)
    drawn = plots.draw(folder, figures) if hosts.first() else []
    report["wall_s"] = time.perf_counter() - clock
    disk.write_json(path, report)
    manifest.seal(folder, studies.tables(cfg))
    return drawn


def check(cfg: ExperimentConfig, dataset: Dataset | None = None) -> None:
    """Reject a configuration that cannot work, on these data if given.

    While a field is still "auto", only types and ranges are checked.

    Raises:
      UserError: a field or a combination of fields cannot work, or not with these rows.
    """
    config.validate(cfg)
    if dataset is None and checks.open_fields(cfg):
        return
    learners.check(cfg)
    selection.check(cfg, dataset)
    detectors.check(cfg, dataset)
    studies.check(cfg, dataset)
    if dataset:
        learners.check_rows(cfg, dataset.train.x)


def finish(
    cfg: ExperimentConfig,
    learner: Learner,
    scoring_learner: Learner,
    variables: PyTree,
    dataset: Dataset,
    devices: parallel.Devices,
    folder: Path,
) -> tuple[detectors.Detector, detectors.Scores, dict[str, Any]]:
    """Make a detector from a trained model, save it and its scores, and begin the report.

    What was derived from earlier scores in the folder is removed. `learner` gives the initial
    weights, which the warnings compare; the run folder already contains `metrics.jsonl`.
    """
    detector, scores = detectors.fit(scoring_learner, variables, dataset, cfg, devices)
    detectors.save(folder / "detector", detector)
    derived.withdraw(folder)
    run_folder.write_about(folder, cfg, dataset.digest)  # settings of scoring may have changed
    parts = detector, scoring_learner, dataset, devices
    by_place = steps.tested(*parts) | pixels.tested(*parts)
    arrays = reporting.arrays(detector, scores, dataset) | by_place
    disk.write_arrays(folder / "scores.npz", arrays)
    report = reporting.make(cfg, dataset, detector, scores, folder, by_place)
    if not dataset.is_labelled:
        scorer = detectors.score_fn(detector, scoring_learner, devices)
        report |= unlabelled.make(cfg, dataset, detector, scores, scorer, folder)
    keys = train.ensemble(learner, cfg, len(dataset.train.x)).init
    initial = train.initial_state(learner, dataset.shape, keys).params
    report["warnings"] = health.look(scoring_learner, initial, detector, scores, dataset)
    report["warnings"] += steps.warnings(detector)
    return detector, scores, report
