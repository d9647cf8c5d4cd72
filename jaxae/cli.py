"""The command `jaxae`: train without writing a script, judge new rows, list what there is."""

import sys
from pathlib import Path

import numpy as np

from jaxae import archive, detectors, experiment, learners, parallel, runlog, scoring
from jaxae.config import DataConfig, ExperimentConfig
from jaxae.corruptions import CORRUPTIONS
from jaxae.data import DATASETS
from jaxae.errors import UserError, user_errors
from jaxae.studies import STUDIES

USAGE = """usage: jaxae train [--data.name npz:FILE] [any setting; --help lists them]
       jaxae score RUN_DIR FILE.npy [SCORES.npz]
       jaxae list"""


def score_file(run_dir: Path, rows: Path, out: Path | None = None) -> detectors.Judgement:
    """Judge new rows with the detector of a finished run.

    Args:
      run_dir: the run folder, or the detector's own.
      rows: a .npy of raw rows [N, *S], in the units of the run's data set.
      out: where to write `score` [N] and `is_anomaly` [N]; None = nowhere.

    Raises:
      UserError: a file is missing or unreadable, or the rows have another shape than the model's.
    """
    own = run_dir if (run_dir / archive.DESCRIPTION).is_file() else run_dir / "detector"
    detector = detectors.load(own)
    try:
        raw = np.load(rows, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{rows} cannot be read as a .npy file of numbers: {error}") from None
    parallel.initialize()
    try:
        found = detectors.judge(detector, raw)
    except UserError as error:
        raise UserError(f"{rows}: {error}") from None
    if out:
        runlog.write_arrays(out, found._asdict())
    print(f"{found.is_anomaly.sum()} of {len(found.score)} rows are anomalies")
    return found


def list_names() -> None:
    """Print every registered name."""
    registries = {
        "data sets": [*DATASETS, "npz:FILE"],
        "methods": learners.METHODS,
        "scores (join with +)": scoring.SCORES,
        "threshold rules": scoring.RULES,
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
            with user_errors():
                score_file(Path(run_dir), Path(rows), Path(out[0]) if out else None)
        case _:
            print(USAGE, file=sys.stderr)
            sys.exit(0 if args in (["-h"], ["--help"]) else 2)
