"""Comparing two runs on the same test rows: is one better, or is the difference chance?"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

from jaxae.detectors import evaluation
from jaxae.errors import UserError
from jaxae.reports import tables
from jaxae.reports.plots import contents, files
from jaxae.rng import Purpose, stream
from jaxae.stats import intervals
from jaxae.storage import disk, manifest

_NEEDED = ("test", "test_is_anomaly", "test_y", "test_class_id", "test_id")
_LEVEL = 0.05  # a difference with a smaller p-value is called real
_ONE_SPLIT = "compare runs of one data set and one split"


def compare(one: Path, other: Path, seed: int = 0) -> dict[str, dict]:
    """Metrics of two runs, and their difference with its 95 % interval and p-value.

    DeLong's test for the AUROC, the paired bootstrap for average precision and F1; see
    `jaxae.stats.intervals`. Intervals are over test rows, not over seeds. Rows are paired by the
    digests of their values before scaling, in any order; see `unchecked` for runs without them.

    Args:
      one: the folder of a finished run.
      other: the folder of another run, scored on the same rows.
      seed: the seed of the bootstrap.

    Returns:
      Metric -> "one", "other", "difference" (one - other), "interval" [low, high], "p_value" (None
      where no test applies, as between an AUROC of 1 and one of 0), "verdict".

    Raises:
      UserError: a folder contains no finished run, its files have changed since it ended, or the
        test rows differ.
    """
    folders = one, other
    runs = [_read(folder) for folder in folders]
    order = _partners(folders, runs)
    runs[1] = {name: runs[1][name][order] for name in _NEEDED}
    y = runs[0]["test_y"]
    if not np.array_equal(y, runs[1]["test_y"]):
        raise _not_the_same(folders, "test_y differs")
    scores, flagged = (np.stack([run[name] for run in runs]) for name in _NEEDED[:2])
    differences = intervals.compare(scores, y, flagged, stream(seed, Purpose.RESAMPLING))
    metrics = [evaluation.evaluate(s, y, f) for s, f in zip(scores, flagged, strict=True)]
    return {
        name: {
            "one": metrics[0][name],
            "other": metrics[1][name],
            "difference": float(difference.value),
            "interval": [float(end) for end in difference.interval],
            "p_value": None if math.isnan(difference.p_value) else float(difference.p_value),
            "verdict": "real" if _is_real(difference) else "may be chance",
        }
        for name, difference in differences._asdict().items()
    }


def _is_real(difference: intervals.Difference) -> bool:
    """By the p-value or, where there is none, by whether the interval excludes 0."""
    low, high = difference.interval
    return low > 0 or high < 0 if math.isnan(difference.p_value) else difference.p_value < _LEVEL


def _read(folder: Path) -> dict[str, np.ndarray]:
    """The test rows of a run: scores, decisions, truth and what identifies them."""
    if not (folder / files.SCORES).is_file():
        raise UserError(f"{folder} holds no scores.npz; name the folder of a finished run")
    manifest.refuse_changed(folder, (files.SCORES, files.REPORT), files.AGAIN)
    files.refuse_unlabelled(folder, "comparing runs needs labelled test rows")
    return files.scores(folder, *_NEEDED)


def _partners(folders: Sequence[Path], runs: Sequence[dict]) -> Int[np.ndarray, " N"]:
    """For each test row of the first run, the position of the same row in the second run.

    Equal rows are paired in order, those with the same truth with each other.
    """
    digests = [run[contents.ROW_DIGEST] for run in runs if contents.ROW_DIGEST in run]
    if len(digests) < len(runs):
        for name in _NEEDED[2:]:
            if not np.array_equal(runs[0][name], runs[1][name]):
                raise _not_the_same(folders, f"{name} differs")
        return np.arange(len(runs[0]["test"]))
    if np.array_equal(*digests):
        return np.arange(len(digests[0]))
    (first, in_first), (second, in_second) = (np.unique(d, return_counts=True) for d in digests)
    _, i, j = np.intersect1d(first, second, return_indices=True)
    shared, most = np.minimum(in_first[i], in_second[j]).sum(), max(map(len, digests))
    if shared < most:
        raise _not_the_same(folders, f"{shared} of {most} rows have the same values in both")
    orders = [np.lexsort((run["test_y"], d)) for run, d in zip(runs, digests, strict=True)]
    partners = np.empty_like(orders[0])
    partners[orders[0]] = orders[1]
    return partners


def _not_the_same(folders: Sequence[Path], why: str) -> UserError:
    one, other = folders
    return UserError(f"{one} and {other} were not scored on the same rows: {why}; {_ONE_SPLIT}")


def unchecked(one: Path, other: Path) -> str:
    """What `compare` could not check of two runs, as a sentence; "" if it checked everything.

    Runs of earlier versions have no digests of their test rows. Their data sets are equal if the
    digests of the data are.
    """
    folders = one, other
    lacking = [f for f in folders if contents.ROW_DIGEST not in files.arrays(f / files.SCORES)]
    paths = [folder / "data.json" for folder in folders]
    data = [disk.read_json(path) if path.is_file() else None for path in paths]
    if not lacking or data[0] == data[1] is not None:
        return ""
    return (
        f"{lacking[0]} has no digests of its test rows, as an earlier version wrote it: their "
        "numbers and labels agree, but whether they have the same values could not be checked"
    )


def rows(differences: dict[str, dict]) -> list[tuple[str, ...]]:
    """The result of `compare` as cells: metric, one, other, difference, p-value, verdict."""
    return [
        (
            name,
            f"{row['one']:.4f}",
            f"{row['other']:.4f}",
            f"{row['difference']:+.4f} {tables.interval(row['interval'], '+')}",
            _p_value(row["p_value"]),
            row["verdict"],
        )
        for name, row in differences.items()
    ]


def _p_value(p: float | None) -> str:
    if p is None:
        return "-"
    return f"{p:.4f}" if p >= 1e-4 else "<0.0001"


def table(differences: dict[str, dict]) -> str:
    """The result of `compare` as text, with a line for each metric."""
    heads = ("", "one", "other", "one - other, 95 % interval", "p", "")
    return tables.aligned([heads, *rows(differences)], right=(1, 2, 3, 4))
