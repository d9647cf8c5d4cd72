"""The lines of a user's files, whatever their kind, and how they become training and test rows.

If a file does not define test rows, all anomalies and a share of the normals are test rows.
"""

import dataclasses
import shlex
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jaxae.config import DataConfig
from jaxae.data import splits
from jaxae.data.own import class_names, labels, tables
from jaxae.data.own.schema import Schema, numbered
from jaxae.data.raw_data import Raw, narrowed
from jaxae.errors import UserError
from jaxae.rng import SplitDraw
from jaxae.types import Source, Steps


class Lines(NamedTuple):
    """What was read for training: rows of a table, images, or steps of a series."""

    x: np.ndarray  # [N, ...]
    y: np.ndarray | None  # [N], the class; None = unlabelled
    group: np.ndarray | None  # [N], or [N, 2] for windows
    is_test: np.ndarray | None  # [N]; None = not drawn yet
    schema: Schema
    notes: tuple[str, ...] = ()  # see `Raw.notes`
    stretch: np.ndarray | None = None  # series: [T], rises where no window may cross
    names: tuple[str, ...] = ()  # of rows; () = they have none
    order: np.ndarray | None = None  # series: [T], positions in the file, if that differs
    steps: Steps | None = None  # of windows
    # Images: (is_test [N], is_normal [N]) -> the truth of the places of the test rows, and notes.
    place_truth: Callable[[np.ndarray, np.ndarray], tuple] | None = None


class Series(NamedTuple):
    """A series to judge; its steps are in the order of their groups."""

    x: np.ndarray  # [T, C]
    steps: Steps  # of windows that cover every step, but for stretches shorter than a window
    named: dict[str, list[str]]  # the group and the time of each line of the file, as there
    notes: tuple[str, ...]  # see `Raw.notes`


class Rows(NamedTuple):
    """What was read to be judged."""

    x: Source  # [N, *S]
    named: dict[str, list[str]] = {}  # noqa: RUF012 - what names each row; never written to
    notes: tuple[str, ...] = ()  # see `Raw.notes`
    series: Series | None = None  # of which the rows are windows


def of_table(
    table: tables.Table, roles: tables.Roles, cfg: DataConfig, kind: str, notes: tuple[str, ...]
) -> Lines:
    """The lines of a table, in their order in the file; `notes` come first among its notes.

    Raises:
      UserError: a column cannot be read, or the label leaves open which rows are normal.
    """
    schema = dataclasses.replace(tables.fit(table, roles, cfg, kind), missing=cfg.missing)
    x = narrowed(tables.encode(table, schema))
    y: np.ndarray | None = None
    is_test: np.ndarray | None = None
    if roles.label:
        values = tables.values(table, roles.label, "data.label")
        y, classes = numbered(values, f"the column {roles.label!r} of data.label")
        schema = dataclasses.replace(schema, classes=classes)
        known = list(classes) or [str(k) for k in np.unique(y)]
        labels.refuse_inverted(roles.label, known, cfg)
    elif cfg.corruption:  # all rows are normal
        y = np.zeros(table.num_rows, np.int32)
    else:
        notes += ("no label column was found; if there is one, name it with --data.label",)
    if roles.split:
        parts = tables.values(table, roles.split, tables.SPLIT).astype(str)
        is_test = np.char.lower(parts) == "test"
    return Lines(x, y, groups(table, roles.group), is_test, schema, notes)


def groups(table: tables.Table, column: str) -> np.ndarray | None:
    """The group of each line, numbered from 0 in the order of their values; None without column."""
    if not column:
        return None
    values = tables.values(table, column, "data.group")
    return np.unique(values, return_inverse=True)[1].astype(np.int32)


def split(lines: Lines, cfg: DataConfig) -> Raw:
    """Training and test rows; by default all anomalies and a share of the normals are test rows."""
    lines = of_several_classes(lines, cfg)
    y, group, is_test, schema = lines.y, lines.group, lines.is_test, lines.schema
    if y is None:
        return unlabelled(lines)
    only, notes = labels_only(y, schema, is_test), lines.notes
    is_normal = np.isin(y, splits.choose_classes(only, cfg)[0])
    if is_test is None:
        notes += splits.class_notes(only, cfg)
    if is_test is not None and not (cfg.normal or cfg.anomaly or cfg.corruption):
        _require_known_test(y[is_test], np.unique(y[is_normal]).tolist(), schema)
    is_test, more = _test_rows(is_test, is_normal, group, cfg)
    place_y, said = lines.place_truth(is_test, is_normal) if lines.place_truth else (None, ())
    lines = filled(lines._replace(notes=notes + more + said), ~is_test)
    x, train_group = lines.x, None if group is None else group[~is_test]
    parts = x[~is_test], y[~is_test], x[is_test], y[is_test]
    return Raw(*parts, only.normal, train_group, lines.schema, lines.notes, test_place_y=place_y)


def of_several_classes(lines: Lines, cfg: DataConfig) -> Lines:
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
    note = f"all rows are of the class {name}, so they are taken as normal, without labels"
    return lines._replace(
        y=None,
        is_test=None,
        schema=dataclasses.replace(schema, classes=()),
        notes=(*lines.notes, note),
    )


def unlabelled(lines: Lines) -> Raw:
    """All rows as training rows."""
    lines = lines if lines.x.ndim > 2 else filled(lines, np.ones(len(lines.x), bool))
    x, none, notes = lines.x, np.zeros(0, np.int32), lines.notes
    if lines.is_test is not None and lines.group is None:
        notes = (
            *notes,
            "without labels there are no test rows: all rows are training rows",
        )
    return Raw(
        x, None, x[:0], none, (), lines.group, lines.schema, notes, lines.names, steps=lines.steps
    )


def filled(lines: Lines, is_train: np.ndarray) -> Lines:
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
    x, notes = tables.filled(x, median)
    schema = dataclasses.replace(lines.schema, fill=tuple(median.tolist()))
    return lines._replace(x=narrowed(x), schema=schema, notes=lines.notes + notes)


def labels_only(y: np.ndarray, schema: Schema, is_test: np.ndarray | None = None) -> Raw:
    """A data set of labels without rows, which are training rows unless `is_test` [N] says more."""
    is_test = np.zeros(len(y), bool) if is_test is None else is_test
    normal = class_names.normals(schema.classes)
    return Raw(y[:0], y[~is_test], y[:0], y[is_test], normal, schema=schema)


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
        given = drawn_groups(group, ~is_normal, cfg)
    anomalies, normals = int(np.sum(~is_normal)), int(np.sum(is_normal))
    is_test = np.zeros(len(is_normal), bool) if given is None else given.copy()
    notes = tuple[str, ...]()
    if group is not None and (torn := np.intersect1d(group[is_test], group[~is_test]).size):
        notes += (f"{torn} groups have rows in both training and test, as the file divides them",)
    if group is None and anomalies and not is_test[~is_normal].any():
        is_test |= ~is_normal
        if given is not None:
            notes += (
                f"no test row is an anomaly: the {anomalies} among the training rows are tested",
            )
    if group is None and normals and not is_test[is_normal].any():
        count = max(1, round(cfg.test_fraction * normals))
        is_test[is_normal] = splits.draw(normals, count, cfg.split_seed, SplitDraw.TEST)
        if given is not None:
            notes += (f"no test row is normal: {count} of {normals} normal rows are tested",)
    if left := int(np.sum(~is_normal & ~is_test)):
        notes += (f"{left} of {anomalies} anomalies are among the training rows and are left out",)
    return is_test, notes


def drawn_groups(group: np.ndarray, is_anomaly: np.ndarray, cfg: DataConfig) -> np.ndarray:
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
