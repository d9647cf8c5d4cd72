"""A file of new rows, judged by the detector of a finished run: the command `jaxae score`."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxae import detectors
from jaxae.cli import judgements
from jaxae.config import ExperimentConfig
from jaxae.data import arrayfiles, sources
from jaxae.data.own import files
from jaxae.detectors import calibration, explanation
from jaxae.devices import parallel, tuning
from jaxae.errors import UserError, naming_input, words
from jaxae.reports import plots
from jaxae.training import train
from jaxae.types import Source

_SHOWN = 8  # rows that are explained on the screen


def score_file(
    run_dir: Path,
    rows: Path,
    out: Path | None = None,
    explain: bool = False,
    as_json: bool = False,
) -> dict[str, Any]:
    """Judge new rows with the detector of a finished run.

    The rows of a .npy stay on disk and are judged block by block, unless they are explained.

    Args:
      run_dir: the run folder, or the detector's own.
      rows: a .npy, .npz (`x_test`, else its only array) or .csv of raw rows [N, *S], in the units
        of the run's data set.
      out: a .csv or .npz for row, score, p_value, threshold and is_anomaly; None = none is written.
      explain: also which values of a row are reconstructed worst: of the strangest rows on the
        screen and in a picture beside `out`, of every row in `out`.
      as_json: the summary is JSON.

    Returns:
      The summary: rows, anomalies, threshold and p_value_flaw.

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
    threshold, features = float(detector.decision.threshold), _features(detector)
    flaw = calibration.flaw(detector.about.config)
    said: list[str] = []
    with naming_input(rows), judgements.opened(out, threshold, features) as sink:
        if explain:
            said += _explained(detector, sources.read(raw), out, sink, names)
        else:
            for found in _judged(detector, raw):
                sink.add(found, names=names)
    summary: dict[str, Any] = {
        "rows": sink.rows,
        "anomalies": sink.anomalies,
        "threshold": threshold,
    }
    summary |= {"p_value_flaw": flaw or None}
    if as_json:
        print(json.dumps(summary))
        return summary
    caution = f"; p-values are ranks and promise nothing: {flaw}" if flaw and out else ""
    print(f"{sink.anomalies} of {sink.rows} rows are anomalies{caution}", *said, sep="\n")
    return summary


def _explained(
    detector: detectors.Detector,
    raw: np.ndarray,
    out: Path | None,
    sink: judgements.Sink,
    names: list[str],
) -> list[str]:
    """Judge rows at once, and say of the strangest which values are reconstructed worst."""
    x = detectors.prepared(detector, raw)
    found, why = detectors.judge_prepared(detector, x), explanation.explain(detector, x)
    picture = _draw_why(detector, found, why, out) if out else None
    sink.add(found, why, names)
    lines = _why_lines(detector.about.config, found, why, _features(detector))
    return [*lines, *([f"figure {picture}"] if picture else [])]


def _judged(detector: detectors.Detector, raw: Source) -> Iterator[detectors.Judgement]:
    """What the detector says of rows: of those in memory at once, of others block by block."""
    if isinstance(raw, np.ndarray):
        yield detectors.judge(detector, raw)
        return
    block = max(1, tuning.FEED_BYTES // (4 * math.prod(raw.shape[1:])))
    with train.progress_bar(len(raw), 0, len(raw) <= block, "judging", "row") as bar:
        for first in range(0, len(raw), block):
            rows = raw[first : first + block]
            yield detectors.judge(detector, rows, first)
            bar.update(len(rows))


def _read(rows: Path, detector: detectors.Detector) -> tuple[Source, list[str]]:
    """Raw rows, and the names of those that have some: files, or the first steps of windows."""
    schema = detector.about.schema
    if schema.kind == "npz":
        return arrayfiles.open_rows(rows), []
    if not rows.exists():
        raise UserError(f"{rows} does not exist; check the path")
    with naming_input(rows):
        return files.rows(rows, schema)


def _strangest(found: detectors.Judgement) -> np.ndarray:
    return np.argsort(-found.score, kind="stable")[:_SHOWN]


def _features(detector: detectors.Detector) -> list[str]:
    """The names of a row's values; [] where they have none, or a map hides them."""
    about = detector.about
    return about.schema.features if about.config.data.input == "none" else []


def _why_lines(
    cfg: ExperimentConfig,
    found: detectors.Judgement,
    why: explanation.Explanation,
    features: list[str],
) -> list[str]:
    """The strangest rows and their worst values."""
    at, shape = _strangest(found), why.x.shape[1:]
    worst = explanation.leading(why.residual[at])
    kind = explanation.kind(cfg, shape)
    lines = [f"strangest rows, and the share of their squared error in single {kind}s:"]
    for i, row in enumerate(at):
        parts = [
            f"{kind} {explanation.place(index, shape, features)}: {share:.1%}"
            for index, share in zip(worst.index[i], worst.share[i], strict=True)
        ]
        lines.append(f"{row:>8} {found.score[row]:>10.4g}  {', '.join(parts)}")
    return lines


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
