"""The result files of `benchmarks.accelerator_check`: written line by line, validated when read.

Each line is one result, as JSON. It contains what was run (`stage`, `what`, `model`, `setting`), on
what (`device`, `versions`, `revision`, `precision`), when (`at_s`), and either the measurement or a
reason why there is none: `error`, `unavailable` (not possible on this device or machine), or
`no_time`. `SCHEMA` is raised whenever a field changes its meaning.
"""

import json
import os
import statistics
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.records import lines

SCHEMA = 1
NAME = "results.jsonl"
Record = dict[str, Any]

_NUMBER = (int, float)
# Fields of every line; the precision is that of float32 products, as JAX names it.
NEEDED = {
    "schema": int,
    "stage": str,
    "what": str,
    "model": str,
    "setting": str,
    "precision": str,
    "device": dict,
    "versions": dict,
    "rehearsal": bool,
    "at_s": _NUMBER,
}
# Reasons for a missing measurement.
REASONS = {"error": str, "unavailable": str, "no_time": str}
_SPEEDS = {"unit": str, "rounds": list, "median": _NUMBER, "min": _NUMBER, "max": _NUMBER,
           "framework": str}  # fmt: skip
# Further fields, by the kind of result.
HELD = {
    "train": _SPEEDS,
    "score": _SPEEDS,
    "prepare": {"seconds": _NUMBER, "gate": dict},
    "grid": _SPEEDS | {"members": int},
    "loop": _SPEEDS,
    "batch": _SPEEDS | {"x": int},
    "ensemble": _SPEEDS | {"x": int},
    "run": {"seconds": _NUMBER, "code": int, "members": int},
    "agreement": {"quantity": str, "deviation": _NUMBER},
    "verified": {"ok": bool, "words": str},
    "tests": {"passed": int, "failed": int, "skipped": int, "names": list, "whole": bool},
    "stage": {"outcome": str, "seconds": _NUMBER},
}
# Optional fields.
_SOMETIMES = {"allowed": _NUMBER, "ok": bool, "revision": str}
# Results that agree in these fields are of the same kind; the last one counts.
_IDENTITY = ("stage", "what", "model", "framework", "setting", "quantity", "x", "part", "precision")


class Journal:
    """Appends results to a file; each is on disk before the next measurement starts."""

    def __init__(self, folder: Path, common: Record, began: float):
        """Write to `folder`; every line gets the fields `common` and the seconds since `began`.

        Raises:
          OSError: the file cannot be written.
        """
        self.common, self._began = common, began
        self._file = os.open(folder / NAME, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def write(self, what: str, model: str = "", setting: str = "", **values: Any) -> Record:
        """Write one result; its fields override the common ones."""
        known = {"stage": "", "what": what, "model": model, "setting": setting}
        record = known | {"precision": "default"} | self.common | values
        record["at_s"] = round(time.time() - self._began, 2)
        line = json.dumps(_finite(record), default=_plain) + "\n"
        os.write(self._file, line.encode())  # one call, so that lines of two processes do not mix
        os.fsync(self._file)
        return record


def _plain(value: Any) -> Any:
    """NumPy numbers and arrays as JSON types."""
    return value.tolist()


def _finite(value: Any) -> Any:
    """Values with NaN and infinities as strings, because JSON has neither."""
    if isinstance(value, dict):
        return {key: _finite(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(of) for of in value]
    is_odd = isinstance(value, float) and (value != value or abs(value) == float("inf"))
    return str(value) if is_odd else value


def speeds(rounds: Sequence[float], unit: str) -> Record:
    """Median and range of the rounds, together with the rounds."""
    return {"unit": unit, "median": statistics.median(rounds), "min": min(rounds),
            "max": max(rounds), "rounds": list(rounds)}  # fmt: skip


def words(error: BaseException) -> str:
    """An error message in one line of at most 300 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


def read(folder: Path) -> list[Record]:
    """The last result of every kind, in the order in which the kinds first appeared.

    Raises:
      ValueError: there are no results, or a line is invalid; names the file, line and field.
    """
    path = folder / NAME
    if not path.is_file():
        raise ValueError(f"{path} does not exist; make it with benchmarks.accelerator_check")
    records = []
    for record, where in lines(path):
        check(record, where)
        records.append(record)
    if not records:
        raise ValueError(f"{path} holds no results")
    return latest(records)


def latest(records: Iterable[Record]) -> list[Record]:
    """The last result of every kind on every device."""
    found: dict[tuple, Record] = {}
    for record in records:
        found[(record["device"].get("kind"), *map(record.get, _IDENTITY))] = record
    return list(found.values())


def check(record: Record, where: str) -> None:
    """Check a record against `NEEDED` and `HELD`.

    Raises:
      ValueError: a field is invalid; names it.
    """
    if not isinstance(record, dict):
        raise ValueError(f"{where} is not a JSON object")
    _check_fields(record, NEEDED, where)
    if record["schema"] != SCHEMA:
        raise ValueError(f"{where}: schema is {record['schema']}; this version reads {SCHEMA}")
    if record["what"] not in HELD:
        raise ValueError(f"{where}: what is {record['what']!r}; known: {', '.join(HELD)}")
    for name in ("kind", "platform"):
        if not isinstance(record["device"].get(name), str):
            raise ValueError(
                f"{where}: device.{name} is {record['device'].get(name)!r}, not a string"
            )
    reasons = {name: kind for name, kind in REASONS.items() if name in record}
    _check_fields(record, reasons or HELD[record["what"]], where)
    known = {name: kind for name, kind in _SOMETIMES.items() if record.get(name) is not None}
    _check_fields(record, known, where)
    if "ok" in record and record["what"] == "agreement":
        _check_fields(record, {"allowed": _NUMBER}, where)
    rounds = record.get("rounds")
    if rounds is not None and not (rounds and all(_is_speed(of) for of in rounds)):
        raise ValueError(f"{where}: rounds are {rounds!r}; they must be speeds above zero")


def _check_fields(record: Record, fields: dict, where: str) -> None:
    for name, kind in fields.items():
        value = record.get(name)
        is_number = kind == _NUMBER
        odd = is_number and value in ("nan", "inf", "-inf")  # as `Journal` writes such numbers
        if odd or (isinstance(value, kind) and (kind is bool or not isinstance(value, bool))):
            continue
        wanted = "number" if is_number else kind.__name__
        raise ValueError(f"{where}: {name} is {value!r}, not of type {wanted}")


def _is_speed(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def has_value(record: Record) -> bool:
    """Whether a record has a measurement, not just a reason why there is none."""
    return not any(name in record for name in REASONS)
