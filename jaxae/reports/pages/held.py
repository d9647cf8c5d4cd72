"""What a run folder holds for its page, looked at once: somebody may have changed it."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxae.data.own.schema import Schema, from_dict
from jaxae.errors import UserError
from jaxae.reports.plots import files
from jaxae.storage import archive


class Run(NamedTuple):
    """What a run folder holds for its page."""

    folder: Path
    report: dict[str, Any]
    epochs: list[dict[str, Any]]
    score: Float[np.ndarray, " N"]
    y: Bool[np.ndarray, " N"]
    class_id: Int[np.ndarray, " N"]
    is_anomaly: Bool[np.ndarray, " N"]
    calibration: Float[np.ndarray, " n"]
    schema: Schema


def read(folder: Path) -> Run:
    """The run in a folder.

    Raises:
      UserError: it is not finished, or a file of it is damaged.
    """
    if not (folder / files.REPORT).is_file() or not (folder / files.SCORES).is_file():
        raise UserError(f"{folder} holds no finished run; name a folder with report.json")
    names = ("test", "test_y", "test_class_id", "test_is_anomaly", "valid")
    stored = files.arrays(folder / files.SCORES, *names)
    if len({stored[name].shape for name in names[:-1]}) > 1:
        raise UserError(f"{folder / files.SCORES} holds arrays of different lengths; run it again")
    report = files.report(folder, "name", "auroc", "threshold")
    for name, value in report.items():
        if not _is_sound(name, value):
            raise UserError(f"{folder / files.REPORT}: {name} is {value!r}; run it again")
    calibration, schema = stored["valid"], Schema()
    if (folder / "detector" / archive.DESCRIPTION).is_file():
        known = archive.read_description(folder / "detector")
        schema = from_dict(known.get("schema", {}))
        arrays = archive.read_arrays(folder / "detector", known.get("digest", ""))
        calibration = arrays["decision"]["calibration"]
    return Run(
        folder,
        report,
        files.metrics(folder),
        *(stored[name] for name in names[:-1]),
        calibration,
        schema,
    )


_NUMBERS = ("auroc", "average_precision", "f1", "threshold", "n_normal", "n_anomaly")


def _is_sound(name: str, value: Any) -> bool:
    """Whether a field of a report is what the page takes it for."""
    if name.endswith("_interval"):
        return isinstance(value, list) and len(value) == 2 and all(map(_is_finite, value))
    return name not in _NUMBERS or _is_finite(value)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
