"""Results of `benchmarks.throughput` as files: what a line holds, and how two speeds are compared.

Each line is one competitor on one model, as JSON. Raw samples stay in it, so that anybody can draw
other conclusions; `SCHEMA` is raised whenever a field changes its meaning.
"""

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SCHEMA = 2
Record = dict[str, Any]
# Fields without which a line is no result; the page docs/benchmark.md says what they mean.
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
# What makes a competitor another one than that of the line before.
COMPETITOR = ("model", "dtype", "batch", "framework", "setting", "threads", "environment")
_RESAMPLES = 10_000


class Ratio(NamedTuple):
    """Of two speeds: the median over rounds, and where 95 % of the resampled medians lie."""

    middle: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.middle:.2f} [{self.low:.2f}, {self.high:.2f}]"


def read(path: Path) -> list[Record]:
    """The last record of every competitor on every model.

    Raises:
      ValueError: a line that is no result; names the file, the line and the field.
    """
    found = {}
    for record, where in lines(path):
        check(record, where)
        found[tuple(record.get(key) for key in COMPETITOR)] = record
    if not found:
        raise ValueError(f"{path} holds no results")
    return list(found.values())


def lines(path: Path) -> Iterator[tuple[Any, str]]:
    """What each line of a file of JSON lines holds, and where that is, for messages.

    Raises:
      ValueError: a line that is no JSON; names the file and the line.
    """
    for number, line in enumerate(path.read_text().splitlines(), 1):
        where = f"{path}, line {number}"
        try:
            yield json.loads(line), where
        except json.JSONDecodeError as error:
            raise ValueError(f"{where} is no JSON ({error.msg})") from None


def check(record: Record, where: str) -> None:
    """Refuse what `NEEDED` does not describe.

    Raises:
      ValueError: names the field.
    """
    if not isinstance(record, dict):
        raise ValueError(f"{where} is no object")
    for name, kind in NEEDED.items():
        if not isinstance(record.get(name), kind):
            raise ValueError(
                f"{where}: {name} is {record.get(name)!r}, which is no {kind.__name__}"
            )
    if record["schema"] != SCHEMA:
        raise ValueError(f"{where}: schema is {record['schema']}; this version reads {SCHEMA}")
    for speeds in (record["train_steps_per_s"], *record["score_per_s"].values()):
        rounds = speeds.get("rounds", [])
        if not (rounds and all(isinstance(s, int | float) and s > 0 for s in rounds)):
            raise ValueError(f"{where}: rounds are {rounds!r}; they are speeds above zero")


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Of speeds that were measured in the same rounds: the median of the rounds' ratios.

    Rounds are resampled as pairs (percentile bootstrap), so that what the machine did meanwhile to
    both is in neither end. One round has no interval: both ends are the ratio.

    Raises:
      ValueError: as many rounds are needed of both.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} rounds stand against {len(theirs)}; measure both together")
    ratios = np.divide(ours, theirs)
    picks = np.random.default_rng(0).integers(len(ratios), size=(_RESAMPLES, len(ratios)))
    return _ratio(float(np.median(ratios)), np.median(ratios[picks], axis=1))


def apart(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Of speeds from two measurements: the ratio of medians, each resampled by itself."""
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
