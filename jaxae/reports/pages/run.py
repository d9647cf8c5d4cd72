"""The page of one run: what it is worth, at any threshold, and on which rows it fails."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxae.data.own.schema import Schema
from jaxae.reports.pages import frame, svg
from jaxae.reports.pages.held import Run
from jaxae.reports.plots import files

_CUTS = 2000  # positions of the slider, at most
_BINS = 48


def page(run: Run) -> str:
    """The page as HTML."""
    return frame.page(f"{run.report['name']}: {run.report.get('dataset', '')}", _body(run))


def _body(run: Run) -> Iterator[str]:
    report = run.report
    yield f"<h1>{frame.text(report['name'])}</h1>"
    what = ("dataset", "method", "score", "threshold_rule", "seed", "selected_by")
    said = "; ".join(str(report[name]) for name in what if name in report)
    yield f'<p class="soft">{frame.text(said)}</p>'
    yield frame.heads(_headline(report))
    for words in report.get("warnings", []):
        yield f'<p class="warn">Warning: {frame.text(words)}</p>'
    yield from _thresholds(run)
    yield from _cases(run)
    yield from _classes(run)
    yield from _severity(run)
    yield from _course(run)
    yield from _provenance(run)


def _headline(report: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    names = {"auroc": "AUROC", "average_precision": "Average precision", "f1": "F1"}
    for key, name in names.items():
        if key in report:
            ends = report.get(f"{key}_interval")
            below = f"95 %: {ends[0]:.4f} to {ends[1]:.4f}" if ends else ""
            yield name, f"{report[key]:.4f}", below
    if "n_normal" in report:
        rows = f"{report['n_normal']} normal, {report['n_anomaly']} anomalous"
        yield "Test rows", str(report["n_normal"] + report["n_anomaly"]), rows


def cuts(run: Run) -> tuple[Float[np.ndarray, " K"], int]:
    """The thresholds of the slider in ascending order, and the position of the run's own."""
    own = np.float32(run.report["threshold"])
    known = np.unique(np.concatenate([run.score, run.calibration]).astype(np.float32))
    known = known[np.unique(np.linspace(0, len(known) - 1, _CUTS).astype(int))]
    everything = np.nextafter(known[0], np.float32(-np.inf))
    found = np.unique(np.concatenate([[everything], known, [own]]).astype(np.float32))
    return found, int(np.searchsorted(found, own))


def _thresholds(run: Run) -> Iterator[str]:
    """Histogram, curves, and the slider that moves what depends on a threshold."""
    yield "<h2>Decisions at any threshold</h2>"
    positions, own = cuts(run)
    x, box = svg.axis_of(run.score), svg.Box()
    data = {
        "normal": frame.floats(np.sort(run.score[~run.y])),
        "anomaly": frame.floats(np.sort(run.score[run.y])),
        "calibration": frame.floats(np.sort(run.calibration)),
        "cuts": frame.floats(positions),
        "own": own,
        "axis": {"low": x.low, "high": x.high, "log": x.log, "left": box.left, "width": box.width},
        "square": box._asdict(),
    }
    yield f'<script type="application/json" id="scores">{json.dumps(data)}</script>'
    yield frame.figure(
        _histogram(run, x),
        "Anomaly scores of test rows, normal (green) and anomalous (orange), as shares of the "
        "fullest bin of each; the dashed line is the threshold.",
    )
    yield (
        '<label for="threshold">Threshold: what is above it is called an anomaly</label>'
        f'<input type="range" id="threshold" min="0" max="{len(positions) - 1}" value="{own}">'
        '<button id="own" type="button">The run\'s own threshold</button>'
    )
    yield '<div class="counts" aria-live="polite">'
    for key, name in _COUNTS.items():
        yield f'<div>{name}<output id="{key}" for="threshold"></output></div>'
    yield "</div>"
    yield (
        '<p class="soft">Conformal alpha is the smallest at which this threshold is the conformal '
        "one: (1 + calibration scores above it) / (n + 1). It bounds the rate of false alarms on "
        "new normals only where the calibration rows were neither trained on nor used to fit the "
        "score.</p>"
    )
    yield '<div class="pair">'
    yield frame.figure(_roc(run), "ROC curve; the dot is the threshold above.")
    yield frame.figure(_precision_recall(run), "Precision against recall; the dot likewise.")
    yield "</div>"


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


def _histogram(run: Run, x: svg.Axis) -> str:
    parts = []
    for kind, values in (("normal", run.score[~run.y]), ("anomaly", run.score[run.y])):
        counts, _ = np.histogram(x.share(values), _BINS, (0, 1))
        parts.append(svg.bars(counts / max(counts.max(), 1), kind))
    box = svg.Box()
    parts.append(
        f'<line class="mark" data-follows="threshold" x1="{box.left}" x2="{box.left}" '
        f'y1="{box.top}" y2="{box.top + box.height}"/>'
    )
    title = "Histogram of the anomaly scores of normal and anomalous test rows"
    return svg.chart(title, parts, x, svg.Axis(0.0, 1.0), ("anomaly score", "share"))


def _swept(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """True and false positives with the k highest scores flagged, at every k that ties allow."""
    order = np.argsort(-run.score, kind="stable")
    score, y = run.score[order], run.y[order]
    last = np.append(score[1:] != score[:-1], True)
    return np.cumsum(y)[last], np.cumsum(~y)[last]


def _roc(run: Run) -> str:
    tp, fp = _swept(run)
    unit = svg.Axis(0.0, 1.0)
    x = np.append(0, fp / max((~run.y).sum(), 1))
    y = np.append(0, tp / max(run.y.sum(), 1))
    ends = np.array([0.0, 1.0])
    parts = [svg.line(ends, ends, (unit, unit), "faint"), svg.line(x, y, (unit, unit), "main")]
    parts.append('<circle class="dot" data-follows="rates" data-chart="roc" r="5"/>')
    title = f"ROC curve, area {run.report['auroc']:.4f}"
    return svg.chart(title, parts, unit, unit, ("false-positive rate", "recall"))


def _precision_recall(run: Run) -> str:
    tp, fp = _swept(run)
    unit = svg.Axis(0.0, 1.0)
    x, y = tp / max(run.y.sum(), 1), tp / (tp + fp)
    parts = [svg.line(x, y, (unit, unit), "main")]
    parts.append('<circle class="dot" data-follows="rates" data-chart="pr" r="5"/>')
    return svg.chart("Precision against recall", parts, unit, unit, ("recall", "precision"))


def _cases(run: Run) -> Iterator[str]:
    """Rows that are worth a look, with their reconstructions."""
    path = run.folder / "arrays/cases.npz"
    if not path.is_file():
        return
    found = files.arrays(path, "kind", "row", "score", "y", "class_id", "is_anomaly", "x", "x_hat")
    yield "<h2>Rows to look at</h2>"
    yield (
        '<p class="soft">Row, reconstruction, and how far they are apart: side by side, or as '
        "curves in black (or white), blue and orange. The error need not lie where its cause does."
        "</p>"
    )
    for kind in dict.fromkeys(found["kind"].tolist()):
        yield f'<h3>{frame.text(kind)}</h3><div class="gallery">'
        for i in np.flatnonzero(found["kind"] == kind):
            yield _case({name: values[i] for name, values in found.items()}, run.schema)
        yield "</div>"


def _case(one: dict[str, Any], schema: Schema) -> str:
    verdict = "flagged" if one["is_anomaly"] else "passed"
    mood = "yes" if one["is_anomaly"] else "no"
    said = f"test row {one['row']}, class {schema.called(int(one['class_id']))}"
    x, x_hat = one["x"], one["x_hat"]
    if x.ndim == 3:
        residual = np.abs(x - x_hat)
        named = {"row": (x, 1.0), "reconstruction": (x_hat, 1.0)}
        named["difference"] = (residual, float(residual.max()))
        pictures = "".join(
            f"<figure>{frame.image(values, f'{name} of {said}', top)}"
            f"<figcaption>{name}</figcaption></figure>"
            for name, (values, top) in named.items()
        )
        drawn = f'<div class="trio">{pictures}</div>'
    else:
        curves = {"row": x.ravel(), "hat": x_hat.ravel(), "anomaly": np.abs(x - x_hat).ravel()}
        drawn = svg.spark(curves, f"values of {said}, its reconstruction and their difference")
    return (
        f'<div class="case">{drawn}<p>{frame.text(said)}</p><p>score {one["score"]:.4g}, '
        f'<span class="{mood}">{verdict}</span></p></div>'
    )


def _classes(run: Run) -> Iterator[str]:
    """How each class of the test rows fares."""
    rows = []
    for k in np.unique(run.class_id):
        for anomalous in (False, True):
            mine = (run.class_id == k) & (run.y == anomalous)
            if mine.any():
                side = "anomaly" if anomalous else "normal"
                rate = f"{100 * run.is_anomaly[mine].mean():.1f} %"
                middle = f"{np.median(run.score[mine]):.4g}"
                rows.append((run.schema.called(int(k)), side, int(mine.sum()), middle, rate))
    yield "<h2>Classes</h2>"
    heads = ("class", "side", "rows", "median score", "flagged")
    yield frame.table("Test rows by class, at the run's own threshold", heads, rows)


def _severity(run: Run) -> Iterator[str]:
    path = run.folder / "arrays/severity.npz"
    if not path.is_file():
        return
    found = files.arrays(path, "names", "severities", "auroc")
    names = found["names"].tolist()
    columns = [[f"{value:g}" for value in of] for of in found["severities"]]
    title = "AUROC of corrupted against clean normal test rows, by corruption and severity"
    yield "<h2>Severity of corruptions</h2>"
    yield f'<div class="wide" tabindex="0">{svg.heat(found["auroc"], names, columns, title)}</div>'


def _course(run: Run) -> Iterator[str]:
    """Losses over the epochs."""
    epochs = np.array([epoch["epoch"] for epoch in run.epochs], float)
    curves = {
        kind: np.array([epoch[name] for epoch in run.epochs])
        for kind, name in (("train", "loss"), ("valid", "valid_loss"))
        if all(name in epoch for epoch in run.epochs)
    }
    if not curves:
        return
    x = svg.Axis(float(epochs[0]) - 0.5, float(epochs[-1]) + 0.5)
    y = svg.axis_of(np.concatenate(list(curves.values())))
    parts = [svg.line(epochs, values, (x, y), kind) for kind, values in curves.items()]
    yield "<h2>Training</h2>"
    drawn = svg.chart("Losses over the epochs", parts, x, y, ("epoch", "loss"))
    yield frame.figure(drawn, "Loss of training rows (blue) and of held-out normals (green).")


def _provenance(run: Run) -> Iterator[str]:
    yield "<h2>Report and provenance</h2>"
    simple = [(k, _short(v)) for k, v in run.report.items() if not isinstance(v, dict)]
    yield frame.table("report.json", ("field", "value"), simple)
    for name in ("config.json", "data.json", "provenance.jsonl"):
        path = run.folder / name
        if path.is_file():
            content = frame.text(path.read_text(encoding="utf-8", errors="replace"))
            yield f'<details><summary>{name}</summary><pre tabindex="0">{content}</pre></details>'


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
