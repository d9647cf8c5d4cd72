"""The finished runs below a folder, as a table: the command `jaxae list`."""

import datetime
import json
from pathlib import Path
from typing import Any

from jaxae.errors import UserError

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


def table(found: list[dict[str, Any]]) -> str:
    """The runs as an aligned table."""
    lines = [["run", *_SHOWN, "ended"]]
    for run in found:
        values = [_text(run[name]) for name in _SHOWN]
        at = _SHOWN.index("auroc")
        if isinstance(run["auroc_interval"], list):
            values[at] += " [{:.4f}, {:.4f}]".format(*run["auroc_interval"])
        lines.append([run["run"], *values, run["ended"]])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(f"{text:<{width}}" for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
