"""Figures of scores and the threshold: how well normals and anomalies are separated."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxae.reports.plots import files, style
from jaxae.stats.curve import sweep

_BINS = 60


def score_histograms(run_dir: Path):
    """Scores of normal rows (train, validation, test) and of anomalies, with the threshold.

    Without labels, scores of training and held-out rows.

    Bars are shares of a group's rows, so that groups of different size can be compared; bins are
    logarithmic if the scores are positive and span more than a factor of 30. The report's warnings
    are shown above.
    """
    report = files.report(run_dir, "threshold")
    data = _scores(run_dir)
    y, outline = data.get("test_y"), {"histtype": "step", "lw": 1.2}
    train, valid = (data.get(part, np.empty(0)) for part in ("train", "valid"))
    if y is None:
        groups = [
            ("training rows", train, {"color": style.GREY, **outline}),
            ("held-out rows", data["test"], {"color": style.BLUE, "alpha": 0.55}),
        ]
    else:
        groups = [
            ("normal, train", train, {"color": style.GREY, **outline}),
            ("normal, validation", valid, {"color": style.BLUE, **outline}),
            ("normal, test", data["test"][~y], {"color": style.NORMAL, "alpha": 0.55}),
            ("anomaly, test", data["test"][y], {"color": style.ANOMALY, "alpha": 0.55}),
        ]
    groups = [(name, scores, look) for name, scores, look in groups if scores.size]
    pooled = np.concatenate([scores for _, scores, _ in groups])
    label = f"anomaly score ({report.get('score', 'higher = more anomalous')})"
    figure, ax = style.chart(6.4, 3.5, label, "share of rows")
    ax.set_title(style.warning_lines(report), fontsize=7.5, color=style.VERMILLION, loc="left")
    edges = _edges(ax, pooled)
    for name, scores, look in groups:
        weights = np.full(scores.size, 1 / scores.size)
        ax.hist(scores, edges, weights=weights, label=f"{name} (n = {scores.size:,})", **look)
    _threshold_line(ax, report)
    style.legend(ax)
    return style.headings(figure, "Scores and threshold", files.headline(run_dir))


def roc_and_precision_recall(run_dir: Path):
    """ROC and precision-recall curves with the operating point; None without both classes."""
    report = files.report(run_dir, "threshold")
    data = _scores(run_dir)
    if "test_y" not in data:
        return None
    scores, y, flagged = data["test"], data["test_y"], data["test_is_anomaly"]
    if (cuts := _cuts(scores, y)) is None:
        return None
    recall, false_alarms = flagged[y].mean(), flagged[~y].mean()
    figure, axes = style.canvas(7.2, 3.8, 1, 2)
    roc, pr = axes[0]
    style.label(roc, "ROC", "false positive rate", "true positive rate (recall)")
    roc.plot([0, 1], [0, 1], ":", color=style.GREY, lw=1, label="chance")
    auroc = np.trapezoid(cuts.recall, cuts.false_positive_rate)
    line = {"lw": 1.5, "color": style.BLUE, "label": f"AUROC = {auroc:.4f}"}
    roc.plot(cuts.false_positive_rate, cuts.recall, **line)
    roc.plot(false_alarms, recall, "o", color=style.BLACK, ms=5, label=_at(report))
    style.label(pr, "Precision and recall", "recall", "precision")
    share = y.mean()
    pr.axhline(share, ls=":", color=style.GREY, lw=1, label=f"chance ({share:.2f} anomalies)")
    average = np.sum(np.diff(cuts.recall) * cuts.precision[1:])
    step = {"drawstyle": "steps-pre", "lw": 1.5, "color": style.ORANGE}
    pr.plot(cuts.recall, cuts.precision, label=f"AP = {average:.4f}", **step)
    if flagged.any():
        pr.plot(recall, y[flagged].mean(), "o", color=style.BLACK, ms=5, label=_at(report))
    for ax in (roc, pr):
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        style.legend(ax, loc="lower right" if ax is roc else "lower left")
    return style.headings(figure, "Ranking of the test rows", files.headline(run_dir))


def precision_recall_vs_threshold(run_dir: Path):
    """Precision and recall if the threshold were at x; None without both classes."""
    report = files.report(run_dir, "threshold")
    data = _scores(run_dir)
    if "test_y" not in data:
        return None
    if (cuts := _cuts(data["test"], data["test_y"])) is None:
        return None
    thresholds = cuts.threshold[1:]
    figure, ax = style.chart(5.6, 3.3, "threshold on the anomaly score", "value in 0..1")
    ax.plot(thresholds, cuts.precision[1:], color=style.BLUE, lw=1.5, label="precision")
    ax.plot(thresholds, cuts.recall[1:], "--", color=style.ORANGE, lw=1.5, label="recall")
    if style.spans_decades(thresholds, 30):
        ax.set_xscale("log")
    _threshold_line(ax, report)
    ax.set_ylim(-0.02, 1.04)
    style.legend(ax)
    title = "Precision and recall against the threshold"
    return style.headings(figure, title, files.headline(run_dir))


def loss_histograms(data: dict, subtitle: str):
    """Losses per row after the last epoch, train above validation, with mean and median."""
    figure, axes = style.canvas(5.8, 4.4, 2, 1, sharex=True)
    edges = np.histogram_bin_edges(np.concatenate([data["train"], data["valid"]]), _BINS)
    panels = (("train", "Train", style.SKY), ("valid", "Validation", style.ORANGE))
    for ax, (key, name, colour) in zip(axes[:, 0], panels, strict=True):
        losses = data[key]
        x = "loss per row" if key == "valid" else ""
        style.label(ax, f"{name} (n = {losses.size:,})", x, "rows")
        ax.hist(losses, edges, color=colour, alpha=0.75)
        mean, median = losses.mean(), np.median(losses)
        ax.axvline(mean, color=style.BLACK, lw=1.3, label=f"mean {mean:.4g}")
        ax.axvline(median, color=style.PURPLE, lw=1.3, ls="--", label=f"median {median:.4g}")
        style.legend(ax)
    return style.headings(figure, "Losses of the last epoch", subtitle)


class Cuts(NamedTuple):
    """Rates if all rows with scores of at least a threshold are flagged, from none to all: [K + 1].

    They equal the points of `sklearn.metrics.roc_curve` and `precision_recall_curve`, which take a
    second to import. The precision is 1 if nothing is flagged.
    """

    threshold: np.ndarray
    false_positive_rate: np.ndarray
    recall: np.ndarray
    precision: np.ndarray


def _cuts(scores: np.ndarray, y: np.ndarray) -> Cuts | None:
    """A cut at each distinct score; None without both classes."""
    if y.all() or not y.any():
        return None
    curve = sweep(scores, y)
    fp, tp = curve.fp, curve.tp
    precision = np.append(1, tp[1:] / (tp[1:] + fp[1:]))
    return Cuts(np.append(np.inf, curve.score), fp / fp[-1], tp / tp[-1], precision)


def _scores(run_dir: Path) -> dict[str, np.ndarray]:
    """The arrays of scores.npz; "test_y" only if there are labels."""
    truth = ("test_y",) if files.is_labelled(run_dir) else ()
    return files.scores(run_dir, "test", "test_is_anomaly", *truth)


def _edges(ax, scores: np.ndarray) -> np.ndarray:
    """Bin edges over all scores; sets the x axis to log if the bins are logarithmic."""
    if not style.spans_decades(scores, 30):
        return np.histogram_bin_edges(scores, _BINS)
    ax.set_xscale("log")
    return np.geomspace(scores.min(), scores.max(), _BINS + 1)


def _at(report: dict) -> str:
    return f"threshold {report['threshold']:.3g}"


def _threshold_line(ax, report: dict) -> None:
    rule = f" ({report['threshold_rule']})" if report.get("threshold_rule") else ""
    ax.axvline(report["threshold"], color=style.BLACK, lw=1.3, ls="--", label=_at(report) + rule)
