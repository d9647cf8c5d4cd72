"""A user's own files as raw data sets: tables, folders of images, long series.

Where a file does not say which rows are to be tested, every anomaly is, and a share of the normals.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jaxae.config import DataConfig
from jaxae.data import arrayfiles
from jaxae.data.datasets import images, splits, tables, windows
from jaxae.data.datasets.raw import Raw
from jaxae.data.datasets.schema import Schema, normal_classes, numbered
from jaxae.errors import UserError, naming_input
from jaxae.rng import Purpose, host_generator

_TEST = 4  # address of a draw below Purpose.SPLIT


def table(path: Path, cfg: DataConfig) -> Raw:
    """A CSV or Parquet table, a row a line; see `DataConfig` for which column is what.

    Raises:
      UserError: the file or a column of it cannot be read, or no column tells the classes.
    """
    with naming_input(path):
        x, y, group, tested, schema = _lines(path, cfg, "table")
    if tested is None:
        tested = _drawn(x, y, group, schema, cfg)
    return _parted(x, y, tested, group, schema)


def folder(path: Path, cfg: DataConfig) -> Raw:
    """A folder of images, a subfolder for each class.

    Raises:
      UserError: see `jaxae.data.datasets.images`.
    """
    found = images.scan(path)
    paths = [one.path for one in found]
    schema = images.fit(paths, cfg.size)
    x = images.decode(paths, schema)
    y, classes = numbered(np.array([one.label for one in found]), "the subfolders")
    if len(classes) == 1 and not cfg.corruption:
        raise UserError(
            f"{path}: all images are of the class {classes[0]!r}; put anomalies into a subfolder "
            "of their own, or make them with --data.corruption"
        )
    schema = dataclasses.replace(schema, classes=classes)
    said = any(one.part for one in found)
    part = np.array([one.part == "test" for one in found])
    return _parted(x, y, part if said else _drawn(x, y, None, schema, cfg), None, schema)


def series(path: Path, cfg: DataConfig) -> Raw:
    """A long series as windows, of a table with a line a step, or of arrays [T] or [T, C].

    An .npz holds `x_train`, `x_test` and `y_test`, a class for each step of `x_test`. Of other
    files the steps of some groups, or the last `test_fraction` of all steps, are tested. A window
    is an anomaly if one of its steps is. No window straddles groups, parts, or training and valid
    rows.

    Raises:
      UserError: the file cannot be read, or has fewer steps than a window in one of its parts.
    """
    with naming_input(path):
        npz = path.suffix.lower() == ".npz"
        return _windowed(_npz_lines(path, cfg) if npz else _lines(path, cfg, "series"), cfg)


class Lines(NamedTuple):
    """What a file holds, line by line: the rows of a table, or the steps of a series."""

    x: np.ndarray  # [N, C]
    y: np.ndarray  # [N], a class
    group: np.ndarray | None  # [N]
    tested: np.ndarray | None  # [N]; None = to be drawn
    schema: Schema


def _lines(path: Path, cfg: DataConfig, kind: str) -> Lines:
    read = tables.read(path)
    roles = tables.roles(read, cfg)
    schema = tables.fit(read, roles, cfg, kind)
    x = tables.encode(read, schema)
    y, classes = _labels(read, roles, cfg)
    part = tables.values(read, roles.split, tables.SPLIT) if roles.split else None
    tested = None if part is None else np.char.lower(part.astype(str)) == "test"
    schema = dataclasses.replace(schema, classes=classes)
    return Lines(x, y, _groups(read, roles), tested, schema)


def _npz_lines(path: Path, cfg: DataConfig) -> Lines:
    arrays = arrayfiles.read_npz(path, ("x_train", "x_test", "y_test"))
    absent = [name for name in ("x_train", "x_test", "y_test") if name not in arrays]
    if absent:
        raise UserError(f"lacks {', '.join(absent)}; a series needs x_train, x_test and y_test")
    train, test = (_channels(arrays[name], name) for name in ("x_train", "x_test"))
    if train.shape[1] != test.shape[1]:
        raise UserError(f"x_train has {train.shape[1]} channels, x_test {test.shape[1]}")
    y, classes = numbered(arrays["y_test"], "y_test")
    if y.shape != (len(test),):
        raise UserError(
            f"y_test is {list(y.shape)}; it must have a class for each of x_test's steps"
        )
    if classes:
        raise UserError("y_test holds texts; number the classes")
    names = tuple(f"channel{i}" for i in range(train.shape[1]))
    schema = Schema("series", columns=names, categories=((),) * len(names))
    normal = _normal_of(test[:0], y, schema, cfg)[0]
    y = np.concatenate([np.full(len(train), normal, np.int32), y])
    tested = np.arange(len(y)) >= len(train)
    return Lines(np.concatenate([train, test]), y, None, tested, schema)


def _channels(x: np.ndarray, name: str) -> np.ndarray:
    """Steps [T, C] in float32, of [T] or [T, C]."""
    if x.dtype.kind not in "fiub" or x.ndim not in (1, 2) or not x.size:
        raise UserError(f"{name} is {x.dtype} {list(x.shape)}; a series is numbers [T] or [T, C]")
    with np.errstate(over="ignore"):
        x = x.reshape(len(x), -1).astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if bad.size:
        raise UserError(f"{name} is NaN or infinite at {bad.size} steps, first {bad[0]}; fill them")
    return x


def _windowed(steps: Lines, cfg: DataConfig) -> Raw:
    """The windows of a series, split."""
    count = len(steps.x)
    window, stride = windows.sizes(count, cfg.window, cfg.stride)
    group = np.zeros(count, np.int32) if steps.group is None else steps.group
    tested = steps.tested
    if tested is None:
        tested = _late(count, cfg) if steps.group is None else _of_groups(group, cfg)
    parts: dict[bool, list] = {False: [], True: []}
    for begin, end in windows.runs(group, tested):
        parts[bool(tested[begin])].append((begin, end))
    found = {}
    for is_test, stretches in parts.items():
        if max((end - begin for begin, end in stretches), default=0) < window:
            which = "test" if is_test else "training"
            raise UserError(
                f"no stretch of {which} steps is as long as a window of {window}; lower "
                "--data.window, or change --data.test-fraction"
            )
        found[is_test] = windows.cut(stretches, window, stride, blocks=not is_test)
    normal = tuple(_normal_of(steps.x[:0], steps.y, steps.schema, cfg))
    y = {}
    for is_test, at in found.items():
        y[is_test] = np.full(len(at.start), normal[0], np.int32)
        for k in np.unique(steps.y):  # the highest class that is no normal one names a window
            if k not in normal:
                y[is_test][windows.any_of(steps.y == k, at.start, window)] = k
    x = {is_test: windows.rows(steps.x, at.start, window) for is_test, at in found.items()}
    schema = dataclasses.replace(steps.schema, window=window, stride=stride)
    return Raw(x[False], y[False], x[True], y[True], normal, found[False].block, schema)


def _normal_of(nothing: np.ndarray, y: np.ndarray, schema: Schema, cfg: DataConfig) -> list[int]:
    """The normal ones of the classes [N]."""
    whole = Raw(nothing, y, nothing, y[:0], normal_classes(schema.classes))
    return splits.choose_classes(whole, cfg)[0]


def _late(count: int, cfg: DataConfig) -> np.ndarray:
    return np.arange(count) >= count - round(cfg.test_fraction * count)


def _of_groups(group: np.ndarray, cfg: DataConfig) -> np.ndarray:
    """Rows [N] of groups that are drawn to be tested."""
    names = np.unique(group)
    if len(names) < 2:
        raise UserError(
            f"data.group {cfg.group!r} has one value only, so there is nothing to split"
        )
    order = host_generator(cfg.split_seed, Purpose.SPLIT, _TEST).permutation(len(names))
    count = min(max(1, round(cfg.test_fraction * len(names))), len(names) - 1)
    return np.isin(group, names[order[:count]])


def _drawn(
    x: np.ndarray, y: np.ndarray, group: np.ndarray | None, schema: Schema, cfg: DataConfig
) -> np.ndarray:
    """Which rows are tested where the file does not say.

    Those of some groups; or else all anomalies and a share of the normals.
    """
    if group is not None:
        return _of_groups(group, cfg)
    tested = ~np.isin(y, _normal_of(x[:0], y, schema, cfg))
    normals = np.flatnonzero(~tested)
    order = host_generator(cfg.split_seed, Purpose.SPLIT, _TEST).permutation(len(normals))
    tested[normals[order[: max(1, round(cfg.test_fraction * len(normals)))]]] = True
    return tested


def _parted(
    x: np.ndarray, y: np.ndarray, tested: np.ndarray, group: np.ndarray | None, schema: Schema
) -> Raw:
    own = None if group is None else group[~tested]
    normal = normal_classes(schema.classes)
    return Raw(x[~tested], y[~tested], x[tested], y[tested], normal, own, schema)


def _labels(
    table: tables.Table, roles: tables.Roles, cfg: DataConfig
) -> tuple[Int[np.ndarray, " N"], tuple[str, ...]]:
    """The class of each row, all of them one where made anomalies are to be told from them."""
    if roles.label:
        values = tables.values(table, roles.label, "data.label")
        return numbered(values, f"the column {roles.label!r} of data.label")
    if cfg.corruption:
        return np.zeros(table.num_rows, np.int32), ()
    raise UserError(
        "no column tells the classes; name one with --data.label (of "
        f"{', '.join(table.column_names)}), or make anomalies with --data.corruption"
    )


def _groups(table: tables.Table, roles: tables.Roles) -> np.ndarray | None:
    if not roles.group:
        return None
    _, group = np.unique(tables.values(table, roles.group, "data.group"), return_inverse=True)
    return group.astype(np.int32)


def rows(path: Path, schema: Schema) -> tuple[np.ndarray, list[str]]:
    """Rows to judge from a file such as the one that a detector was made of.

    Args:
      path: a table, a series, a folder of images or one image, as the schema says.
      schema: of the detector.

    Returns:
      Raw rows [N, *S], and what they are called: files, first steps of windows, or nothing.

    Raises:
      UserError: the file cannot be read so.
    """
    if schema.kind == "images":
        paths = [path] if path.is_file() else images.files(path)
        if not paths:
            raise UserError(f"{path} is no image and no folder that holds one")
        names = [str(one.relative_to(path)) if path.is_dir() else one.name for one in paths]
        return images.decode(paths, schema), names
    if path.suffix.lower() in (".npz", ".npy"):
        x = arrayfiles.read_rows(path)
        x = _channels(x, "the file") if schema.kind == "series" else x
    else:
        x = tables.encode(tables.read(path), schema)
    if schema.kind != "series":
        return x, []
    if len(x) < schema.window:
        raise UserError(f"{len(x)} steps are fewer than a window of {schema.window}")
    start = windows.cut([(0, len(x))], schema.window, schema.stride, blocks=False).start
    start = np.union1d(start, len(x) - schema.window)  # every step lies in a window
    return windows.rows(x, start, schema.window), [str(at) for at in start]
