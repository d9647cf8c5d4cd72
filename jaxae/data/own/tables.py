"""CSV and Parquet tables: columns by name, as float64; only this module imports Arrow."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxae.config import DataConfig
from jaxae.data.arrayfiles import is_number
from jaxae.data.own.schema import Schema
from jaxae.errors import UserError

Table = Any  # pyarrow.Table: the package is imported only where one is read
SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq")
# Where data.label is auto, the first of these columns that exists is the label.
LABELS = ("label", "class", "target", "is_anomaly", "anomaly", "outlier", "y")
SPLIT = "split"  # a column of this name that holds "train" and "test" splits the rows


class Roles(NamedTuple):
    """The columns that are not features; "" = none."""

    label: str
    group: str
    split: str


def read(path: Path) -> Table:
    """The table in a file.

    A CSV may be separated by commas, semicolons or tabs. Its first line names the columns, unless
    it contains a number: then columns are named column0, column1, ...

    Raises:
      UserError: it is missing or damaged, has no rows, or two columns have the same name.
    """
    import pyarrow as pa
    from pyarrow import csv, parquet

    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path} is not a table; name a file that ends in {', '.join(SUFFIXES)}")
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            table = parquet.read_table(path)
        else:
            separator, has_names = _layout(path)
            table = csv.read_csv(
                path,
                csv.ReadOptions(autogenerate_column_names=not has_names),
                csv.ParseOptions(delimiter=separator, newlines_in_values=True),
                csv.ConvertOptions(strings_can_be_null=True),
            )
            if not has_names:
                table = table.rename_columns([f"column{i}" for i in range(table.num_columns)])
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not text in UTF-8 ({error.reason}); save it in UTF-8") from None
    except (OSError, pa.ArrowException) as error:
        problem = str(error).splitlines()[0]
        raise UserError(f"{path} is not a readable table ({problem}); write it again") from None
    names = table.column_names
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UserError(f"{path} has several columns called {', '.join(repeated)}; rename them")
    if not table.num_rows:
        raise UserError(f"{path} holds no rows; write it again")
    return table


def _layout(path: Path) -> tuple[str, bool]:
    """The separator of a CSV, and whether its first line names the columns."""
    with path.open(encoding="utf-8-sig") as file:
        first = file.readline()
    separator = max(",;\t", key=first.count)
    fields = first.split(separator)
    return separator, not any(is_number(field.strip().strip('"')) for field in fields)


def roles(table: Table, cfg: DataConfig) -> Roles:
    """Which columns are not features.

    Raises:
      UserError: the configuration names a column that does not exist.
    """
    names = table.column_names
    label = "" if cfg.label == "auto" else cfg.label
    ignored = [("data.ignore", column) for column in cfg.ignore]
    for setting, column in (("data.label", label), ("data.group", cfg.group), *ignored):
        if column and column not in names:
            raise UserError(f"{setting} names the column {column!r}; there are {', '.join(names)}")
    if cfg.label == "auto":
        by_lower = {name.lower(): name for name in names if name not in cfg.ignore}
        label = next((by_lower[name] for name in LABELS if name in by_lower), "")
    split = next((name for name in names if name.lower() == SPLIT), "")
    if split and {str(value).lower() for value in table[split].to_pylist()} != {"train", "test"}:
        split = ""
    return Roles(label, cfg.group, split)


def fit(table: Table, not_features: Roles, cfg: DataConfig, kind: str) -> Schema:
    """Which columns are features, and the categories of those that contain text.

    Raises:
      UserError: no column is left, or one contains neither numbers nor, with one_hot, text.
    """
    left_out = {*not_features, *cfg.ignore}
    features = [name for name in table.column_names if name not in left_out]
    if not features:
        raise UserError("no column is left to learn from; name fewer in data.ignore")
    categories = []
    for name in features:
        holds = column_kind(table, name)
        if holds == "text" and cfg.one_hot:
            values = table[name].combine_chunks().unique().to_pylist()
            categories.append(tuple(sorted(str(value) for value in values if value is not None)))
        elif holds in ("number", "empty"):
            categories.append(())
        else:
            raise _unusable(table, name, holds)
    return Schema(kind, columns=tuple(features), categories=tuple(categories))


def column_kind(table: Table, name: str) -> str:
    """What a column holds: "number", "text", "empty", or the name of another type."""
    import pyarrow as pa

    dtype = table.schema.field(name).type
    if pa.types.is_dictionary(dtype):
        dtype = dtype.value_type
    if pa.types.is_null(dtype):
        return "empty"
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    if any(is_type(dtype) for is_type in numbers):
        return "number"
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return "text" if any(is_type(dtype) for is_type in texts) else str(dtype)


def _unusable(table: Table, name: str, kind: str) -> UserError:
    example = next(value for value in table[name].to_pylist() if value is not None)
    remedies = [f"leave it out with --data.ignore {name}"]
    if kind == "text":
        remedies += [
            "give every value its own column with --data.one-hot",
            f"or make it the class with --data.label {name}",
        ]
    start = f"the column {name!r} holds {kind}, for example {str(example)[:40]!r}"
    return UserError(f"{start}; {', '.join(remedies)}")


def encode(table: Table, schema: Schema) -> Float[np.ndarray, "N F"]:
    """The features of every row; a text column becomes one column for each known category.

    For any other text, all of these are 0.

    Raises:
      UserError: a column is missing, has another type, or lacks values.
    """
    absent = [name for name in schema.columns if name not in table.column_names]
    if absent:
        raise UserError(f"the table lacks the columns {', '.join(absent)}; add them")
    counts = missing(table, schema.columns).items()
    if counts:
        columns = ", ".join(f"{name} ({n} rows, first {first})" for name, (n, first) in counts)
        raise UserError(
            f"values are missing, NaN or infinite in the columns {columns}; fill them in, remove "
            "the rows, or leave columns out with --data.ignore"
        )
    parts = []
    for name, categories in zip(schema.columns, schema.categories, strict=True):
        holds, expected = column_kind(table, name), "text" if categories else "number"
        if holds != expected:
            raise UserError(f"the column {name!r} holds {holds}, not {expected}s as in training")
        if categories:
            texts = np.array(table[name].to_pylist(), dtype=object)
            parts += [texts == category for category in categories]
        else:
            parts.append(_numbers(table, name))
    return np.stack(parts, axis=1).astype(np.float64, copy=False)


def missing(table: Table, names: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Columns with values that are missing, NaN or infinite: their number and first row."""
    counts = {}
    for name in names:
        if column_kind(table, name) == "number":
            is_missing = ~np.isfinite(_numbers(table, name))
        else:
            is_missing = table[name].is_null().to_numpy(zero_copy_only=False)
        if is_missing.any():
            counts[name] = int(is_missing.sum()), int(np.argmax(is_missing))
    return counts


def _numbers(table: Table, name: str) -> Float[np.ndarray, " N"]:
    """A column of numbers, with NaN for missing values."""
    import pyarrow as pa

    return table[name].cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


def values(table: Table, name: str, setting: str) -> np.ndarray:
    """All values of a column that is not a feature.

    Raises:
      UserError: a value is missing.
    """
    for count, first in missing(table, (name,)).values():
        raise UserError(
            f"the column {name!r} of {setting} lacks {count} values, first in row {first}; fill "
            "them in or remove the rows"
        )
    if column_kind(table, name) == "number":
        return _numbers(table, name)
    return np.array([str(value) for value in table[name].to_pylist()])
