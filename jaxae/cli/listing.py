"""The finished runs below a folder, as a table: the command `jaxae list`."""

import datetime
import json
from pathlib import Path
from typing import Any

from jaxae.errors import UserError
from jaxae.reports import tables

_SHOWN = ("name", "dataset", "method", "score", "seed", "epochs", "auroc", "f1")


def find(folder: Path) -> list[dict[str, Any]]:
    """Of each run below a folder: where it is, when it ended, and the heads of its report.

    Raises:
      UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder; name one that holds runs")
    found = []
    for path in sorted(folder.rglob("report.json")):
        try:
            report = json.loads(path.read_text())
            ended = datetime.datetime.fromtimestamp(path.stat().st_mtime)
        except (OSError, ValueError):
            continue  # being written, or no report of ours
        if isinstance(report, dict) and "auroc" in report:
            heads = {name: report.get(name) for name in (*_SHOWN, "auroc_interval")}
            run = str(path.parent.relative_to(folder))
            found.append({"run": run, "ended": f"{ended:%Y-%m-%d %H:%M}"} | heads)
    return found


def table(runs: list[dict[str, Any]]) -> str:
    """The runs as an aligned table."""
    lines = [["run", *_SHOWN, "ended"]]
    for run in runs:
        cells = {name: tables.text(run[name]) for name in _SHOWN}
        ends = run["auroc_interval"] if isinstance(run["auroc_interval"], list) else None
        cells["auroc"] = f"{run['auroc']:.4f} {tables.interval(ends)}"
        lines.append([run["run"], *cells.values(), run["ended"]])
    return tables.aligned(lines)
