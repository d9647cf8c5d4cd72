"""Figures of protocols: each class against the rest, and p-values without held-out rows."""

from pathlib import Path

import numpy as np

from jaxae.reports.plots import files, style


def one_vs_rest(run_dir: Path):
    """AUROC with each class as the normal one, and their mean, with intervals and baselines."""
    report = files.report(run_dir, "auroc", "auroc_interval", "classes", "baselines")
    names = [*report["classes"], "mean"]
    rows = [*report["classes"].values(), report]
    width = 2.9 + 0.55 * len(names)
    figure, ax = style.chart(width, 3.6, "normal class", "AUROC, 95 % interval")
    x = np.arange(len(names))
    for i, (name, baseline) in enumerate(report["baselines"].items()):
        values = [row["auroc"] for row in (*baseline["classes"].values(), baseline)]
        ax.plot(x, values, "_", ms=11, mew=2, color=style.CLASSES[i + 1], label=name)
    auroc = np.array([row["auroc"] for row in rows])
    low, high = np.array([row["auroc_interval"] for row in rows]).T
    ends = np.maximum([auroc - low, high - auroc], 0)
    label = f"{report.get('method', 'detector')}: {report['auroc']:.4f}"
    look = {"fmt": "o", "ms": 4.5, "color": style.BLUE, "capsize": 3, "lw": 1.3}
    ax.errorbar(x, auroc, ends, label=label, **look)
    ax.axvline(len(names) - 1.5, color="#9A9A9A", lw=0.8)
    ax.set_xticks(x, names)
    if ax.get_ylim()[0] < 0.5:
        ax.axhline(0.5, color="#9A9A9A", lw=0.8, ls=":")
    style.outside_legend(figure)
    count = len(report.get("warnings", ()))
    note = f" - {count} warning{'s' * (count > 1)}, see report.json" if count else ""
    return style.headings(figure, f"Each class against the rest{note}", _headline(report))


def _headline(report: dict) -> str:
    seeds = len(report.get("seeds", [0]))
    setting = ", ".join(str(report.get(name, "")) for name in ("dataset", "method"))
    return f"{setting}, score {report.get('score', '')}, {seeds} seed{'s' * (seeds > 1)}"


def p_values(run_dir: Path):
    """Share of test rows with a p-value of at most alpha, for normals and for anomalies.

    The normals' share is the false-positive rate at each alpha: it should be near the diagonal or
    below. Dotted: the proved bound, 2 alpha.
    """
    report = files.report(run_dir, "alpha", "fpr_bound", "p_values")
    data = files.scores(run_dir, "p_value", "test_y")
    figure, ax = style.chart(6.0, 3.8, "alpha", "share of rows with p ≤ alpha")
    grid = np.geomspace(1e-3, 1, 200)
    for name, rows, colour in (
        ("normal", ~data["test_y"], style.NORMAL),
        ("anomaly", data["test_y"], style.ANOMALY),
    ):
        p = np.sort(data["p_value"][rows])
        share = np.searchsorted(p, grid, side="right") / max(p.size, 1)
        ax.plot(grid, share, color=colour, lw=1.4, label=f"{name} (n = {p.size:,})")
    ax.plot(grid, grid, color="#6A6A6A", lw=0.9, label="alpha")
    ax.plot(grid, np.minimum(2 * grid, 1), color="#6A6A6A", lw=0.9, ls=":", label="2 alpha")
    ax.axvline(report["alpha"], color="#9A9A9A", lw=0.8, ls="--")
    ax.set_xscale("log")
    ax.set_ylim(-0.02, 1.02)
    style.legend(ax)
    return style.headings(figure, f"P-values: {report['p_values']}", files.headline(run_dir))
