"""Two runs on the same test rows: is one better, or are both draws of the same?"""

from pathlib import Path

import numpy as np

from jaxae.data import arrayfiles
from jaxae.detectors import evaluation
from jaxae.errors import UserError
from jaxae.rng import Purpose, stream
from jaxae.stats import intervals

_NEEDED = ("test", "test_is_anomaly", "test_y", "test_class_id", "test_id")
_LEVEL = 0.05  # below it a difference is called real


def compare(one: Path, other: Path, seed: int = 0) -> dict[str, dict]:
    """Metrics of two runs, their difference with its 95 % interval, and how often chance does that.

    Of the AUROC by DeLong's test, of average precision and F1 by the paired bootstrap; see
    `jaxae.stats.intervals`. The interval is over test rows: other seeds are other runs.

    Args:
      one: the folder of a finished run.
      other: of another one, scored on the same rows.
      seed: of the resamples.

    Returns:
      Metric -> "one", "other", "difference" (one - other), "interval" [low, high] and "p_value".

    Raises:
      UserError: a folder holds no finished run, or the test rows are not the same.
    """
    runs = [_read(path) for path in (one, other)]
    for name in _NEEDED[2:]:
        if not np.array_equal(runs[0][name], runs[1][name]):
            raise UserError(
                f"{one} and {other} were not scored on the same rows: {name} differs; compare runs "
                "of one data set and one split"
            )
    scores, flagged = (np.stack([run[name] for run in runs]) for name in _NEEDED[:2])
    y = runs[0]["test_y"]
    found = intervals.compare(scores, y, flagged, stream(seed, Purpose.RESAMPLING))
    values = [evaluation.evaluate(s, y, f) for s, f in zip(scores, flagged, strict=True)]
    return {
        name: {
            "one": values[0][name],
            "other": values[1][name],
            "difference": float(apart.value),
            "interval": [float(end) for end in apart.interval],
            "p_value": float(apart.p_value),
            "verdict": "real" if apart.p_value < _LEVEL else "may be chance",
        }
        for name, apart in found._asdict().items()
    }


def _read(run: Path) -> dict[str, np.ndarray]:
    path = run / "scores.npz"
    if not path.is_file():
        raise UserError(f"{run} holds no scores.npz; name the folder of a finished run")
    found = arrayfiles.read_npz(path, _NEEDED)
    missing = [name for name in _NEEDED if name not in found]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; run the experiment again")
    if len({found[name].shape for name in _NEEDED}) > 1:
        raise UserError(f"{path} holds arrays of different lengths; run the experiment again")
    return found


def table(found: dict[str, dict]) -> str:
    """What `compare` found, a line for each metric, with a verdict in words."""
    lines = [f"{'':<18} {'one':>7} {'other':>7} {'one - other, 95 % interval':>28} {'p':>7}"]
    for name, of in found.items():
        low, high = of["interval"]
        apart = f"{of['difference']:+.4f} [{low:+.4f}, {high:+.4f}]"
        p = f"{of['p_value']:.4f}" if of["p_value"] >= 1e-4 else "<0.0001"
        lines.append(
            f"{name:<18} {of['one']:>7.4f} {of['other']:>7.4f} {apart:>28} {p:>7}  {of['verdict']}"
        )
    return "\n".join(lines)
