"""How far metrics can be trusted: intervals, two runs on the same rows, tasks and seeds.

Anomaly = positive, higher score = more anomalous, ties count as in `metrics`. Everything is a pure
function of arrays and, where rows are resampled, of a key.

Two sources of error are kept apart. Rows: another test set of as many normals and as many anomalies
would give other numbers, for the same trained detector. Seeds: another training run would give
another detector. `report` and `compare` are about rows alone; `over_tasks` is about both.

Every interval here is an approximation for large classes; with 20 anomalies and an AUROC of 0.98
nominal 95 % are less. One is exact: a perfect result has no spread to resample, and `flawless`
bounds what may lie behind it, whatever the distributions.
"""

from jaxae.stats.intervals.bounds import Interval, PerMetric, flawless
from jaxae.stats.intervals.one_run import report
from jaxae.stats.intervals.tasks import Summary, Task, over_tasks
from jaxae.stats.intervals.two_runs import Difference, compare

__all__ = [
    "Difference", "Interval", "PerMetric", "Summary", "Task", "compare", "flawless", "over_tasks",
    "report",
]  # fmt: skip
