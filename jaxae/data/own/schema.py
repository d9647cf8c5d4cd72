"""How the rows of a user's files were read, kept so that new files are read in the same way."""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxae.errors import UserError

# Names of classes that are normal unless the configuration says otherwise.
_NORMAL = {"normal", "good", "ok", "nominal", "healthy", "benign", "inlier", "inliers", "regular"}
# Names of classes that are anomalies.
_ANOMALOUS = {"anomaly", "anomalous", "abnormal", "outlier", "fail", "fault", "defect", "attack"}


@dataclasses.dataclass(frozen=True)
class Schema:
    """What is read from files of a kind, and how; fields that do not apply to it are empty."""

    kind: str = "npz"
    classes: tuple[str, ...] = ()  # names of the classes 0, 1, ...; () = they are numbers
    columns: tuple[str, ...] = ()  # table, series: the columns to read, in this order
    categories: tuple[tuple[str, ...], ...] = ()  # of each column; () = it holds numbers
    mode: str = ""  # images: "L", grey, or "RGB"
    size: tuple[int, ...] = ()  # images: height and width
    window: int = 0  # series: steps of a row
    stride: int = 0  # series: steps from one row to the next

    @property
    def features(self) -> list[str]:
        """The name of each value of a step or of a row of a table."""
        names: list[str] = []
        for column, values in zip(self.columns, self.categories, strict=True):
            names += [f"{column}={value}" for value in values] or [column]
        return names

    def called(self, class_id: int) -> str:
        """The number of a class and its name, if it has one: "1 (scratch)"."""
        name = self.classes[class_id] if 0 <= class_id < len(self.classes) else ""
        return f"{class_id} ({name})" if name else str(class_id)


def from_dict(values: dict[str, Any]) -> Schema:
    """The inverse of `dataclasses.asdict` after JSON; raises TypeError."""
    return Schema(**{name: _tuples(value) for name, value in values.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def numbered(labels: np.ndarray, what: str) -> tuple[Int[np.ndarray, " N"], tuple[str, ...]]:
    """Class labels [N] as integers, and the names of the classes if the labels were texts.

    Whole numbers stay as they are. Texts are numbered in alphabetical order, except that names such
    as "normal", "good" or "ok" come first. `what` names the labels in errors.

    Raises:
      UserError: a number is not whole.
    """
    if labels.dtype.kind in "OUS":
        names = sorted(set(map(str, labels)), key=lambda name: (not is_normal(name), name))
        number = {name: i for i, name in enumerate(names)}
        return np.array([number[str(label)] for label in labels], np.int32), tuple(names)
    with np.errstate(invalid="ignore"):  # NaN and infinity become some integer, caught here
        is_whole = labels.dtype.kind in "fiub" and np.array_equal(labels, labels.astype(np.int32))
    if not is_whole:
        raise UserError(f"{what} contains values that are not whole numbers; number the classes")
    return labels.astype(np.int32), ()


def is_normal(name: str) -> bool:
    """Whether a class has one of the usual names of normals."""
    return name.strip().lower() in _NORMAL


def is_anomalous(name: str) -> bool:
    """Whether a class has one of the usual names of anomalies."""
    return name.strip().lower() in _ANOMALOUS


def normal_classes(names: tuple[str, ...]) -> tuple[int, ...]:
    """The classes that are normal by their names."""
    return tuple(i for i, name in enumerate(names) if is_normal(name))
