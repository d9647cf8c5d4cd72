"""Raw data sets from a user's tables, arrays and folders of images; and rows to be judged."""

import dataclasses
import math
import os
import re
import shlex
from pathlib import Path

import numpy as np

from jaxae.config import DataConfig
from jaxae.data import arrayfiles, sources
from jaxae.data.own import arrays, folders, images, lines, masks, series, tables
from jaxae.data.own.lines import Lines, Rows
from jaxae.data.own.schema import Schema, numbered
from jaxae.data.raw_data import Raw
from jaxae.devices import memory
from jaxae.errors import UserError, naming_input

_IDENTIFIER = re.compile(r"(?<![a-zA-Z])(id|ID|Id|uid|UID|uuid|guid)(?![a-zA-Z])|[a-z](Id|ID)$")
_FEW = 20  # rows of a table in which a column of even steps may be chance


def table(path: Path, cfg: DataConfig) -> Raw:
    """A CSV or Parquet table with one row per line; see `DataConfig` for the roles of columns.

    Raises:
      UserError: the file or one of its columns cannot be read, or no column contains the classes.
    """
    with naming_input(path):
        table, notes = tables.read(path, cfg.header)
        roles = tables.roles(table, cfg)
        notes += roles.notes
        if cfg.missing == "drop":
            table, dropped = _without_gaps(table, tables.fit(table, roles, cfg, "table"))
            notes += dropped
        rows = lines.of_table(table, roles, cfg, "table", notes)
        numbering = _numbering(rows.x, rows.schema.features)
        return lines.split(rows._replace(notes=rows.notes + numbering), cfg)


def _without_gaps(table: tables.Table, schema: Schema) -> tuple[tables.Table, tuple[str, ...]]:
    """The rows without missing values, and a line about the others."""
    table, count = tables.without_gaps(table, schema)
    if not table.num_rows:
        raise UserError("every row lacks a value; use --data.missing median or --data.ignore")
    return table, (f"{count} rows with missing values are left out",) if count else ()


def _numbering(x: np.ndarray, names: list[str]) -> tuple[str, ...]:
    """A line for each feature that rises or falls evenly, or is called id and never repeats."""
    steps = np.diff(x[:_FEW], axis=0)
    even = (steps == steps[:1]).all(axis=0) & (steps[:1] != 0).any(axis=0)
    identifiers = tuple(
        f"the column {name!r} seems to identify rows: leave it out with --data.ignore "
        f"{shlex.quote(name)} unless it was measured"
        for j, name in enumerate(names)
        if _IDENTIFIER.search(name) and not even[j] and len(np.unique(x[:, j])) == len(x) >= _FEW
        if (x[:, j] % 1 == 0).all()
    )
    return identifiers + tuple(
        f"the column {names[j]!r} numbers the rows: unless it was measured, leave it out with "
        f"--data.ignore {shlex.quote(names[j])}"
        for j in np.flatnonzero(even)
        if len(x) >= _FEW and np.ptp(np.diff(x[:, j])) == 0
    )


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
    rows = Lines(sources.read(raw.x_train), y, None, None, raw.schema, raw.notes)
    return lines.split(rows, cfg)


def folder(path: Path, cfg: DataConfig) -> Raw:
    """A folder of images, see `jaxae.data.own.folders`; images of one class have no labels.

    Masks are the truth of the places of test images, see `jaxae.data.own.masks`.

    Raises:
      UserError: the folder, an image or a mask cannot be read, or the classes do not say what is
        normal.
    """
    found = folders.scan(path, keep_test=bool(cfg.corruption))
    schema, notes = images.fit(found.paths, cfg.size)
    _refuse_too_many(len(found.paths), schema)
    x = images.decode(found.paths, schema)
    y, classes = numbered(np.array(found.classes), "the subfolders")
    schema = dataclasses.replace(schema, classes=classes)
    with naming_input(path):
        names = tuple(folders.printable(os.path.relpath(file, path)) for file in found.paths)
        rows = Lines(x, y, None, found.is_test, schema, notes + found.notes, names=names)

        def place_truth(is_test: np.ndarray, is_normal: np.ndarray) -> masks.Found:
            tested = [found.paths[i] for i in np.flatnonzero(is_test)]
            is_chosen = bool(cfg.normal or cfg.anomaly)
            return masks.read(path, tested, is_normal[is_test], schema.size, is_chosen)

        return lines.split(rows if cfg.corruption else rows._replace(place_truth=place_truth), cfg)


def _refuse_too_many(count: int, schema: Schema) -> None:
    """Refuse images that fill the memory as pixels and as scaled float32 values alone."""
    channels = 1 if schema.mode == "L" else 3
    needed, held = 5 * count * math.prod(schema.size) * channels, memory.of_machine()
    if held and needed > held:
        size = f"{schema.size[0]} x {schema.size[1]} x {channels}"
        raise UserError(
            f"{count} images of {size} need {needed / 1e9:.1f} GB or more, of {held / 1e9:.1f} GB "
            f"of memory; use --data.size {max(schema.size) // 2}, or fewer images"
        )


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
        return series.windows_to_judge(path, schema)
    if path.suffix.lower() in arrays.SUFFIXES:
        return Rows(arrayfiles.read_rows(path))
    table, notes = tables.read(path, schema=schema)
    x, more = tables.to_judge(table, schema)
    return Rows(x, notes=notes + more)
