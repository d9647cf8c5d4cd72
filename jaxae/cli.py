"""The command `jaxae`: train without writing a script, judge new rows, list what there is."""

import sys
from pathlib import Path

import numpy as np

from jaxae import checkpoint, config, evaluation, experiment, learners, parallel, runlog, scoring
from jaxae.config import DataConfig, ExperimentConfig
from jaxae.corruptions import CORRUPTIONS
from jaxae.data import DATASETS
from jaxae.datasets.raw import to_float
from jaxae.errors import UserError
from jaxae.studies import STUDIES

USAGE = """usage: jaxae train [--data.name npz:FILE] [any setting; --help lists them]
       jaxae score RUN_DIR FILE.npy [SCORES.npz]
       jaxae list"""


def score_file(run_dir: Path, rows: Path, out: Path | None = None) -> np.ndarray:
    """Judge new rows with the detector of a finished run.

    Args:
      run_dir: the run folder.
      rows: a .npy of raw rows [N, *S], in the units of the run's data set.
      out: where to write `score` [N] and `is_anomaly` [N]; None = nowhere.

    Returns:
      Scores [N].

    Raises:
      UserError: a file is missing or unreadable, or the rows have another shape than the model's.
    """
    if not (run_dir / "config.json").is_file():
        raise UserError(f"{run_dir} is no run folder: it holds no config.json")
    cfg = config.from_json((run_dir / "config.json").read_text())
    detector = checkpoint.load_detector(run_dir / "detector")
    try:
        raw = np.load(rows, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{rows} cannot be read as a .npy file of numbers: {error}") from None
    shape = _row_shape(run_dir)
    if raw.shape[1:] not in (shape, shape[:-1]):
        raise UserError(f"rows of {rows} have shape {raw.shape[1:]}; the run's have {shape}")
    x = (to_float(raw).reshape(-1, *shape) - np.asarray(detector.shift)) / np.asarray(
        detector.scale
    )
    if not np.isfinite(x).all():
        raise UserError(f"{rows} holds NaN or infinite values; remove those rows")
    # As the run scored its own rows, whatever precision it trained in.
    learner = learners.build(config.for_scoring(cfg), shape)
    score = scoring.resolve(cfg.score)
    devices = parallel.choose(1, 1)
    judge = evaluation.detector_scorer(learner, score, detector, devices, cfg.ensemble)
    scores = judge(x.astype(np.float32))
    flagged = scores > float(detector.threshold)
    if out:
        runlog.write_arrays(out, {"score": scores, "is_anomaly": flagged})
    print(f"{flagged.sum()} of {len(scores)} rows are anomalies")
    return scores


def _row_shape(run_dir: Path) -> tuple[int, ...]:
    with np.load(run_dir / "arrays" / "reconstructions.npz") as arrays:
        return arrays["x"].shape[1:]


def list_names() -> None:
    """Print every registered name."""
    registries = {
        "data sets": [*DATASETS, "npz:FILE"],
        "methods": learners.METHODS,
        "scores (join with +)": scoring.SCORES,
        "threshold rules": scoring.THRESHOLDS,
        "corruptions": CORRUPTIONS,
        "studies": STUDIES,
    }
    for kind, names in registries.items():
        print(f"{kind}: {', '.join(names)}")


def main(args: list[str] | None = None) -> None:
    """Entry point; exits with code 2 and one line on bad input."""
    args = sys.argv[1:] if args is None else args
    match args:
        case ["train", *rest]:
            default = ExperimentConfig(name="run", data=DataConfig(normal=(0,)))
            experiment.main(default, rest)
        case ["list"]:
            list_names()
        case ["score", run_dir, rows, *out] if len(out) <= 1:
            with experiment.user_errors():
                score_file(Path(run_dir), Path(rows), Path(out[0]) if out else None)
        case _:
            print(USAGE, file=sys.stderr)
            sys.exit(0 if args in (["-h"], ["--help"]) else 2)
