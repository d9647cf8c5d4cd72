"""Files of labelled rows, read as a detector's files are read, to judge how well it works."""

import dataclasses
import shlex
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from jaxae.config import DataConfig
from jaxae.data import sources, splits
from jaxae.data.own import (
    arrays,
    class_names,
    files,
    folders,
    images,
    labels,
    masks,
    series,
    tables,
)  # fmt: skip
from jaxae.data.own.lines import Rows
from jaxae.data.own.schema import Schema, numbered
from jaxae.data.raw_data import Raw
from jaxae.errors import UserError, naming_input


class OfSteps(NamedTuple):
    """The truth of the steps of a series, in its order."""

    y: Bool[np.ndarray, " T"]
    is_known: Bool[np.ndarray, " T"]  # False of classes that are neither normal nor anomalies


class Labelled(NamedTuple):
    """Rows to judge, with their classes."""

    rows: Rows
    class_id: Int[np.ndarray, " N"]
    y: Bool[np.ndarray, " N"]  # the truth, True = anomaly
    schema: Schema  # names the classes
    notes: tuple[str, ...]
    steps: OfSteps | None = None  # of a series, of which the rows are windows
    place_y: Bool[np.ndarray, " N *P"] | None = None  # of images with masks: of each pixel


def read(path: Path, schema: Schema, cfg: DataConfig, normal: tuple[str, ...] = ()) -> Labelled:
    """Rows with their classes: all rows of the file, or of an .npz with test rows these alone.

    Which classes are normal is chosen by `splits.choose_classes`. A window has the highest
    anomalous class of its steps, and so is an anomaly if one of them is.

    Args:
      path: a table or a series with a column of classes, a folder of images with subfolders, or an
        .npz or a folder of .npy files with `x_test` and `y_test`, or `X` and `y`.
      schema: of the detector.
      cfg: its `label`, `normal`, `anomaly` and `ignore` are read.
      normal: names or numbers of classes that are normal if `cfg` names none and the file has them.

    Raises:
      UserError: the file cannot be read according to the schema, holds no classes or only one side,
        or it is open which classes are normal.
    """
    with naming_input(path):
        rows, (class_id, names) = _read(path, schema, cfg)
        of_file = dataclasses.replace(Schema(), classes=names)
        raw = Raw(
            class_id[:0], None, class_id[:0], class_id, class_names.normals(names), schema=of_file
        )
        present = np.unique(class_id).tolist()
        if len(present) < 2:
            raise UserError(
                f"all rows are of the class {of_file.called(present[0])}; metrics need normals and "
                "anomalies"
            )
        known = tuple(name for name in normal if of_file.number(name) in present)
        notes = rows.notes
        if known and not cfg.normal and not cfg.anomaly:
            cfg = dataclasses.replace(cfg, normal=known)
            notes += (f"normal as in training: {', '.join(known)}",)
        else:
            notes += splits.class_notes(raw, cfg)
        chosen, anomalous = splits.choose_classes(raw, cfg)
        steps = None
        if rows.series:
            of_step = class_id[rows.series.steps.row]
            is_known = np.isin(of_step, [*chosen, *anomalous])
            steps = OfSteps(~np.isin(of_step, chosen), is_known)
            place = rows.series.steps.start[:, None] + np.arange(schema.window)
            class_id = _of_windows(of_step[place], chosen)
        kept = np.isin(class_id, [*chosen, *anomalous])
        if not kept.all():
            rows = rows._replace(x=rows.x[kept])
            notes += (f"{int(np.sum(~kept))} rows of other classes are left out",)
        class_id = class_id[kept]
        y, pixels = ~np.isin(class_id, chosen), masks.Found(None)
        if schema.kind == "images":
            every = folders.scan(path, keep_test=True).paths
            paths = [every[i] for i in np.flatnonzero(kept)]
            pixels = masks.read(path, paths, ~y, schema.size, bool(cfg.normal or cfg.anomaly))
        notes += pixels.notes
    return Labelled(rows, class_id, y, of_file, notes, steps, pixels.place_y)


def _of_windows(class_id: Int[np.ndarray, "N W"], normal: list[int]) -> Int[np.ndarray, " N"]:
    """The highest anomalous class of the steps of each window, or else a normal class."""
    is_anomaly = ~np.isin(class_id, normal)
    highest = np.where(is_anomaly, class_id, np.iinfo(np.int32).min).max(axis=1)
    return np.where(is_anomaly.any(axis=1), highest, class_id[:, 0]).astype(np.int32)


Labels = tuple[Int[np.ndarray, " L"], tuple[str, ...]]  # as `numbered` gives them


def _read(path: Path, schema: Schema, cfg: DataConfig) -> tuple[Rows, Labels]:
    """Rows, and the labels of rows, or of the lines of a series."""
    if schema.kind == "images":
        found = folders.scan(path, keep_test=True)
        classes = numbered(np.array(found.classes), "the subfolders")
        return Rows(images.decode(found.paths, schema), notes=found.notes), classes
    if path.suffix.lower() in arrays.SUFFIXES or (path.is_dir() and arrays.holds_arrays(path)):
        x, classes = _arrays(path)
        rows = series.windows_to_judge(path, schema, x) if schema.kind == "series" else Rows(x)
        return rows, classes
    if not schema.columns:
        raise UserError(
            "the detector was trained on arrays; give an .npz with X and y, or x_test and y_test"
        )
    return files.rows(path, schema), _column(path, schema, cfg)


def _arrays(path: Path) -> tuple[np.ndarray, Labels]:
    """The test rows and their classes, or without test rows all rows."""
    stored = arrays.stored(path, to_judge=True)
    x = stored.x_train if stored.x_test is None else stored.x_test
    counts = len(stored.x_train), 0 if stored.x_test is None else len(stored.x_test)
    y_train, y_test, names = arrays.classes(stored, counts, str(path))
    y = y_train if stored.x_test is None else y_test
    if y is None:
        raise UserError("no array holds classes; name them y beside X, or y_test beside x_test")
    return sources.read(x), (y, names)


def _column(path: Path, schema: Schema, cfg: DataConfig) -> Labels:
    """The labels of the lines of a table, from a column that the detector does not read."""
    table, _ = tables.read(path, schema=schema)
    others = [name for name in table.column_names if name not in schema.columns]
    if cfg.label in schema.columns:
        raise UserError(f"--data.label {shlex.quote(cfg.label)} is a value that the detector reads")
    ignored = tuple(name for name in cfg.ignore if name in others)
    known = DataConfig(label=cfg.label, ignore=ignored)
    label = tables.roles(table.select(others), known).label
    if not label:
        remedy = f"name one with --data.label (of {', '.join(others)})"
        if not others:
            remedy = "add one: all columns are values to judge"
        raise UserError(f"no column holds the classes; {remedy}")
    what = f"the column {label!r} of the label"
    class_id, names = numbered(tables.values(table, label, "data.label"), what)
    labels.refuse_inverted(label, list(names) or [str(k) for k in np.unique(class_id)], cfg)
    return class_id, names
