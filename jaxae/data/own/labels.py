"""Which column of a table is the label, and which others repeat it."""

import re
import shlex
from typing import Any, NamedTuple

import numpy as np

from jaxae.config import DataConfig
from jaxae.data.own import class_names
from jaxae.errors import UserError

Columns = dict[str, Any]  # name -> pyarrow.ChunkedArray
NONE = "none"  # --data.label none: no column is the label
SPLIT = "split"  # a column of this name that holds "train" and "test" splits the rows
# Names of labels, without case and signs, the better ones first.
_GOOD = (
    *("label", "labels", "classlabel", "groundtruth", "isanomaly", "anomaly", "anomalous"),
    *("anomalylabel", "isoutlier", "outlier", "isfraud", "fraud", "fraudulent", "isfault", "fault"),
    *("faulty", "isfailure", "failure", "machinefailure", "passfail", "isattack", "attack"),
    *("isdefect", "defect", "defective", "isabnormal", "abnormal", "isnormal", "machinestatus"),
    "diagnosis",
)
_VAGUE = ("class", "target", "y")  # also the names of quantities
# Names of columns that tell more about the label.
_SECOND = (
    *("changepoint", "attackcat", "attackcategory", "attacktype", "failuretype", "faulttype"),
    *("anomalytype", "defecttype", "sublabel", "subclass", "labeltype", "anomalyscore"),
)
_MOST = 100  # the most classes that a column with a vague name may have
_NEAR = 0.9  # correlation with the label from which a column is worth a line
_FEW_BINARY = 3  # columns of two values that are named where no column is known as the label
_IMPLIED, _ENOUGH = 0.99, 5  # or the share of rows with its rare value that have a rare label


class Roles(NamedTuple):
    """The columns that are not features; "" = none."""

    label: str
    group: str
    split: str
    left_out: tuple[str, ...] = ()  # indices, empty columns, and what repeats the label
    notes: tuple[str, ...] = ()


def choose(columns: Columns, cfg: DataConfig, group: str, split: str) -> tuple[str, list[str]]:
    """The label column, "" if there is none, and lines about columns that were passed over.

    Raises:
      UserError: it is open which column is the label.
    """
    names = [name for name in columns if name not in (*cfg.ignore, group, split)]
    if cfg.label == NONE and NONE not in names:
        return "", []
    if cfg.label != "auto":
        return cfg.label, []
    by_key = {_key(name): name for name in reversed(names)}
    good = [by_key[key] for key in _GOOD if key in by_key]
    if good:
        return next((n for n in good if _looks_like_label(columns[n])), good[0]), []
    notes: list[str] = []
    axes = {name.lower() for name in names} & {"x", "z"}
    for key in _VAGUE:
        if key in by_key and not (key == "y" and axes):
            if _looks_like_label(columns[by_key[key]]):
                return by_key[key], notes
            notes.append(
                f"the column {by_key[key]!r} is a feature: its values do not look like classes"
            )
    for name in _at_the_ends(names, columns):
        raise UserError(
            f"the column {name!r} may be a label: it holds few whole numbers beside fractions; "
            f"add --data.label {shlex.quote(name)} if it is one, else --data.label {NONE}"
        )
    for name in names:
        if _tells_of_anomalies(name, columns[name]):
            raise UserError(
                f"the column {name!r} looks like a label; add --data.label {shlex.quote(name)} if "
                f"it is one, --data.ignore {shlex.quote(name)} to leave it out, or --data.label "
                f"{NONE} if no column is a label"
            )
    return "", notes + _perhaps_labels(names, columns)


def _perhaps_labels(names: list[str], columns: Columns) -> list[str]:
    """A line about numeric features that may be labels of an unknown name: they have two values."""
    found = [name for name in names if len(_distinct(columns[name], most=2)) == 2]
    if not 0 < len(found) <= min(_FEW_BINARY, len(names) / 2):
        return []
    return [
        f"the column {name!r} holds two values and is a feature; if it is a label, add "
        f"--data.label {shlex.quote(name)}"
        for name in found
    ]


def _at_the_ends(names: list[str], columns: Columns) -> list[str]:
    """The first or last of columns without telling names, if it is like a label beside series.

    Files of the UCR archive begin with the class, others end with it.
    """
    if len(names) < 3 or not all(re.fullmatch(r"(column|t)?\d+(\.\d+)?", name) for name in names):
        return []
    found = []
    for name in (names[0], names[-1]):
        others = [columns[other] for other in names if other != name][:50]
        fractional = sum(any(_is_fraction(v) for v in c.slice(0, 50).to_pylist()) for c in others)
        is_class = _looks_like_label(columns[name]) and len(_distinct(columns[name])) > 1
        if is_class and fractional > 0.8 * len(others):
            found.append(name)
    return found


def _is_fraction(value: Any) -> bool:
    return isinstance(value, float) and not value.is_integer()


def _key(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


def _looks_like_label(column: Any) -> bool:
    """Whether a column holds few texts or few whole numbers."""
    values = _distinct(column)
    if not values or len(values) > max(2, min(_MOST, len(column) // 2)):
        return False
    return all(not isinstance(v, float) or v.is_integer() for v in values)


def _tells_of_anomalies(name: str, column: Any) -> bool:
    """Whether a column of an unknown name holds classes by their names, or is called like one."""
    values = _distinct(column, most=_MOST)
    texts = tuple(value for value in values if isinstance(value, str))
    if len(values) < 2:
        return False
    if len(texts) == len(values) and any(map(class_names.side, texts)):
        return True
    is_binary = {*values} <= {-1, 0, 1} or len(texts) == len(values)
    return len(values) == 2 and is_binary and class_names.side(name) != ""


def _distinct(column: Any, most: int = 10_000) -> list[Any]:
    """The values of a column without the missing ones; [] if there are more than `most`."""
    import pyarrow as pa

    if column.null_count == len(column) or pa.types.is_nested(column.type):
        return []
    column = _plain(column)
    if len(column.slice(0, 50_000).unique()) > most + 1:  # it counts missing values as one
        return []
    values = [value for value in column.unique().to_pylist() if value is not None]
    return values if len(values) <= most else []


def repeated(columns: Columns, label: str, names: list[str]) -> tuple[list[str], list[str]]:
    """Columns that repeat the label, by their names or values, and lines about others.

    Args:
      columns: the columns of the table.
      label: the label column.
      names: the columns to look at.
    """
    left_out, notes = [], []
    classes = _codes(columns[label])
    is_rare = classes != np.bincount(classes).argmax()
    for name in names:
        if _key(name) in (*_GOOD, *_SECOND) and _looks_like_label(columns[name]):
            left_out.append(name)
        elif len(_distinct(columns[name], most=20)) >= 2:
            codes = _codes(columns[name])
            pairs = np.unique(np.stack([codes, classes]), axis=1).shape[1]
            if pairs == len(np.unique(codes)) == len(np.unique(classes)):
                left_out.append(name)
            elif _nearly_decides(codes != np.bincount(codes).argmax(), is_rare):
                notes.append(
                    f"the column {name!r} nearly repeats the label {label!r}, or a part of it; "
                    f"leave it out with --data.ignore {shlex.quote(name)} if it was derived from it"
                )
            elif _key(name) in _VAGUE:
                notes.append(f"the column {name!r} is a feature; the label is {label!r}")
    return left_out, notes


def refuse_inverted(label: str, classes: list[str], cfg: DataConfig) -> None:
    """Ask which class is normal where the name of the label speaks of normals: is_normal, passed.

    Raises:
      UserError: the classes are 0 and 1, or no and yes, and the configuration names none of them;
        or all rows are of the class 1 of is_anomaly.
    """
    is_open = not (cfg.normal or cfg.anomaly or cfg.corruption)
    yes = [name for name in classes if name.lower() in ("1", "yes", "true", "y", "t")]
    if is_open and classes == yes and class_names.side(label) == "anomalous":
        raise UserError(
            f"all rows are of the class {yes[0]} of {label!r}, so none is normal; give normal rows"
        )
    if is_open and len(classes) == 2 and yes and class_names.side(label) == "normal":
        raise UserError(
            f"the label {label!r} seems to say which rows are normal; add --data.normal {yes[0]} "
            f"if they are those of the class {yes[0]}, else --data.anomaly {yes[0]}"
        )


def _codes(column: Any) -> np.ndarray:
    """The values of a column, numbered; missing ones share a number."""
    coded = _plain(column).dictionary_encode().combine_chunks()
    codes = coded.indices.fill_null(len(coded.dictionary))
    return codes.to_numpy(zero_copy_only=False).astype(np.int64)


def _plain(column: Any) -> Any:
    """A column of texts in the type of which Arrow computes everything."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column.cast(pa.string()) if pa.types.is_string_view(column.type) else column


def _nearly_decides(is_set: np.ndarray, is_rare: np.ndarray) -> bool:
    """Whether rows with a rare value have a rare label, in nearly all cases or in both directions.

    Both are masks [N].
    """
    if not (is_set.any() and is_rare.any()) or is_set.all() or is_rare.all():
        return False
    implies = is_set.sum() >= _ENOUGH and is_rare[is_set].mean() > _IMPLIED
    return bool(implies) or abs(float(np.corrcoef(is_set, is_rare)[0, 1])) > _NEAR
