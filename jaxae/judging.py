"""A file of new rows, judged by the detector of a finished run: the command `jaxae score`."""

import json
from pathlib import Path

import numpy as np

from jaxae import (
    arrayfiles,
    calibration,
    detectors,
    explanation,
    parallel,
    plots,
    runlog,
)
from jaxae.config import ExperimentConfig
from jaxae.datasets import own
from jaxae.errors import UserError, naming_input, words

_SHOWN = 8  # rows that are explained on the screen


def score_file(
    run_dir: Path,
    rows: Path,
    out: Path | None = None,
    explain: bool = False,
    as_json: bool = False,
) -> detectors.Judgement:
    """Judge new rows with the detector of a finished run.

    Args:
      run_dir: the run folder, or the detector's own.
      rows: a .npy, .npz (`x_test`, else its only array) or .csv of raw rows [N, *S], in the units
        of the run's data set.
      out: a .csv or .npz for row, score, p_value, threshold and is_anomaly; None = none is written.
      explain: also which values of a row are reconstructed worst: of the strangest rows on the
        screen and in a picture beside `out`, of every row in `out`.
      as_json: the summary is JSON.

    Raises:
      UserError: a file is missing, unreadable or cannot be written, or the rows are not such as the
        detector judges.
    """
    if out and out.exists() and rows.exists() and out.samefile(rows):
        raise UserError(f"--out {out} holds the rows themselves; name another file")
    if out and (out.suffix not in (".csv", ".npz") or not out.parent.is_dir()):
        raise UserError(f"--out {out} cannot be written; name a .csv or .npz in a folder that is")
    detector = detectors.load(detectors.folder_of(run_dir))
    raw, names = _read(rows, detector)
    parallel.initialize()
    with naming_input(rows):
        x = detectors.prepared(detector, raw)
        found = detectors.judge_prepared(detector, x)
        why = explanation.explain(detector, x) if explain else None
    picture = _draw_why(detector, found, why, out) if why and out else None
    features = _features(detector)
    if out:
        try:
            _write_scores(out, _columns(found, detector.decision.threshold), why, names, features)
        except OSError as error:
            raise UserError(f"--out {out} cannot be written ({words(error)})") from None
    flaw = calibration.flaw(detector.about.config)
    caution = f"; p-values are ranks and promise nothing: {flaw}" if flaw and out else ""
    anomalies = int(found.is_anomaly.sum())
    if as_json:
        threshold = float(detector.decision.threshold)
        summary = {"rows": len(found.score), "anomalies": anomalies, "threshold": threshold}
        print(json.dumps(summary | {"p_value_flaw": flaw or None}))
        return found
    print(f"{anomalies} of {len(found.score)} rows are anomalies{caution}")
    if why:
        _print_why(detector.about.config, found, why, features)
    if picture:
        print(f"figure {picture}")
    return found


def _read(rows: Path, detector: detectors.Detector) -> tuple[np.ndarray, list[str]]:
    """Raw rows, and the names of those that have some: files, or the first steps of windows."""
    schema = detector.about.schema
    if schema.kind == "npz":
        return arrayfiles.read_rows(rows), []
    if not rows.exists():
        raise UserError(f"{rows} does not exist; check the path")
    with naming_input(rows):
        return own.rows(rows, schema)


def _strangest(found: detectors.Judgement) -> np.ndarray:
    return np.argsort(-found.score, kind="stable")[:_SHOWN]


def _features(detector: detectors.Detector) -> list[str]:
    """The names of a row's values; [] where they have none, or a map hides them."""
    about = detector.about
    return about.schema.features if about.config.data.input == "none" else []


def _print_why(
    cfg: ExperimentConfig,
    found: detectors.Judgement,
    why: explanation.Explanation,
    features: list[str],
) -> None:
    """The strangest rows and their worst values."""
    at, shape = _strangest(found), why.x.shape[1:]
    worst = explanation.leading(why.residual[at])
    kind = explanation.kind(cfg, shape)
    print(f"strangest rows, and the share of their squared error in single {kind}s:")
    for i, row in enumerate(at):
        parts = [
            f"{kind} {explanation.place(index, shape, features)}: {share:.1%}"
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
    out: Path,
    columns: dict[str, np.ndarray],
    why: explanation.Explanation | None,
    rows: list[str],
    features: list[str],
) -> None:
    """A line for each row, the decision as 0 or 1; with the worst values or, as .npz, all.

    Rows that have names keep them, in a column `source`.
    """
    if out.suffix == ".npz":
        named = {"source": np.array(rows)} if rows else {}
        residual = {"residual": why.residual} if why else {}
        runlog.write_arrays(out, columns | named | residual)
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
            lines[i] += "".join(
                f",{_quoted(explanation.place(a, shape, features))},{s:.4g}" for a, s in pairs
            )
    if rows:
        names.append("source")
        lines = [f"{line},{_quoted(name)}" for line, name in zip(lines, rows, strict=True)]
    runlog.write_text(out, "\n".join([",".join(names), *lines]) + "\n")


def _quoted(text: str) -> str:
    """A text as a field of a CSV (RFC 4180)."""
    return f'"{text.replace(chr(34), 2 * chr(34))}"' if set(text) & set(',"\r\n') else text
