"""The model card of a detector: its data, method, metrics and limits."""

import json
from pathlib import Path
from typing import Any

from jaxae import config, detectors
from jaxae.detectors import Detector, calibration, steps
from jaxae.export.program import places_of
from jaxae.storage import disk

TEXT, JSON = "MODEL_CARD.md", "model_card.json"  # of an archive
_METRICS = ("auroc", "average_precision", "f1", "recall", "precision", "fpr", "fpr_at_95_tpr")
_LABEL_FREE = ("false_alarm_rate", "pseudo_auroc")
_UNLABELLED = (
    "No row had a label: all were taken as normal, so the share of anomalies that it finds is not "
    "known. `pseudo_auroc` is the AUROC between held-out rows and pseudo-anomalies made from them."
)


def make(detector: Detector, run: Path) -> dict[str, Any]:
    """The card, ready for JSON, with the metrics of the run's `report.json` if there is one."""
    about = detector.about
    path = run / "report.json"
    report = disk.read_json(path) if path.is_file() else {}
    return {
        "name": about.config.name,
        "data": {
            "name": about.config.data.name,
            "rows": list(about.shape),
            "units": detectors.units(about.dtype),
            "digest": about.data_digest,
            "classes": list(about.schema.classes),
            "features": about.schema.features,
        },
        "method": about.config.method,
        "score": about.config.score,
        "places": places_of(detector),
        "threshold": {"rule": detector.decision.rule, "value": float(detector.decision.threshold)},
        "report": report,
        "limits": _limits(detector, report),
        "jaxae": about.version,
        "config": config.to_dict(about.config),
    }


def files(about: dict[str, Any]) -> dict[str, bytes]:
    """The files of a card."""
    return {TEXT: text(about).encode(), JSON: json.dumps(about, indent=2).encode()}


def _limits(detector: Detector, report: dict[str, Any]) -> list[str]:
    """The limits that users must know before they rely on a decision."""
    about = detector.about
    labelled = report.get("labelled", True)
    rows = "normal rows only" if labelled else "rows without labels, taken as normal"
    quality = "see the AUROC" if labelled else "evaluate it on labelled rows"
    n = len(detector.decision.calibration)
    violated = calibration.why_no_guarantee(about.config)
    guarantee = (
        f"P-values are ranks without a guarantee: {violated}."
        if violated
        else (
            f"At any alpha of at least {1 / (n + 1):.3g}, p <= alpha flags a new normal with a "
            "probability of at most alpha, if it is exchangeable with the calibration rows."
        )
    )
    return [
        f"It was trained on {rows}: it flags rows that are unlike these, for any reason.",
        f"{n} {'normals' if labelled else 'rows'} calibrate its p-values. {guarantee}",
        *_of_steps(detector),
        *(["A score map shows where a row is unusual, not why."] if places_of(detector) else []),
        f"A threshold with a guarantee does not make a bad detector good: {quality}.",
        *(f"Warning of the run: {warning}" for warning in report.get("warnings", [])),
    ]


def _of_steps(detector: Detector) -> list[str]:
    """What p-values of the steps of a series rest on."""
    if not steps.state_of(detector):
        return []
    flaw = steps.why_no_guarantee(detector.about.config)
    words = f"P-values of steps are {steps.basis(detector)}."
    return [words if not flaw else f"{words} They guarantee nothing here: {flaw}."]


def text(about: dict[str, Any]) -> str:
    """The card as Markdown."""
    report, data, places = about["report"], about["data"], about.get("places")
    maps = f"Score maps {places} say where" if places else "The score does not say where"
    lines = [
        f"# {about['name']}: an anomaly detector",
        "",
        f"An autoencoder ({about['method']}) made with jaxae {about['jaxae']}; anomaly score "
        f"`{about['score']}`, higher = more anomalous; threshold {about['threshold']['value']:.6g} "
        f"by the rule `{about['threshold']['rule']}`. {maps} a row is anomalous.",
        "",
        "## Data",
        "",
        f"`{data['name']}`, rows {data['rows']} of {data['units']}, digest "
        f"`{data['digest'][:16]}`.",
    ]
    if data["features"]:
        lines += ["", f"Features: {', '.join(data['features'])}."]
    if report:
        counts = ("n_train", "n_valid", "n_normal", "n_anomaly")
        rows = [f"{report[name]} {name[2:]}" for name in counts if name in report]
        labelled = report.get("labelled", True)
        title = "Metrics on the test rows" if labelled else "Without labels"
        lines += ["", f"Rows: {', '.join(rows)}.", "", f"## {title}", ""]
        if not labelled:
            lines += [f"{_UNLABELLED} `false_alarm_rate`: {report['false_alarm_basis']}.", ""]
        lines += ["| metric | value | 95 % interval |", "| --- | --- | --- |"]
        for name in _METRICS if labelled else _LABEL_FREE:
            if report.get(name) is not None:
                interval = report.get(f"{name}_interval")
                bounds = f"{interval[0]:.4f} - {interval[1]:.4f}" if interval else ""
                lines.append(f"| {name} | {report[name]:.4f} | {bounds} |")
    lines += ["", "## Limits", "", *(f"- {limit}" for limit in about["limits"])]
    usage = "python detector.zip rows.npy --alpha 0.05 --out judged.csv"
    usage += " --maps maps.npy" if places else ""
    lines += ["", "## Use", "", "```sh", usage, "```", ""]
    return "\n".join(lines)
