"""`jaxae score` for a series: a line for every step, and one for every alarm."""

import csv
from collections.abc import Iterable
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np

from jaxae import detectors
from jaxae.data.own import series
from jaxae.data.own.lines import Series
from jaxae.detectors import steps
from jaxae.devices import parallel
from jaxae.errors import naming_input
from jaxae.reports import by_step
from jaxae.storage import disk, outputs

_SHOWN = 8  # alarms that are described on the screen
Cells = dict[str, list[Any]]


def score(
    detector: detectors.Detector, file: Path, out: Path | None, intervals: Path | None, json: bool
) -> dict[str, Any]:
    """Judge every step of a file; see `jaxae.cli.score.score_file`.

    Returns:
      The summary, with its "intervals", each with the lines of its first and last step and of the
      one with the highest score, which are numbered from 0.

    Raises:
      UserError: the file cannot be read or judged, or an output cannot be written.
    """
    with naming_input(file):
        read = series.to_judge(file, detector.about.schema)
        parallel.initialize()
        judged = steps.judge(detector, read.x, read.steps.start)
    row, stretch = read.steps.row, read.steps.stretch
    alarms = steps.alarms(judged, stretch, detector.about.shape[0])
    found = [_described(number, alarm, judged, read) for number, alarm in enumerate(alarms)]
    if out:
        interval = np.full(len(row), -1)
        for number, alarm in enumerate(alarms):
            interval[alarm.start : alarm.end + 1] = number
        _write_steps(out, _in_file_order(judged, row), interval[np.argsort(row)], detector, read)
    if intervals:
        _write_csv(intervals, {name: [one.get(name) for one in found] for name in _names(read)})
    problem = steps.why_no_alarms(detector)
    summary = {
        "steps": len(row),
        "unscored": int(np.isnan(judged.score).sum()),
        "anomalies": int(judged.is_anomaly.sum()),
        "alarms": len(alarms),
        "intervals": found,
        **by_step.alarms_to_expect(detector),
        "step_p_value_basis": steps.basis(detector),
        "notes": [*read.notes, *([problem] if problem else [])],
    }
    if json:
        print(dumps(summary))
    else:
        print(*_lines(summary), sep="\n")
    return summary


def _in_file_order(judged: steps.Judged, row: np.ndarray) -> steps.Judged:
    """The judgement of each line of a file, from that of steps, of which `row` is the line."""
    line = np.argsort(row)
    return steps.Judged(*(values[line] for values in judged))


def _described(
    number: int, alarm: steps.Alarm, judged: steps.Judged, read: Series
) -> dict[str, Any]:
    """An alarm as a line of --intervals."""
    named = {"start": alarm.start, "end": alarm.end, "peak": alarm.peak}
    lines = {name: int(read.steps.row[step]) for name, step in named.items()}
    described: dict[str, Any] = {"interval": number, **lines}
    if "group" in read.named:
        described["group"] = read.named["group"][lines["start"]]
    if "time" in read.named:
        described |= {f"{name}_time": read.named["time"][line] for name, line in lines.items()}
    return described | {
        "steps": alarm.end - alarm.start + 1,
        "flagged": alarm.flagged,
        "score": float(judged.score[alarm.peak]),
        "p_value": float(judged.p_value[alarm.peak]),
    }


def _names(read: Series) -> list[str]:
    """The columns of --intervals."""
    group = ["group"] if "group" in read.named else []
    time = ["start_time", "end_time", "peak_time"] if "time" in read.named else []
    return [
        "interval",
        "start",
        "end",
        "peak",
        *group,
        *time,
        "steps",
        "flagged",
        "score",
        "p_value",
    ]


def _write_steps(
    out: Path,
    judged: steps.Judged,
    interval: np.ndarray,
    detector: detectors.Detector,
    read: Series,
) -> None:
    """Write a line, or in an .npz a value of each array, for every line of the file."""
    count, threshold = len(interval), np.float32(steps.decision_of(detector).threshold)
    if out.suffix == ".npz":
        named = {name: np.array(values) for name, values in read.named.items()}
        arrays = {"row": np.arange(count), **judged._asdict(), "interval": interval}
        with outputs.system_errors(f"--out {out}"):
            disk.write_arrays(out, arrays | {"threshold": np.full(count, threshold)} | named)
        return
    known = ~np.isnan(judged.score)
    cells: Cells = {
        "row": [*range(count)],
        **read.named,
        "score": _given((f"{score:.9g}" for score in judged.score), known),
        "p_value": _given(judged.p_value.tolist(), known),
        "threshold": [f"{threshold:.9g}"] * count,
        "is_anomaly": _given(judged.is_anomaly.astype(int).tolist(), known),
        "interval": _given(interval.tolist(), interval >= 0),
    }
    _write_csv(out, cells)


def _given(values: Iterable[Any], known: np.ndarray) -> list[Any]:
    """The values that are known, and empty cells."""
    return [value if is_known else "" for value, is_known in zip(values, known, strict=True)]


def _write_csv(path: Path, cells: Cells) -> None:
    with outputs.system_errors(str(path)), disk.writing(path) as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(cells)
        table.writerows(zip(*cells.values(), strict=True))


def _lines(summary: dict[str, Any]) -> list[str]:
    """The summary in words."""
    count, found = summary["alarms"], summary["intervals"]
    where = f", in {count} interval{'s' if count > 1 else ''}" if count else ""
    lines = [*summary["notes"]]
    lines.append(f"{summary['anomalies']} of {summary['steps']} steps are anomalies{where}")
    highest = sorted(found, key=lambda one: -one["score"])[:_SHOWN]
    for one in sorted(highest, key=lambda one: one["interval"]):
        lines.append(_line(one))
    if count > _SHOWN:
        lines.append(f"{count - _SHOWN} more with lower peaks are in --intervals FILE.csv")
    low, high = summary["step_false_alarm_rate_interval"]
    rate = f"{summary['step_false_alarm_rate']:.2%} [{low:.2%}, {high:.2%}]"
    lines.append(f"of normal steps, {rate} are above the threshold, by the held-out ones")
    flaw = summary["step_p_value_flaw"]
    said = f"; not guaranteed: {flaw}" if flaw else ""
    return [*lines, f"p-values: {summary['step_p_value_basis']}{said}"]


def _line(one: dict[str, Any]) -> str:
    """An alarm in words."""
    is_one = one["steps"] == 1
    span = f"row {one['peak']}" if is_one else f"rows {one['start']} to {one['end']}"
    if "start_time" in one:
        span += f", {one['start_time']}" + ("" if is_one else f" to {one['end_time']}")
    if "group" in one:
        span += f", group {one['group']}"
    return f"  {span}: peak {one['score']:.4g} in row {one['peak']}, p {one['p_value']:.3g}"
