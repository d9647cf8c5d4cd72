"""How the rows of a user's files were read, kept so that new files are read in the same way."""

import dataclasses
import re
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxae.data.own import class_names
from jaxae.errors import UserError

_WHOLE = re.compile(r"[+-]?[0-9]{1,15}(\.0*)?")  # a class number as a text


@dataclasses.dataclass(frozen=True)
class Schema:
    """What is read from files of a kind, and how; fields that do not apply to it are empty."""

    kind: str = "npz"
    classes: tuple[str, ...] = ()  # names of the classes 0, 1, ...; () = they are numbers
    columns: tuple[str, ...] = ()  # table, series: the columns to read, in this order
    categories: tuple[tuple[str, ...], ...] = ()  # of each column; () = it holds numbers
    missing: str = "refuse"  # table, series: what is done where values are missing
    fill: tuple[float, ...] = ()  # table, series: what replaces a missing value, for each feature
    mode: str = ""  # images: "L", grey, or "RGB"
    size: tuple[int, ...] = ()  # images: height and width
    white: int = 65535  # images: the value of white in those with more than 8 bits
    window: int = 0  # series: steps of a row
    stride: int = 0  # series: steps from one row to the next
    group: str = ""  # series: the column of groups, which no window crosses
    time: tuple[str, ...] = ()  # series: the columns of its time

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
        return f"{class_id} ({name})" if name not in ("", str(class_id)) else str(class_id)

    def known_as(self, class_id: int) -> str:
        """The name or number of a class as `data.normal` and `data.anomaly` take it."""
        return self.classes[class_id] if 0 <= class_id < len(self.classes) else str(class_id)

    def number(self, name: int | str) -> int | None:
        """The number of a class by its name, in any case, or by its number; None: no class."""
        wanted = str(name).strip().casefold()
        by_name = {known.casefold(): i for i, known in enumerate(self.classes)}
        by_name |= {known: i for i, known in enumerate(self.classes)}
        found = by_name.get(str(name).strip(), by_name.get(wanted))
        if found is None and re.fullmatch(r"[+-]?[0-9]+", wanted):
            found = int(wanted)
        return found


def from_dict(values: dict[str, Any]) -> Schema:
    """The inverse of `dataclasses.asdict` after JSON; raises TypeError."""
    return Schema(**{name: _tuples(value) for name, value in values.items()})


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def numbered(labels: np.ndarray, what: str) -> tuple[Int[np.ndarray, " N"], tuple[str, ...]]:
    """Class labels [N] as integers, and the names of the classes if the labels were texts.

    Whole numbers stay as they are, also as texts. Other texts, without the blanks around them, are
    numbered in alphabetical order, normal ones first; a name that is itself a number keeps it if
    there are that many classes. `what` names the labels in errors.

    Raises:
      UserError: a number is not whole, or too large for the number of a class.
    """
    if labels.dtype.kind in "OUS":
        texts, inverse = np.unique(_texts(labels), return_inverse=True)
        if not all(_WHOLE.fullmatch(text) for text in texts):
            names = _ordered(texts.tolist())
            number = np.array([names.index(text) for text in texts.tolist()], np.int32)
            return number[inverse], names
        labels = texts.astype(np.float64)[inverse]
    if labels.dtype.kind not in "fiub":
        raise UserError(f"{what} has the type {labels.dtype}; classes are whole numbers or names")
    with np.errstate(invalid="ignore"):  # NaN and infinity become some integer, caught here
        is_wrong = labels != labels.astype(np.int32)
    if is_wrong.any():
        example = labels[is_wrong][0]
        problem = f"contains {example:.12g}, which is no class: classes are whole numbers"
        raise UserError(f"{what} {problem} below 2**31; number the classes")
    return labels.astype(np.int32), ()


def _texts(labels: np.ndarray) -> np.ndarray:
    """Labels of any type as texts without blanks around them."""
    texts = np.char.decode(labels, "utf-8", "replace") if labels.dtype.kind == "S" else labels
    return np.char.strip(texts.astype(str))


def _ordered(names: list[str]) -> tuple[str, ...]:
    """The names by their numbers."""
    known = {names[i] for i in class_names.normals(tuple(names))}
    own = {int(name): name for name in names if name in map(str, range(len(names)))}
    others = iter(sorted({*names} - {*own.values()}, key=lambda name: (name not in known, name)))
    return tuple(own.get(i) or next(others) for i in range(len(names)))
