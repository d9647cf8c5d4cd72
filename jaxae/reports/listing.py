"""The runs and protocols below a folder with their main numbers, for `jaxae list`."""

import datetime
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxae.errors import UserError
from jaxae.reports import tables
from jaxae.reports.plots import contents

_COLUMNS = ("name", "dataset", "method", "score", "seed", "epochs", "auroc", "f1")


def finished(folder: Path) -> list[dict[str, Any]]:
    """For each run below a folder: its path, when it ended, and the main numbers of its report.

    A protocol is one entry; its "members" counts the finished ones and all of them, as "12/30".
    While it has no report, "auroc" is the mean over finished members; "12/?" means that all members
    that were started are finished, but others may follow. Members have their own entries only if
    `folder` lies within the protocol. If the report of a run holds what no run writes, "damaged"
    says what, and its metrics are None.

    Raises:
      UserError: there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; name one that contains runs")
    entries = []
    for where, folders, files in os.walk(folder):
        path, report = Path(where), {}
        folders.sort()
        if "members" in folders and (members := _members(path)):
            folders.remove("members")
            report = _of_protocol(path, members)
        elif "report.json" in files:
            report = _report(path)
        if report:
            more = [name for name in ("members", "damaged") if name in report]
            names = (*_COLUMNS, "auroc_interval", "labelled", *more)
            headline = {name: report.get(name) for name in names}
            entries.append(
                {"run": str(path.relative_to(folder)), "ended": report["ended"], **headline}
            )
    return entries


def _members(folder: Path) -> list[Path]:
    """The folders of a protocol's members, finished or not; [] if the folder is not a protocol."""
    return sorted(path.parent for path in folder.glob("members/*/config.json"))


def _report(folder: Path) -> dict[str, Any]:
    """The report of a run; {} if it is not complete yet, or not a report of jaxae."""
    path = folder / "report.json"
    try:
        report = json.loads(path.read_bytes())
        ended = datetime.datetime.fromtimestamp(path.stat().st_mtime)
    except (OSError, ValueError):
        return {}
    if not isinstance(report, dict) or (
        report.get("labelled") is not False and "auroc" not in report
    ):
        return {}
    problem = next(contents.of_report(report), "")
    if problem and "name" not in report:  # of something else
        return {}
    report |= {"ended": f"{ended:%Y-%m-%d %H:%M}"}
    if problem:
        report |= dict.fromkeys(("auroc", "auroc_interval", "f1")) | {"damaged": problem}
    return report


def _of_protocol(folder: Path, members: Sequence[Path]) -> dict[str, Any]:
    done = [*filter(None, map(_report, members))]
    report = _report(folder)
    report = {} if "damaged" in report else report
    recorded = report.get("members")
    total = str(max(len(members), recorded if isinstance(recorded, int) else 0))
    if not report:
        total = total if len(done) < len(members) else "?"
        aurocs = [entry["auroc"] for entry in done if entry["auroc"] is not None]
        mean = {"auroc": float(np.mean(aurocs)) if aurocs else None, "auroc_interval": None}
        last = max((entry["ended"] for entry in done), default=None)
        report = (done[0] if done else {"name": folder.name}) | mean | {"ended": last}
    return report | {"seed": None, "f1": None, "members": f"{len(done)}/{total}"}


def table(runs: Sequence[dict[str, Any]]) -> str:
    """The entries of `finished`, one line each; a protocol's seed is its count of members."""
    lines = [["run", *_COLUMNS, "ended"]]
    for run in runs:
        cells = {name: tables.text(run[name]) for name in _COLUMNS}
        if run["auroc"] is not None:
            cells["auroc"] = f"{run['auroc']:.4f} {tables.interval(run['auroc_interval'])}"
        elif "damaged" in run:
            cells["auroc"] = f"damaged: {run['damaged']}"
        elif run["labelled"] is False:
            cells["auroc"] = "no labels"
        if "members" in run:
            cells["seed"] = f"{run['members']} members"
        lines.append([run["run"], *cells.values(), tables.text(run["ended"])])
    return tables.aligned(lines)
