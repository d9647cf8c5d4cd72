"""A file of new rows, judged by the detector of a finished run: the command `jaxae score`.

What the detector says is written block by block, and the file appears whole or not at all.
"""

import contextlib
import math
from collections.abc import Iterator
from json import dumps
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxae import detectors
from jaxae.config import ExperimentConfig
from jaxae.data import arrayfiles, sources
from jaxae.data.own import files
from jaxae.detectors import calibration, explanation
from jaxae.devices import parallel, tuning
from jaxae.errors import UserError, naming_input, words
from jaxae.reports import plots
from jaxae.storage import disk
from jaxae.training import train
from jaxae.types import Source

_SHOWN = 8  # rows that are explained on the screen


def score_file(
    run_dir: Path,
    rows: Path,
    out: Path | None = None,
    explain: bool = False,
    json: bool = False,
) -> dict[str, Any]:
    """Judge raw rows by a finished run.

    Rows on disk are judged block by block, unless they are explained.

    Examples: `jaxae score runs/mine new.csv --out judged.csv`, `jaxae score runs/mine photos/`.

    Args:
      run_dir: the run folder, or its detector alone
      rows: .npy, .npz or .csv, or what the run was made of: a table, a series, a folder of images;
        in the units of the run's data set
      out: .csv or .npz: row, score, p_value, threshold, is_anomaly
      explain: also which values are reconstructed worst: of the strangest rows on the screen and in
        a picture beside --out, of every row in --out
      json: a summary as JSON on the screen

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
    flaw = calibration.why_no_guarantee(detector.about.config)
    explanations: list[str] = []
    with naming_input(rows), _opened(out, detector) as scores:
        if explain:
            explanations = _explained(detector, sources.read(raw), out, scores, names)
        else:
            for judgement in _judged(detector, raw):
                scores.add(judgement, names=names)
    summary: dict[str, Any] = {
        "rows": scores.rows,
        "anomalies": scores.anomalies,
        "threshold": scores.threshold,
        "p_value_flaw": flaw or None,
    }
    if json:
        print(dumps(summary))
        return summary
    caution = f"; p-values are ranks and promise nothing: {flaw}" if flaw and out else ""
    print(f"{scores.anomalies} of {scores.rows} rows are anomalies{caution}")
    print(*explanations, sep="\n", end="\n" if explanations else "")
    return summary


class _Scores:
    """The file of scores, which takes judgements in the order of their rows."""

    def __init__(self, detector: detectors.Detector, out: Path | None, table: IO[str] | None):
        self.rows = self.anomalies = 0
        self.threshold = float(detector.decision.threshold)
        self._features = _features(detector)
        self._out, self._table = out, table
        self._blocks: list[dict[str, Any]] = []  # of an .npz, which is written in the end

    def add(
        self,
        judgement: detectors.Judgement,
        why: explanation.Explanation | None = None,
        names: list[str] | None = None,
    ) -> None:
        """Take a block of rows.

        Args:
          judgement: of the rows.
          why: which values are reconstructed worst: a .csv has the worst, an .npz all.
          names: of rows that have some keep them, in a column `source`.
        """
        count = len(judgement.score)
        columns = {
            "row": np.arange(self.rows, self.rows + count),
            "score": judgement.score,
            "p_value": judgement.p_value,
            "threshold": np.full(count, self.threshold, np.float32),
            "is_anomaly": judgement.is_anomaly,
        }
        if self._table:
            header, lines = _lines(columns, why, names, self._features)
            self._table.write("\n".join([*([] if self.rows else [header]), *lines]) + "\n")
        elif self._out:
            extra = {"source": np.array(names)} if names else {}
            self._blocks.append(columns | extra | ({"residual": why.residual} if why else {}))
        self.rows += count
        self.anomalies += int(judgement.is_anomaly.sum())

    def arrays(self) -> dict[str, np.ndarray]:
        """All blocks together, by column."""
        return {
            name: np.concatenate([block[name] for block in self._blocks])
            for name in self._blocks[0]
        }


@contextlib.contextmanager
def _opened(out: Path | None, detector: detectors.Detector) -> Iterator[_Scores]:
    """Where judgements go: a .csv or .npz, or nowhere, and they are only counted.

    Raises:
      UserError: the file cannot be written.
    """
    if out is None:
        yield _Scores(detector, None, None)
        return
    try:
        if out.suffix == ".npz":
            scores = _Scores(detector, out, None)
            yield scores
            disk.write_arrays(out, scores.arrays())
        else:
            with disk.writing(out) as table:
                yield _Scores(detector, out, table)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({words(error)})") from None


def _lines(
    columns: dict[str, np.ndarray],
    why: explanation.Explanation | None,
    names: list[str] | None,
    features: list[str],
) -> tuple[str, list[str]]:
    """A table's header, and a line for each row, the decision as 0 or 1."""
    lines = [
        f"{row},{score:.9g},{float(p)!r},{limit:.9g},{flag:d}"
        for row, score, p, limit, flag in zip(*columns.values(), strict=True)
    ]
    header = [*columns]
    if why:
        worst, shape = explanation.leading(why.residual), why.x.shape[1:]
        pairs = range(worst.share.shape[1])
        header += [f"{column}_{k + 1}" for k in pairs for column in ("worst", "share")]
        for i, (index, share) in enumerate(zip(*worst, strict=True)):
            lines[i] += "".join(
                f",{_quoted(explanation.place(a, shape, features))},{s:.4g}"
                for a, s in zip(index, share, strict=True)
            )
    if names:
        header.append("source")
        lines = [f"{line},{_quoted(name)}" for line, name in zip(lines, names, strict=True)]
    return ",".join(header), lines


def _quoted(text: str) -> str:
    """A text as a field of a CSV (RFC 4180)."""
    return f'"{text.replace(chr(34), 2 * chr(34))}"' if set(text) & set(',"\r\n') else text


def _explained(
    detector: detectors.Detector,
    raw: np.ndarray,
    out: Path | None,
    scores: _Scores,
    names: list[str],
) -> list[str]:
    """Judge rows at once, and say of the strangest which values are reconstructed worst."""
    x, cfg = detectors.prepared(detector, raw), detector.about.config
    judgement, why = detectors.judge_prepared(detector, x), explanation.explain(detector, x)
    strangest = np.argsort(-judgement.score, kind="stable")[:_SHOWN]
    worst, shape = explanation.leading(why.residual[strangest]), why.x.shape[1:]
    kind, features = explanation.kind(cfg, shape), _features(detector)
    lines = [f"strangest rows, and the share of their squared error in single {kind}s:"]
    for i, row in enumerate(strangest):
        parts = [
            f"{kind} {explanation.place(index, shape, features)}: {share:.1%}"
            for index, share in zip(worst.index[i], worst.share[i], strict=True)
        ]
        lines.append(f"{row:>8} {judgement.score[row]:>10.4g}  {', '.join(parts)}")
    if out:
        shown = {name: values[strangest] for name, values in why._asdict().items()}
        shown |= {
            "score": judgement.score[strangest],
            "is_anomaly": judgement.is_anomaly[strangest],
            "threshold": np.float32(scores.threshold),
            "kind": np.array([f"row {row}" for row in strangest]),
        }
        lines.append(f"figure {_draw(cfg, shown, out)}")
    scores.add(judgement, why, names)
    return lines


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


def _features(detector: detectors.Detector) -> list[str]:
    """The names of a row's values; [] where they have none, or a map hides them."""
    about = detector.about
    return about.schema.features if about.config.data.input == "none" else []


def _draw(cfg: ExperimentConfig, shown: dict[str, np.ndarray], out: Path) -> Path:
    """The strangest rows and where they fail, in a picture beside `out`."""
    title = f"{cfg.name}, {cfg.method}, score {cfg.score}, data.input {cfg.data.input}"
    path = out.with_suffix(".residuals.png")
    try:
        return plots.save(plots.residuals(shown, title), path)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({words(error)}); use another --out") from None
