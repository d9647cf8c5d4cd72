"""What report.json and scores.npz of a finished run may hold; anything else was written later."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

ROW_DIGEST = "test_row_digest"  # digests of test rows; runs of older versions have none
_SHARES = (
    *("auroc", "average_precision", "fpr_at_95_tpr", "equal_error_f1", "best_f1_oracle"),
    *("accuracy", "precision", "recall", "f1", "fpr"),
    *("precision_normal_positive", "recall_normal_positive"),
    *("false_alarm_rate", "pseudo_auroc", "alpha", "auroc_std"),
    *("step_auroc", "step_average_precision", "step_precision", "step_recall", "step_f1"),
    *("step_fpr", "vus_roc", "vus_pr", "range_precision", "range_recall", "range_f1"),
    *("ranges_found", "step_false_alarm_rate", "block_false_alarm_rate"),
    *("pixel_auroc", "pixel_average_precision", "pixel_aupro", "pixel_precision", "pixel_recall"),
    *("pixel_f1", "pixel_fpr", "pixel_false_alarm_rate", "map_false_alarm_rate"),
)
_NUMBERS = (
    *("threshold", "train_loss", "valid_loss", "fpr_bound", "wall_s"),
    *("step_threshold", "pixel_threshold"),
)
_COUNTS = (
    *("seed", "epochs", "selected_epoch", "members"),
    *("n_train", "n_valid", "n_normal", "n_anomaly", "n_calibration"),
    *("n_steps", "n_anomalous_steps", "n_blocks", "block_steps"),
    *("n_pixels", "n_anomalous_pixels"),
)
_TEXTS = ("name", "dataset", "method", "score", "threshold_rule", "selected_by", "p_values")
_NESTED = ("classes", "baselines", "points", "selection")  # reports within a report
KINDS = {
    **dict.fromkeys(_SHARES, "a share from 0 to 1"),
    **dict.fromkeys(_COUNTS, "a count"),
    **dict.fromkeys(_NESTED, "a set of named values"),
    **dict.fromkeys(_NUMBERS, "a finite number"),
    **dict.fromkeys(_TEXTS, "a text"),
    **{"labelled": "true or false", "warnings": "a list", "seeds": "a list"},
    "mean_delay_steps": "a number of steps, or null",
}
# The kinds of numbers in each array of scores.npz; see `numpy.dtype.kind`.
_ARRAYS = {
    **dict.fromkeys(("train", "valid", "test", "p_value", "step_score"), "f"),
    **dict.fromkeys(("pixel_highest", "pixel_areas"), "f"),
    **dict.fromkeys(("pixel_flagged", "pixel_y", "pixel_found"), "iu"),
    **dict.fromkeys(("test_y", "test_is_anomaly", "step_y", "step_is_anomaly"), "b"),
    **dict.fromkeys(("test_class_id", "test_id", ROW_DIGEST, "step_index", "step_stretch"), "iu"),
}
_LARGEST = float(np.finfo(np.float32).max)  # in which scores are compared
_MAY_BE_EMPTY = ("train", "valid")


def of_report(values: Mapping[str, Any], where: str = "") -> Iterator[str]:
    """The fields of a report that hold what no run writes: "auroc is 7, not a share"."""
    for name, value in values.items():
        kind = "two shares in order" if name.endswith("_interval") else KINDS.get(name)
        if kind and not _FITS[kind](value):
            yield f"{where}{name} is {value!r}, not {kind}"
        elif name in _NESTED:
            for part, inner in value.items():
                if isinstance(inner, dict):
                    yield from of_report(inner, f"{where}{name} {part} ")


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= _LARGEST  # NaN is not


def _is_share(value: Any) -> bool:
    return value is None or (_is_number(value) and 0 <= value <= 1)


def _is_interval(value: Any) -> bool:
    is_pair = isinstance(value, list) and len(value) == 2 and None not in value
    return value is None or (is_pair and all(map(_is_share, value)) and value[0] <= value[1])


_FITS: dict[str, Callable[[Any], bool]] = {
    "a share from 0 to 1": _is_share,
    "two shares in order": _is_interval,
    "a finite number": _is_number,
    "a count": lambda value: _is_number(value) and value >= 0 and value % 1 == 0,
    "a set of named values": lambda value: isinstance(value, dict),
    "a number of steps, or null": lambda value: value is None or (_is_number(value) and value >= 0),
    "true or false": lambda value: isinstance(value, bool),
    "a list": lambda value: isinstance(value, list),
    "a text": lambda value: isinstance(value, str),
}


def of_scores(arrays: Mapping[str, np.ndarray]) -> Iterator[str]:
    """What no run writes into scores.npz: "test is nan in row 3"."""
    for name in (name for name in _ARRAYS if name in arrays):
        array, kinds = arrays[name], _ARRAYS[name]
        if array.dtype.kind not in kinds or array.ndim != 1:
            yield f"{name} is {array.dtype} {list(array.shape)}"
        elif not array.size and name not in _MAY_BE_EMPTY:
            yield f"{name} has no rows"
        elif kinds == "f":
            possible = np.abs(array) <= _LARGEST
            if name == "p_value":
                possible = (array > 0) & (array <= 1)
            if not possible.all():
                row = int(np.argmin(possible))
                yield f"{name} is {array[row]} in row {row}"
