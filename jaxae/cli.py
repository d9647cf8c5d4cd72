"""The command `jaxae`: train without a script, judge new rows, compare runs, list all names."""

import sys
from pathlib import Path

import numpy as np

from jaxae import (
    archive,
    arrayfiles,
    calibration,
    command,
    comparison,
    detectors,
    learners,
    parallel,
    runlog,
    scoring,
)
from jaxae.checks import AUTO
from jaxae.config import DataConfig, ExperimentConfig, ModelConfig, TrainConfig
from jaxae.corruptions import CORRUPTIONS
from jaxae.data import DATASETS
from jaxae.errors import UserError, user_errors
from jaxae.studies import STUDIES

USAGE = """usage: jaxae train [--data.name npz:FILE] [any setting; --help lists them]
       jaxae score RUN_DIR FILE [--out OUT]    FILE: .npy, .npz, .csv; OUT: .csv, .npz
       jaxae compare RUN_DIR RUN_DIR    two runs on the same test rows; jaxae list: all names"""

# What `jaxae train` starts from: all that rows can say is left to them.
OPEN = ExperimentConfig(
    name="run",
    method=AUTO,
    data=DataConfig(scale=AUTO),
    model=ModelConfig(latent=AUTO, output_activation=AUTO),
    train=TrainConfig(batch_size=AUTO),
)


def score_file(run_dir: Path, rows: Path, out: Path | None = None) -> detectors.Judgement:
    """Judge new rows with the detector of a finished run.

    Args:
      run_dir: the run folder, or the detector's own.
      rows: a .npy, .npz (`x_test`, else its only array) or .csv of raw rows [N, *S], in the units
        of the run's data set.
      out: a .csv or .npz for row, score, p_value, threshold and is_anomaly; None = none is written.

    Raises:
      UserError: a file is missing, unreadable or cannot be written, or the rows are not such as the
        detector judges.
    """
    if out and out.exists() and rows.exists() and out.samefile(rows):
        raise UserError(f"--out {out} holds the rows themselves; name another file")
    if out and (out.suffix not in (".csv", ".npz") or not out.parent.is_dir()):
        raise UserError(f"--out {out} cannot be written; name a .csv or .npz in a folder that is")
    own = run_dir if (run_dir / archive.DESCRIPTION).is_file() else run_dir / "detector"
    detector = detectors.load(own)
    raw = arrayfiles.read_rows(rows)
    parallel.initialize()
    try:
        found = detectors.judge(detector, raw)
    except UserError as error:
        raise UserError(f"{rows}: {error}") from None
    if out:
        try:
            _write_scores(out, found, detector.decision.threshold)
        except OSError as error:
            raise UserError(f"--out {out} cannot be written ({error.strerror})") from None
    flaw = out and calibration.flaw(detector.about.config)
    words = f"; p-values are ranks and promise nothing: {flaw}" if flaw else ""
    print(f"{found.is_anomaly.sum()} of {len(found.score)} rows are anomalies{words}")
    return found


def _write_scores(out: Path, found: detectors.Judgement, threshold: float) -> None:
    """A line for each row: number, score, p-value, the threshold, and the decision as 0 or 1."""
    columns = {
        "row": np.arange(len(found.score)),
        "score": found.score,
        "p_value": found.p_value,
        "threshold": np.full(len(found.score), threshold, np.float32),
        "is_anomaly": found.is_anomaly,
    }
    if out.suffix == ".npz":
        runlog.write_arrays(out, columns)
        return
    lines = [
        f"{row},{score:.9g},{float(p)!r},{limit:.9g},{flag:d}"
        for row, score, p, limit, flag in zip(*columns.values(), strict=True)
    ]
    runlog.write_text(out, "\n".join([",".join(columns), *lines]) + "\n")


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
            command.main(OPEN, rest)
        case ["list"]:
            list_names()
        case ["score", run_dir, rows]:
            with user_errors():
                score_file(Path(run_dir), Path(rows))
        case ["score", run_dir, rows, "--out", out]:
            with user_errors():
                score_file(Path(run_dir), Path(rows), Path(out))
        case ["compare", one, other]:
            with user_errors():
                print(comparison.table(comparison.compare(Path(one), Path(other))))
        case _:
            print(USAGE, file=sys.stderr)
            sys.exit(0 if args in (["-h"], ["--help"]) else 2)
