"""The pages of several models: a comparison of two runs, a grid, and a cross-conformal run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxae.reports import comparison, tables
from jaxae.reports.pages import frame
from jaxae.reports.pages import run as single
from jaxae.reports.plots import curves, files, protocols
from jaxae.storage import archive, disk


def compared(folders: tuple[Path, Path], differences: dict[str, dict[str, Any]]) -> str:
    """The page of two runs on the same test rows; see `pages.write_comparison`."""
    names = [f"{files.report(folder, 'name')['name']} ({folder.name})" for folder in folders]
    title = f"{names[0]} against {names[1]}"
    return frame.page(title, _compared(title, folders, differences))


def _settings(folder: Path) -> dict[str, Any]:
    """A run's configuration by dotted names; {} without config.json."""
    path = folder / "config.json"
    stored = disk.read_json(path) if path.is_file() else {}
    flat = archive.flat(stored) if isinstance(stored, dict) else {}
    return {name.replace("/", "."): value for name, value in flat.items()}


def _compared(
    title: str, folders: tuple[Path, Path], differences: dict[str, dict[str, Any]]
) -> Iterator[str]:
    yield f"<h1>{frame.text(title)}</h1>"
    yield '<p class="soft">The same test rows; differences are paired, with 95 % intervals.</p>'
    if unchecked := comparison.unchecked(*folders):
        yield f'<p class="warn">Not checked: {frame.text(unchecked)}</p>'
    heads = ("metric", "first", "second", "difference", "p-value", "verdict")
    yield frame.table("First minus second", heads, comparison.rows(differences))
    one, other = map(_settings, folders)
    names = sorted(one.keys() | other.keys())
    settings = [(name, one.get(name, "-"), other.get(name, "-")) for name in names]
    differ = [row for row in settings if row[1] != row[2]]
    if differ:
        yield frame.table("Settings that differ", ("setting", "first", "second"), differ)


def grid(folder: Path, report: dict[str, Any]) -> str:
    """The page of a grid in a folder: each class against the rest, with several seeds."""
    return frame.page(f"{report.get('name', folder.name)}: classes", _grid(folder, report))


def _grid(folder: Path, report: dict[str, Any]) -> Iterator[str]:
    yield f"<h1>{frame.text(report.get('name', 'one-vs-rest'))}</h1>"
    names = ("dataset", "method", "score", "seeds", "epochs")
    settings = "; ".join(f"{name} {report[name]}" for name in names if name in report)
    yield f'<p class="soft">{frame.text(settings)}</p>'
    note = f"95 %: {tables.interval(report['auroc_interval'])}"
    yield frame.heads([("Mean AUROC", f"{report['auroc']:.4f}", note)])
    aurocs = ", ".join(f"class {k} {row['auroc']:.4f}" for k, row in report["classes"].items())
    alt = f"AUROC of each class against the rest, with 95 % intervals: {aurocs}"
    yield frame.figure(protocols.one_vs_rest(folder), alt)
    rows = []
    for name, values in report["classes"].items():
        interval = tables.interval(values["auroc_interval"])
        std = tables.text(values.get("auroc_std"))
        rows.append((name, f"{values['auroc']:.4f}", interval, std))
    heads = ("class", "AUROC", "95 % interval", "std over seeds")
    yield frame.table("Each class is the normal one in turn", heads, rows)
    for name, baseline in report["baselines"].items():
        yield f"<p>{frame.text(name)}: mean AUROC {baseline['auroc']:.4f}</p>"


def cross(folder: Path, report: dict[str, Any]) -> str:
    """The page of a run without held-out rows: p-values by the models of folds or bags."""
    stored = files.scores(folder, "test", "test_y", "p_value")
    single.refuse_report_of_others(folder, report, stored)
    return frame.page(f"{report['name']}: {report.get('dataset', '')}", _cross(folder, report))


def _cross(folder: Path, report: dict[str, Any]) -> Iterator[str]:
    yield from single.title(report)
    bound = f"{report['fpr_bound']:.4f}"
    note = f"of new normals at alpha {report['alpha']:g}, by {report['p_values']}"
    yield frame.heads([*single.headline(report), ("False alarms at most", bound, note)])
    alt = "Share of normal and of anomalous test rows with a p-value of at most alpha"
    yield frame.figure(protocols.p_values(folder), alt)
    yield "<h2>Training</h2>"
    yield frame.figure(curves.loss_curves(folder), "Losses over the epochs")
    yield from single.provenance(folder, report)
