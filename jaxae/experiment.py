"""One experiment from configuration to report: what a newcomer reads first."""

import contextlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from jaxae import (
    checkpoint,
    config,
    data,
    evaluation,
    learners,
    parallel,
    plots,
    runlog,
    scoring,
    studies,
    train,
)
from jaxae.config import ExperimentConfig
from jaxae.errors import UserError
from jaxae.types import Dataset, Learner, TrainState


def run(cfg: ExperimentConfig) -> dict:
    """Train, set the threshold, score, draw and report; or resume where the run folder stands.

    The run folder holds the same experiment? Then training goes on after its last checkpoint, and
    a finished run is only scored again: with another score, rule or study, if the configuration
    says so.

    Returns:
      The report, as `report.json` holds it.

    Raises:
      UserError: see the modules named in the body; everything that can be checked is checked before
        training starts.
      FloatingPointError: training diverged or the model collapsed.
    """
    clock = time.perf_counter()
    score, rule = scoring.resolve(cfg.score), scoring.rule(cfg.threshold.rule)
    config.validate(cfg)
    studies.check(cfg)
    parallel.initialize(cfg.devices)
    rows = data.load(cfg.data)
    learner = learners.build(cfg, rows.shape)
    devices = train.devices_for(cfg, learner, rows.shape)
    everything = jax.local_devices()  # scoring has no batch to keep whole
    to_score = config.for_scoring(cfg)
    judge = learner if to_score == cfg else learners.build(to_score, rows.shape)
    # Raises where the rows do not fill a batch, before anything is written.
    data.index_plan(cfg.seed, 0, len(rows.train.x), cfg.train.batch_size, len(devices))
    folder = runlog.open_run(cfg)

    with (
        runlog.exclusive(folder),
        checkpoint.open_manager(folder / "checkpoints", cfg.train.keep_checkpoints) as manager,
    ):
        fitted = _train(cfg, learner, rows, devices, folder, manager)
        variables = fitted.state.variables
        detector, scores = evaluation.fit_detector(
            judge, score, rule, variables, rows, cfg.threshold, everything, cfg.ensemble
        )
        checkpoint.save_detector(folder / "detector", detector)
        runlog.write_arrays(folder / "scores.npz", _score_arrays(rows, scores))
        report = _report(cfg, rows, detector, scores, folder)
        context = studies.Context(cfg, rows, judge, everything, detector, scores, manager, folder)
        report |= studies.run(context)
    report |= {"wall_s": time.perf_counter() - clock, "compile_s": fitted.compile_s}
    runlog.write_json(folder / "report.json", report)
    drawn = plots.draw(folder)
    report["wall_s"] = time.perf_counter() - clock
    runlog.write_json(folder / "report.json", report)
    print(table(report))
    print(f"{len(drawn)} figures in {folder / 'figures'}; the run is in {folder}")
    return report


def _train(
    cfg: ExperimentConfig,
    learner: Learner,
    rows: Dataset,
    devices: parallel.Devices,
    folder: Path,
    manager: checkpoint.Manager,
) -> train.Fitted:
    """Fit from the last checkpoint, if there is one, saving as configured."""
    state, done = _resume(cfg, learner, rows, devices, manager)
    runlog.write_text(folder / "config.json", config.to_json(cfg))  # what is free may have changed
    log = folder / "metrics.jsonl"
    runlog.start_metrics(log, done)
    everything = jax.local_devices()
    valid_loss = train.valid_loss_fn(learner, rows.valid.x, cfg.train.loss, everything)
    monitor = studies.monitor(cfg, learner, rows, everything) if cfg.train.monitor else None

    def on_epoch(epoch: int, state: TrainState, row: train.Row) -> train.Row:
        first = evaluation.members(state.variables, cfg.ensemble)[0]
        row |= {"valid_loss": valid_loss(first)}
        row |= monitor(first) if monitor else {}
        # The state before the log: a kill between them costs a line that is then written again.
        if epoch % cfg.train.checkpoint_every == 0 or epoch == cfg.train.epochs:
            checkpoint.save(manager, epoch, state, cfg)
        runlog.append_metrics(log, {"epoch": epoch} | row)
        return row

    fitted = train.fit(
        learner,
        rows.train.x,
        cfg.train,
        cfg.seed,
        devices,
        state=state,
        options=parallel.compiler_options(cfg.method, devices),
        on_epoch=on_epoch,
        profile=folder / "profile" if cfg.profile else None,
    )
    manager.wait_until_finished()
    return fitted


def _resume(
    cfg: ExperimentConfig,
    learner: Learner,
    rows: Dataset,
    devices: parallel.Devices,
    manager: checkpoint.Manager,
) -> tuple[TrainState | None, int]:
    """The last saved state and its epoch; (None, 0) for a new run."""
    saved = manager.latest_step()
    if saved is None:
        return None, 0
    if saved > cfg.train.epochs:
        raise UserError(
            f"train.epochs is {cfg.train.epochs}, but {cfg.run_path} holds {saved} epochs; "
            "ask for at least as many, or name another --run-dir"
        )
    template = train.abstract_state(learner, rows.shape, cfg.seed)
    return checkpoint.restore(manager, parallel.placed_like(template, devices)), saved


def _score_arrays(rows: Dataset, scores: evaluation.Scores) -> dict[str, np.ndarray]:
    test = rows.test
    return scores._asdict() | {"test_y": test.y, "test_label": test.label, "test_row": test.row}


def _report(
    cfg: ExperimentConfig, rows: Dataset, detector, scores: evaluation.Scores, folder: Path
) -> dict:
    """The scalars of report.json, but for times and studies."""
    threshold = float(detector.threshold)
    epochs = runlog.read_metrics(folder / "metrics.jsonl")
    return {
        "name": cfg.name,
        "seed": cfg.seed,
        "dataset": cfg.data.name,
        "method": cfg.method,
        "score": cfg.score,
        "threshold_rule": f"{cfg.threshold.rule} on {cfg.threshold.on}",
        "compute_dtype": cfg.model.compute_dtype,
        "score_dtype": cfg.score_dtype,
        "epochs": epochs[-1]["epoch"],
        "train_loss": epochs[-1]["loss"],
        "valid_loss": epochs[-1]["valid_loss"],
        "steps_per_s": float(np.median([row["steps_per_s"] for row in epochs])),
        "n_train": len(rows.train.y),
        "n_valid": len(rows.valid.y),
        "threshold": threshold,
        **evaluation.evaluate(scores.test, rows.test.y, threshold),
    }


def table(report: dict) -> str:
    """The report as an aligned two-column table."""
    width = max(map(len, report))
    lines = [
        f"{name:<{width}}  {value:.5g}" if isinstance(value, float) else f"{name:<{width}}  {value}"
        for name, value in report.items()
    ]
    rule = "-" * max(map(len, lines))
    return "\n".join([rule, *lines, rule])


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """Say errors as a person needs them: one line, no traceback.

    Exits with code 2 on bad input, with code 1 if training diverges, and with code 130 if it is
    interrupted: the last checkpoint stays, and the same command resumes.
    """
    try:
        yield
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except FloatingPointError as error:
        print(f"training failed: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes after the last checkpoint", file=sys.stderr)
        sys.exit(130)


def main(default: ExperimentConfig, args: list[str] | None = None) -> dict:
    """The command line of an experiment: parse, run, report; see `user_errors`."""
    with user_errors():
        cfg = config.parse_cli(default, args)
        parallel.cache_compilations()
        return run(cfg)
