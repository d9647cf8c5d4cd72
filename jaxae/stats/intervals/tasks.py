"""The mean AUROC over tasks that share test rows, as one-vs-rest tasks do, and over seeds."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxae.errors import UserError
from jaxae.stats.intervals import bounds
from jaxae.stats.intervals.rows import by_class, check_confidence


class Task(NamedTuple):
    """One class against the rest: S seeds on the same test rows."""

    scores: Float[np.ndarray, "S N"]
    y: Bool[np.ndarray, " N"]  # True = anomaly
    id: Int[np.ndarray, " N"]  # of a row, the same in every task that it is in
    stratum: Int[np.ndarray, " N"]  # of a row, in every task: rows are drawn within it


class Summary(NamedTuple):
    """AUROC over tasks and seeds; what needs several seeds is NaN for one."""

    mean: float
    seeds_std: float  # of one seed's mean over the tasks: sample standard deviation, ddof 1
    interval: tuple[float, float]  # other rows and, of several seeds, other seeds


def over_tasks(tasks: Sequence[Task], confidence: float = 0.95) -> Summary:
    """The mean AUROC over tasks and seeds, with an interval for other rows and other seeds.

    A test row is in many tasks: a normal of one, an anomaly of all others. So its placements (see
    `intervals.placements`), averaged over seeds and divided by the number of rows of its side, are
    added over the tasks, h_i = sum_c V_c(i) / n_c(i) / C, and the variance over rows is
    sum_k n_k var_{i in k}(h_i) with strata k: DeLong's variance where there is one task and the
    strata are its two sides. The variance over seeds, std^2 / S of the mean over tasks, is added as
    in `intervals.spread`; degrees of freedom are Satterthwaite's and the interval is that of
    log-odds. What rows do to one seed alone counts twice: it errs to the safe side.

    A mean of 1 has the interval that the smallest task's flawless result has, see
    `intervals.flawless`.

    Args:
      tasks: at least one; all with the same number of seeds.
      confidence: in (0, 1).

    Raises:
      UserError: there are no tasks, their seeds differ in number, a score is NaN, or a task has
        fewer than two rows of a side.
    """
    check_confidence(confidence)
    if len({len(task.scores) for task in tasks}) != 1:
        raise UserError(f"there are {len(tasks)} tasks; give one or more, all of as many seeds")
    areas, parts = zip(*map(_placed, tasks), strict=True)
    by_seed = np.mean(areas, axis=0)
    seeds, mean = len(by_seed), float(by_seed.mean())
    std = float(by_seed.std(ddof=1)) if seeds > 1 else np.nan
    variances, degrees = _of_rows(tasks, parts)
    if seeds > 1:
        variances, degrees = [*variances, std**2 / seeds], [*degrees, seeds - 1]
    sides = [(int((~task.y).sum()), int(task.y.sum())) for task in tasks]
    interval = _interval(mean, np.array(variances), np.array(degrees), sides, confidence)
    return Summary(mean, std, interval)


def _placed(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """AUROC of each seed [S], and each row's part of their mean [N]."""
    by_class(task.scores, task.y, "any number of")  # for what it refuses
    y = task.y
    share = np.zeros(task.scores.shape)
    for row, scores in zip(share, task.scores, strict=True):
        row[y] = _share_below(scores[y], scores[~y])
        row[~y] = 1 - _share_below(scores[~y], scores[y])
    size = np.where(y, y.sum(), (~y).sum())
    return share[:, y].mean(axis=1), share.mean(axis=0) / size


def _share_below(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    ordered = np.sort(others)
    left, right = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return (left + right) / (2 * len(others))


def _of_rows(tasks: Sequence[Task], parts: Sequence[np.ndarray]) -> tuple[list, list]:
    """Variance of the mean by stratum of rows, with its degrees of freedom."""
    ids, first, at = np.unique(
        np.concatenate([task.id for task in tasks]), return_index=True, return_inverse=True
    )
    stratum = np.concatenate([task.stratum for task in tasks])[first]
    part = np.bincount(at, np.concatenate(parts), len(ids)) / len(tasks)
    groups = [part[stratum == k] for k in np.unique(stratum)]
    # Of a single row nothing is known, and nothing is added.
    groups = [group for group in groups if len(group) > 1]
    return [len(g) * g.var(ddof=1) for g in groups], [len(g) - 1 for g in groups]


def _interval(
    mean: float,
    variances: np.ndarray,
    degrees: np.ndarray,
    sides: Sequence[tuple[int, int]],
    confidence: float,
) -> tuple[float, float]:
    from scipy import special, stats

    low = min(bounds.flawless(n, m, confidence).auroc for n, m in sides)
    if mean >= 1 - bounds.ROUNDING:
        return low, 1.0
    if mean <= bounds.ROUNDING:
        return 0.0, 1 - low
    total = variances.sum()
    if not total:
        return mean, mean
    shared = total**2 / np.sum(variances**2 / degrees)
    reach = stats.t.ppf((1 + confidence) / 2, shared) * np.sqrt(total) / (mean * (1 - mean))
    ends = special.expit(special.logit(mean) + np.array([-reach, reach]))
    return float(ends[0]), float(ends[1])
