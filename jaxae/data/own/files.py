"""Raw data sets from a user's own files: tables, folders of images, long series.

If a file does not define test rows, all anomalies and a share of the normals are test rows.
"""

import contextlib
import dataclasses
import os
import shlex
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxae.config import DataConfig
from jaxae.data import arrayfiles, sources, splits
from jaxae.data.own import arrays, class_names, folders, images, labels, tables, times, windows
from jaxae.data.own.schema import Schema, normal_classes, numbered
from jaxae.data.raw_data import Raw, narrowed
from jaxae.errors import UserError, naming_input
from jaxae.rng import SplitDraw
from jaxae.types import Source

_FEW = 20  # rows of a table in which a column of even steps may be chance


class Lines(NamedTuple):
    """The lines that were read: rows of a table, images, or steps of a series."""

    x: np.ndarray  # [N, ...]
    y: np.ndarray | None  # [N], the class; None = unlabelled
    group: np.ndarray | None  # [N], or [N, 2] for windows
    is_test: np.ndarray | None  # [N]; None = not drawn yet
    schema: Schema
    notes: tuple[str, ...] = ()  # see `Raw.notes`
    stretch: np.ndarray | None = None  # series: [T], rises where no window may cross
    names: tuple[str, ...] = ()  # of rows; () = they have none
    order: np.ndarray | None = None  # series: [T], positions in the file, if that differs


def table(path: Path, cfg: DataConfig) -> Raw:
    """A CSV or Parquet table with one row per line; see `DataConfig` for the roles of columns.

    Raises:
      UserError: the file or one of its columns cannot be read, or no column contains the classes.
    """
    with naming_input(path):
        return _split(_table_lines(path, cfg, "table"), cfg)


def npz(path: Path, cfg: DataConfig) -> Raw:
    """Arrays in one file, see `jaxae.data.own.arrays.npz`; without test rows, some are drawn."""
    with naming_input(path):
        return _drawn_rows(arrays.npz(path, cfg.rows), cfg)


def npy(path: Path, cfg: DataConfig) -> Raw:
    """As `npz`, see `jaxae.data.own.arrays.npy`."""
    with naming_input(path):
        return _drawn_rows(arrays.npy(path, cfg.rows), cfg)


def _drawn_rows(raw: Raw, cfg: DataConfig) -> Raw:
    """Rows without test rows are split like those of a table."""
    y = raw.train_class_id
    if len(raw.x_test) or (y is None and not cfg.corruption):
        return raw
    y = np.zeros(len(raw.x_train), np.int32) if y is None else y
    return _split(Lines(sources.read(raw.x_train), y, None, None, raw.schema, raw.notes), cfg)


def folder(path: Path, cfg: DataConfig) -> Raw:
    """A folder of images, see `jaxae.data.own.folders`; images of one class have no labels.

    Raises:
      UserError: the folder or an image cannot be read, or the classes do not say what is normal.
    """
    found = folders.scan(path, keep_test=bool(cfg.corruption))
    schema, notes = images.fit(found.paths, cfg.size)
    x = images.decode(found.paths, schema)
    y, classes = numbered(np.array(found.classes), "the subfolders")
    schema = dataclasses.replace(schema, classes=classes)
    with naming_input(path):
        names = tuple(folders.printable(os.path.relpath(file, path)) for file in found.paths)
        return _split(
            Lines(x, y, None, found.is_test, schema, notes + found.notes, names=names), cfg
        )


def series(path: Path, cfg: DataConfig) -> Raw:
    """Windows of a long series, from a table with one line per step, or from arrays [T] or [T, C].

    An .npz holds `x_train`, `x_test` and `y_test`, a class for each step of `x_test`; or `X` and
    perhaps `y`; a .npy holds `X`. In other files the steps of some groups, or the last
    `test_fraction` of all steps, are test steps. A window is an anomaly if one of its steps is. No
    window crosses the border between groups, parts, or training and valid rows.

    Raises:
      UserError: the file cannot be read, or a part of it has fewer steps than a window.
    """
    with naming_input(path):
        is_array = path.suffix.lower() in (".npz", ".npy")
        steps = _array_lines(path, cfg) if is_array else _table_lines(path, cfg, "series")
        return _windowed(steps, cfg)


def _table_lines(path: Path, cfg: DataConfig, kind: str) -> Lines:
    table, notes = tables.read(path, cfg.header)
    roles = tables.roles(table, cfg)
    notes += roles.notes
    if cfg.missing == "drop":
        table, said = _without_gaps(table, roles, cfg, kind)
        notes += said
    group, is_test = _groups(table, roles.group), None
    time = times.Found((), (), ())
    if kind == "series":
        time = time_columns(table, roles, cfg)
        cfg = dataclasses.replace(cfg, ignore=(*cfg.ignore, *time.columns, *time.others))
    notes += time.notes
    schema = dataclasses.replace(tables.fit(table, roles, cfg, kind), missing=cfg.missing)
    x = narrowed(tables.encode(table, schema))
    y: np.ndarray | None = None
    classes = tuple[str, ...]()
    if roles.label:
        values = tables.values(table, roles.label, "data.label")
        y, classes = numbered(values, f"the column {roles.label!r} of data.label")
        known = list(classes) or [str(k) for k in np.unique(y)]
        labels.refuse_inverted(roles.label, known, cfg)
    elif cfg.corruption:  # all rows are normal
        y = np.zeros(table.num_rows, np.int32)
    else:
        notes += ("no column is a label: all rows are taken as normal (--data.label names one)",)
    if roles.split:
        parts = tables.values(table, roles.split, tables.SPLIT).astype(str)
        is_test = np.char.lower(parts) == "test"
    schema = dataclasses.replace(schema, classes=classes)
    lines = Lines(x, y, group, is_test, schema, notes)
    if kind != "series":
        return lines._replace(notes=(*notes, *_numberings(x, schema.features)))
    schema = dataclasses.replace(schema, group=roles.group, time=time.columns)
    remedy = f"leave it out with --data.ignore {' '.join(map(shlex.quote, cfg.ignore))}"
    if group is None:
        remedy = f"name the column of series in turns or in sequence with --data.group, or {remedy}"
    return _in_order(lines._replace(schema=schema), table, remedy)


def _numberings(x: np.ndarray, names: list[str]) -> list[str]:
    """A line for each feature that rises or falls by the same amount from row to row."""
    steps = np.diff(x[:_FEW], axis=0)
    even = (steps == steps[:1]).all(axis=0) & (steps[:1] != 0).any(axis=0)
    return [
        f"the column {names[j]!r} numbers the rows: unless it was measured, leave it out with "
        f"--data.ignore {shlex.quote(names[j])}"
        for j in np.flatnonzero(even)
        if len(x) >= _FEW and np.ptp(np.diff(x[:, j])) == 0
    ]


def _groups(table: tables.Table, column: str) -> np.ndarray | None:
    """The group of each line, numbered from 0 in the order of their values; None without column."""
    if not column:
        return None
    values = tables.values(table, column, "data.group")
    return np.unique(values, return_inverse=True)[1].astype(np.int32)


def time_columns(table: tables.Table, roles: tables.Roles, cfg: DataConfig) -> times.Found:
    """The columns of a series that hold its time.

    Raises:
      UserError: see `times.find`.
    """
    left_out = {roles.label, roles.group, roles.split, *roles.left_out, *cfg.ignore}
    names = [name for name in table.column_names if name not in left_out]
    group = _groups(table, roles.group)
    order = windows.order(group, table.num_rows)
    is_next = np.ones(len(order) - 1, bool) if group is None else np.diff(group[order]) == 0
    found = times.find(table, names, cfg.time, order, is_next)
    if names and {*names} <= {*found.columns, *found.others}:
        raise UserError(f"all columns hold times ({', '.join(names)}): give a column of values")
    return found


def _in_order(lines: Lines, table: tables.Table, remedy: str) -> Lines:
    """The steps of each group together, and where no window may cross: at groups, parts, gaps."""
    order = windows.order(lines.group, len(lines.x))
    x, y, group, is_test = (
        None if one is None else one[order]
        for one in (lines.x, lines.y, lines.group, lines.is_test)
    )
    notes = lines.notes
    if (np.diff(order) < 0).any():
        notes += (f"the series of {lines.schema.group!r} take turns: each is put together",)
    is_next: np.ndarray = np.ones(len(x) - 1, bool)
    for key in (group, is_test):
        if key is not None:
            is_next = is_next & (key[1:] == key[:-1])
    is_gap: np.ndarray = np.zeros(len(x) - 1, bool)
    if any(columns := lines.schema.time):
        time = times.read(table, columns)[order]
        what = f"the time {' '.join(columns)!r}"
        is_gap, more = times.breaks(time, is_next, what, remedy)
        notes += more
    stretch = np.cumsum(np.concatenate([[False], ~is_next | is_gap]))
    return Lines(x, y, group, is_test, lines.schema, notes, stretch, order=order)


def _without_gaps(
    table: tables.Table, roles: tables.Roles, cfg: DataConfig, kind: str
) -> tuple[tables.Table, tuple[str, ...]]:
    """The rows without missing values, and a line about the others."""
    if kind == "series":
        raise UserError("data.missing drop would close gaps in a series; use median")
    table, count = tables.without_gaps(table, tables.fit(table, roles, cfg, kind))
    if not table.num_rows:
        raise UserError("every row lacks a value; use --data.missing median or --data.ignore")
    return table, (f"{count} rows with missing values are left out",) if count else ()


def _filled(lines: Lines, is_train: np.ndarray) -> Lines:
    """Lines with the medians of training lines in place of missing values, where asked for.

    Raises:
      UserError: a column has no value in the training lines.
    """
    if lines.schema.missing != "median":
        return lines
    x, is_train = lines.x.copy(), is_train if is_train.any() else ~is_train
    x[~np.isfinite(x)] = np.nan
    lacking = np.flatnonzero(np.isnan(x[is_train]).all(axis=0)).tolist()
    if lacking:
        names = ", ".join(lines.schema.features[i] for i in lacking)
        raise UserError(f"no training row has a value in {names}; leave it out with --data.ignore")
    median = np.nanmedian(x[is_train], axis=0)
    filled, count = narrowed(tables.filled(x, median)), int(np.isnan(x).sum())
    notes = (f"{count} missing values are filled with medians of the training rows",)
    schema = dataclasses.replace(lines.schema, fill=tuple(median.tolist()))
    return lines._replace(x=filled, schema=schema, notes=lines.notes + notes * (count > 0))


def _array_lines(path: Path, cfg: DataConfig) -> Lines:
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
        y_train = np.full(len(train), _normal_classes(y_test, schema, cfg)[0], np.int32)
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
    steps = _of_several_classes(steps, cfg)
    if steps.y is None:
        return _unlabelled_windows(steps, cfg)
    labels = _labels_only(steps.y, steps.schema, steps.is_test)
    normal = tuple(splits.choose_classes(labels, cfg)[0])
    is_anomaly = ~np.isin(steps.y, normal)
    if steps.is_test is None:
        steps = steps._replace(notes=steps.notes + splits.class_notes(labels, cfg))
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
    window, stride = windows.sizes(count, cfg.window, cfg.stride)
    is_test, is_anomaly = steps.is_test, ~np.isin(y, normal)
    if is_test is None and steps.group is not None:
        is_test = _drawn_groups(steps.group, is_anomaly, cfg)
    elif is_test is None:
        is_test = np.arange(count) >= count - round(cfg.test_fraction * count)
    steps = _filled(steps, ~is_test)
    stretches = windows.runs(
        is_test + 2 * (np.zeros(count, int) if steps.stretch is None else steps.stretch)
    )
    parts, starts = [], []
    for role in ("training", "test"):
        part = [ends for ends in stretches if is_test[ends[0]] == (role == "test")]
        longest = max((end - begin for begin, end in part), default=0)
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
    return Raw(x_train, y_train, x_test, y_test, normal, block, schema, notes)


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


def _unlabelled_windows(steps: Lines, cfg: DataConfig) -> Raw:
    """Windows of all steps, without classes; whole blocks are held out."""
    steps = _filled(steps, np.ones(len(steps.x), bool))
    count = len(steps.x)
    window, stride = windows.sizes(count, cfg.window, cfg.stride)
    stretches = windows.runs(_stretch(steps))
    longest = max(end - begin for begin, end in stretches)
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
    new = {"x": x, "group": block, "schema": schema, "notes": notes, "names": names}
    return _unlabelled(steps._replace(**new))


def _of_several_classes(lines: Lines, cfg: DataConfig) -> Lines:
    """Lines that are all of one class are unlabelled, unless the configuration names classes.

    Raises:
      UserError: the class has a name of anomalies.
    """
    y, schema = lines.y, lines.schema
    if y is None or (y != y[0]).any() or cfg.corruption or cfg.normal or cfg.anomaly:
        return lines
    name = schema.called(int(y[0]))
    if schema.classes and class_names.side(schema.classes[y[0]]) == "anomalous":
        raise UserError(
            f"all rows are of the class {name}, which is not normal; training needs normal rows"
        )
    note = f"all rows are of the class {name}: they are taken as normal, without labels"
    return lines._replace(
        y=None,
        is_test=None,
        schema=dataclasses.replace(schema, classes=()),
        notes=(*lines.notes, note),
    )


def _unlabelled(lines: Lines) -> Raw:
    """All rows as training rows."""
    lines = lines if lines.x.ndim > 2 else _filled(lines, np.ones(len(lines.x), bool))
    x, none, notes = lines.x, np.zeros(0, np.int32), lines.notes
    if lines.is_test is not None and lines.group is None:
        notes = (*notes, "without labels there are no test rows: those are trained on as well")
    return Raw(x, None, x[:0], none, (), lines.group, lines.schema, notes, lines.names)


def _normal_classes(y: np.ndarray, schema: Schema, cfg: DataConfig) -> list[int]:
    """The normal classes among the labels [N]."""
    return splits.choose_classes(_labels_only(y, schema), cfg)[0]


def _labels_only(y: np.ndarray, schema: Schema, is_test: np.ndarray | None = None) -> Raw:
    """A data set of labels without rows, which are training rows unless `is_test` [N] says more."""
    is_test = np.zeros(len(y), bool) if is_test is None else is_test
    normal = normal_classes(schema.classes)
    return Raw(y[:0], y[~is_test], y[:0], y[is_test], normal, schema=schema)


def _drawn_groups(group: np.ndarray, is_anomaly: np.ndarray, cfg: DataConfig) -> np.ndarray:
    """Draw groups, numbered from 0, for testing; which rows [N] belong to them.

    If at most half of the groups have anomalies, all of these are drawn and a share of the others;
    else the share is drawn from those with anomalies.
    """
    total = int(group.max()) + 1
    if total < 2:
        raise UserError(
            f"data.group {cfg.group!r} has only one value, so no group is left to test; unset "
            "it or name another column"
        )
    has_anomaly = np.zeros(total, bool)
    has_anomaly[group[is_anomaly]] = True
    strange, chosen = int(has_anomaly.sum()), np.zeros(total, bool)
    if 0 < strange <= total / 2:
        plain = total - strange
        count = min(round(cfg.test_fraction * plain), plain - 1)
        chosen = has_anomaly.copy()
        chosen[~has_anomaly] = splits.draw(plain, count, cfg.split_seed, SplitDraw.TEST)
    else:
        pool = has_anomaly if strange else ~has_anomaly
        count = min(max(1, round(cfg.test_fraction * total)), int(pool.sum()), total - 1)
        chosen[pool] = splits.draw(int(pool.sum()), count, cfg.split_seed, SplitDraw.TEST)
    return chosen[group]


def _split(lines: Lines, cfg: DataConfig) -> Raw:
    """Training and test rows; by default all anomalies and a share of the normals are test rows."""
    lines = _of_several_classes(lines, cfg)
    x, y, group, is_test, schema, notes = lines[:6]
    if y is None:
        return _unlabelled(lines)
    only = _labels_only(y, schema, is_test)
    is_normal = np.isin(y, splits.choose_classes(only, cfg)[0])
    if is_test is None:
        notes += splits.class_notes(only, cfg)
    if is_test is not None and not (cfg.normal or cfg.anomaly or cfg.corruption):
        _require_known_test(y[is_test], np.unique(y[is_normal]).tolist(), schema)
    is_test, more = _test_rows(is_test, is_normal, group, cfg)
    lines = _filled(lines._replace(notes=notes + more), ~is_test)
    x, schema, notes = lines.x, lines.schema, lines.notes
    train_group = None if group is None else group[~is_test]
    normal = normal_classes(schema.classes)
    return Raw(x[~is_test], y[~is_test], x[is_test], y[is_test], normal, train_group, schema, notes)


def _require_known_test(y: np.ndarray, normal: list[int], schema: Schema) -> None:
    """Refuse test rows [M] of several classes that the training rows lack, if one may be normal."""
    tested = np.unique(y).tolist()
    unknown = [k for k in tested if class_names.side(schema.known_as(k)) != "anomalous"]
    if len(tested) < 2 or {*tested} & {*normal} or not unknown:
        return
    known = " ".join(shlex.quote(schema.known_as(k)) for k in normal)
    raise UserError(
        f"no class of the test rows ({', '.join(map(schema.called, tested))}) is among the normal "
        f"training rows; add --data.normal {known} if all of them are anomalies, or for example "
        f"--data.normal {known} {shlex.quote(schema.known_as(unknown[0]))}"
    )


def _test_rows(
    given: np.ndarray | None, is_normal: np.ndarray, group: np.ndarray | None, cfg: DataConfig
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Which rows [N] are tested, and notes; without anomalies or normals in them, some are drawn.

    `given` says which rows the file or the groups make test rows; None = not defined.
    """
    if given is None and group is not None:
        given = _drawn_groups(group, ~is_normal, cfg)
    anomalies, normals = int(np.sum(~is_normal)), int(np.sum(is_normal))
    is_test = np.zeros(len(is_normal), bool) if given is None else given.copy()
    notes = tuple[str, ...]()
    if group is None and anomalies and not is_test[~is_normal].any():
        is_test |= ~is_normal
        if given is not None:
            notes += (
                f"no test row is an anomaly: the {anomalies} of the training rows are tested",
            )
    if group is None and normals and not is_test[is_normal].any():
        count = max(1, round(cfg.test_fraction * normals))
        is_test[is_normal] = splits.draw(normals, count, cfg.split_seed, SplitDraw.TEST)
        if given is not None:
            notes += (f"no test row is normal: {count} of {normals} normal rows are tested",)
    if left := int(np.sum(~is_normal & ~is_test)):
        notes += (f"{left} of {anomalies} anomalies are among the training rows and are left out",)
    return is_test, notes


class Rows(NamedTuple):
    """Rows to judge."""

    x: Source  # [N, *S]
    named: dict[str, list[str]] = {}  # noqa: RUF012 - what names each row; never written to
    notes: tuple[str, ...] = ()  # see `Raw.notes`
    steps: np.ndarray | None = None  # series: [N, W], the positions of its steps in the file


def rows(path: Path, schema: Schema) -> Rows:
    """Rows to judge, from a file of the same kind as the detector was trained on.

    Images are named by `source`, their file; windows by `source`, their first step.

    Args:
      path: a table, a series, a folder of images or one image, according to the schema.
      schema: the schema of the detector.

    Raises:
      UserError: the file cannot be read according to the schema.
    """
    if schema.kind == "images":
        paths, notes = ([path], ()) if path.is_file() else folders.files(path)
        if not paths:
            raise UserError(
                f"{path} is neither an image nor a folder with images; name one that is"
            )
        root = path if path.is_dir() else path.parent
        names = [folders.printable(str(image.relative_to(root))) for image in paths]
        return Rows(images.decode(paths, schema), {"source": names}, notes)
    if schema.kind == "series":
        return windows_to_judge(path, schema)
    if path.suffix.lower() in (".npz", ".npy"):
        return Rows(arrayfiles.read_rows(path))
    table, notes = tables.read(path, schema=schema)
    x, more = _to_judge(table, schema)
    return Rows(x, notes=notes + more)


def _to_judge(table: tables.Table, schema: Schema) -> tuple[np.ndarray, tuple[str, ...]]:
    """The features of every row, and a line on values that are filled as in training."""
    x = tables.encode(table, schema if schema.columns else tables.of_numbers(table))
    count = int(np.sum(~np.isfinite(x)))
    if not count:
        return x, ()
    note = f"{count} missing values are filled with medians of the training rows"
    return tables.filled(x, np.array(schema.fill)), (note,)


def windows_to_judge(path: Path, schema: Schema, x: np.ndarray | None = None) -> Rows:
    """Windows that cover every step, except in stretches that are shorter than a window.

    Steps that were already read are given as `x` [T] or [T, C].
    """
    if x is not None or path.suffix.lower() in (".npz", ".npy"):
        x = _steps(arrayfiles.read_rows(path) if x is None else x, "the file")
        bare = dataclasses.replace(schema, group="", time=())
        steps, order = Lines(x, None, None, None, bare), np.arange(len(x))
    else:
        table, said = tables.read(path, schema=schema)
        steps, order = _steps_to_judge(table, schema)
        steps = steps._replace(notes=said + steps.notes)
    stretches = windows.runs(_stretch(steps))
    longest = max(end - begin for begin, end in stretches)
    if longest < schema.window:
        raise UserError(
            f"the file has {longest} steps in a row, fewer than a window of {schema.window}; give "
            "more steps"
        )
    start, _ = windows.cut(stretches, schema.window, schema.stride, blocks=False)
    last = [end - schema.window for begin, end in stretches if end - begin >= schema.window]
    start = np.union1d(start, last)  # so that every step is in a window
    first = order[start]
    named = {"source": [str(step) for step in first]}
    for kind, columns in (("group", (steps.schema.group,)), ("time", steps.schema.time)):
        if any(columns):
            named[kind] = times.texts(table.take(first), columns)
    notes = steps.notes + _lost(start, schema.window, stretches, None)
    positions = order[start[:, None] + np.arange(schema.window)]
    return Rows(windows.rows(steps.x, start, schema.window), named, notes, positions)


def _steps_to_judge(table: tables.Table, schema: Schema) -> tuple[Lines, np.ndarray]:
    """The steps of a table in their order, and their positions in the file."""
    x, said = _to_judge(table, schema)
    notes = [*said]
    for kind, columns in (("group", (schema.group,)), ("time", schema.time)):
        absent = [name for name in columns if name and name not in table.column_names]
        if absent:
            notes.append(f"the file lacks {absent[0]!r}, the {kind}: its steps are one series")
            schema = dataclasses.replace(schema, **{kind: "" if kind == "group" else ()})
    group = _groups(table, schema.group)
    lines = Lines(x, None, group, None, schema, tuple(notes))
    return _in_order(lines, table, "remove the column"), windows.order(group, len(x))
