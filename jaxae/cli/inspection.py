"""What a data set holds, before anything is trained on it: the command `jaxae data`."""

import functools
from typing import Any

import numpy as np

from jaxae import data
from jaxae.config import DataConfig, ExperimentConfig
from jaxae.data import sources, splits
from jaxae.data.own import tables
from jaxae.data.raw_data import Raw
from jaxae.workflows import auto

_NAMED = 8  # columns, at most, that a line names


def columns(cfg: DataConfig) -> list[dict[str, Any]]:
    """Of each column of a user's table: its name, role, kind, and how many values are missing.

    Returns:
      An empty list where the data are no table.

    Raises:
      UserError: the file cannot be read, or a setting names a column that is not there.
    """
    kind, path = data.find(cfg)
    if kind not in ("table", "series") or path.suffix.lower() not in tables.SUFFIXES:
        return []
    table = tables.read(path)
    roles = tables.roles(table, cfg)._asdict()
    role = {column: name for name, column in roles.items()}
    role |= dict.fromkeys(cfg.ignore, "ignored")
    described = []
    for name in table.column_names:
        gaps, _ = tables.missing(table, (name,)).get(name, (0, 0))
        column = {"name": name, "role": role.get(name, "feature"), "missing": gaps}
        described.append(column | {"holds": tables.column_kind(table, name)})
    return described


def inspect(cfg: ExperimentConfig) -> dict[str, Any]:
    """What the data hold, and what training would make of them.

    Returns:
      JSON-able: `rows` of both parts, `shape` and `dtype` of one, `range` over the training rows,
      `classes` with their rows, `constant` features, `duplicates` within and between the parts,
      and `chosen`, the settings that were left to the rows.

    Raises:
      UserError: see `jaxae.data.load`.
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
        "classes": _classes(raw, cfg.data),
        "constant": _constant(raw),
        "duplicates": _duplicates(raw),
        "chosen": auto.chosen(cfg, settled),
    }


def _classes(raw: Raw, cfg: DataConfig) -> list[dict[str, Any]]:
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
    """Features, channels or pixels that are the same in every training row."""
    ends = [(b.min(axis=0), b.max(axis=0)) for b in sources.blocks(raw.x_train)]
    low = functools.reduce(np.minimum, (lowest for lowest, _ in ends))
    high = functools.reduce(np.maximum, (highest for _, highest in ends))
    if len(raw.x_train.shape) == 3:  # of a series, channels
        low, high = low.min(axis=0), high.max(axis=0)
    at = np.argwhere(low == high)
    names = raw.schema.features
    return [names[i[0]] if names else " ".join(map(str, i)) for i in at.tolist()]


def _duplicates(raw: Raw) -> dict[str, int]:
    """Rows that another row equals, bit for bit: within a part, and test rows seen in training."""
    train, test = (_fingerprints(x) for x in (raw.x_train, raw.x_test))
    return {
        "train": len(train) - len(np.unique(train)),
        "test": len(test) - len(np.unique(test)),
        "test_in_train": int(np.isin(test, train).sum()),
    }


def _fingerprints(x: sources.Source) -> np.ndarray:
    """A value for each row, the same for equal rows."""
    hashes = []
    for block in sources.blocks(x):
        flat = np.ascontiguousarray(block).reshape(len(block), -1)
        hashes += [hash(row.tobytes()) for row in flat]
    return np.array(hashes)


def text(summary: dict[str, Any]) -> str:
    """What `inspect` says of a data set, and `columns` under that name, as lines."""
    rows, used = summary["rows"], summary["used"]
    low, high = summary["range"]
    lines = [
        f"{summary['name']} ({summary['kind']}): rows {summary['shape']} of {summary['dtype']} "
        f"from {low:g} to {high:g}",
        f"  rows: {rows['train']} to train on, {rows['test']} to test; used as {used['train']} "
        f"training, {used['valid']} valid, {used['test']} test",
    ]
    for entry in summary["classes"]:
        side = "normal" if entry["normal"] else "anomaly"
        lines.append(f"  class {entry['name']}: {entry['train']} + {entry['test']} rows, {side}")
    lines += column_lines(summary["columns"])
    if summary["constant"]:
        constant = named(summary["constant"])
        if len(summary["shape"]) == 3:
            constant = f"{len(summary['constant'])} of the values of an image"
        lines.append(f"  constant in training: {constant}")
    same = summary["duplicates"]
    if any(same.values()):
        lines.append(
            f"  equal rows: {same['train']} in training, {same['test']} in test, "
            f"{same['test_in_train']} test rows are training rows too"
        )
    settings = ", ".join(f"{name} {value}" for name, value in summary["chosen"].items())
    choices = f"jaxae train --data.name {summary['name']} would choose: {settings}"
    return "\n".join([*lines, f"{choices}; each can be set"])


def column_lines(described: list[dict[str, Any]]) -> list[str]:
    """What `columns` says of a table, as lines."""
    listed = {
        role: [column["name"] for column in described if column["role"] == role]
        for role in ("label", "group", "split", "ignored")
    }
    listed["no numbers"] = [f"{c['name']} ({c['holds']})" for c in described if _is_odd(c)]
    listed["missing values"] = [f"{c['name']} ({c['missing']})" for c in described if c["missing"]]
    return [f"  {title}: {named(names)}" for title, names in listed.items() if names]


def _is_odd(column: dict[str, Any]) -> bool:
    return column["role"] == "feature" and column["holds"] not in ("number", "empty")


def named(names: list[str]) -> str:
    """The first few of a list of names, and how many there are more."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
