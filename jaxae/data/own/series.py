"""Long series, cut into windows that cross no border between groups, parts or gaps."""

import contextlib
import dataclasses
import shlex
from pathlib import Path

import numpy as np

from jaxae.config import DataConfig
from jaxae.data import arrayfiles, sources, splits
from jaxae.data.own import arrays, lines, tables, times, windows
from jaxae.data.own.lines import Lines, Rows, Series
from jaxae.data.own.schema import Schema
from jaxae.data.raw_data import Raw
from jaxae.errors import UserError, naming_input
from jaxae.types import Steps

_APART = "give each series a file of its own, or remove the column"


def read(path: Path, cfg: DataConfig) -> Raw:
    """Windows of a long series, from a table with one line per step, or from arrays [T] or [T, C].

    An .npz holds `x_train`, `x_test` and `y_test`, a class for each step of `x_test`; or `X` and
    perhaps `y`; a .npy holds `X`. In other files the steps of some groups, or the last
    `test_fraction` of all steps, are test steps. A window is an anomaly if one of its steps is. No
    window crosses the border between groups, parts, or training and valid rows.

    Raises:
      UserError: the file cannot be read, or a part of it has fewer steps than a window.
    """
    with naming_input(path):
        is_array = path.suffix.lower() in arrays.SUFFIXES
        steps = _of_arrays(path, cfg) if is_array else _of_table(path, cfg)
        return _windowed(steps, cfg)


def _of_table(path: Path, cfg: DataConfig) -> Lines:
    if cfg.missing == "drop":
        raise UserError("data.missing drop would close gaps in a series; use median")
    table, notes = tables.read(path, cfg.header)
    roles = tables.roles(table, cfg)
    time = time_columns(table, roles, cfg)
    cfg = dataclasses.replace(cfg, ignore=(*cfg.ignore, *time.columns, *time.others))
    steps = lines.of_table(table, roles, cfg, "series", notes + roles.notes + time.notes)
    schema = dataclasses.replace(steps.schema, group=roles.group, time=time.columns)
    remedy = f"leave it out with --data.ignore {' '.join(map(shlex.quote, cfg.ignore))}"
    if steps.group is None:
        remedy = f"name the column of series in turns or in sequence with --data.group, or {remedy}"
    return _in_order(steps._replace(schema=schema), table, remedy)


def time_columns(table: tables.Table, roles: tables.Roles, cfg: DataConfig) -> times.Found:
    """The columns of a series that hold its time.

    Raises:
      UserError: see `times.find`.
    """
    left_out = {roles.label, roles.group, roles.split, *roles.left_out, *cfg.ignore}
    names = [name for name in table.column_names if name not in left_out]
    group = lines.groups(table, roles.group)
    order = windows.order(group, table.num_rows)
    is_next = np.ones(len(order) - 1, bool) if group is None else np.diff(group[order]) == 0
    found = times.find(table, names, cfg.time, order, is_next)
    if names and {*names} <= {*found.columns, *found.others}:
        raise UserError(f"all columns hold times ({', '.join(names)}): give a column of values")
    return found


def _in_order(steps: Lines, table: tables.Table, remedy: str) -> Lines:
    """The steps of each group together, and where no window may cross: at groups, parts, gaps."""
    order = windows.order(steps.group, len(steps.x))
    x, y, group, is_test = (
        None if one is None else one[order]
        for one in (steps.x, steps.y, steps.group, steps.is_test)
    )
    notes = steps.notes
    if (np.diff(order) < 0).any():
        notes += (f"the groups of {steps.schema.group!r} take turns: the lines of each are joined",)
    is_next: np.ndarray = np.ones(len(x) - 1, bool)
    for key in (group, is_test):
        if key is not None:
            is_next = is_next & (key[1:] == key[:-1])
    is_gap: np.ndarray = np.zeros(len(x) - 1, bool)
    if any(columns := steps.schema.time):
        time = times.read(table, columns)[order]
        what = f"the time {' '.join(columns)!r}"
        is_gap, more = times.breaks(time, is_next, what, remedy)
        notes += more
    stretch = np.cumsum(np.concatenate([[False], ~is_next | is_gap]))
    return Lines(x, y, group, is_test, steps.schema, notes, stretch, order=order)


def _of_arrays(path: Path, cfg: DataConfig) -> Lines:
    stored = arrays.stored(path)
    train = _steps(sources.read(stored.x_train), stored.names["x_train"])
    columns = tuple(f"channel{i}" for i in range(train.shape[1]))
    schema = Schema("series", columns=columns, categories=((),) * len(columns))
    if stored.x_test is None:
        y, _, names = arrays.classes(stored, (len(train), 0), str(path))
        if y is None and cfg.corruption:
            y = np.zeros(len(train), np.int32)
        schema = dataclasses.replace(schema, classes=names)
        return Lines(train, y, None, None, schema, stored.notes)
    test = _steps(sources.read(stored.x_test), stored.names["x_test"])
    if train.shape[1] != test.shape[1]:
        raise UserError(f"x_train has {train.shape[1]} channels, x_test {test.shape[1]}")
    y_train, y_test, names = arrays.classes(stored, (len(train), len(test)), str(path))
    schema = dataclasses.replace(schema, classes=names)
    if y_train is None:
        y_train = np.full(
            len(train),
            splits.choose_classes(lines.labels_only(y_test, schema), cfg)[0][0],
            np.int32,
        )
    y = np.concatenate([y_train, y_test])
    is_test = np.arange(len(y)) >= len(train)
    return Lines(np.concatenate([train, test]), y, None, is_test, schema, stored.notes)


def _steps(x: np.ndarray, name: str) -> np.ndarray:
    """Steps [T, C] of [T] or [T, C]."""
    if x.dtype.kind not in "fiub" or x.ndim not in (1, 2) or not x.size:
        raise UserError(f"{name} is {x.dtype} {list(x.shape)}; a series is numbers [T] or [T, C]")
    return arrays.finite(x.reshape(len(x), -1), name, "step")


def _windowed(steps: Lines, cfg: DataConfig) -> Raw:
    """Cut a series into windows, and split them.

    Raises:
      UserError: a part is too short, or no anomaly is among the test steps.
    """
    steps = lines.of_several_classes(steps, cfg)
    if steps.y is None:
        return _unlabelled_windows(steps, cfg)
    only = lines.labels_only(steps.y, steps.schema, steps.is_test)
    normal = tuple(splits.choose_classes(only, cfg)[0])
    is_anomaly = ~np.isin(steps.y, normal)
    if steps.is_test is None:
        steps = steps._replace(notes=steps.notes + splits.class_notes(only, cfg))
    is_drawn = steps.is_test is None and steps.group is None
    raw = _cut(steps, normal, cfg)
    if is_drawn and is_anomaly.any() and np.isin(raw.test_class_id, normal).all():
        share = _working_share(steps, normal, cfg)
        remedy = f"set --data.test-fraction {share:g}" if share else "give a longer series"
        first = int(np.argmax(is_anomaly))
        raise UserError(
            f"no anomaly is in the last {cfg.test_fraction:g} of the {len(steps.x)} steps, which "
            f"are tested (the first is in step {first}); {remedy}, or mark the steps to test in a "
            "column 'split' of train and test"
        )
    return raw


def _working_share(steps: Lines, normal: tuple[int, ...], cfg: DataConfig) -> float:
    """The least `data.test_fraction`, in steps of .05, that tests an anomaly; 0 = there is none."""
    for percent in range(5, 100, 5):
        tried = dataclasses.replace(cfg, test_fraction=percent / 100, scale="none", input="none")
        with contextlib.suppress(UserError):
            splits.make(_cut(steps, normal, tried), tried)
            return percent / 100
    return 0.0


def _cut(steps: Lines, normal: tuple[int, ...], cfg: DataConfig) -> Raw:
    """The windows of the training steps and of the test steps."""
    count, y, notes = len(steps.x), steps.y, steps.notes
    assert y is not None
    is_test, is_anomaly = steps.is_test, ~np.isin(y, normal)
    if is_test is None and steps.group is not None:
        is_test = lines.drawn_groups(steps.group, is_anomaly, cfg)
    elif is_test is None:
        is_test = np.arange(count) >= count - round(cfg.test_fraction * count)
    steps = lines.filled(steps, ~is_test)
    stretches = windows.runs(is_test + 2 * _stretch(steps))
    by_role = [[ends for ends in stretches if is_test[ends[0]] == tested] for tested in (0, 1)]
    window, stride = windows.sizes(by_role, cfg.window, cfg.stride)
    parts, starts = [], []
    for role, part in zip(("training", "test"), by_role, strict=True):
        longest = windows.longest(part)
        if longest < window:
            lower = f"lower --data.window to at most {longest}, or " if longest > 1 else ""
            raise UserError(
                f"no stretch of {role} steps is as long as a window of {window}; {lower}change "
                "--data.test-fraction"
            )
        start, block = windows.cut(part, window, stride, blocks=role == "training")
        window_y = np.full(len(start), normal[0], np.int32)
        for k in np.unique(y[is_anomaly]):  # a window takes the highest of its anomalous classes
            window_y[windows.any_of(y == k, start, window)] = k
        if not np.isin(window_y, normal).any():
            raise UserError(
                f"each {role} window of {window} steps holds an anomalous step; lower --data.window"
            )
        parts.append((windows.rows(steps.x, start, window), window_y, block))
        starts.append(start)
    (x_train, y_train, block), (x_test, y_test, _) = parts
    if left := int(np.sum(is_anomaly & ~is_test)):
        total = int(np.sum(is_anomaly))
        notes += (
            f"{left} of {total} anomalous steps are not tested but in the training part, "
            "where the windows with them are left out",
        )
    notes += _lost(np.concatenate(starts), window, stretches, is_anomaly)
    schema = dataclasses.replace(steps.schema, window=window, stride=stride)
    place_y = is_anomaly[starts[1][:, None] + np.arange(window)]
    lie = _lying(np.concatenate(starts), steps, stretches)
    return Raw(x_train, y_train, x_test, y_test, normal, block, schema, notes, (), place_y, lie)


def _lying(start: np.ndarray, steps: Lines, stretches: list[tuple[int, int]]) -> Steps:
    """Where the windows that begin at these steps lie in a series."""
    row = np.arange(len(steps.x)) if steps.order is None else steps.order
    lengths = [end - begin for begin, end in stretches]
    return Steps(start, row, np.repeat(np.arange(len(lengths)), lengths))


def _unlabelled_windows(steps: Lines, cfg: DataConfig) -> Raw:
    """Windows of all steps, without classes; whole blocks are held out."""
    steps = lines.filled(steps, np.ones(len(steps.x), bool))
    stretches = windows.runs(_stretch(steps))
    window, stride = windows.sizes([stretches], cfg.window, cfg.stride)
    longest = windows.longest(stretches)
    if longest < window:
        raise UserError(
            f"no stretch of steps is as long as a window of {window}; lower --data.window to at "
            f"most {longest}"
        )
    start, block = windows.cut(stretches, window, stride, blocks=True)
    notes = steps.notes + _lost(start, window, stretches, None)
    schema = dataclasses.replace(steps.schema, window=window, stride=stride)
    x = windows.rows(steps.x, start, window)
    first = start if steps.order is None else steps.order[start]
    names = tuple(f"step {step}" for step in first)
    lie = _lying(start, steps, stretches)
    new = {"x": x, "group": block, "schema": schema, "notes": notes, "names": names, "steps": lie}
    return lines.unlabelled(steps._replace(**new))


def _stretch(steps: Lines) -> np.ndarray:
    return np.zeros(len(steps.x), int) if steps.stretch is None else steps.stretch


def _lost(
    start: np.ndarray, window: int, stretches: list[tuple[int, int]], is_anomaly: np.ndarray | None
) -> tuple[str, ...]:
    """A line about the steps that belong to no window."""
    ends = stretches[-1][1]
    is_lost = ~windows.covered(start, window, ends)
    if not is_lost.any():
        return ()
    short = [end - begin for begin, end in stretches if end - begin < window]
    kinds = []
    if is_anomaly is not None and (is_anomaly & is_lost).any():
        kinds.append(f"{int(np.sum(is_anomaly & is_lost))} of them anomalous")
    if short:
        kinds.append(f"{sum(short)} in {len(short)} stretches shorter than a window of {window}")
    more = f" ({', '.join(kinds)})" if kinds else ""
    return (f"{int(is_lost.sum())} of {ends} steps belong to no window{more}",)


def windows_to_judge(path: Path, schema: Schema, x: np.ndarray | None = None) -> Rows:
    """The windows of `to_judge`."""
    read = to_judge(path, schema, x)
    start, row = read.steps.start, read.steps.row
    first = row[start].tolist()
    named = {name: [texts[line] for line in first] for name, texts in read.named.items()}
    cut = windows.rows(read.x, start, schema.window)
    return Rows(cut, {"source": [*map(str, first)]} | named, read.notes, read)


def to_judge(path: Path, schema: Schema, x: np.ndarray | None = None) -> Series:
    """All steps of a file, with the windows that judge them.

    Steps that were already read are given as `x` [T] or [T, C].

    Raises:
      UserError: the file cannot be read by the schema, or no stretch is as long as a window.
    """
    named: dict[str, list[str]] = {}
    if x is not None or path.suffix.lower() in arrays.SUFFIXES:
        x = _steps(arrayfiles.read_rows(path) if x is None else x, "the file")
        bare = dataclasses.replace(schema, group="", time=())
        steps, order = Lines(x, None, None, None, bare), np.arange(len(x))
    else:
        table, said = tables.read(path, schema=schema)
        steps, order = _steps_to_judge(table, schema)
        steps = steps._replace(notes=said + steps.notes)
        for kind, columns in (("group", (steps.schema.group,)), ("time", steps.schema.time)):
            if any(columns):
                named[kind] = times.texts(table, columns)
    stretches = windows.runs(_stretch(steps))
    longest = windows.longest(stretches)
    if longest < schema.window:
        raise UserError(
            f"the file has {longest} steps in a row, fewer than a window of {schema.window}; give "
            "more steps"
        )
    start, _ = windows.cut(stretches, schema.window, schema.stride, blocks=False)
    last = [end - schema.window for begin, end in stretches if end - begin >= schema.window]
    start = np.union1d(start, last)  # so that every step is in a window
    notes = steps.notes + _lost(start, schema.window, stretches, None)
    return Series(steps.x, _lying(start, steps._replace(order=order), stretches), named, notes)


def _steps_to_judge(table: tables.Table, schema: Schema) -> tuple[Lines, np.ndarray]:
    """The steps of a table in their order, and their positions in the file."""
    x, said = tables.to_judge(table, schema)
    notes = [*said]
    for kind, columns in (("group", (schema.group,)), ("time", schema.time)):
        absent = [name for name in columns if name and name not in table.column_names]
        if absent:
            notes.append(f"the file lacks {absent[0]!r}, the {kind}: its steps are one series")
            schema = dataclasses.replace(schema, **{kind: "" if kind == "group" else ()})
    group = lines.groups(table, schema.group)
    steps = Lines(x, None, group, None, schema, tuple(notes))
    remedy = "remove the column" if group is not None else _APART
    return _in_order(steps, table, remedy), windows.order(group, len(x))
