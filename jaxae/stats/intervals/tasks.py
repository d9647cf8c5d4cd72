"""The mean AUROC over tasks that share test rows, as one-vs-rest tasks do, and over seeds."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxae.errors import UserError
from jaxae.stats import curve
from jaxae.stats.intervals import bounds
from jaxae.stats.intervals.bounds import checked


class Task(NamedTuple):
    """One class against the rest: S seeds on the same test rows."""

    scores: Float[np.ndarray, "S N"]
    y: Bool[np.ndarray, " N"]  # True = anomaly
    id: Int[np.ndarray, " N"]  # of a row, the same in every task that contains it
    stratum: Int[np.ndarray, " N"]  # of a row, the same in every task; rows are drawn within it


class Summary(NamedTuple):
    """AUROC over tasks and seeds; fields that need several seeds are NaN for one."""

    mean: float
    seeds_std: float  # of one seed's mean over the tasks: sample standard deviation, ddof 1
    interval: tuple[float, float]  # for other rows and, with several seeds, other seeds


def over_tasks(tasks: Sequence[Task]) -> Summary:
    """The mean AUROC over tasks and seeds, with a 95 % interval for other rows and other seeds.

    A test row is in many tasks: a normal of one, an anomaly of all others. So its placements (see
    `curve.placements`), averaged over seeds and divided by the number of rows of its side, are
    added over the tasks, h_i = sum_c V_c(i) / n_c(i) / C, and the variance over rows is
    sum_k n_k var_{i in k}(h_i) with strata k. For one task with its two sides as strata this is
    DeLong's variance. The variance over seeds, std^2 / S of the mean over tasks, is added.
    The interval is that of log-odds, as in `one_run`; t has the degrees of freedom of Satterthwaite
    (Biometrics Bulletin 2, 1946). The interaction of rows and seeds counts in both variances, so
    the sum is conservative, as Owen (Annals of Applied Statistics 1, 2007) finds for resampling
    seeds and rows together.

    A mean of 1 has the interval of a perfect result on the smallest task, see
    `intervals.flawless`.

    Args:
      tasks: at least one; all with the same number of seeds.

    Raises:
      UserError: there are no tasks, they differ in the number of seeds, a score is NaN, or a side
        of a task has fewer than two rows.
    """
    if len({len(task.scores) for task in tasks}) != 1:
        raise UserError(f"there are {len(tasks)} tasks; all need the same number of seeds")
    areas, parts = zip(*map(_placements, tasks), strict=True)
    by_seed = np.mean(areas, axis=0)
    seeds, mean = len(by_seed), float(by_seed.mean())
    std = float(by_seed.std(ddof=1)) if seeds > 1 else np.nan
    variances, degrees = _row_variances(tasks, parts)
    if seeds > 1:
        variances, degrees = [*variances, std**2 / seeds], [*degrees, seeds - 1]
    low = min(bounds.flawless(*_sides(task)).auroc for task in tasks)
    return Summary(mean, std, _interval(mean, np.array(variances), np.array(degrees), low))


def _sides(task: Task) -> tuple[int, int]:
    """The numbers of normals and of anomalies."""
    return int((~task.y).sum()), int(task.y.sum())


def _placements(task: Task) -> tuple[np.ndarray, np.ndarray]:
    """AUROC of each seed [S], and the contribution of each row to their mean [N]."""
    checked(task.scores, task.y)
    y, (n, m) = task.y, _sides(task)
    share = np.zeros(task.scores.shape)
    for row, scores in zip(share, task.scores, strict=True):
        counts = curve.sweep(scores, y)
        normals_below = (2 * n - counts.fp[1:] - counts.fp[:-1]) / (2 * n)
        anomalies_below = (2 * m - counts.tp[1:] - counts.tp[:-1]) / (2 * m)
        row[:] = np.where(y, normals_below[counts.rank], 1 - anomalies_below[counts.rank])
    return share[:, y].mean(axis=1), share.mean(axis=0) / np.where(y, m, n)


def _row_variances(tasks: Sequence[Task], parts: Sequence[np.ndarray]) -> tuple[list, list]:
    """Variance of the mean due to each stratum of rows, with its degrees of freedom."""
    ids, first, at = np.unique(
        np.concatenate([task.id for task in tasks]), return_index=True, return_inverse=True
    )
    stratum = np.concatenate([task.stratum for task in tasks])[first]
    part = np.bincount(at, np.concatenate(parts), len(ids)) / len(tasks)
    groups = [part[stratum == k] for k in np.unique(stratum)]
    groups = [group for group in groups if len(group) > 1]  # a single row has no sample variance
    return [len(g) * g.var(ddof=1) for g in groups], [len(g) - 1 for g in groups]


def _interval(
    mean: float, variances: np.ndarray, degrees: np.ndarray, low: float
) -> tuple[float, float]:
    """The logit interval of a mean, from independent parts of its variance."""
    from scipy import special, stats

    if bounds.is_one(mean):
        return low, 1.0
    if bounds.is_zero(mean):
        return 0.0, 1 - low
    total = variances.sum()
    if not total:
        return mean, mean
    shared = total**2 / np.sum(variances**2 / degrees)
    reach = stats.t.ppf((1 + bounds.CONFIDENCE) / 2, shared) * np.sqrt(total) / (mean * (1 - mean))
    ends = special.expit(special.logit(mean) + np.array([-reach, reach]))
    return float(ends[0]), float(ends[1])
