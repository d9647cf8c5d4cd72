"""How far metrics can be trusted: intervals, comparisons on the same rows, spread over seeds.

Anomaly = positive, higher score = more anomalous, ties count as in `metrics`. Everything is a pure
function of arrays and, where rows are resampled, of a key.

Two sources of error are kept apart. Rows: another test set of as many normals and as many anomalies
would give other numbers, for the same trained detector. Seeds: another training run would give
another detector. `report`, `bootstrap`, `delong` and `compare` are about rows alone; `spread` is
about both.

Every interval here is an approximation for large classes; with 20 anomalies and an AUROC of 0.98
nominal 95 % are less, of `bootstrap` before `delong`. One is exact: a result without a flaw has no
spread to resample, and `flawless` bounds what may lie behind it, whatever the distributions.
"""

from jaxae.stats.intervals.bounds import flawless
from jaxae.stats.intervals.headline import report
from jaxae.stats.intervals.placements import delong, delong_covariance, delong_difference
from jaxae.stats.intervals.resampling import bootstrap, compare
from jaxae.stats.intervals.rows import Difference, Interval, PerMetric
from jaxae.stats.intervals.seeds import Spread, spread

__all__ = [
    "Difference",
    "Interval",
    "PerMetric",
    "Spread",
    "bootstrap",
    "compare",
    "delong",
    "delong_covariance",
    "delong_difference",
    "flawless",
    "report",
    "spread",
]
