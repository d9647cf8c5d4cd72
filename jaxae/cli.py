"""The command `jaxae`: train without a script, judge new rows, compare runs, list all names."""

import argparse
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
    explanation,
    learners,
    parallel,
    plots,
    runlog,
    scoring,
)
from jaxae.checks import AUTO
from jaxae.config import DataConfig, ExperimentConfig, ModelConfig, TrainConfig
from jaxae.corruptions import CORRUPTIONS
from jaxae.data import DATASETS
from jaxae.errors import UserError, user_errors, words
from jaxae.studies import STUDIES

USAGE = """usage: jaxae train [--data.name npz:FILE] [any setting; --help lists them]
       jaxae score RUN_DIR FILE [--out OUT] [--explain]    FILE: .npy, .npz, .csv; OUT: .csv, .npz
       jaxae compare RUN_DIR RUN_DIR    two runs on the same test rows; jaxae list: all names"""

_SHOWN = 8  # rows that are explained on the screen

# What `jaxae train` starts from: all that rows can say is left to them.
OPEN = ExperimentConfig(
    name="run",
    method=AUTO,
    data=DataConfig(scale=AUTO),
    model=ModelConfig(latent=AUTO, output_activation=AUTO),
    train=TrainConfig(batch_size=AUTO),
)


def score_file(
    run_dir: Path, rows: Path, out: Path | None = None, explain: bool = False
) -> detectors.Judgement:
    """Judge new rows with the detector of a finished run.

    Args:
      run_dir: the run folder, or the detector's own.
      rows: a .npy, .npz (`x_test`, else its only array) or .csv of raw rows [N, *S], in the units
        of the run's data set.
      out: a .csv or .npz for row, score, p_value, threshold and is_anomaly; None = none is written.
      explain: also which values of a row are reconstructed worst: of the strangest rows on the
        screen and in a picture beside `out`, of every row in `out`.

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
        x = detectors.prepared(detector, raw)
        found = detectors.judge_prepared(detector, x)
        why = explanation.explain(detector, x) if explain else None
    except UserError as error:
        raise UserError(f"{rows}: {error}") from None
    picture = _draw_why(detector, found, why, out) if why and out else None
    if out:
        try:
            _write_scores(out, _columns(found, detector.decision.threshold), why)
        except OSError as error:
            raise UserError(f"--out {out} cannot be written ({words(error)})") from None
    flaw = out and calibration.flaw(detector.about.config)
    caution = f"; p-values are ranks and promise nothing: {flaw}" if flaw else ""
    print(f"{found.is_anomaly.sum()} of {len(found.score)} rows are anomalies{caution}")
    if why:
        _print_why(detector.about.config, found, why)
    if picture:
        print(f"figure {picture}")
    return found


def _strangest(found: detectors.Judgement) -> np.ndarray:
    return np.argsort(-found.score, kind="stable")[:_SHOWN]


def _print_why(
    cfg: ExperimentConfig, found: detectors.Judgement, why: explanation.Explanation
) -> None:
    """The strangest rows and their worst values."""
    at, shape = _strangest(found), why.x.shape[1:]
    worst = explanation.leading(why.residual[at])
    kind = explanation.kind(cfg, shape)
    print(f"strangest rows, and the share of their squared error in single {kind}s:")
    for i, row in enumerate(at):
        parts = [
            f"{kind} {explanation.place(index, shape)}: {share:.1%}"
            for index, share in zip(worst.index[i], worst.share[i], strict=True)
        ]
        print(f"{row:>8} {found.score[row]:>10.4g}  {', '.join(parts)}")


def _draw_why(
    detector: detectors.Detector,
    found: detectors.Judgement,
    why: explanation.Explanation,
    out: Path,
) -> Path:
    """The strangest rows and where they fail, in a picture beside `out`."""
    cfg, at = detector.about.config, _strangest(found)
    shown = {name: values[at] for name, values in why._asdict().items()}
    shown |= {"score": found.score[at], "is_anomaly": found.is_anomaly[at]}
    shown |= {"threshold": np.float32(detector.decision.threshold)}
    shown |= {"kind": np.array([f"row {row}" for row in at])}
    title = f"{cfg.name}, {cfg.method}, score {cfg.score}, data.input {cfg.data.input}"
    path = out.with_suffix(".residuals.png")
    try:
        return plots.draw_residuals(shown, title, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({words(error)}); use another --out") from None


def _columns(found: detectors.Judgement, threshold: float) -> dict[str, np.ndarray]:
    """Of each row: number, score, p-value, the threshold, and the decision."""
    return {
        "row": np.arange(len(found.score)),
        "score": found.score,
        "p_value": found.p_value,
        "threshold": np.full(len(found.score), threshold, np.float32),
        "is_anomaly": found.is_anomaly,
    }


def _write_scores(
    out: Path, columns: dict[str, np.ndarray], why: explanation.Explanation | None
) -> None:
    """A line for each row, the decision as 0 or 1; with the worst values or, as .npz, all."""
    if out.suffix == ".npz":
        runlog.write_arrays(out, columns | ({"residual": why.residual} if why else {}))
        return
    lines = [
        f"{row},{score:.9g},{float(p)!r},{limit:.9g},{flag:d}"
        for row, score, p, limit, flag in zip(*columns.values(), strict=True)
    ]
    names = [*columns]
    if why:
        worst, shape = explanation.leading(why.residual), why.x.shape[1:]
        names += [f"{of}_{k + 1}" for k in range(worst.share.shape[1]) for of in ("worst", "share")]
        for i, (index, share) in enumerate(zip(*worst, strict=True)):
            pairs = zip(index, share, strict=True)
            lines[i] += "".join(f",{explanation.place(a, shape)},{s:.4g}" for a, s in pairs)
    runlog.write_text(out, "\n".join([",".join(names), *lines]) + "\n")


def _score(args: list[str]) -> None:
    """`jaxae score`, from its arguments."""
    parser = argparse.ArgumentParser("jaxae score", description="Judge raw rows by a finished run.")
    parser.add_argument("run_dir", type=Path, help="the run folder, or its detector alone")
    parser.add_argument(
        "rows", type=Path, help=".npy, .npz or .csv, in the units of the run's data"
    )
    parser.add_argument("--out", type=Path, help=".csv or .npz: row, score, p_value, ...")
    parser.add_argument(
        "--explain", action="store_true", help="also which values are reconstructed worst"
    )
    options = parser.parse_args(args)
    with user_errors():
        score_file(options.run_dir, options.rows, options.out, options.explain)


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
        case ["score", *rest]:
            _score(rest)
        case ["compare", one, other]:
            with user_errors():
                print(comparison.table(comparison.compare(Path(one), Path(other))))
        case _:
            print(USAGE, file=sys.stderr)
            sys.exit(0 if args in (["-h"], ["--help"]) else 2)
