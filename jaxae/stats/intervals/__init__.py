"""The uncertainty of metrics: intervals, comparison of two runs on the same rows, tasks and seeds.

Anomaly = positive, higher score = more anomalous, ties count as in `metrics`. All functions are
pure functions of arrays and, if rows are resampled, of a key.

There are two sources of error. Rows: another test set with the same numbers of normals and
anomalies would give other metrics for the same detector. Seeds: another training run would give
another detector. `report` and `compare` cover rows alone; `over_tasks` covers both.

Intervals are approximations for large classes; with 20 anomalies and an AUROC of 0.98 a nominal
95 % interval covers less. One is exact: a perfect result has no spread to resample, and `flawless`
bounds the true value for any distributions.
"""

from jaxae.stats.intervals.bounds import Interval, PerMetric, flawless, of_clustered_share, of_share
from jaxae.stats.intervals.one_run import report
from jaxae.stats.intervals.tasks import Summary, Task, over_tasks
from jaxae.stats.intervals.two_runs import Difference, compare

__all__ = [
    "Difference", "Interval", "PerMetric", "Summary", "Task", "compare", "flawless",
    "of_clustered_share", "of_share", "over_tasks", "report",
]  # fmt: skip
