"""CSV files as people write them: encoding, separator, decimal mark and header are found."""

import csv
import io
import itertools
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxae.errors import UserError

Table = Any  # pyarrow.Table
COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")
# Texts that stand for a missing value: in every column, and beside numbers only.
_MISSING = ("?", "NAN", "Nan", "Null", "na", "N.A.", "n.a.", "<NA>", "NaT")
_MISSING_NUMBER = {"", "-", "--", "---", ".", "*", "none", "missing", "unknown", "undefined", "nil"}
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")  # or a decimal comma before three digits
_SEPARATORS = "\t;|,"  # of those that fit, the first is taken
_LABELS = {"label", "labels", "class", "target", "is_anomaly", "split"}  # no values of a row
_HEAD = 1 << 20  # bytes that are looked at
_BLOCK = 1 << 12  # bytes of a block for each column: small blocks of wide tables are read slowly
_LOOKED_AT = 200  # rows that are looked at
_PYARROW_MISSING = (
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN"),
    *("N/A", "NA", "NULL", "NaN", "n/a", "nan", "null"),
)


class Layout(NamedTuple):
    """How a file is laid out, and where its rows begin."""

    separator: str
    decimal: str
    names: list[str]
    start: int  # of the first row, in bytes
    blanks: bool = False  # runs of blanks separate the values
    notes: tuple[str, ...] = ()


def read(
    path: Path, header: str = "auto", names: Iterable[str] = (), texts: Iterable[str] = ()
) -> tuple[Table, tuple[str, ...]]:
    """A table of texts and numbers, and a line for each guess that a user should know.

    The values may be separated by tabs, semicolons, pipes, commas or runs of blanks, with decimal
    points or commas, in UTF-8, UTF-16 or Windows-1252; the file may be compressed, and may begin
    with comments (#) or a line `sep=;`.

    Args:
      path: the file.
      header: whether the first line names the columns: yes, no, or auto, which compares it with the
        rows below.
      names: columns that are needed; a first line that has them all names the columns.
      texts: columns that hold texts even if all of them are numbers.

    Raises:
      UserError: the file cannot be read, or it is open whether its first line is a row.
    """
    import pyarrow as pa
    from pyarrow import csv as arrow

    data, notes = _decoded(path)
    layout = _layout(data, header, frozenset(names))
    rest = memoryview(data)[layout.start :]
    if layout.blanks:
        rest = memoryview(
            re.sub(rb"[ \t]+", b"\t", re.sub(rb"(?m)^[ \t]+|[ \t]+(?=\r?$)", b"", rest))
        )
    if len(layout.names) == 1:
        rest = memoryview(bytes(rest).rstrip(b"\r\n"))
    else:
        rest, blank = _without_blank_end(rest, layout.separator)
        notes += (f"{blank} lines without any value at the end are left out",) * (blank > 0)
    if not bytes(rest[:_HEAD]).strip(b"\r\n\t ,;|"):
        raise UserError("it holds no rows; write it again")
    table = arrow.read_csv(
        pa.BufferReader(pa.py_buffer(rest)),
        arrow.ReadOptions(
            column_names=_unique(layout.names),
            block_size=max(_HEAD, _BLOCK * len(layout.names)),
        ),
        arrow.ParseOptions(
            delimiter=layout.separator,
            newlines_in_values=b'"' in data,
            ignore_empty_lines=len(layout.names) > 1,
        ),
        arrow.ConvertOptions(
            strings_can_be_null=True,
            null_values=[*_PYARROW_MISSING, *_MISSING],
            decimal_point=layout.decimal,
            column_types=dict.fromkeys(texts, pa.string()),
        ),
    )
    return _tidied(table, layout, {*texts}), notes + layout.notes


def _decoded(path: Path) -> tuple[bytes, tuple[str, ...]]:
    """The content of a file in UTF-8."""
    import pyarrow as pa

    with pa.input_stream(str(path)) as stream:
        data = stream.read()
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return data.decode("utf-16").encode(), ()
        except UnicodeDecodeError:
            raise UserError("it is damaged UTF-16 text; save it in UTF-8") from None
    data = data.removeprefix(b"\xef\xbb\xbf")
    if b"\0" in data:
        raise UserError("it contains NUL bytes, which no text does; save it in UTF-8")
    if data.isascii():
        return data, ()
    try:
        data.decode()
        return data, ()
    except UnicodeDecodeError:
        pass
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"line {line} is text in neither UTF-8 nor Windows-1252; save it in UTF-8"
        ) from None
    return text.encode(), ("the file is not in UTF-8; it is read as Windows-1252 (Latin-1)",)


def _layout(data: bytes, header: str, needed: frozenset[str]) -> Layout:
    """How the file is laid out, by its first rows."""
    start, given, comment, is_after_blank = _preamble(data)
    head = _head(data[start : start + 64 * _HEAD])
    separator, blanks = (given, False) if given else _separator(head)
    records = _records(head, separator, blanks)
    if not records:
        raise UserError("it is empty; write it again")
    first, rows = [field.strip() for field in records[0]], records[1:]
    if comment and needed <= {*comment.split(separator)} and _is_data(first):
        named = [name.strip() for name in comment.lstrip("# ").split(separator)]
        if len(named) == len(first) > 1:
            return Layout("\t" if blanks else separator, _decimal(records), named, start, blanks)
    decimal = _decimal(records[1:] or records)
    if needed and needed <= {*first}:
        header = "yes"
    as_points = [[_pointed(field, decimal) for field in row] for row in (first, *rows)]
    has_names = header == "yes"
    if header == "auto":
        try:
            has_names = _is_header(as_points[0], as_points[1:])
        except UserError:
            if not needed or not all(re.fullmatch(r"column\d+", name) for name in needed):
                raise  # the training file had a header
    notes = tuple[str, ...]()
    if decimal == ",":
        notes += ("numbers are read with a decimal comma",)
    if has_names and _lacks_one(first, rows):
        first = [*first, ""] if not any(row[-1].strip() for row in rows) else ["", *first]
        notes += ("the first line has one name fewer than the rows have values",)
    _check_width(first, rows if has_names else records, has_names)
    if not has_names and is_after_blank and len(first) == 1:
        raise UserError("it begins with an empty line; remove it, or name the column above it")
    begin = (
        start
        + _end_of_lines(memoryview(data)[start:], _lines_of_first(head, separator)) * has_names
    )
    names = first if has_names else [f"column{i}" for i in range(len(first))]
    return Layout("\t" if blanks else separator, decimal, names, begin, blanks, notes)


def _preamble(data: bytes) -> tuple[int, str, str, bool]:
    """Where the table begins; the separator that it names, if any; and the last comment above."""
    position, separator, comment, is_after_blank = 0, "", "", False
    for match in re.finditer(rb"([^\r\n]*)(\r\n|\n|\r|$)", data):
        line = match[1].strip()
        named = re.fullmatch(rb'"?sep=(.)"?', match[1], re.IGNORECASE)
        if named:
            separator = named[1].decode()
        elif line.startswith(b"#"):
            comment = line.decode()
        elif line or match.end() == len(data):
            break
        is_after_blank = not line
        position = match.end()
    return position, separator, comment, is_after_blank


def _head(data: bytes) -> str:
    """The first whole lines."""
    size = _HEAD
    while size < len(data) and len(re.findall(rb"\r\n|\n|\r", data[:size])) < 5:
        size *= 4
    if size < len(data):
        ends = [data.rfind(end, 0, size) for end in (b"\n", b"\r")]
        data = data[: max(ends) + 1 or len(data)]
    return data.decode(errors="replace")


def _records(head: str, separator: str, blanks: bool) -> list[list[str]]:
    """The first rows as texts."""
    if blanks:
        return [line.split() for line in itertools.islice(head.splitlines(), _LOOKED_AT) if line]
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=separator)
    try:
        return [row for row in itertools.islice(reader, _LOOKED_AT) if row]
    except csv.Error:  # such as a field of more than 128 kB
        return [line.split(separator) for line in head.splitlines()[:_LOOKED_AT] if line]


def _separator(head: str) -> tuple[str, bool]:
    """The separator, and whether values are separated by runs of blanks instead."""
    best, found = 0.0, ","
    for separator in _SEPARATORS:
        widths = [len(row) for row in _records(head, separator, blanks=False)]
        width = max(sorted({*widths}), key=widths.count, default=1)
        fit = widths.count(width) / max(1, len(widths)) + (widths[:1] == [width])
        if width > 1 and fit > best + 0.2:  # the first of those that fit about as well
            best, found = fit, separator
    if best < 1:  # none fits the first line
        is_bare = '"' not in head
        rows = _records(head, " ", blanks=is_bare)
        lengths = {len(row) for row in rows[1:]} or {len(row) for row in rows}
        fits = (
            len(lengths) == 1 and {len(row) + one for row in rows[:1] for one in (0, 1)} & lengths
        )
        if fits and lengths != {1} and all(map(_has_number, rows[1:])):
            return " ", is_bare
    return found, False


def _has_number(row: list[str]) -> bool:
    return any(_is_number(field.replace(",", ".")) for field in row)


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def _is_missing(text: str) -> bool:
    return text.lower() in _MISSING_NUMBER or text in (*_MISSING, *_PYARROW_MISSING)


def _is_data(fields: list[str]) -> bool:
    return any(map(_is_number, fields)) and all(_is_number(f) or _is_missing(f) for f in fields)


def _pointed(field: str, decimal: str) -> str:
    field = field.strip()
    if decimal == "," and _DECIMAL_COMMA.fullmatch(field):
        return field.replace(",", ".")
    return field


def _decimal(records: list[list[str]]) -> str:
    """The decimal mark of numbers: a comma if some have one, none has a point, and it is certain.

    "1,234" may be 1.234 or 1234: it says nothing.
    """
    fields = [field.strip() for row in records for field in row]
    commas = [field for field in fields if _DECIMAL_COMMA.fullmatch(field)]
    has_points = any(_is_number(field) and "." in field for field in fields)
    return "," if not has_points and not all(map(_THOUSANDS.fullmatch, commas)) else "."


def _check_width(first: list[str], rows: list[list[str]], has_names: bool) -> None:
    """Refuse a first line that is no header of the rows below: a title, or one name too few."""
    widths = [len(row) for row in rows[:_LOOKED_AT]]
    if not has_names or not widths:
        return
    usual = max({*widths}, key=widths.count)
    filled = [field for field in first if field]
    if (len(first) != usual and widths.count(usual) > len(widths) / 2) or (
        len(filled) == 1 < len(first) - 1
    ):
        raise UserError(
            f"its first line ({' '.join(filled)[:40]!r}) names {len(filled)} columns, but the rows "
            f"below have {usual} values; the first line must name every column: remove titles "
            "above it, add names that lack"
        )


def _lacks_one(first: list[str], rows: list[list[str]]) -> bool:
    """Whether rows end with a separator, or begin with their names or numbers, as R writes them."""
    if len(first) < 2 or {len(row) for row in rows} != {len(first) + 1}:
        return False
    begin = [row[0].strip() for row in rows]
    counts = all(map(_is_whole, begin)) and bool((np.diff(np.array(begin, float)) == 1).all())
    are_names = len({*begin}) == len(begin) and not any(map(_is_number, begin))
    return counts or are_names or not any(row[-1].strip() for row in rows)


def _is_header(first: list[str], rows: list[list[str]]) -> bool:
    """Whether the first line names the columns, by comparing it with the rows below.

    Raises:
      UserError: it is open.
    """
    numeric = [i for i, field in enumerate(first) if _is_number(field)]
    if not numeric:
        return not all(map(_is_missing, first)) or not rows
    if not rows or any(field.lower() in _LABELS for field in first):
        return any(field.lower() in _LABELS for field in first)
    if first in rows or len({*first}) < len(first) - first.count(""):
        return False
    columns = [[row[i] for row in rows if i < len(row)] for i in range(len(first))]
    texts = [i for i, f in enumerate(first) if not _is_number(f) and not _is_missing(f)]
    over_numbers = [i for i in texts if all(_is_number(v) or _is_missing(v) for v in columns[i])]
    if len(over_numbers) > len(numeric):
        return True
    if not over_numbers and any(first[i] in columns[i] for i in texts):
        return False
    kind = _numbers_are_names(
        [first[i] for i in numeric], [columns[i] for i in numeric], rows, numeric
    )
    is_new = any(_is_new(first[i], columns[i]) for i in texts)
    if kind == "rows" and (over_numbers or is_new):
        kind = "open"
    if kind == "open":
        raise UserError(
            f"it is open whether its first line ({', '.join(first)[:60]}) names the columns or is "
            "a row; add either --data.header yes or --data.header no, or write names with letters "
            "above the rows"
        )
    return kind == "names"


def _is_new(text: str, column: list[str]) -> bool:
    """Whether a text is unlike those below it: they are few, or hold digits as it does not."""
    has_digits = [any(map(str.isdigit, value)) for value in (text, *column)]
    return len({*column}) < len(column) / 2 or (not has_digits[0] and all(has_digits[1:]))


def _numbers_are_names(
    first: list[str], columns: list[list[str]], rows: list[list[str]], positions: list[int]
) -> str:
    """Whether the numbers of the first line are "names", or "rows" of data, or it is "open"."""
    names = np.array(first, float)
    steps, count = np.diff(names), len(names)
    is_even = count > 1 and np.allclose(steps, steps[0]) and steps[0] != 0
    is_monotone = count > 1 and bool((steps > 0).all() or (steps < 0).all())
    are_whole = all(map(_is_whole, first))
    counts_up = are_whole and is_even and steps[0] == 1 and names[0] in (0, 1)
    alike = _alike(rows, positions, steps) if is_monotone else 0.0
    if alike > max(0.1, 4 / math.factorial(count)):  # as are more rows than by chance
        return "open" if counts_up and count > 2 else "rows"
    fractional = sum(not any(map(_is_whole, column)) for column in columns) / count
    if are_whole and fractional >= 0.5:
        if count == 1:
            return "open" if names[0] == 0 else "rows"
        return "names" if is_even else "open"
    if counts_up and (count > 3 or names[0] == 0):
        return "names" if count > 3 else "open"
    if is_monotone and count >= 8:
        return "names"
    outside = [_is_outside(name, column) for name, column in zip(names, columns, strict=True)]
    if is_monotone and count >= 3 and np.mean(outside) > 0.8:
        return "names" if is_even or count >= 5 else "open"
    return "open" if is_monotone and count >= 5 else "rows"


def _is_whole(text: str) -> bool:
    return text.lstrip("+-").isdigit()


def _alike(rows: list[list[str]], positions: list[int], steps: np.ndarray) -> float:
    """The share of rows that rise or fall as the first line does, evenly if it does."""
    is_even, found = len(steps) > 1 and np.allclose(steps, steps[0]), []
    for row in rows:
        values = [row[i] for i in positions if i < len(row)]
        if len(values) == len(positions) and all(map(_is_number, values)):
            own = np.diff(np.array(values, float))
            is_like = (own * steps > 0).all()
            found.append(bool(is_like and (not is_even or np.allclose(own, own[0], atol=0))))
    return float(np.mean(found)) if found else 0.0


def _is_outside(name: float, column: list[str]) -> bool:
    values = [float(v) for v in column if _is_number(v)]
    return not values or not min(values) <= name <= max(values)


def _lines_of_first(head: str, separator: str) -> int:
    """The number of lines that the first record takes: names may contain line breaks."""
    reader = csv.reader(io.StringIO(head, newline=""), delimiter=separator)
    try:
        next(reader)
    except (csv.Error, StopIteration):
        return 1
    return reader.line_num


def _without_blank_end(data: memoryview, separator: str) -> tuple[memoryview, int]:
    """Without lines of separators alone at the end, as spreadsheets write them; their number."""
    end = bytes(data[-_HEAD:])
    kept = len(end.rstrip(separator.encode() + b'" \t\r\n'))
    kept += _end_of_lines(memoryview(end)[kept:], 1)  # of the last line with values
    blank = [line for line in end[kept:].splitlines() if line.strip()]
    return (data[: len(data) - len(end) + kept], len(blank)) if blank else (data, 0)


def _end_of_lines(data: memoryview, count: int) -> int:
    """Where the first `count` lines end."""
    ends = (match.end() for match in re.finditer(rb"\r\n|\n|\r", data))
    return next(itertools.islice(ends, count - 1, None), len(data))


def _unique(names: list[str]) -> list[str]:
    """Names for Arrow, which needs different ones; `_tidied` gives the columns their own."""
    return [f"{i}" for i in range(len(names))] if len({*names}) < len(names) else names


def _tidied(table: Table, layout: Layout, as_texts: set[str]) -> Table:
    """The table with texts without blanks around them, and numbers beside marks as numbers."""
    import pyarrow as pa

    columns = [
        _settled(column, layout.decimal, name in as_texts) if column.type == pa.string() else column
        for name, column in zip(layout.names, table.columns, strict=True)
    ]
    return pa.table(columns, names=layout.names)


def _settled(column: Any, decimal: str, is_text: bool) -> Any:
    """A column of texts without blanks around them; numbers if all else are marks of missing."""
    import pyarrow as pa
    from pyarrow import compute as pc

    trimmed = pc.utf8_trim_whitespace(column)
    unmarked = pc.if_else(pc.is_in(trimmed, pa.array(_PYARROW_MISSING + _MISSING)), None, trimmed)
    if is_text:
        return unmarked
    distinct = [_pointed(text, decimal) for text in pc.unique(unmarked).to_pylist() if text]
    others = [text for text in distinct if not _is_number(text)]
    is_few = len(others) < len(distinct) and all(text.lower() in _MISSING_NUMBER for text in others)
    if not is_few:
        return unmarked
    marks = pa.array([text for text in pc.unique(unmarked).to_pylist() if text in others] or [""])
    numbers = pc.if_else(pc.is_in(unmarked, marks), None, unmarked)
    if decimal == ",":
        numbers = pc.replace_substring(numbers, ",", ".")
    return pc.cast(numbers, pa.float64())
