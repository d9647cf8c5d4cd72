"""What a report says of a run without labels: its threshold, its held-out rows, rows to look at."""

import math
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxae import detectors, scoring
from jaxae.config import ExperimentConfig
from jaxae.detectors import calibration, label_free
from jaxae.errors import UserError
from jaxae.stats.conformal import rank_band
from jaxae.stats.intervals import of_share
from jaxae.types import Dataset, Decision, Source

# What `make` adds from the rows themselves.
OF_ROWS = ("no_metrics", "pseudo_auroc", "strangest_training_rows", "strangest_held_out_rows")
SHARES = (0.01, 0.02, 0.05, 0.1)  # of calibration rows that are anomalies, in `contaminated`
_QUANTILES = {"min": 0, "median": 0.5, "q95": 0.95, "max": 1}
_SHOWN = 5  # the strangest rows of each part


def make(
    cfg: ExperimentConfig,
    data: Dataset,
    detector: detectors.Detector,
    scores: detectors.Scores,
    score: Callable[[Source], Float[np.ndarray, " N"]],
    folder: Path,
) -> dict[str, Any]:
    """The part of the report that takes the place of metrics.

    Args:
      cfg: the run's configuration.
      data: the run's rows.
      detector: the run's detector.
      scores: of its rows.
      score: scores other scaled rows.
      folder: the run's folder, for the command that computes metrics from labels.

    Returns:
      "no_metrics", why there are none; the rate of false alarms, see `false_alarms`;
      "pseudo_auroc", the AUROC between held-out rows and pseudo-anomalies made from them, None for
      a single row; a summary of the held-out scores; the strangest rows by name; and
      "if_contaminated", see `contaminated`.
    """
    pseudo = None
    if len(scores.valid) > 1:
        of_pairs = score(label_free.pairs(data.valid.x, cfg.data.split_seed))
        pseudo = float(label_free.auroc(of_pairs[None])[0])
    return {
        "no_metrics": "No labels, so no AUROC or other metrics; for labelled rows: jaxae evaluate "
        f"{shlex.quote(str(folder))} FILE",
        **of_scores(cfg, detector, scores),
        "pseudo_auroc": pseudo,
        "strangest_training_rows": strangest(scores.train, data.train.id, data.names),
        "strangest_held_out_rows": strangest(scores.valid, data.valid.id, data.names),
    }


def of_scores(
    cfg: ExperimentConfig, detector: detectors.Detector, scores: detectors.Scores
) -> dict[str, Any]:
    """What `make` says without rows: all that follows from detector and scores."""
    decision, held_out = detector.decision, scores.valid
    quantiles = np.quantile(held_out, [*_QUANTILES.values()]).tolist()
    return {
        "n_calibration": len(decision.calibration),
        **false_alarms(decision, held_out, cfg.threshold.on == "train"),
        "p_value_flaw": calibration.why_no_guarantee(cfg) or None,
        "held_out_scores": dict(zip(_QUANTILES, quantiles, strict=True)),
        "if_contaminated": contaminated(decision),
    }


def false_alarms(
    decision: Decision, held_out: Float[np.ndarray, " V"], is_trained: bool
) -> dict[str, Any]:
    """The share of new normals that is flagged, with an interval of 95 %, and what it rests on.

    A threshold of rank r among n calibration scores, 1 = the largest, flags a new normal with
    probability r / (n + 1), for quantile:Q with r = 1 + (1 - Q)(n - 1); the interval is
    `rank_band`. Both need rows that are exchangeable with the new ones, and no ties. Of any other
    rule it is the share of the calibration rows above the threshold; they also set it, so new
    rows may be flagged more often. If the rule was fitted on rows that were trained on, it is the
    share of the held-out rows that is flagged. The interval of a share is Clopper and Pearson's.

    Returns:
      "false_alarm_rate", "false_alarm_rate_interval" and "false_alarm_basis".
    """
    n, rank = len(decision.calibration), scoring.rule(decision.rule).rank
    if is_trained or rank is None:
        rows = held_out if is_trained else np.asarray(decision.calibration)
        hits = int(np.sum(scoring.decide(decision, rows)))
        basis = f"Clopper-Pearson interval of {hits} of {len(rows)} "
        basis += "held-out rows flagged" if is_trained else "rows that also set the threshold"
        return _rate(hits / len(rows), of_share(hits, len(rows)), basis)
    basis = f"Beta interval of the threshold's rank, {rank(n):.3g}, among {n} calibration scores"
    return _rate(rank(n) / (n + 1), rank_band(n, rank(n)), basis)


def _rate(rate: float, interval: tuple[float, float], basis: str) -> dict[str, Any]:
    return {
        "false_alarm_rate": rate,
        "false_alarm_rate_interval": list(interval),
        "false_alarm_basis": basis,
    }


def contaminated(decision: Decision) -> dict[str, dict[str, float | None]]:
    """What the threshold would mean if some calibration rows were anomalies, at worst.

    At worst the m anomalies among n calibration rows have the m highest scores. Then the rule
    would have set "clean_threshold" on the other n - m rows, so the run's threshold is too high by
    the difference and misses the anomalies between the two; and it flags at most the share
    max(r - m, 1) / (n - m + 1) of new normals, r being the threshold's rank, or for rules without
    a rank one more than the number of calibration rows that it flags: "false_alarm_rate_at_most".

    Returns:
      For each of `SHARES`, rounded up to m rows: "m of n rows" -> the two numbers. The threshold is
      None if the rule cannot be fitted on so few rows.
    """
    ordered = np.sort(np.asarray(decision.calibration))
    n, rule = len(ordered), scoring.rule(decision.rule)
    rank = rule.rank(n) if rule.rank else 1 + int(np.sum(scoring.decide(decision, ordered)))
    found: dict[str, dict[str, float | None]] = {}
    for m in sorted({math.ceil(share * n) for share in SHARES}):
        if m >= n:
            break
        try:
            clean: float | None = scoring.fit_rule(decision.rule, ordered[: n - m]).threshold
        except UserError:
            clean = None
        found[f"{m} of {n} rows"] = {
            "clean_threshold": clean,
            "false_alarm_rate_at_most": max(rank - m, 1) / (n - m + 1),
        }
    return found


def strangest(
    scores: Float[np.ndarray, " N"], ids: np.ndarray, names: tuple[str, ...]
) -> dict[str, float]:
    """The highest scores, by the name of the row, or else "row ID", counted from 0."""
    top = np.argsort(-scores, kind="stable")[:_SHOWN]
    return {called(int(ids[i]), names): float(scores[i]) for i in top}


def called(row: int, names: tuple[str, ...]) -> str:
    """The name of a row by its id: its file, the first step of its window, or its number."""
    return names[row] if names else f"row {row}"
