"""The counts at every threshold: the one sweep over scores that all metrics use.

It uses only NumPy, so that figures and pages can be drawn without JAX.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped


class Curve(NamedTuple):
    """Counts by descending score; tied rows are flagged together.

    Cut j flags the rows with the j highest of K distinct scores, j = 0 ... K.
    """

    score: np.ndarray  # [K] distinct scores, the highest first
    tp: np.ndarray  # [K+1] anomalies that cut j flags
    fp: np.ndarray  # [K+1] normals that cut j flags
    rank: np.ndarray  # [N] for each row, the position of its score among the K

    @property
    def threshold(self) -> np.ndarray:
        """The highest score that cut j does not flag, [K+1]; -inf for j = K."""
        return np.append(self.score, -np.inf)

    @property
    def anomalies(self) -> Int[np.ndarray, " K"]:
        """How many anomalies have each score."""
        return np.diff(self.tp)

    @property
    def normals(self) -> Int[np.ndarray, " K"]:
        """How many normals have each score."""
        return np.diff(self.fp)


def sweep(scores: Shaped[np.ndarray, " N"], y: Bool[np.ndarray, " N"]) -> Curve:
    """The curve of scores (higher = more anomalous) and the truth (True = anomaly)."""
    negated, rank = np.unique(0.0 - scores, return_inverse=True)  # 0 - s merges -0 and 0
    counts = (np.bincount(rank[rows], minlength=len(negated)) for rows in (y, ~y))
    tp, fp = (np.append(0, np.cumsum(of_score)) for of_score in counts)
    return Curve(0.0 - negated, tp, fp, rank)


def placements(curve: Curve) -> tuple[Float[np.ndarray, " K"], Float[np.ndarray, " K"]]:
    """For each score, the shares of normals below it and of anomalies above it; ties count half."""
    normals, anomalies = curve.normals, curve.anomalies
    below = 1 - (curve.fp[1:] - normals / 2) / curve.fp[-1]
    above = (curve.tp[1:] - anomalies / 2) / curve.tp[-1]
    return below, above


def area(scores: Shaped[np.ndarray, " N"], y: Bool[np.ndarray, " N"]) -> float:
    """The AUROC in float64, the mean placement of anomalies; NaN if a class has no rows."""
    if y.all() or not y.any():
        return float("nan")
    curve = sweep(scores, y)
    below, _ = placements(curve)
    return float(np.sum(curve.anomalies * below) / curve.tp[-1])
