"""What decisions cost where a missed anomaly is dearer than a false alarm."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxae.reports.studies.context import Context, Findings
from jaxae.stats import curve

# Cost of a missed anomaly over that of a false alarm.
RATIOS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


class Cut(NamedTuple):
    """A threshold, and what flagging the scores above it costs per row."""

    threshold: float
    cost: float


def cost(is_anomaly: Bool[np.ndarray, " N"], y: Bool[np.ndarray, " N"], ratio: float) -> float:
    """(FP + ratio FN) / N: the mean cost of a row, of which a false alarm costs 1."""
    return float((np.sum(is_anomaly & ~y) + ratio * np.sum(~is_anomaly & y)) / len(y))


def oracle(scores: Float[np.ndarray, " N"], y: Bool[np.ndarray, " N"], ratio: float) -> Cut:
    """The cut of least cost (Elkan, IJCAI 2001, section 1): an oracle, for it is chosen with y.

    Args:
      scores: of the rows, finite.
      y: the truth, True = anomaly.
      ratio: cost of a missed anomaly over that of a false alarm, above 0.

    Returns:
      Of equal cuts the one that flags least; -inf flags every row.
    """
    tried = curve.sweep(scores, y)
    total = tried.fp + ratio * (np.sum(y) - tried.tp)
    best = int(np.argmin(total))
    return Cut(float(tried.threshold[best]), float(total[best] / len(y)))


def costs(context: Context) -> Findings:
    """The detector's decisions beside the oracle's cut, for each ratio of costs.

    The oracle knows the test labels, which no rule may; the gap is what is left to gain from
    another threshold. Flagging nothing costs ratio times the share of anomalies, flagging all the
    share of normals.
    """
    scores, y = context.scores.test, context.data.test.y
    flagged = context.decide(scores)
    scalars: dict[str, float] = {}
    lines = [
        "| missed / false alarm | detector | oracle cut (test labels) | flag none | flag all |",
        "| --- | --- | --- | --- | --- |",
    ]
    for ratio in RATIOS:
        found, best = cost(flagged, y, ratio), oracle(scores, y, ratio)
        scalars |= {f"cost_{ratio:g}": found, f"oracle_cost_{ratio:g}": best.cost}
        none, every = ratio * y.mean(), (~y).mean()
        lines.append(
            f"| {ratio:g} | {found:.4f} | {best.cost:.4f} at {best.threshold:.4g} | {none:.4f} | "
            f"{every:.4f} |"
        )
    return Findings({}, scalars, "\n".join([*lines, ""]))
