"""The command `jaxae evaluate`: the metrics of a detector on a file of labelled rows."""

import re
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np

from jaxae import detectors
from jaxae.config import DataConfig
from jaxae.data.arrayfiles import read_npz
from jaxae.data.own import labelled
from jaxae.detectors import evaluation, health, pixels, steps
from jaxae.devices import parallel
from jaxae.errors import UserError
from jaxae.reports import by_pixel, by_step, reporting
from jaxae.reports.plots import files
from jaxae.stats import intervals
from jaxae.storage import disk, outputs

_TRAINED = 10  # different scores that rows share with training rows by more than chance


def evaluate(
    run: Path,
    file: Path,
    label: str = "auto",
    normal: tuple[str, ...] = (),
    anomaly: tuple[str, ...] = (),
    json: bool = False,
    out: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Judge labelled rows with the detector of a finished run, and print metrics with intervals.

    Nothing is written into the run folder. Examples: `jaxae evaluate runs/mine labelled.csv --label
    kind`, `jaxae evaluate runs/mine photos/ --normal good`.

    Args:
      run: the run folder, or a detector's folder
      file: labelled rows, as the run was trained on: a table, a series, a folder of images, an .npz
      label: the column of the classes; auto = recognised by its name, as in training
      normal: names or numbers of the classes that count as normal; by default as in training
      anomaly: names or numbers of the classes that count as anomalies; by default all others
      json: print the result as JSON
      out: a .json to write
      overwrite: replace the file that --out names, if it exists
    """
    if out:
        outputs.check(out, (".json",), [file], overwrite)
    if not file.exists():
        raise UserError(f"{file} does not exist; check the path")
    detector = detectors.load(detectors.folder_of(run))
    trained = detector.about.config.data
    cfg = DataConfig(label=label, normal=normal, anomaly=anomaly, ignore=trained.ignore)
    try:
        read = labelled.read(file, detector.about.schema, cfg, _trained_normal(run, detector))
    except UserError as error:  # the settings have shorter names here
        text = re.sub(r"(--)?data\.(label|normal|anomaly)", r"--\2", str(error))
        raise UserError(re.sub(r"( if it is one), .*--label none.*", r"\1", text)) from None
    parallel.initialize()
    judged = detectors.judge(detector, np.asarray(read.rows.x))
    result: dict[str, Any] = {"file": str(file), "rows": len(read.y), "classes": _classes(read)}
    outcome = judged.score, read.y, judged.is_anomaly
    notes, schema = [*read.notes], detector.about.schema
    if schema.window > schema.stride:
        notes.append("windows overlap, so the intervals are too narrow")
    notes += _trained_on(run, judged.score)
    result |= {"threshold": detector.decision.threshold, "notes": notes}
    result |= evaluation.evaluate(*outcome) | intervals.report(*outcome)
    result |= _of_steps(detector, read) | _of_pixels(detector, read)
    result["warnings"] = list(health.below_chance(judged.score, read.y))
    if out:
        with outputs.system_errors(f"--out {out}"):
            disk.write_json(out, result)
    if json:
        print(dumps(result, indent=2))
        return
    print(*result.pop("notes"), sep="\n", end="\n" if notes else "")
    print(reporting.table(result))


def _of_steps(detector: detectors.Detector, read: labelled.Labelled) -> dict[str, Any]:
    """The metrics of a series by step, with the threshold of steps."""
    series = read.rows.series
    if not (series and read.steps and steps.state_of(detector)):
        return {}
    judged = steps.judge(detector, series.x, series.steps.start)
    kept = read.steps.is_known & ~np.isnan(judged.score)
    of_steps = (judged.score, read.steps.y, judged.is_anomaly, series.steps.stretch)
    return {
        "step_threshold": steps.decision_of(detector).threshold,
        **by_step.measured(*(values[kept] for values in of_steps)),
    }


def _of_pixels(detector: detectors.Detector, read: labelled.Labelled) -> dict[str, Any]:
    """The metrics of images with masks by pixel, with the threshold of pixels."""
    if read.place_y is None or not pixels.state_of(detector):
        return {}
    height, width = detector.about.shape[:2]
    counted = pixels.judged(detector, np.asarray(read.rows.x), read.place_y)
    threshold = pixels.decision_of(detector).threshold
    return {"pixel_threshold": threshold, **by_pixel.measured(counted, height * width)}


def _classes(read: labelled.Labelled) -> dict[str, str]:
    """The side and the number of rows of each class."""
    found = {}
    for k in np.unique(read.class_id).tolist():
        mask = read.class_id == k
        side = "anomaly" if read.y[mask][0] else "normal"
        found[read.schema.known_as(k)] = f"{side}, {int(mask.sum())} rows"
    return found


def _trained_on(run: Path, score: np.ndarray) -> list[str]:
    """A line if rows have the very scores of training rows, as a file that was trained on does."""
    if not (run / files.SCORES).is_file():
        return []
    found = score[np.isin(score, read_npz(run / files.SCORES, ("train",)).get("train", []))]
    if len(np.unique(found)) < _TRAINED:
        return []
    return [
        f"{len(found)} of {len(score)} rows seem to be training rows, which score lower than new "
        "rows, anomalies too: metrics of other rows are more telling"
    ]


def _trained_normal(run: Path, detector: detectors.Detector) -> tuple[str, ...]:
    """The normal classes of a labelled run by name or number; () if they are not known."""
    scores = run / files.SCORES
    if not scores.is_file() or not files.is_labelled(run):
        return tuple(map(str, detector.about.config.data.normal))
    stored = read_npz(scores, ("test_y", "test_class_id"))
    if len(stored) < 2 or detector.about.config.data.corruption:
        return ()
    normal = np.unique(stored["test_class_id"][~stored["test_y"]]).tolist()
    return tuple(map(detector.about.schema.known_as, normal))
