"""The command `jaxae score`: scoring a file of new rows with the detector of a finished run.

Results are written block by block, and the output file is renamed into place when it is complete.
"""

import contextlib
import csv
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxae import detectors, scoring
from jaxae.cli import heatmaps as pictures
from jaxae.cli import score_drift, score_steps
from jaxae.data import arrayfiles, sources
from jaxae.data.own import files, tables
from jaxae.data.own.lines import Rows
from jaxae.data.raw_data import place
from jaxae.detectors import calibration, explanation, steps
from jaxae.devices import parallel, tuning
from jaxae.errors import UserError, naming_input
from jaxae.reports import plots
from jaxae.stats import conformal
from jaxae.storage import disk, outputs
from jaxae.training import train
from jaxae.types import Source

_SHOWN = 8  # rows that --explain describes on the screen
Columns = dict[str, np.ndarray]
Explained = explanation.Explanation | None


def score_file(
    run_dir: Path,
    rows: Path,
    out: Path | None = None,
    explain: bool = False,
    intervals: Path | None = None,
    heatmaps: Path | None = None,
    maps: Path | None = None,
    fdr: float | None = None,
    drift: bool = False,
    json: bool = False,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Score raw rows with the detector of a finished run.

    Every step of a series is judged: --out has a line for each line of the file, and --intervals
    one for each run of flagged steps. With --explain the windows of a series are judged instead.

    With --explain all rows are held in memory; otherwise they are read block by block.

    Examples: `jaxae score runs/mine new.csv --out scores.csv`, `jaxae score runs/mine photos/`.

    Args:
      run_dir: the run folder, or a detector's folder
      rows: .npy, .npz or .csv, or what the run was trained on (a table, a series, a folder of
        images), in the units of the run's data set
      out: a .csv or .npz to write: row, score, p_value, threshold, is_anomaly
      explain: show where rows are anomalous, by the map of the score: for the most anomalous rows
        on the screen and in a picture next to --out, for every row in --out
      intervals: a series: a .csv of alarms to write, with the rows of start, end and peak
      heatmaps: images: a folder to write a PNG of every image into, tinted red where it is
        anomalous, with an outline of flagged pixels
      maps: a .npy to write: how anomalous each value of every row is, [N, F] or [N, H, W]
      fdr: in place of the run's threshold rule, select anomalies among all rows by their p-values,
        so that a share of at most FDR of the selected ones is expected to be normal
      drift: test whether scores rise in the order of the rows, beyond those of held-out rows
      json: print a summary as JSON
      overwrite: replace the files that are to be written, if they exist

    Returns:
      The summary as --json prints it; of a series see `jaxae.cli.score_steps.score`.

    Raises:
      UserError: a file is missing, unreadable or cannot be written, or the rows do not fit the
        detector.
    """
    picture = _picture(out) if out and explain else None
    _check_outputs(rows, overwrite, out, intervals, maps, picture)
    detector = detectors.load(detectors.folder_of(run_dir))
    if heatmaps:
        pictures.check(detector, rows, heatmaps, overwrite)
    _check_asked(detector, maps, fdr, drift, explain)
    if steps.state_of(detector) and not explain:
        return score_steps.score(detector, rows, out, intervals, json)
    if intervals:
        _refuse_intervals(detector, explain)
    if heatmaps:
        _write_heatmaps(detector, rows, heatmaps, json)
    return _score_rows(detector, rows, out, maps, fdr, drift, explain, json)


def _write_heatmaps(detector: detectors.Detector, rows: Path, folder: Path, json: bool) -> None:
    parallel.initialize()
    count = pictures.write(detector, rows, folder)
    if not json:
        print(f"{count} heatmaps in {folder}")


def _score_rows(
    detector: detectors.Detector,
    rows: Path,
    out: Path | None,
    maps: Path | None,
    fdr: float | None,
    drift: bool,
    explain: bool,
    json: bool,
) -> dict[str, Any]:
    raw, named, notes, _ = _read(rows, detector)
    parallel.initialize()
    reason = calibration.why_no_guarantee(detector.about.config)
    count, anomalies, threshold = 0, 0, detector.decision.threshold
    explanations: list[str] = []
    found: list[Columns] = []  # of --fdr, which decides once it has all p-values
    scores: list[np.ndarray] = []  # of --drift
    with (
        _opened(out, named, _features(detector)) as write,
        _opened_maps(maps, detector, raw) as write_maps,
        naming_input(rows),
    ):
        for x in _prepared(detector, raw, explain):
            judgement = detectors.judge_prepared(detector, x)
            why = explanation.explain(detector, x) if explain else None
            if why:
                explanations = _describe(detector, judgement, why, out)
            write_maps(x)
            scores += [judgement.score] if drift else []
            columns = _columns(judgement, count, threshold)
            count += len(judgement.score)
            if fdr is None:
                write(columns, why)
                anomalies += int(judgement.is_anomaly.sum())
            else:
                found.append(columns)
        if fdr is not None and found:
            selected, threshold = _selected(found, fdr)
            for columns in selected:
                write(columns, None)
                anomalies += int(columns["is_anomaly"].sum())
            notes = notes if anomalies else (*notes, _none_selected(detector, count, fdr))
    summary: dict[str, Any] = {"rows": count, "anomalies": anomalies, "threshold": threshold}
    summary |= {"fdr": fdr, "p_value_flaw": reason or None, "notes": list(notes)}
    if drift:
        summary["drift"] = score_drift.of(detector, np.concatenate(scores))
    if json:
        print(dumps(summary))
        return summary
    is_told = reason and (out or fdr is not None)
    caution = f"; p-values are ranks without a guarantee: {reason}" if is_told else ""
    rate = ""
    if fdr is not None and anomalies:
        rate = f"; of these, a share of {fdr:.4g} at most is expected to be normal"
    print(*notes, f"{anomalies} of {count} rows are anomalies{rate}{caution}", sep="\n")
    if drift:
        print(score_drift.line(summary["drift"], reason))
    print(*explanations, sep="\n", end="\n" if explanations else "")
    return summary


def _check_asked(
    detector: detectors.Detector, maps: Path | None, fdr: float | None, drift: bool, explain: bool
) -> None:
    """Raise a `UserError` if the detector cannot do what is asked, before any work."""
    _check_maps(detector, maps, explain)
    _check_selection(detector, fdr, explain)
    score_drift.check(detector, drift)


def _check_selection(detector: detectors.Detector, fdr: float | None, explain: bool) -> None:
    """Raise a `UserError` if rows cannot be selected, before any work."""
    if fdr is None:
        return
    if not 0 < fdr < 1:
        raise UserError(f"--fdr is {fdr:g}; it must be between 0 and 1, such as 0.1")
    if explain:
        raise UserError("--explain describes decisions by the run's rule; leave out it or --fdr")
    if steps.state_of(detector):
        raise UserError(
            "--fdr selects rows, but steps of a series depend on each other; omit --fdr"
        )


def _selected(blocks: list[Columns], fdr: float) -> tuple[list[Columns], float]:
    """The columns with decisions of the selection, and the score that selected rows exceed."""
    score, p_value = (np.concatenate([b[name] for b in blocks]) for name in ("score", "p_value"))
    is_selected = conformal.benjamini_hochberg(p_value, fdr)
    threshold = score.max()
    if is_selected.any():
        threshold = np.nextafter(score[is_selected].min(), score.dtype.type(-np.inf))
    parts = np.split(is_selected, np.cumsum([len(b["score"]) for b in blocks])[:-1])
    columns = [
        b | {"threshold": np.full_like(b["threshold"], threshold), "is_anomaly": part}
        for b, part in zip(blocks, parts, strict=True)
    ]
    return columns, float(threshold)


def _none_selected(detector: detectors.Detector, count: int, fdr: float) -> str:
    """Why no row is selected."""
    n = len(detector.decision.calibration)
    fewest = math.ceil(count / (fdr * (n + 1)))
    if fewest < 2:
        return f"no p-value is low enough among {count} rows"
    smallest = f"with {n} calibration scores no p-value is below 1/{n + 1}"
    remedy = "hold out more rows (--data.valid-fraction) in training"
    if fewest > count:
        lowest = conformal.lowest_alpha(n)
        return (
            f"{smallest}, so --fdr {fdr:g} selects nothing; {remedy}, or --fdr {lowest:g} or more"
        )
    return f"{smallest}, and {fewest} of {count} rows must have it if any is selected; {remedy}"


def _check_outputs(rows: Path, overwrite: bool, *paths: Path | None) -> None:
    """Raise a `UserError` if a file cannot be written: --out, --intervals, --maps, the picture."""
    kinds = (
        ("--out", (".csv", ".npz")),
        ("--intervals", (".csv",)),
        ("--maps", (".npy",)),
        ("the picture of --out,", (".png",)),
    )
    for path, (name, suffixes) in zip(paths, kinds, strict=True):
        if path:
            outputs.check(path, suffixes, [rows], overwrite, name)


def _check_maps(detector: detectors.Detector, maps: Path | None, explain: bool) -> None:
    """Raise a `UserError` if there are no maps to write, before any work."""
    if not maps:
        return
    detectors.map_shape(detector)
    if steps.state_of(detector) and not explain:
        raise UserError("every step of a series has a line in --out; leave out --maps")


def _refuse_intervals(detector: detectors.Detector, explain: bool) -> None:
    """Raise a `UserError` that says why there are no intervals."""
    if steps.state_of(detector) and explain:
        raise UserError("--explain judges windows, of which there are no intervals; leave out one")
    if detector.about.schema.kind == "series":
        raise UserError(
            "an earlier version of jaxae fitted the detector, without decisions about steps: train "
            "it again, or leave out --intervals to judge windows"
        )
    raise UserError("the detector was not fitted on a series; leave out --intervals")


def _columns(judgement: detectors.Judgement, first: int, threshold: float) -> Columns:
    """The columns of a block of rows, whose first row has the number `first`."""
    count = len(judgement.score)
    return {
        "row": np.arange(first, first + count),
        "score": judgement.score,
        "p_value": judgement.p_value,
        "threshold": np.full(count, threshold, np.float32),
        "is_anomaly": judgement.is_anomaly,
    }


@contextlib.contextmanager
def _opened(
    out: Path | None, named: dict[str, list[str]], features: Sequence[str]
) -> Iterator[Callable[[Columns, Explained], None]]:
    """A function that writes a block of rows to a .csv or .npz, or does nothing without `out`.

    `named` holds further columns of all rows, which are then one block; `features` are the names of
    a row's values, used in a .csv with explanations. Both may be empty.

    Raises:
      UserError: the file cannot be written.
    """
    if out is None:
        yield lambda columns, why: None
        return
    blocks: list[Columns] = []
    with outputs.system_errors(f"--out {out}"):
        if out.suffix == ".npz":
            further = {name: np.array(values) for name, values in named.items()}
            yield lambda columns, why: blocks.append(
                columns | further | (_of_map(why) if why else {})
            )
            arrays = {name: np.concatenate([b[name] for b in blocks]) for name in blocks[0]}
            disk.write_arrays(out, arrays)
            return
        with disk.writing(out) as file:
            table = csv.writer(file, lineterminator="\n")

            def write(columns: Columns, why: Explained) -> None:
                cells = _cells(columns, why, features) | named
                if columns["row"][0] == 0:
                    table.writerow(cells)
                table.writerows(zip(*cells.values(), strict=True))

            yield write


@contextlib.contextmanager
def _opened_maps(
    maps: Path | None, detector: detectors.Detector, raw: Source
) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that writes the score maps of prepared rows to a .npy, or does nothing.

    Raises:
      UserError: the file cannot be written.
    """
    if maps is None:
        yield lambda x: None
        return
    count = raw.shape[0] if raw.shape else 1  # a single number is refused where it is judged
    shape = (count, *detectors.map_shape(detector))
    with outputs.system_errors(f"--maps {maps}"), disk.writing_array(maps, shape) as write:
        yield lambda x: write(detectors.map_prepared(detector, x))


def _of_map(why: explanation.Explanation) -> Columns:
    return {"map": why.map, "map_of": np.full(len(why.map), why.map_of)}


def _named(index: np.ndarray, why: explanation.Explanation, features: Sequence[str]) -> str:
    """The place of a map; features are named if it tells them apart."""
    shape = why.map.shape[1:]
    return place(index, shape, features if shape == why.x.shape[1:] else ())


def _cells(columns: Columns, why: Explained, features: Sequence[str]) -> dict[str, Iterable[Any]]:
    """The columns of a .csv by name; an explanation adds the worst values and their shares."""
    cells: dict[str, Iterable[Any]] = {
        "row": columns["row"],
        "score": [f"{score:.9g}" for score in columns["score"]],
        "p_value": columns["p_value"].tolist(),
        "threshold": [f"{threshold:.9g}" for threshold in columns["threshold"]],
        "is_anomaly": columns["is_anomaly"].astype(int),
    }
    if why:
        worst = explanation.leading(why.map)
        for k, (index, share) in enumerate(
            zip(worst.index.swapaxes(0, 1), worst.share.T, strict=True), start=1
        ):
            cells[f"worst_{k}"] = [_named(i, why, features) for i in index]
            cells[f"share_{k}"] = [f"{s:.4g}" for s in share]
    return cells


def _describe(
    detector: detectors.Detector,
    judgement: detectors.Judgement,
    why: explanation.Explanation,
    out: Path | None,
) -> list[str]:
    """Lines that name the most anomalous places of the most anomalous rows, and a figure."""
    cfg = detector.about.config
    top = np.argsort(-judgement.score, kind="stable")[:_SHOWN]
    worst = explanation.leading(why.map[top])
    kind, features = explanation.kind(cfg, why.x.shape[1:]), _features(detector)
    lines = [f"most anomalous rows, and the share of single {kind}s in the map of {why.map_of}:"]
    if why.map_of != cfg.score:
        some = "a part of score" if scoring.resolve(cfg.score).places else "score"
        lines.insert(0, f"{some} {cfg.score} says nothing of single {kind}s: see {why.map_of}")
    for i, row in enumerate(top):
        parts = [
            f"{kind} {_named(index, why, features)}: {share:.1%}"
            for index, share in zip(worst.index[i], worst.share[i], strict=True)
        ]
        lines.append(f"{row:>8} {judgement.score[row]:>10.4g}  {', '.join(parts)}")
    if not out:
        return lines
    drawn = {
        **{name: getattr(why, name)[top] for name in ("x", "x_hat", "map")},
        "map_of": np.array(why.map_of),
        "score": judgement.score[top],
        "is_anomaly": judgement.is_anomaly[top],
        "threshold": np.float32(detector.decision.threshold),
        "kind": np.array([f"row {row}" for row in top]),
    }
    title = f"{cfg.name}, {cfg.method}, score {cfg.score}, data.input {cfg.data.input}"
    path = _picture(out)
    with outputs.system_errors(str(path)):
        return [*lines, f"figure {plots.save(plots.residuals(drawn, title), path)}"]


def _picture(out: Path) -> Path:
    return out.with_suffix(".residuals.png")


def _prepared(
    detector: detectors.Detector, raw: Source, explain: bool
) -> Iterator[Float[np.ndarray, " N *S"]]:
    """Inputs of the model block by block; rows in memory, or with explanations, are one block."""
    if explain or isinstance(raw, np.ndarray):
        yield detectors.prepared(detector, sources.read(raw))
        return
    block = max(1, tuning.FEED_BYTES // (4 * math.prod(raw.shape[1:])))
    with train.progress_bar(len(raw), 0, len(raw) <= block, "scoring", "row") as bar:
        for first in range(0, len(raw), block):
            rows = raw[first : first + block]
            yield detectors.prepared(detector, rows, first)
            bar.update(len(rows))


def _read(rows: Path, detector: detectors.Detector) -> Rows:
    """Raw rows, with what names them."""
    schema = detector.about.schema
    if schema.kind == "npz" and not tables.kind(rows):
        return Rows(arrayfiles.open_rows(rows))
    if not rows.exists():
        raise UserError(f"{rows} does not exist; check the path")
    with naming_input(rows):
        return files.rows(rows, schema)


def _features(detector: detectors.Detector) -> list[str]:
    """The names of a row's values; [] if they have none, or if `data.input` maps them."""
    about = detector.about
    return about.schema.features if about.config.data.input == "none" else []
