"""The pages of several runs: a comparison of two, and a grid of classes and seeds."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxae.reports.pages import frame, svg
from jaxae.reports.plots import files
from jaxae.storage import archive


def comparison(folders: tuple[Path, Path], found: dict[str, dict[str, Any]]) -> str:
    """Two runs on the same test rows.

    Args:
      folders: of the runs.
      found: what `jaxae.reports.comparison.compare` says of them.
    """
    names = [f"{files.report(folder, 'name')['name']} ({folder.name})" for folder in folders]
    settings = [_settings(folder) for folder in folders]
    return frame.page(f"{names[0]} against {names[1]}", _compared(names, settings, found))


def _settings(folder: Path) -> dict[str, Any]:
    """A run's configuration by dotted names; {} where there is none."""
    path = folder / "config.json"
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    known = archive.flat(held) if isinstance(held, dict) else {}
    return {name.replace("/", "."): value for name, value in known.items()}


def _compared(
    names: list[str], settings: list[dict[str, Any]], found: dict[str, dict[str, Any]]
) -> Iterator[str]:
    yield f"<h1>{frame.text(names[0])} against {frame.text(names[1])}</h1>"
    yield '<p class="soft">The same test rows; differences are paired, with 95 % intervals.</p>'
    rows = []
    for name, of in found.items():
        low, high = of["interval"]
        apart = f"{of['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
        numbers = f"{of['one']:.4f}", f"{of['other']:.4f}", apart, f"{of['p_value']:.2g}"
        rows.append((name, *numbers, of["verdict"]))
    heads = ("metric", "first", "second", "difference", "p-value", "verdict")
    yield frame.table("First minus second", heads, rows)
    for name, of in found.items():
        values = np.clip([of["one"], of["other"]], 0, 1)
        ends = np.stack([values, values], axis=1)
        drawn = svg.ranked(("first", "second"), values, ends, f"{name} of both runs")
        yield frame.figure(drawn, name)
    one, other = settings
    differ = [
        (name, one.get(name, "-"), other.get(name, "-"))
        for name in sorted(one.keys() | other.keys())
        if one.get(name, "-") != other.get(name, "-")
    ]
    if differ:
        yield frame.table("Settings that differ", ("setting", "first", "second"), differ)


def grid(folder: Path, report: dict[str, Any]) -> str:
    """A grid of members: one class against the rest, several seeds.

    Args:
      folder: of the grid.
      report: its report, with `classes`.
    """
    return frame.page(f"{report.get('name', folder.name)}: classes", _of_classes(report))


def _of_classes(report: dict[str, Any]) -> Iterator[str]:
    yield f"<h1>{frame.text(report.get('name', 'one-vs-rest'))}</h1>"
    what = ("dataset", "method", "score", "seeds", "epochs")
    said = "; ".join(f"{name} {report[name]}" for name in what if name in report)
    yield f'<p class="soft">{frame.text(said)}</p>'
    low, high = report["auroc_interval"]
    below = f"95 %: {low:.4f} to {high:.4f}"
    yield frame.heads([("Mean AUROC", f"{report['auroc']:.4f}", below)])
    classes = report["classes"]
    values = np.array([of["auroc"] for of in classes.values()])
    ends = np.array([of["auroc_interval"] for of in classes.values()])
    names = [f"class {name}" for name in classes]
    title = "AUROC of each class against the rest, with 95 % intervals"
    yield frame.figure(svg.ranked(names, np.clip(values, 0, 1), np.clip(ends, 0, 1), title), title)
    rows = [
        (name, f"{of['auroc']:.4f}", "[{:.4f}, {:.4f}]".format(*of["auroc_interval"]),
         f"{of['auroc_std']:.4f}" if of.get("auroc_std") is not None else "-")
        for name, of in classes.items()
    ]  # fmt: skip
    heads = ("class", "AUROC", "95 % interval", "std over seeds")
    yield frame.table("Each class is the normal one in turn", heads, rows)
    for name, of in (report.get("baselines") or {}).items():
        if isinstance(of, dict) and "auroc" in of:
            yield f"<p>{frame.text(name)}: mean AUROC {of['auroc']:.4f}</p>"
