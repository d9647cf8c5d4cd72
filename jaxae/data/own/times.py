"""The time of a series: which columns hold it, and what it says of order, repeats and gaps."""

import datetime
import re
import shlex
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxae.data.own import tables
from jaxae.errors import UserError

GAP = 10  # usual steps; no window crosses a longer one
_WORDS = {"time", "timestamp", "timestamps", "date", "datetime", "epoch", "ts", "unixtime", "utc"}
_WORDS |= {"clock", "datum", "zeit", "zeitstempel", "uhrzeit"}
_NUMBERS = {"", "index", "id", "step", "t", "row", "no", "nr", "n", "sample", "unnamed: 0", "#"}
_NUMBERS |= {"sec", "secs", "seconds", "s", "ms", "minutes", "hours", "elapsed"}
_EPOCH = 3e8, 5e9  # seconds since 1970 of the years 1979 to 2128; also in ms, us and ns
_NAMED, _EVEN, _REPEATED = 0.9, 0.9, 1 / 3  # shares of the steps
_DATES = (
    "%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%Y/%m/%d", "%Y.%m.%d", "%d-%m-%Y", "%m-%d-%Y",
    "%d %b %Y", "%d-%b-%Y", "%d%b%Y", "%b %d, %Y", "%b %d %Y", "%d %B %Y", "%B %d, %Y", "%Y%m%d",
    "%m/%d/%y", "%d/%m/%y", "%d.%m.%y", "%d-%b-%y",
)  # fmt: skip
_TIMES = (
    "%H:%M:%S", "%H:%M", "%H:%M:%S.%f", "%H:%M:%S,%f", "%H.%M", "%H.%M.%S", "%H%M%S", "%H%M",
    "%I:%M %p", "%I:%M:%S %p", "%I:%M%p", "%I:%M:%S%p",
)  # fmt: skip
_FORMATS = [
    *_DATES,
    *(f"{date}{sign}{time}" for date in _DATES for sign in " T" for time in _TIMES),
]
# The day of the week before a date, and the time zone after a time of day, both without effect.
_ASIDE = re.compile(
    r"^(mon|tue|wed|thu|fri|sat|sun)[a-z]*,? +|(?<=\d) *(z|gmt|utc)$|(?<=:\d\d) *[+-]\d\d:?\d\d$",
    re.IGNORECASE,
)


class Found(NamedTuple):
    """The columns that hold the time."""

    columns: tuple[str, ...]  # whose sum is the time, a date and a time of day; () = none
    others: tuple[str, ...]  # further times
    notes: tuple[str, ...]


def find(
    table: tables.Table, names: Iterable[str], wanted: str, order: Int[np.ndarray, " T"],
    is_next: Bool[np.ndarray, " T-1"],
) -> Found:  # fmt: skip
    """The columns among `names` that hold the time.

    A column holds it if it contains dates; or if its numbers rise in nine of ten steps and it is
    called time, timestamp, date ...; or if they rise evenly and are seconds since 1970; or if nine
    of ten of their steps are the same and it is called index, step, t ...

    Args:
      table: the table, with a line per step.
      names: the columns that could be values.
      wanted: "auto"; a column; or "", no column is the time.
      order: positions of the steps in the order of their series.
      is_next: whether a step follows the one before it in this order in the same series.

    Raises:
      UserError: `wanted` is no column, or one that holds no times.
    """
    if not wanted:
        return Found((), (), ())
    if wanted != "auto":
        if wanted not in table.column_names:
            known = ", ".join(table.column_names)
            raise UserError(f"data.time names the column {wanted!r}; there are {known}")
        if tables.column_kind(table, wanted) != "number" and _dates(table, wanted) is None:
            raise UserError(f"the column {wanted!r} of data.time holds neither dates nor numbers")
        return Found((wanted,), (), (_left_out((wanted,)),))
    dates, clocks, numbers, unlike = [], [], [], []
    for name in names:
        kind = tables.column_kind(table, name)
        if kind.startswith("time") and not kind.startswith("timestamp"):
            clocks.append(name)
        elif kind != "number":
            dates += [name] if _dates(table, name) is not None else []
        elif not table[name].null_count or _words(name) & _WORDS:  # values may be missing
            steps = np.diff(read(table, (name,))[order])[is_next]
            if _is_time(name, read(table, (name,)), steps):
                numbers.append(name)
            elif _words(name) & {"time", "timestamp"} and np.any(steps):
                unlike.append(name)
    found = [*dates, *numbers]
    columns = tuple(found[:1])
    if dates and clocks and not np.any(read(table, columns) % 86400):
        columns += tuple(clocks[:1])
    notes = [_left_out(columns, found[1:])] if columns else []
    notes += [
        f"the column {name!r} does not rise with the steps: it is a feature" for name in unlike
    ]
    return Found(columns, tuple(found[1:]), tuple(notes))


def _left_out(columns: tuple[str, ...], others: Iterable[str] = ()) -> str:
    more = f", nor are the other times: {', '.join(map(repr, others))}" if others else ""
    is_time = " and ".join(map(repr, columns))
    return f"the time, {is_time}, is not a feature{more}"


def read(table: tables.Table, columns: tuple[str, ...]) -> Float[np.ndarray, " T"]:
    """The time of each step: seconds of dates, since 1970, or the numbers of the column.

    Raises:
      UserError: a column holds something else, or lacks values.
    """
    parts = []
    for name in columns:
        if table[name].null_count:
            raise UserError(
                f"the column {name!r} of times lacks {table[name].null_count} values; fill them in "
                f"or leave it out with --data.ignore {shlex.quote(name)}"
            )
        kind = tables.column_kind(table, name)
        if kind == "number":
            parts.append(_calendar(tables.values(table, name, "data.time")))
        elif kind.startswith("time") and not kind.startswith("timestamp"):
            parts.append(np.array([_seconds_of_day(one) for one in table[name].to_pylist()]))
        else:
            dates = _dates(table, name)
            if dates is None:
                raise UserError(f"the column {name!r} does not hold dates as in training")
            parts.append(dates)
    return np.sum(parts, axis=0)


def texts(table: tables.Table, columns: tuple[str, ...]) -> list[str]:
    """The time of each step as in the file."""
    parts = ([str(one) for one in table[name].to_pylist()] for name in columns)
    return [" ".join(row) for row in zip(*parts, strict=True)]


def breaks(
    time: Float[np.ndarray, " T"], is_next: Bool[np.ndarray, " T-1"], what: str, remedy: str
) -> tuple[Bool[np.ndarray, " T-1"], tuple[str, ...]]:
    """The gaps in a series, and lines about gaps, repeats and uneven steps.

    A gap is a step of more than `GAP` times the median.

    Args:
      time: of the steps, in the order of their series.
      is_next: whether a step follows the one before it in the same series.
      what: the words for the time in messages.
      remedy: what helps if the order is wrong.

    Returns:
      Whether there is a gap before each step but the first, and the lines.

    Raises:
      UserError: the time goes back, or many steps have the time of the step before.
    """
    steps = np.diff(time)
    inner = steps[is_next]
    falls = is_next & (steps < 0)
    if falls.any():
        raise UserError(
            f"{what} goes back in {falls.sum()} of {len(inner)} steps; sort the lines by it, or "
            f"{remedy}"
        )
    repeats = int(np.sum(inner == 0))
    if repeats >= _REPEATED * max(1, len(inner)):
        raise UserError(
            f"{what} is the same as in the step before in {repeats} of {len(inner)} steps; {remedy}"
        )
    usual = float(np.median(inner[inner > 0])) if (inner > 0).any() else 0.0
    is_gap = is_next & (steps > GAP * usual)
    notes = []
    if repeats:
        notes.append(f"{what} is the same as in the step before in {repeats} steps")
    if is_gap.any():
        count, longest = is_gap.sum(), steps[is_gap].max()
        notes.append(
            f"{what} has gaps of more than {GAP} times the usual {usual:g}, which no window "
            f"crosses: {count}, up to {longest:g}"
        )
    others = steps[is_next & ~is_gap & (steps != 0)]
    uneven = np.abs(others - usual) > 0.01 * usual
    if uneven.any():
        span = f"{others.min():g} to {others.max():g}"
        notes.append(
            f"{what} is uneven: {uneven.sum()} of {len(inner)} steps are not the usual {usual:g} "
            f"but from {span}; windows count steps"
        )
    return is_gap, tuple(notes)


def _words(name: str) -> set[str]:
    return {*re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower())}


def _is_time(name: str, values: np.ndarray, steps: np.ndarray) -> bool:
    """Whether numbers with these steps between them are times; see `find`."""
    if len(steps) < 3 or not np.isfinite(values).all() or not steps.any():
        return False
    if _words(name) & _WORDS:
        return bool(max(np.mean(steps >= 0), np.mean(steps <= 0)) >= _NAMED)
    rises = np.mean(steps > 0)
    even = np.mean(np.abs(steps - np.median(steps)) <= 0.01 * np.median(np.abs(steps)))
    units = 10.0 ** np.array([0, 3, 6, 9])
    is_epoch = any(((values >= _EPOCH[0] * u) & (values <= _EPOCH[1] * u)).all() for u in units)
    is_likely = (is_epoch and rises == 1) or (name.strip().lower() in _NUMBERS and rises >= _NAMED)
    return bool(is_likely and even >= _EVEN)


def _dates(table: tables.Table, name: str) -> np.ndarray | None:
    """Dates as seconds since 1970; None: the column holds something else."""
    import pyarrow as pa

    column = table[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = tables.column_kind(table, name)
    if kind not in ("text",) and not kind.startswith(("timestamp", "date")):
        return None
    zones = [None, "UTC"] if kind == "text" else [getattr(column.type, "tz", None)]
    for zone in zones:
        try:
            exact = column.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
        except pa.ArrowException:
            continue
        return exact.to_numpy(zero_copy_only=False) / 1e6
    return _parsed(column.to_pylist())


def _parsed(values: list[str | None]) -> np.ndarray | None:
    """Texts as dates, in the format that fits all of them and goes back least often."""
    known = [_ASIDE.sub("", value.strip()) for value in values if value is not None]
    found: list[tuple[int, int, np.ndarray]] = []
    sample = known[:: max(1, len(known) // 50)]
    for form in _FORMATS if known and any(sign.isdigit() for sign in known[0]) else []:
        dates = _in_format(known, form) if all(_fits(value, form) for value in sample) else None
        if dates is not None:
            found.append((int(np.sum(np.diff(dates) < 0)), len(found), dates))
    return min(found)[2] if found else None


def _in_format(values: list[str], form: str) -> np.ndarray | None:
    """Texts in one format as seconds since 1970; None: some are not in this format."""
    import pyarrow as pa
    from pyarrow import compute

    if "%f" not in form:  # a hundred times as fast, but without parts of seconds
        parsed = compute.strptime(pa.array(values), format=form, unit="s", error_is_null=True)
        return None if parsed.null_count else parsed.cast(pa.int64()).to_numpy().astype(float)
    if not all(_fits(value, form) for value in values):
        return None
    utc = datetime.UTC
    parsed = [datetime.datetime.strptime(value, form).replace(tzinfo=utc) for value in values]
    return np.array([moment.timestamp() for moment in parsed])


def _calendar(values: np.ndarray) -> np.ndarray:
    """Numbers such as 20140131 or 20140131235900 as seconds; others as they are."""
    for digits, form in ((8, "%Y%m%d"), (12, "%Y%m%d%H%M"), (14, "%Y%m%d%H%M%S")):
        year = values // 10 ** (digits - 4)
        if ((year >= 1900) & (year <= 2100) & (values % 1 == 0)).all():
            written = [f"{value:.0f}" for value in values]
            dates = _in_format(written, form)
            return values if dates is None else dates
    return values


def _fits(value: str, form: str) -> bool:
    try:
        datetime.datetime.strptime(value, form)
    except ValueError:
        return False
    return True


def _seconds_of_day(time: datetime.time) -> float:
    return time.hour * 3600 + time.minute * 60 + time.second + time.microsecond / 1e6
