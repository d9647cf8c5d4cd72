"""The command `jaxae data`: what a data set holds, before anything is trained on it."""

import functools
from typing import Any

import numpy as np

from jaxae import data
from jaxae.config import DataConfig, ExperimentConfig
from jaxae.data import sources, splits
from jaxae.data.own import series, tables
from jaxae.data.raw_data import Raw
from jaxae.workflows import auto

_NAMED = 8  # the most columns that a line names


def columns(cfg: DataConfig) -> list[dict[str, Any]]:
    """Each column of a user's table: name, role, kind and missing values; [] without a table.

    Raises:
      UserError: the file cannot be read, or a setting names a column that does not exist.
    """
    kind, path = data.find(cfg)
    is_table = tables.kind(path) or (path.is_dir() and tables.parts(path))
    if kind not in ("table", "series") or not is_table:
        return []
    table, _ = tables.read(path, cfg.header)
    roles = tables.roles(table, cfg)
    role = dict.fromkeys(roles.left_out, "left out") | dict.fromkeys(cfg.ignore, "ignored")
    if kind == "series":
        time = series.time_columns(table, roles, cfg)
        role |= dict.fromkeys((*time.columns, *time.others), "time")
    role |= {roles.label: "label", roles.group: "group", roles.split: "split"}
    missing = tables.missing(table, tuple(table.column_names))
    return [
        {
            "name": name,
            "role": role.get(name, "feature"),
            "missing": missing[name][0] if name in missing else 0,
            "holds": holds,
        }
        for name, holds in tables.kinds(table).items()
    ]


def inspect(cfg: ExperimentConfig) -> dict[str, Any]:
    """Describe the data, and the settings that training would choose; raises as `jaxae.data.load`.

    Returns:
      JSON-able: numbers of `rows` and of those `used`, `shape` and `dtype` of a row, `range` of the
      training rows, whether they are `labelled`, `notes` on how they were read, `classes` with
      their numbers of rows, `constant` features, `duplicates`, and `chosen`, the settings that were
      "auto".
    """
    raw = data.raw(cfg.data)
    make = functools.partial(splits.make, raw)
    shape, span = tuple(raw.x_train.shape[1:]), sources.span(raw.x_train)
    settled, dataset = auto.settle_rows(cfg, shape, auto.in_floats(span), make)
    return {
        "name": cfg.data.name,
        "kind": raw.schema.kind if data.find(cfg.data)[0] else "published",
        "rows": {"train": len(raw.x_train), "test": len(raw.x_test)},
        "used": {part: len(getattr(dataset, part).x) for part in ("train", "valid", "test")},
        "shape": list(shape),
        "dtype": str(raw.x_train.dtype),
        "range": [float(end) for end in span],
        "labelled": raw.is_labelled,
        "notes": list(raw.notes),
        "classes": _classes(raw, cfg.data),
        "constant": _constant(raw),
        "duplicates": _duplicates(raw),
        "chosen": auto.chosen(cfg, settled),
    }


def _classes(raw: Raw, cfg: DataConfig) -> list[dict[str, Any]]:
    if not raw.is_labelled:
        return []
    normal, _ = splits.choose_classes(raw, cfg)
    train = raw.train_class_id
    train = np.full(len(raw.x_train), normal[0]) if train is None else train
    return [
        {
            "class": k,
            "name": raw.schema.called(k),
            "train": int(np.sum(train == k)),
            "test": int(np.sum(raw.test_class_id == k)),
            "normal": k in normal,
        }
        for k in np.unique(np.concatenate([train, raw.test_class_id])).tolist()
    ]


def _constant(raw: Raw) -> list[str]:
    """Features, channels or pixels that have the same value in all training rows."""
    ends = [(b.min(axis=0), b.max(axis=0)) for b in sources.blocks(raw.x_train)]
    low = functools.reduce(np.minimum, (lowest for lowest, _ in ends))
    high = functools.reduce(np.maximum, (highest for _, highest in ends))
    if len(raw.x_train.shape) == 3:  # a series: channels
        low, high = low.min(axis=0), high.max(axis=0)
    names, indices = raw.schema.features, np.argwhere(low == high).tolist()
    return [names[index[0]] if names else " ".join(map(str, index)) for index in indices]


def _duplicates(raw: Raw) -> dict[str, int]:
    """The number of duplicate rows, bit for bit: in training, in test, and of test in training."""
    train, test = (
        [hash(row.tobytes()) for block in sources.blocks(x) for row in block]
        for x in (raw.x_train, raw.x_test)
    )
    trained = set(train)
    return {
        "train": len(train) - len(trained),
        "test": len(test) - len(set(test)),
        "test_in_train": sum(row in trained for row in test),
    }


def text(summary: dict[str, Any]) -> str:
    """The result of `inspect`, with that of `columns` under "columns", as lines."""
    rows, used = summary["rows"], summary["used"]
    low, high = summary["range"]
    lines = [
        f"{summary['name']} ({summary['kind']}): rows {summary['shape']} of {summary['dtype']} "
        f"from {low:g} to {high:g}",
        f"  rows: {rows['train']} training, {rows['test']} test; used as {used['train']} training, "
        f"{used['valid']} validation, {used['test']} test",
    ]
    if not summary["labelled"]:
        left = rows["train"] - used["train"] - used["valid"]
        left_out = f", {left} left out" if left else ""
        lines[1:] = [
            f"  no labels: all {rows['train']} rows are taken as normal, {used['train']} to train "
            f"on, {used['valid']} held out to set the threshold{left_out}"
        ]
    lines += [f"  {note}" for note in summary["notes"]]
    for entry in summary["classes"]:
        side = "normal" if entry["normal"] else "anomaly"
        lines.append(f"  class {entry['name']}: {entry['train']} + {entry['test']} rows, {side}")
    lines += column_lines(summary["columns"])
    if summary["constant"]:
        constant = _named(summary["constant"])
        if len(summary["shape"]) == 3:
            constant = f"{len(summary['constant'])} of the values of an image"
        lines.append(f"  constant in training: {constant}")
    equal = summary["duplicates"]
    if any(equal.values()):
        lines.append(
            f"  duplicate rows: {equal['train']} in training, {equal['test']} in test, "
            f"{equal['test_in_train']} test rows are also training rows"
        )
    settings = ", ".join(f"{name} {value}" for name, value in summary["chosen"].items())
    choices = f"jaxae train --data.name {summary['name']} would choose: {settings}"
    return "\n".join([*lines, f"{choices}; each can be set"])


def column_lines(described: list[dict[str, Any]]) -> list[str]:
    """The result of `columns` as lines."""
    lines = {
        role: [column["name"] for column in described if column["role"] == role]
        for role in ("label", "group", "split", "time", "ignored", "left out")
    }
    lines["not numeric"] = [
        f"{column['name']} ({column['holds']})"
        for column in described
        if column["role"] == "feature" and column["holds"] not in ("number", "empty")
    ]
    lines["missing values"] = [f"{c['name']} ({c['missing']})" for c in described if c["missing"]]
    return [f"  {title}: {_named(names)}" for title, names in lines.items() if names]


def _named(names: list[str]) -> str:
    """The first few of a list of names, and the number of the others."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
