"""The page of one run: its metrics at any threshold, and the rows on which it fails."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxae.data.own.schema import Schema, from_dict
from jaxae.errors import UserError
from jaxae.reports import plots, tables
from jaxae.reports.pages import frame, series
from jaxae.reports.plots import curves, detection, files, style
from jaxae.reports.plots.heatmaps import SIDE
from jaxae.stats import curve
from jaxae.storage import archive

_CUTS = 2000  # the most positions of the slider
_OF_PIXELS = {
    "pixel_auroc": ("Pixel AUROC", "of all test images"),
    "pixel_aupro": ("AUPRO", "to a false-positive rate of .3"),
    "pixel_f1": ("Pixel F1", "at the run's own threshold"),
    "pixel_false_alarm_rate": ("Flagged pixels", "of calibration images"),
}


class Run(NamedTuple):
    """The part of a run folder that its page shows."""

    folder: Path
    report: dict[str, Any]
    score: Float[np.ndarray, " N"]
    y: Bool[np.ndarray, " N"]
    class_id: Int[np.ndarray, " N"]
    is_anomaly: Bool[np.ndarray, " N"]
    calibration: Float[np.ndarray, " n"]
    schema: Schema

    @property
    def is_labelled(self) -> bool:
        """Whether its rows have labels, as those of older versions do."""
        return self.report.get("labelled", True)


def read(folder: Path) -> Run:
    """The run in a folder.

    Raises:
      UserError: the run is not finished, or a file is damaged or was edited.
    """
    if not (folder / files.REPORT).is_file() or not (folder / files.SCORES).is_file():
        raise UserError(f"{folder} holds no finished run; name a folder with report.json")
    labelled = files.is_labelled(folder)
    needed = ("auroc",) if labelled else _LABEL_FREE
    report = files.report(folder, "name", "threshold", *needed)
    names = ("test", "test_y", "test_class_id", "test_is_anomaly")
    stored = files.scores(folder, *(name for name in names if labelled or name not in _NO_TRUTH))
    if not labelled:
        stored |= {name: np.zeros(len(stored["test"]), kind) for name, kind in _NO_TRUTH.items()}
    refuse_report_of_others(folder, report, stored)
    calibration, schema = stored.get("valid", np.empty(0)), Schema()
    if (folder / "detector" / archive.DESCRIPTION).is_file():
        description = archive.read_description(folder / "detector")
        schema = from_dict(description.get("schema", {}))
        arrays = archive.read_arrays(folder / "detector", description.get("digest", ""))
        calibration = arrays["decision"]["calibration"]
    return Run(folder, report, *(stored[name] for name in names), calibration, schema)


# What the page of a run without labels shows.
_LABEL_FREE = (
    *("false_alarm_rate", "false_alarm_rate_interval", "false_alarm_basis", "no_metrics"),
    *("strangest_training_rows", "strangest_held_out_rows", "if_contaminated"),
)
_NO_TRUTH = {"test_y": bool, "test_class_id": int}  # held-out rows count as normal in the slider
_AGREEMENT = 1e-5  # of an AUROC in float32 with that of the scores


def refuse_report_of_others(
    folder: Path, report: dict[str, Any], stored: dict[str, np.ndarray]
) -> None:
    """Refuse a report whose counts of rows, or whose AUROC, are not those of the scores."""
    of_scores: dict[str, float | None] = {
        f"n_{name}": len(stored[name]) for name in ("train", "valid") if name in stored
    }
    if report.get("labelled", True):
        y, area = stored["test_y"], curve.area(stored["test"], stored["test_y"])
        of_scores |= {"n_normal": int(np.sum(~y)), "n_anomaly": int(np.sum(y))}
        of_scores |= {"auroc": None if math.isnan(area) else area}
    for name, value in of_scores.items():
        recorded = report.get(name, value)
        if recorded != value and (
            None in (recorded, value) or not math.isclose(recorded, value, abs_tol=_AGREEMENT)
        ):
            raise UserError(
                f"{folder / files.REPORT}: {name} is {tables.text(recorded)}, but "
                f"{tables.text(value)} by {files.SCORES} beside it; {files.AGAIN}"
            )


def page(run: Run) -> str:
    """The page as HTML."""
    return frame.page(f"{run.report['name']}: {run.report.get('dataset', '')}", _body(run))


def _body(run: Run) -> Iterator[str]:
    report = run.report
    yield from title(report)
    yield frame.heads(headline(report) if run.is_labelled else _label_free_headline(report))
    if not run.is_labelled:
        yield f"<p>{frame.text(report['no_metrics'])}</p>"
        if report.get("p_value_flaw"):
            words = f"The false-alarm rate is not guaranteed: {report['p_value_flaw']}"
            yield f"<p>{frame.text(words)}</p>"
    for words in report.get("warnings", []):
        yield f'<p class="warn">Warning: {frame.text(words)}</p>'
    yield from series.section(run.folder, report)
    yield from _thresholds(run)
    if not run.is_labelled:
        yield from _contaminated(report)
        yield from _strangest(report)
    yield from _heatmaps(run)
    yield from _cases(run)
    if run.is_labelled:
        yield from _classes(run)
    yield from _curves(run)
    yield from provenance(run.folder, report)


def title(report: dict[str, Any]) -> Iterator[str]:
    """The name of a run as a heading, and its main settings."""
    yield f"<h1>{frame.text(report['name'])}</h1>"
    names = ("dataset", "method", "score", "threshold_rule", "seed", "selected_by")
    settings = "; ".join(str(report[name]) for name in names if name in report)
    yield f'<p class="soft">{frame.text(settings)}</p>'


def headline(report: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The metrics of a run with labels, as `frame.heads` shows them; "-" where there is none."""
    names = {"auroc": "AUROC", "average_precision": "Average precision", "f1": "F1"}
    for key, name in names.items():
        if key in report:
            interval = tables.interval(report.get(f"{key}_interval"))
            value = "-" if report[key] is None else f"{report[key]:.4f}"
            yield name, value, interval and f"95 %: {interval}"
    if "n_normal" in report:
        n_normal, n_anomaly = report["n_normal"], report["n_anomaly"]
        yield "Test rows", str(n_normal + n_anomaly), f"{n_normal} normal, {n_anomaly} anomalous"


def _label_free_headline(report: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    interval = tables.interval(report["false_alarm_rate_interval"])
    yield "False-alarm rate", f"{report['false_alarm_rate']:.4f}", f"95 %: {interval}"
    yield "Calibration scores", str(report.get("n_calibration", "")), report["false_alarm_basis"]
    if report.get("pseudo_auroc") is not None:
        note = "held-out rows against pseudo-anomalies made from them"
        yield "Pseudo-AUROC", f"{report['pseudo_auroc']:.4f}", note


def _contaminated(report: dict[str, Any]) -> Iterator[str]:
    """What anomalies among the calibration rows would change."""
    found = report["if_contaminated"].items()
    rows = [(name, *map(tables.text, row.values())) for name, row in found]
    heads = ("calibration rows that are anomalies", "clean threshold", "false-alarm rate at most")
    yield "<h2>If some calibration rows are anomalies</h2>"
    yield (
        '<p class="soft">In the worst case they have the highest scores. Without them the rule '
        "would set the clean threshold; anomalies that score between it and the run's threshold "
        "are missed.</p>"
    )
    yield frame.table("The threshold if calibration rows are anomalies", heads, rows)


def _strangest(report: dict[str, Any]) -> Iterator[str]:
    """The rows with the highest scores, by name."""
    yield "<h2>Highest scores</h2>"
    yield (
        '<p class="soft">Training rows score lower than new rows, because they were trained on: '
        "compare them with each other only.</p>"
    )
    kinds = {"strangest_training_rows": "Training", "strangest_held_out_rows": "Held-out"}
    for key, kind in kinds.items():
        rows = [(name, tables.text(score)) for name, score in report[key].items()]
        yield frame.table(f"{kind} rows", ("row", "score"), rows)


def cuts(run: Run) -> tuple[Float[np.ndarray, " K"], int]:
    """The thresholds of the slider in ascending order, and the position of the run's threshold."""
    threshold = np.float32(run.report["threshold"])
    scores = np.unique(np.concatenate([run.score, run.calibration]).astype(np.float32))
    scores = scores[np.unique(np.linspace(0, len(scores) - 1, _CUTS).astype(int))]
    flags_all = np.nextafter(scores[0], np.float32(-np.inf))
    thresholds = np.unique(np.concatenate([[flags_all], scores, [threshold]]).astype(np.float32))
    return thresholds, int(np.searchsorted(thresholds, threshold))


_COUNTS = {
    "cut": "Threshold",
    "alpha": "Conformal alpha",
    "tp": "Anomalies found",
    "fn": "Anomalies missed",
    "fp": "False alarms",
    "tn": "Normals passed",
    "precision": "Precision",
    "recall": "Recall",
    "fpr": "False-positive rate",
    "f1": "F1",
    "accuracy": "Accuracy",
}
_LABEL_FREE_COUNTS = {
    "cut": "Threshold",
    "alpha": "Conformal alpha",
    "fp": "Held-out rows flagged",
    "tn": "Held-out rows not flagged",
    "fpr": "Share of held-out rows flagged",
}
_RING = '<circle class="mark" data-chart="{}" r="5"/>'


def _thresholds(run: Run) -> Iterator[str]:
    """Histogram, curves, and the slider of the threshold."""
    thresholds, own = cuts(run)
    histogram = detection.score_histograms(run.folder)
    ranking = detection.roc_and_precision_recall(run.folder)  # None without both classes
    groups = "normal and anomalous rows" if run.is_labelled else "training and held-out rows"
    histogram_html = frame.figure(
        histogram,
        f"Histogram of the anomaly scores of {groups}, with the threshold",
        "Scores as shares of the rows of each group. The dashed line is the run's own threshold, "
        "the solid line the slider's.",
        '<line class="mark" data-chart="scores"/>',
    )
    boxes = {"scores": frame.axes_box(histogram.axes[0])}
    of_windows = "about windows " if "step_threshold" in run.report else ""
    yield f"<h2>Decisions {of_windows}at any threshold</h2>"
    yield histogram_html
    yield (
        '<label for="threshold">Threshold: rows with a higher score are flagged</label>'
        f'<input type="range" id="threshold" min="0" max="{len(thresholds) - 1}" value="{own}">'
        '<button id="own" type="button">The run\'s own threshold</button>'
    )
    yield '<div class="counts" aria-live="polite">'
    for key, name in (_COUNTS if run.is_labelled else _LABEL_FREE_COUNTS).items():
        yield f'<div>{name}<output id="{key}" for="threshold"></output></div>'
    yield "</div>"
    yield (
        '<p class="soft">Conformal alpha is the smallest at which this threshold is the conformal '
        "one: (1 + calibration scores above it) / (n + 1). It bounds the rate of false alarms on "
        "new normals only if the calibration rows were neither trained on nor used to fit the "
        "score.</p>"
    )
    if ranking is not None:
        alt = f"ROC curve, area {run.report['auroc']:.4f}, and precision against recall"
        caption = "The dot is the run's own threshold, the red ring the slider's."
        yield frame.figure(ranking, alt, caption, _RING.format("roc") + _RING.format("pr"))
        boxes |= dict(zip(("roc", "pr"), map(frame.axes_box, ranking.axes), strict=True))
    data = {
        "normal": frame.floats(np.sort(run.score[~run.y])),
        "anomaly": frame.floats(np.sort(run.score[run.y])),
        "calibration": frame.floats(np.sort(run.calibration)),
        "cuts": frame.floats(thresholds),
        "own": own,
        "boxes": boxes,
    }
    yield f'<script type="application/json" id="scores">{json.dumps(data)}</script>'


def _heatmaps(run: Run) -> Iterator[str]:
    """The figure of score maps beside their images, if the run has it."""
    heatmaps = plots.STUDY_FIGURES["heatmaps"]
    if (run.folder / heatmaps.needs[0]).is_file():
        yield "<h2>Where images are anomalous</h2>"
        yield frame.heads(frame.values(run.report, _OF_PIXELS, ".4g"))
        yield frame.figure(
            heatmaps.draw(run.folder),
            "The most anomalous images and some normal ones, with reconstructions and score maps",
            f"Images beyond {SIDE} pixels are shown in blocks: means of pictures, the largest "
            "score, and whether any pixel belongs to the mask.",
        )


def _cases(run: Run) -> Iterator[str]:
    """Rows of the study `cases`, with their reconstructions."""
    path = run.folder / "arrays/cases.npz"
    if not path.is_file():
        return
    named = "class_id" if run.is_labelled else "name"
    cases = files.arrays(path, "kind", "row", "score", named, "is_anomaly", "x", "x_hat")
    yield "<h2>Rows to look at</h2>"
    yield (
        '<p class="soft">Each row with its reconstruction and the difference. The error is not '
        "necessarily at its cause.</p>"
    )
    for kind in dict.fromkeys(cases["kind"].tolist()):
        mask = cases["kind"] == kind
        chosen = {name: cases[name][mask] for name in ("x", "x_hat", "score", "is_anomaly")}
        if run.is_labelled:
            names = [
                f"row {row}, class {run.schema.called(int(class_id))}"
                for row, class_id in zip(cases["row"][mask], cases["class_id"][mask], strict=True)
            ]
        else:
            names = cases["name"][mask].tolist()
        chosen |= {"threshold": run.report["threshold"], "kind": names}
        alt = "; ".join(f"{name}: {style.verdict(chosen, i)[0]}" for i, name in enumerate(names))
        yield f"<h3>{frame.text(kind)}</h3>"
        yield frame.figure(plots.verdicts(chosen, kind), f"Rows and their reconstructions. {alt}")


def _classes(run: Run) -> Iterator[str]:
    """For each class, the share of test rows that is flagged."""
    rows = []
    for k in np.unique(run.class_id):
        for side, y in (("normal", ~run.y), ("anomaly", run.y)):
            mask = (run.class_id == k) & y
            if mask.any():
                rate = f"{100 * run.is_anomaly[mask].mean():.1f} %"
                median = tables.text(float(np.median(run.score[mask])))
                rows.append((run.schema.called(int(k)), side, int(mask.sum()), median, rate))
    yield "<h2>Classes</h2>"
    heads = ("class", "side", "rows", "median score", "flagged")
    yield frame.table("Test rows by class, at the run's own threshold", heads, rows)


def _curves(run: Run) -> Iterator[str]:
    """The figure of corruption severities, if it was studied, and the training losses."""
    severity = plots.STUDY_FIGURES["severity"]
    if (run.folder / severity.needs[0]).is_file():
        yield "<h2>Severity of corruptions</h2>"
        alt = "AUROC and share flagged against severity, for each corruption"
        yield frame.figure(severity.draw(run.folder), alt)
    yield "<h2>Training</h2>"
    yield frame.figure(curves.loss_curves(run.folder), "Losses over the epochs")


def provenance(folder: Path, report: dict[str, Any]) -> Iterator[str]:
    """All of a report as a table, and the files that say where the run comes from."""
    yield "<h2>Report and provenance</h2>"
    simple = [(k, tables.text(v)) for k, v in report.items() if not isinstance(v, dict)]
    yield frame.table("report.json", ("field", "value"), simple)
    for name in ("config.json", "data.json", "provenance.jsonl", "severity.md"):
        path = folder / name
        if path.is_file():
            content = frame.text(path.read_text(encoding="utf-8", errors="replace"))
            yield f'<details><summary>{name}</summary><pre tabindex="0">{content}</pre></details>'
