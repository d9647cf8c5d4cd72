"""Result files of `benchmarks.throughput`: the fields of a line, and how two speeds are compared.

Each line is one competitor on one model, as JSON. It includes the raw samples, so that readers can
analyse them in other ways. `SCHEMA` is raised whenever a field changes its meaning.
"""

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SCHEMA = 2
Record = dict[str, Any]
# Required fields; docs/benchmark.md explains them.
NEEDED = {
    "schema": int,
    "model": str,
    "dtype": str,
    "batch": int,
    "framework": str,
    "setting": str,
    "train_steps_per_s": dict,
    "score_per_s": dict,
    "versions": dict,
    "machine": dict,
}
# Lines that agree in these fields are of the same competitor; the last one counts.
COMPETITOR = ("model", "dtype", "batch", "framework", "setting", "threads", "environment")
_RESAMPLES = 10_000


class Ratio(NamedTuple):
    """A ratio of two speeds: the median over rounds, and the 95 % interval of resampled medians."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} [{self.low:.2f}, {self.high:.2f}]"


def read(path: Path) -> list[Record]:
    """The last record of every competitor on every model.

    Raises:
      ValueError: a line is invalid; names the file, the line and the field.
    """
    found = {}
    for record, where in lines(path):
        check(record, where)
        found[tuple(record.get(key) for key in COMPETITOR)] = record
    if not found:
        raise ValueError(f"{path} holds no results")
    return list(found.values())


def lines(path: Path) -> Iterator[tuple[Any, str]]:
    """The value of each line of a JSON lines file, and its location for error messages.

    Raises:
      ValueError: a line is not JSON; names the file and the line.
    """
    for number, line in enumerate(path.read_text().splitlines(), 1):
        where = f"{path}, line {number}"
        try:
            yield json.loads(line), where
        except json.JSONDecodeError as error:
            raise ValueError(f"{where} is not valid JSON ({error.msg})") from None


def check(record: Record, where: str) -> None:
    """Check a record against `NEEDED`.

    Raises:
      ValueError: a field is invalid; names it.
    """
    if not isinstance(record, dict):
        raise ValueError(f"{where} is not a JSON object")
    for name, kind in NEEDED.items():
        if not isinstance(record.get(name), kind):
            raise ValueError(
                f"{where}: {name} is {record.get(name)!r}, not of type {kind.__name__}"
            )
    if record["schema"] != SCHEMA:
        raise ValueError(f"{where}: schema is {record['schema']}; this version reads {SCHEMA}")
    for speeds in (record["train_steps_per_s"], *record["score_per_s"].values()):
        rounds = speeds.get("rounds", [])
        if not (rounds and all(isinstance(s, int | float) and s > 0 for s in rounds)):
            raise ValueError(f"{where}: rounds are {rounds!r}; they must be speeds above zero")


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The ratio of two speeds measured in the same rounds: the median of the rounds' ratios.

    Rounds are resampled as pairs (percentile bootstrap), so load that affects both in a round does
    not widen the interval. With one round, both limits equal the ratio.

    Raises:
      ValueError: the numbers of rounds differ.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} rounds and {len(theirs)} cannot be paired; repeat both")
    ratios = np.divide(ours, theirs)
    picks = np.random.default_rng(0).integers(len(ratios), size=(_RESAMPLES, len(ratios)))
    return _ratio(float(np.median(ratios)), np.median(ratios[picks], axis=1))


def apart(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """The ratio of two speeds measured separately: of their medians, resampled independently."""
    generator = np.random.default_rng(0)
    medians = [
        np.median(np.asarray(s)[generator.integers(len(s), size=(_RESAMPLES, len(s)))], axis=1)
        for s in (ours, theirs)
    ]
    middle = statistics.median(ours) / statistics.median(theirs)
    return _ratio(middle, medians[0] / medians[1])


def _ratio(middle: float, resampled: np.ndarray) -> Ratio:
    low, high = np.quantile(resampled, (0.025, 0.975))
    return Ratio(middle, float(low), float(high))
