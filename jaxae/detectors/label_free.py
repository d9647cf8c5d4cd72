"""Quality without labels: how well scores separate rows from pseudo-anomalies made from them."""

from typing import Any

import numpy as np
from jaxtyping import Float

from jaxae import rng
from jaxae.data import corruptions
from jaxae.stats import curve

ROWS = 2048  # the most held-out rows to compare with pseudo-anomalies, to keep epochs short


def pairs(valid: Any, seed: int) -> Float[np.ndarray, " N *S"]:
    """At most `ROWS` held-out rows, followed by one pseudo-anomaly made from each."""
    generator = rng.host_generator(seed, rng.Purpose.CORRUPTION, 1)
    rows = valid[np.sort(generator.permutation(len(valid))[:ROWS])]
    return np.concatenate([rows, corruptions.pseudo_anomalies(rows, seed)])


def auroc(scores: Float[np.ndarray, "E N"]) -> Float[np.ndarray, " E"]:
    """The AUROC of scores of `pairs`, whose second half belongs to pseudo-anomalies."""
    is_pseudo = np.arange(scores.shape[1]) >= scores.shape[1] // 2
    return np.array([curve.area(row, is_pseudo) for row in scores])
