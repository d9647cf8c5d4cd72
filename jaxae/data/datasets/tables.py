"""CSV and Parquet tables: columns by name, as float32. The only module that names Arrow."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxae.config import DataConfig
from jaxae.data.datasets.schema import Schema
from jaxae.errors import UserError

Table = Any  # pyarrow.Table: the package is loaded by those who read one
SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq")
# Columns that hold the class where nobody says so, in the order of preference.
LABELS = ("label", "class", "target", "is_anomaly", "anomaly", "outlier", "y")
SPLIT = "split"  # a column of this name that holds "train" and "test" says whose row it is


@dataclasses.dataclass(frozen=True)
class Roles:
    """Columns that are no features; "" = there is none."""

    label: str
    group: str
    split: str


def read(path: Path) -> Table:
    """The table in a file.

    A CSV may be separated by commas, semicolons or tabs. Its first line names the columns unless a
    number stands there: they are then called column0, column1, ...

    Raises:
      UserError: it is missing or damaged, holds no rows, or two columns of one name.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} is no table; name a file that ends in {', '.join(SUFFIXES)}")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            table = parquet.read_table(path)
        else:
            comma, named = _layout(path)
            table = csv.read_csv(
                path,
                csv.ReadOptions(autogenerate_column_names=not named),
                csv.ParseOptions(delimiter=comma, newlines_in_values=True),
                csv.ConvertOptions(strings_can_be_null=True),
            )
            if not named:
                table = table.rename_columns([f"column{i}" for i in range(table.num_columns)])
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no text in UTF-8 ({error.reason}); save it as one") from None
    except (OSError, pa.ArrowException) as error:
        problem = str(error).splitlines()[0]
        raise UserError(f"{path} is no readable table ({problem}); write it again") from None
    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise UserError(f"{path} has several columns called {', '.join(twice)}; rename them")
    if not table.num_rows:
        raise UserError(f"{path} holds no rows")
    return table


def _layout(path: Path) -> tuple[str, bool]:
    """What separates the columns of a CSV, and whether its first line names them."""
    with path.open(encoding="utf-8-sig") as file:
        first = file.readline()
    comma = max(",;\t", key=first.count)
    return comma, not any(_is_number(text) for text in first.split(comma))


def _is_number(text: str) -> bool:
    try:
        float(text.strip().strip('"'))
    except ValueError:
        return False
    return True


def roles(table: Table, cfg: DataConfig) -> Roles:
    """Which columns are no features.

    Raises:
      UserError: the configuration names a column that is not there.
    """
    names = table.column_names
    for setting, column in (("label", cfg.label), ("group", cfg.group)):
        if column not in ("", "auto", *names):
            raise unknown_column(f"data.{setting}", column, names)
    for column in cfg.ignore:
        if column not in names:
            raise unknown_column("data.ignore", column, names)
    label = cfg.label
    if label == "auto":
        found = {name.lower(): name for name in names if name not in cfg.ignore}
        label = next((found[name] for name in LABELS if name in found), "")
    split = next((name for name in names if name.lower() == SPLIT), "")
    if split and {str(value).lower() for value in table[split].to_pylist()} != {"train", "test"}:
        split = ""
    return Roles(label, cfg.group, split)


def unknown_column(setting: str, column: str, names: list[str]) -> UserError:
    """The error for a setting that names a column that is not there."""
    return UserError(f"{setting} names the column {column!r}; there are {', '.join(names)}")


def fit(table: Table, known: Roles, cfg: DataConfig, kind: str) -> Schema:
    """Which columns are features, and what those of texts may hold.

    Raises:
      UserError: no column is left, or one holds texts, dates or other things that are no numbers.
    """
    left = [
        name
        for name in table.column_names
        if name not in (known.label, known.group, known.split, *cfg.ignore)
    ]
    if not left:
        raise UserError("no column is left to learn from; name fewer in data.ignore")
    categories = []
    for name in left:
        found = column_kind(table, name)
        if found == "text" and cfg.one_hot:
            values = table[name].combine_chunks().unique().to_pylist()
            categories.append(tuple(sorted(str(value) for value in values if value is not None)))
        elif found in ("number", "empty"):
            categories.append(())
        else:
            raise UserError(_refused(table, name, found))
    return Schema(kind, columns=tuple(left), categories=tuple(categories))


def column_kind(table: Table, name: str) -> str:
    """What a column holds: "number", "text", "empty", or the name of another type."""
    import pyarrow as pa

    dtype = table.schema.field(name).type
    if pa.types.is_dictionary(dtype):
        dtype = dtype.value_type
    if pa.types.is_null(dtype):
        return "empty"
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    if any(of_type(dtype) for of_type in numbers):
        return "number"
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return "text" if any(of_type(dtype) for of_type in texts) else str(dtype)


def _refused(table: Table, name: str, kind: str) -> str:
    example = next(value for value in table[name].to_pylist() if value is not None)
    remedy = f"leave it out with --data.ignore {name}"
    if kind == "text":
        remedy += (
            ", give every value a column of its own with --data.one-hot, or say that it holds "
        )
        remedy += f"the class with --data.label {name}"
    return f"the column {name!r} holds {kind}, {str(example)[:40]!r} for one; {remedy}"


def encode(table: Table, schema: Schema) -> Float[np.ndarray, "N F"]:
    """The features of every row, texts as a column for each value that was there to be learned.

    A text that was not is none of these: all its columns are 0.

    Raises:
      UserError: a column is not there, holds something else, or misses values.
    """
    absent = [name for name in schema.columns if name not in table.column_names]
    if absent:
        raise UserError(f"the table lacks the columns {', '.join(absent)}")
    bad = missing(table, schema.columns)
    if bad:
        counts = ", ".join(f"{name} ({n} rows, first {first})" for name, (n, first) in bad.items())
        raise UserError(
            f"values are missing, NaN or infinite in the columns {counts}; fill these in, remove "
            f"the rows, or leave columns out with --data.ignore"
        )
    parts = []
    for name, known in zip(schema.columns, schema.categories, strict=True):
        kind = column_kind(table, name)
        if kind != ("text" if known else "number"):
            raise UserError(f"the column {name!r} holds {kind}, where numbers are read")
        if known:
            values = np.array(table[name].to_pylist(), dtype=object)
            parts += [values == value for value in known]
        else:
            parts.append(_numbers(table, name))
    return np.stack(parts, axis=1).astype(np.float32)


def missing(table: Table, names: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Columns with values that are missing, NaN or beyond float32: how many, and the first row."""
    found = {}
    for name in names:
        if column_kind(table, name) == "number":
            with np.errstate(over="ignore"):
                bad = ~np.isfinite(_numbers(table, name).astype(np.float32))
        else:
            bad = table[name].is_null().to_numpy(zero_copy_only=False)
        if bad.any():
            found[name] = int(bad.sum()), int(np.argmax(bad))
    return found


def _numbers(table: Table, name: str) -> Float[np.ndarray, " N"]:
    """A column of numbers, NaN where one is missing."""
    import pyarrow as pa

    return table[name].cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def values(table: Table, name: str, setting: str) -> np.ndarray:
    """A column that is no feature, whole.

    Raises:
      UserError: a value is missing.
    """
    column = table[name]
    if column.null_count:
        first = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise UserError(
            f"the column {name!r} of {setting} misses {column.null_count} values, first in row "
            f"{first}; fill them in or remove the rows"
        )
    if column_kind(table, name) == "number":
        return _numbers(table, name)
    return np.array([str(value) for value in column.to_pylist()])
