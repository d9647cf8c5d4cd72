"""ARFF files, and the .ts files of aeon and sktime: their values as a table."""

import io
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from jaxae.errors import UserError

Table = Any  # pyarrow.Table


def read_arff(path: Path) -> Table:
    """The table in an ARFF file: numbers, and nominal values as texts or numbers.

    Raises:
      UserError: it is damaged, or has attributes of other types.
    """
    import pyarrow as pa
    from scipy.io import arff

    try:
        rows, about = arff.loadarff(io.StringIO(_text(path)))
    except (NotImplementedError, arff.ArffError, ValueError, StopIteration, IndexError) as error:
        problem = " ".join(str(error).split())[:120] or "it ends early"
        raise UserError(f"it is not a readable ARFF file ({problem}); save it as CSV") from None
    columns = []
    for name in about.names():
        values = rows[name]
        if values.dtype.kind == "S":
            texts = [value.decode() for value in values.tolist()]
            column = pa.array([None if text == "?" else text for text in texts], pa.string())
            columns.append(_as_numbers(column))
        else:
            columns.append(pa.array(values.astype(np.float64), from_pandas=True))
    return pa.table(columns, names=about.names())


def _as_numbers(column: Any) -> Any:
    import pyarrow as pa

    try:
        return column.cast(pa.float64())
    except pa.ArrowInvalid:
        return column


def read_ts(path: Path) -> Table:
    """The series in a .ts file, one a row: columns t0, t1, ... and `label`, if there are classes.

    Raises:
      UserError: it is damaged, or has series of several channels, of several lengths, or with
        timestamps.
    """
    import pyarrow as pa

    head, found, body = _text(path).partition("@data")
    lines = [line.strip() for line in body.splitlines() if line.strip()]
    if not found or not lines:
        raise UserError("it is not a readable .ts file (no rows below @data); save it as CSV")
    has_classes = re.search(r"(?im)^@classlabel\s+true", head) is not None
    if re.search(r"(?im)^@timestamps\s+true", head):
        raise UserError("it has timestamps; save the values as CSV, one series a row")
    parts = [line.split(":") for line in lines]
    if {len(part) for part in parts} != {1 + has_classes}:
        raise UserError("its series have several channels; save x [N, T, C] and y as an .npz")
    try:
        series = [
            [math.nan if value.strip() == "?" else float(value) for value in part[0].split(",")]
            for part in parts
        ]
    except ValueError as error:
        raise UserError(f"it is not a readable .ts file ({error}); save it as CSV") from None
    if len({*map(len, series)}) > 1:
        raise UserError("its series differ in length; cut or fill them to one length")
    x = np.array(series)
    columns = [pa.array(values, from_pandas=True) for values in x.T]
    names = [f"t{i}" for i in range(x.shape[1])]
    if has_classes:
        columns.append(pa.array([part[1].strip() for part in parts]))
        names.append("label")
    return pa.table(columns, names=names)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UserError("it is not text in UTF-8; save it in UTF-8") from None
