"""The figure of p-values: how often normals get a small one."""

from pathlib import Path

import numpy as np

from jaxae.reports.plots import files
from jaxae.reports.plots.style import ANOMALY, NORMAL, canvas, headings, legend, style


def p_values(run_dir: Path):
    """Share of test rows with a p-value of at most alpha, normals and anomalies apart.

    The normals' share is the false-positive rate at every alpha at once: near the diagonal, or
    below it, is as it should be. Dotted: what is proved, 2 alpha.
    """
    report = files.report(run_dir, "alpha", "fpr_bound", "p_values")
    data = files.arrays(run_dir / files.SCORES, "p_value", "test_y")
    figure, axes = canvas(6.0, 3.8)
    ax = axes[0, 0]
    style(ax, "", "alpha", "share of rows with p ≤ alpha")
    grid = np.geomspace(1e-3, 1, 200)
    for name, of, colour in (
        ("normal", ~data["test_y"], NORMAL),
        ("anomaly", data["test_y"], ANOMALY),
    ):
        p = np.sort(data["p_value"][of])
        share = np.searchsorted(p, grid, side="right") / max(p.size, 1)
        ax.plot(grid, share, color=colour, lw=1.4, label=f"{name} (n = {p.size:,})")
    ax.plot(grid, grid, color="#6A6A6A", lw=0.9, label="alpha")
    ax.plot(grid, np.minimum(2 * grid, 1), color="#6A6A6A", lw=0.9, ls=":", label="2 alpha")
    ax.axvline(report["alpha"], color="#9A9A9A", lw=0.8, ls="--")
    ax.set_xscale("log")
    ax.set_ylim(-0.02, 1.02)
    legend(ax)
    headings(figure, f"P-values: {report['p_values']}", files.headline(run_dir))
    return figure
