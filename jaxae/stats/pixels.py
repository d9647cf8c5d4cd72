"""Metrics of score maps by place: pixels of images, steps of rows that are series.

Maps [N, *P] are higher where a row is more anomalous; `truth` [N, *P] is the mask of each row, True
= anomalous place, and empty for normal rows. Places of all rows count alike, except in AUPRO, where
regions do. Everything follows from one sort of the normal places and one of the others.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxae.errors import UserError
from jaxae.stats.metrics import Confusion, confusion
from jaxae.types import AnyArray

FPR_LIMIT = 0.3  # of AUPRO: Bergmann et al., CVPR 2019


class PixelMetrics(NamedTuple):
    """Every metric of score maps, each in [0, 1]; the last four are of decisions.

    All but `precision` are NaN without anomalous places; `auroc`, `aupro` and `fpr` are NaN without
    normal ones.
    """

    auroc: float
    average_precision: float
    aupro: float  # area under the per-region overlap to a false-positive rate of .3, over .3
    precision: float
    recall: float
    f1: float
    fpr: float  # share of normal places that are flagged


class Curves(NamedTuple):
    """Counts at the cuts of the K distinct scores of anomalous places, the highest first."""

    tp: Int[np.ndarray, " K"]  # anomalous places at or above each score
    above: Int[np.ndarray, " K"]  # normal places strictly above
    fp: Int[np.ndarray, " K"]  # normal places at or above
    overlap: Float[np.ndarray, " K"]  # mean over regions of the share at or above
    normals: int


def by_pixel(
    maps: Float[AnyArray, " N *P"],
    truth: Bool[AnyArray, " N *P"],
    is_anomaly: Bool[AnyArray, " N *P"],
    limit: float = FPR_LIMIT,
) -> PixelMetrics:
    """Metrics of the maps and of the decisions by place.

    AUPRO (Bergmann et al., CVPR 2019; IJCV 2021): the mean over the regions of the truth of the
    share of a region that is flagged, as a function of the false-positive rate of all normal
    places, integrated from 0 to `limit` by trapezoids, interpolated at the limit, and divided by
    it. A region is a connected component of one row's mask; places that touch at a corner are
    connected (as in MVTec's own script and in anomalib 2.7). Tied scores are one cut.

    Args:
      maps: score maps, compared in float32; infinite scores are allowed.
      truth: the masks.
      is_anomaly: the decisions, as `maps > threshold`.
      limit: the largest false-positive rate of AUPRO, in (0, 1].

    Raises:
      UserError: a score is NaN, or the limit is not in (0, 1].
    """
    maps, truth = np.asarray(maps, np.float32), np.asarray(truth, bool)
    _check(maps, limit)
    decided = confusion(np.ravel(is_anomaly), truth.ravel())
    areas = _areas(curves(maps, truth), limit) if truth.any() else (float("nan"),) * 3
    return PixelMetrics(*areas, *_of_decisions(decided))


def curves(maps: Float[np.ndarray, " N *P"], truth: Bool[np.ndarray, " N *P"]) -> Curves:
    """The counts from which all areas follow; at least one place must be anomalous."""
    from scipy import ndimage

    regions, _ = ndimage.label(truth, _neighbours(truth.ndim))
    region = regions[truth] - 1
    size = np.bincount(region)
    negated, rank = np.unique(-maps[truth], return_inverse=True)
    normal = np.sort(-maps[~truth])
    overlap = np.bincount(rank, 1 / size[region], len(negated)) / len(size)
    return Curves(
        tp=np.cumsum(np.bincount(rank, minlength=len(negated))),
        above=np.searchsorted(normal, negated, side="left"),
        fp=np.searchsorted(normal, negated, side="right"),
        overlap=np.minimum(np.cumsum(overlap), 1),
        normals=len(normal),
    )


def _areas(of: Curves, limit: float) -> tuple[float, float, float]:
    """AUROC, average precision and AUPRO."""
    steps = np.diff(of.tp, prepend=0) / of.tp[-1]  # of the recall
    average_precision = min(float(np.sum(steps * (of.tp / (of.tp + of.fp)))), 1.0)
    if not of.normals:
        return float("nan"), average_precision, float("nan")
    auroc = 1 - float(np.sum(steps * (of.above + of.fp))) / (2 * of.normals)
    # Between two scores of anomalous places the overlap stays, and only normals are added.
    fpr = np.stack([of.above, of.fp], axis=1).ravel() / of.normals
    overlap = np.repeat(np.append(0, of.overlap), 2)[1:-1]
    fpr, overlap = np.append(0, np.append(fpr, 1)), np.append(0, np.append(overlap, 1))
    within = fpr <= limit
    at_limit = np.interp(limit, fpr, overlap)
    fpr, overlap = np.append(fpr[within], limit), np.append(overlap[within], at_limit)
    return auroc, average_precision, min(float(np.trapezoid(overlap, fpr)) / limit, 1.0)


def _of_decisions(of: Confusion) -> tuple[float, float, float, float]:
    return float(of.precision), float(of.recall), float(of.f1), float(of.fpr)


def _neighbours(dimensions: int) -> Bool[np.ndarray, "..."]:
    """The places connected to one: all that touch it, within the same row."""
    structure = np.zeros((3,) * dimensions, bool)
    structure[1] = True
    return structure


def _check(maps: np.ndarray, limit: float) -> None:
    if np.isnan(maps).any():
        row = int(np.argwhere(np.isnan(maps))[0, 0])
        raise UserError(f"the map of row {row} holds NaN; leave that row out")
    if not 0 < limit <= 1:
        raise UserError(f"the limit is {limit}; give a false-positive rate in (0, 1], such as .3")
