"""Tables in files: columns by name, as float64, and their roles."""

import re
import shlex
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxae.config import DataConfig
from jaxae.data.own import csv_files, labels, weka_files
from jaxae.data.own.labels import SPLIT, Roles
from jaxae.data.own.schema import Schema
from jaxae.errors import UserError

Table = Any  # pyarrow.Table: the package is imported only where one is read
_TEXT = (".csv", ".tsv", ".txt")
_PARQUET = (".parquet", ".pq")
SUFFIXES = (*_TEXT, *_PARQUET, ".arff", ".ts")
_INDEX = re.compile(r"Unnamed: ?\d+(\.\d+)*|__index_level_\d+__|level_\d+|")  # "" too
_VALID = {"val", "valid", "validation", "dev"}  # in a column of splits, beside train and test
_NAMED = 20  # the most columns that an error names
# Texts that are mostly like these, and many, are numbers that could not be read.
_LIKE_NUMBERS = (
    r"^[+-]?((\d+|\d{1,3}([,' ]\d{3})+|)(\.\d*)?|(\d+|\d{1,3}([.' ]\d{3})+),\d+)"
    r"([eE][+-]?\d+)?\s?%?$"
)
_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
_FEW = 20  # texts of a column that are categories, even if they look like numbers


def kind(path: Path) -> str:
    """The suffix of a table's file, without that of a compressed one; "" = it is no table."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in csv_files.COMPRESSED:
        suffixes = [suffix for suffix in suffixes[:-1] if suffix in _TEXT][-1:]
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else ""


def parts(folder: Path) -> list[Path]:
    """The files of a table that is stored in parts, in the order of their names."""
    found = [path for path in sorted(folder.rglob("*")) if path.is_file() and kind(path)]
    return [path for path in found if not path.name.startswith((".", "_"))]


def read(
    path: Path, header: str = "auto", schema: Schema | None = None
) -> tuple[Table, tuple[str, ...]]:
    """The table in a file, or in a folder of Parquet or CSV parts; and lines about how it was read.

    Columns without a name that count the rows, as pandas writes them, are left out; others are
    called column0, column1, ... by their position, as are all columns of a file without a header.

    Args:
      path: CSV, Parquet, ARFF or .ts.
      header: whether the first line of a CSV names the columns: yes, no or auto.
      schema: of the detector that will judge the rows.

    Raises:
      UserError: it is missing or damaged, has no rows, or two columns have the same name.
    """
    import pyarrow as pa

    files = parts(path) if path.is_dir() else [path]
    partitions = sorted(
        {p.name for f in files for p in f.parents if "=" in p.name and path in p.parents}
    )
    if not files or not all(map(kind, files)):
        raise UserError(f"{path} is not a table; name a file that ends in {', '.join(SUFFIXES)}")
    tables, notes = [], tuple[str, ...]()
    if partitions:
        notes += (f"the names of folders are not read as columns: {_listed(partitions)}",)
    for file in files:
        try:
            table, said = _read_file(file, header, schema)
            _refuse_twins(table.column_names)
            tables.append(table)
        except UserError as error:
            raise UserError(f"{file}: {error}") from None
        except (OSError, pa.ArrowException, ValueError) as error:
            problem = str(error).splitlines()[0]
            raise UserError(f"{file} is not a readable table ({problem}); write it again") from None
        notes += tuple(note for note in said if note not in notes)
        if table.column_names != tables[0].column_names:
            raise UserError(
                f"{file} has other columns than {files[0]}; keep parts of one table in a folder"
            )
    try:
        table = tables[0]
        if len(tables) > 1:
            table = pa.concat_tables(tables, promote_options="permissive")
    except pa.ArrowException as error:
        raise UserError(f"{path}: its parts differ ({str(error).splitlines()[0]})") from None
    if not table.num_rows:
        raise UserError(f"{path} holds no rows; write it again")
    _refuse_repeated(table, path)
    table, said = _without_indices(table)
    return table, notes + said


def _read_file(path: Path, header: str, schema: Schema | None) -> tuple[Table, tuple[str, ...]]:
    from pyarrow import parquet

    if kind(path) in _PARQUET:
        table = parquet.ParquetFile(path).read()
    elif kind(path) == ".arff":
        table = weka_files.read_arff(path)
    elif kind(path) == ".ts":
        table = weka_files.read_ts(path)
    else:
        known = dict(zip(schema.columns, schema.categories, strict=True)) if schema else {}
        texts = [name for name, categories in known.items() if categories]
        return csv_files.read(path, header, known, texts)
    return table.rename_columns([name.strip() for name in table.column_names]), ()


def _refuse_twins(names: list[str]) -> None:
    """Refuse two columns of one name."""
    repeated = [name for name, count in Counter(names).items() if name and count > 1]
    if repeated:
        raise UserError(f"it has several columns called {_listed(repeated)}; rename them")


def _refuse_repeated(table: Table, path: Path) -> None:
    """Refuse a header that is repeated among the rows."""
    import pyarrow as pa
    from pyarrow import compute as pc

    is_header = None
    for name, column in _columns(table).items():
        value: str | float = name
        if column.type != pa.string():
            try:
                value = float(name)
            except ValueError:
                return
        is_same = pc.equal(column, value)
        is_header = is_same if is_header is None else pc.and_(is_header, is_same)
    row = pc.index(is_header, True).as_py()
    if row >= 0:
        raise UserError(f"{path}: row {row} repeats the names of the columns; remove it")


def _without_indices(table: Table) -> tuple[Table, tuple[str, ...]]:
    """The table without nameless columns that count the rows; other nameless ones get names."""
    names, kept, notes, is_first = [], [], [], True
    called = table.column_names
    for i, (name, column) in enumerate(zip(called, table.columns, strict=True)):
        is_first = is_first and _INDEX.fullmatch(name) is not None
        if _INDEX.fullmatch(name) and table.num_columns > 1:
            stored = name.startswith("__index")
            if (stored or is_first) and _is_index(column):
                which = f"the index column {name!r}" if name else "the first column, an index,"
                notes.append(f"{which} is left out")
                continue
            if not name:
                notes.append(f"a column without a name is called column{i}")
        names.append(name or f"column{i}")
        kept.append(column)
    import pyarrow as pa

    return (pa.table(kept, names=names) if notes else table), tuple(notes)


def _is_index(column: Any) -> bool:
    """Whether whole numbers are all different."""
    import pyarrow as pa
    from pyarrow import compute as pc

    is_whole = pa.types.is_integer(column.type) and not column.null_count
    return is_whole and pc.count_distinct(column).as_py() == len(column)


def roles(table: Table, cfg: DataConfig) -> Roles:
    """Which columns are not features.

    Raises:
      UserError: the configuration names a column that does not exist, or it is open which column
        is the label.
    """
    columns = _columns(table)
    label = "" if cfg.label in ("auto", labels.NONE) else cfg.label
    ignored = [("data.ignore", column) for column in cfg.ignore]
    for setting, column in (("data.label", label), ("data.group", cfg.group), *ignored):
        if column and column not in columns:
            raise UserError(f"{setting} names the column {column!r}; there are {_listed(columns)}")
    split = next((name for name in columns if name.lower() == SPLIT), "")
    parts = {str(v).lower() for v in columns[split].unique().to_pylist()} if split else set()
    if parts - _VALID != {"train", "test"}:
        split = ""
    label, notes = labels.choose(columns, cfg, cfg.group, split)
    if split and parts & _VALID:
        notes.append(f"the rows of {', '.join(sorted(parts & _VALID))} join the training rows")
    not_features = {label, cfg.group, split, *cfg.ignore}
    empty = [n for n, c in columns.items() if c.null_count == len(c) and n not in not_features]
    left_out, names = list(empty), [n for n in columns if n not in not_features and n not in empty]
    if empty:
        notes.append(f"empty columns are left out: {_listed(empty)}")
    if label:
        notes.insert(0, f"the label is the column {label!r}")
        repeats, said = labels.repeated(columns, label, names)
        left_out += repeats
        if repeats:
            notes.append(f"left out because they repeat the label: {_listed(repeats)}")
        notes += said
    return Roles(label, cfg.group, split, tuple(left_out), tuple(notes))


def _columns(table: Table) -> dict[str, Any]:
    """The columns by name; looking one up in the table takes time in proportion to its width."""
    return dict(zip(table.column_names, table.columns, strict=True))


def _listed(names: Iterable[str]) -> str:
    """Names as they can be pasted, and the number of those that are not listed."""
    quoted = [shlex.quote(name) for name in names]
    more = f" and {len(quoted) - _NAMED} more" if len(quoted) > _NAMED else ""
    return ", ".join(quoted[:_NAMED]) + more


def fit(table: Table, not_features: Roles, cfg: DataConfig, kind: str) -> Schema:
    """Which columns are features, and the categories of those that contain text.

    Raises:
      UserError: no column is left, or one contains neither numbers nor, with one_hot, text.
    """
    left_out = {not_features.label, not_features.group, not_features.split}
    left_out |= {*not_features.left_out, *cfg.ignore}
    columns = {name: c for name, c in _columns(table).items() if name not in left_out}
    if not columns and not_features.left_out:
        raise UserError(
            f"no column is left to learn from: {_listed(not_features.left_out)} are empty, count "
            "the rows or repeat the label; add columns that do not"
        )
    if not columns:
        raise UserError("no column is left to learn from; name fewer in data.ignore")
    categories = []
    for name, column in columns.items():
        holds = _holds(column)
        if holds == "text" and cfg.one_hot:
            _refuse_unlike_categories(name, column)
            values = column.unique().to_pylist()
            categories.append(tuple(sorted(str(value) for value in values if value is not None)))
        elif holds in ("number", "empty"):
            categories.append(())
        else:
            is_series = kind == "series" and not cfg.group
            raise _unusable(name, column, holds, is_series and _may_group(column))
    return Schema(kind, columns=tuple(columns), categories=tuple(categories))


def _of_numbers(table: Table) -> Schema:
    """All columns as numbers, for detectors of arrays."""
    return Schema(columns=tuple(table.column_names), categories=((),) * table.num_columns)


def column_kind(table: Table, name: str) -> str:
    """What a column holds: see `kinds`."""
    return _holds(table[name])


def kinds(table: Table) -> dict[str, str]:
    """What each column holds: "number", "text", "empty", or the name of another type."""
    return {name: _holds(column) for name, column in _columns(table).items()}


def _holds(column: Any) -> str:
    import pyarrow as pa

    dtype = column.type
    if pa.types.is_dictionary(dtype):
        dtype = dtype.value_type
    if pa.types.is_null(dtype):
        return "empty"
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean, pa.types.is_decimal)
    if any(is_type(dtype) for is_type in numbers):
        return "number"
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return "text" if any(is_type(dtype) for is_type in texts) else str(dtype)


def _mixed(column: Any) -> tuple[int, str]:
    """The first row that holds no number in a column of mostly numbers, and its text; -1: none."""
    import pyarrow as pa
    from pyarrow import compute as pc

    texts = column.cast(pa.string()).drop_null()
    is_like = pc.match_substring_regex(texts, _LIKE_NUMBERS)
    share = pc.mean(is_like).as_py() or 0.0
    if share < 0.5 or pc.count_distinct(texts.filter(is_like)).as_py() <= _FEW:
        return -1, ""
    every = column.cast(pa.string())
    is_number = pc.match_substring_regex(every, _NUMBER)
    row = pc.index(is_number, False).as_py()
    return row, every[row].as_py()


def _are_numbers(column: Any) -> bool:
    """Whether all texts are numbers, and too many for categories."""
    from pyarrow import compute as pc

    texts = pc.unique(column).drop_null()
    is_number = pc.match_substring_regex(pc.utf8_trim_whitespace(texts), _NUMBER)
    return len(texts) > _FEW and pc.all(is_number).as_py()


def _refuse_unlike_categories(name: str, column: Any) -> None:
    """Refuse texts that are no categories: numbers that could not be read, and identifiers."""
    row, text = _mixed(column)
    if row >= 0:
        raise UserError(_about_mixed(name, row, text))
    count = len(column.unique())
    if count > max(_FEW, len(column) // 2):
        raise UserError(
            f"the column {name!r} holds {count} different texts in {len(column)} rows, which are "
            f"no categories; leave it out with --data.ignore {shlex.quote(name)}"
        )


def _about_mixed(name: str, row: int, text: str) -> str:
    where = f"the column {name!r} holds numbers, but {text[:40]!r} in row {row}"
    if text == name:
        return f"{where}, which repeats the names of the columns; remove that row"
    if re.fullmatch(_LIKE_NUMBERS, text):
        return (
            f"{where}; write all numbers with a decimal point, without percent signs and without "
            "separators of thousands"
        )
    if row == 0:
        return f"{where}; if that row holds units, remove it, else correct the value"
    return f"{where}; correct the value, or leave it empty if it is missing"


def _may_group(column: Any) -> bool:
    """Whether few texts each stand in many lines, as the names of machines do."""
    return 1 < len(column.unique()) <= len(column) // 10


def _unusable(name: str, column: Any, kind: str, may_group: bool) -> UserError:
    quoted = shlex.quote(name)
    if kind == "text":
        row, text = _mixed(column)
        if row >= 0:
            ignore = f"or leave the column out with --data.ignore {quoted}"
            return UserError(f"{_about_mixed(name, row, text)}, {ignore}")
    example = next(value for value in column.to_pylist() if value is not None)
    if kind == "text" and _are_numbers(column):
        kind = "numbers as texts"
    remedies = [f"leave it out with --data.ignore {quoted}"]
    if kind == "numbers as texts":
        remedies = [f"store it as numbers, or {remedies[0]}"]
    if kind == "text":
        remedies += [
            "give every value its own column with --data.one-hot",
            *[f"cut a series for each of its values with --data.group {quoted}"] * may_group,
            f"or make it the class with --data.label {quoted}",
        ]
    start = f"the column {name!r} holds {kind}, for example {str(example)[:40]!r}"
    return UserError(f"{start}; {', '.join(remedies)}")


def encode(table: Table, schema: Schema, *, is_trained: bool = False) -> Float[np.ndarray, "N F"]:
    """The features of every row; a text column becomes one column for each known category.

    For any other text, all of these are 0. Missing values are NaN if the schema fills them.
    `is_trained` rows are those to judge, for which it is too late to choose what fills them.

    Raises:
      UserError: a column is missing, has another type, or lacks values.
    """
    columns = _columns(table)
    absent = [name for name in schema.columns if name not in columns]
    if absent:
        raise UserError(f"the table lacks the columns {_listed(absent)}; add them")
    x = np.empty((table.num_rows, len(schema.features)))
    gaps, first = [], 0
    for name, categories in zip(schema.columns, schema.categories, strict=True):
        column, holds = columns[name], _holds(columns[name])
        if categories:
            values = _one_hot(column, categories)
        elif holds in ("number", "empty"):
            values = _numbers(column)[:, None]
        else:
            raise UserError(f"the column {name!r} {_unlike(column, holds)}")
        count = max(1, len(categories))
        x[:, first : first + count] = values
        first += count
        gaps += _gaps(name, column, values[:, 0])
    if gaps and schema.missing != "median":
        raise _lacking(gaps, "trained" if is_trained else schema.missing)
    return x


def _unlike(column: Any, holds: str) -> str:
    """What a column holds in place of numbers: the first text that is none, and its row."""
    from pyarrow import compute as pc

    if holds == "text":
        is_number = pc.match_substring_regex(pc.utf8_trim_whitespace(column), _NUMBER)
        row = pc.index(is_number, False).as_py()
        if row >= 0:
            example = column[row].as_py()
            return f"holds {example[:40]!r} in row {row}, not a number as in training; correct it"
        return "holds numbers as texts; store them as numbers, as in training"
    return f"holds {holds}, not numbers as in training"


def _one_hot(column: Any, categories: tuple[str, ...]) -> np.ndarray:
    """Whether each value is each of the categories [N, C]; numbers are compared as texts."""
    import pyarrow as pa
    from pyarrow import compute as pc

    texts = pc.utf8_trim_whitespace(column.cast(pa.string()))
    index = pc.index_in(texts, pa.array(categories)).fill_null(-1).to_numpy()
    return index[:, None] == np.arange(len(categories))


def _gaps(name: str, column: Any, values: np.ndarray) -> list[tuple[str, int, int]]:
    """A column with missing, NaN or infinite values: its name, their number, the first row."""
    is_missing = ~np.isfinite(values)
    if column.null_count:
        is_missing |= column.is_null().to_numpy()
    return [(name, int(is_missing.sum()), int(is_missing.argmax()))] if is_missing.any() else []


def _lacking(gaps: list[tuple[str, int, int]], policy: str) -> UserError:
    columns = ", ".join(f"{name} ({n} rows, first {first})" for name, n, first in gaps[:_NAMED])
    more = f" and {len(gaps) - _NAMED} more" if len(gaps) > _NAMED else ""
    remedy = "fill them in, remove the rows, or leave columns out with --data.ignore"
    if policy == "trained":
        remedy = "fill them in or remove the rows; training with --data.missing median fills them"
    if policy == "refuse":
        remedy = (
            "fill them in, choose --data.missing median or drop, or leave columns out with "
            "--data.ignore"
        )
    return UserError(
        f"values are missing, NaN or infinite in the columns {columns}{more}; {remedy}"
    )


def without_gaps(table: Table, schema: Schema) -> tuple[Table, int]:
    """The rows without a missing value in a feature, and the number of the others."""
    columns = _columns(table)
    is_whole = np.ones(table.num_rows, bool)
    for name in schema.columns:
        column = columns[name]
        if _holds(column) == "number":
            is_whole &= np.isfinite(_numbers(column))
        elif column.null_count:
            is_whole &= column.is_valid().to_numpy()
    return table.filter(is_whole), int(np.sum(~is_whole))


def filled(x: np.ndarray, median: np.ndarray) -> tuple[Float[np.ndarray, "N F"], tuple[str, ...]]:
    """Rows with these medians [F] in place of missing, NaN or infinite values, and their number."""
    is_missing = ~np.isfinite(x)
    if not is_missing.any():
        return x, ()
    note = f"{is_missing.sum()} missing values are filled with medians of the training rows"
    return np.where(is_missing, median, x), (note,)


def to_judge(table: Table, schema: Schema) -> tuple[Float[np.ndarray, "N F"], tuple[str, ...]]:
    """The features of every row, filled as in training, and a line about the values filled."""
    schema = schema if schema.columns else _of_numbers(table)
    x, notes = filled(encode(table, schema, is_trained=True), np.array(schema.fill))
    return x, notes + _unknown(table, schema)


def _unknown(table: Table, schema: Schema) -> tuple[str, ...]:
    """A line for each column with texts that no training row had."""
    from pyarrow import compute as pc

    notes, columns = [], _columns(table)
    for name, categories in zip(schema.columns, schema.categories, strict=True):
        if categories:
            is_new = ~_one_hot(columns[name], categories).any(axis=1)
            is_new &= columns[name].is_valid().to_numpy()
            if is_new.any():
                example = pc.filter(columns[name], is_new)[0].as_py()
                notes.append(
                    f"the column {name!r} has values in {is_new.sum()} rows that no training row "
                    f"had, first {str(example)[:40]!r}"
                )
    return tuple(notes)


def missing(table: Table, names: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Columns with values that are missing, NaN or infinite: their number and first row."""
    columns, gaps = _columns(table), []
    for name in names:
        is_number = _holds(columns[name]) == "number"
        values = _numbers(columns[name]) if is_number else np.zeros(table.num_rows)
        gaps += _gaps(name, columns[name], values)
    return {name: (count, first) for name, count, first in gaps}


def _numbers(column: Any) -> Float[np.ndarray, " N"]:
    """A column of numbers, with NaN for missing values."""
    import pyarrow as pa

    return column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)


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
    if _holds(table[name]) == "number":
        return _numbers(table[name])
    return np.array([str(value) for value in table[name].to_pylist()])
