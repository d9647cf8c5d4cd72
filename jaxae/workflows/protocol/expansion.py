"""Which members a protocol has, and which of them are already finished."""

import dataclasses
import itertools
import json
import shlex
from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxae import config, data
from jaxae.config import DataConfig, ExperimentConfig, checks
from jaxae.config.fields import Fact
from jaxae.config.grids import ProtocolConfig, experiment_of
from jaxae.data import splits
from jaxae.data.arrayfiles import read_npz
from jaxae.data.raw_data import Raw
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.storage import manifest
from jaxae.types import Dataset, Shape
from jaxae.workflows import auto, experiment


def refuse_unread(cfg: ExperimentConfig) -> None:
    """Refuse settings that a grid does not support, such as studies.

    Raises:
      UserError: such a setting is not the default.
    """
    single = checks.marked(cfg, Fact.SINGLE_RUN)
    checks.refuse_set(cfg, single, "only single runs use it, not a grid of members")


def expand(cfg: ProtocolConfig) -> tuple[list[ExperimentConfig], dict[DataConfig, Dataset]]:
    """The configuration of every member, and the data set of each class.

    Every "auto" is settled once for all members, on the first class. A member's results are those
    that `jaxae.workflows.experiment.run` gives for its configuration on one device.

    Raises:
      UserError: there is nothing to sweep over, the data lack a class, or a field cannot work; see
        `jaxae.workflows.experiment.check`.
    """
    axes = _axes(cfg)
    _check(cfg)
    base = experiment_of(cfg)
    raw = data.raw(base.data)
    if not raw.is_labelled:
        raise UserError(
            f"one-vs-rest takes each class in turn, and the rows of {base.data.name} have no "
            f"labels; train one model with jaxae train --data.name {shlex.quote(base.data.name)}"
        )
    classes = _classes(raw, cfg.classes)
    _refuse_few(raw, classes, base.data)
    first = dataclasses.replace(base.data, normal=(classes[0],), anomaly=())
    base, _ = auto.settle(dataclasses.replace(base, data=first))
    of_class = [dataclasses.replace(base.data, normal=(k,)) for k in classes]
    datasets = {data_cfg: splits.make(raw, data_cfg) for data_cfg in of_class}
    _refuse_fewer_than_a_batch(raw, base, datasets)
    members = []
    seeds = range(cfg.seed, cfg.seed + cfg.seeds)
    grid: Iterable[Any] = itertools.product(of_class, seeds, *(values for _, values in axes))
    for data_cfg, seed, *point in grid:
        member = dataclasses.replace(base, data=data_cfg, seed=seed)
        for (field, _), value in zip(axes, point, strict=True):
            member = checks.replaced(member, field, value)
        name = name_of(member, [field for field, _ in axes])
        member = dataclasses.replace(member, run_dir=str(cfg.run_path / "members" / name))
        if seed == cfg.seed:  # other seeds differ in nothing that is checked
            experiment.check(member, datasets[data_cfg])
            _refuse_fixed(member, datasets[data_cfg].shape, [field for field, _ in axes])
        members.append(member)
    return members, datasets


def name_of(member: ExperimentConfig, swept: Iterable[str]) -> str:
    """The name of a member's folder; `swept` are the fields of the sweep."""
    point = (f"-{_last(field)}{checks.value(member, field):g}" for field in swept)
    return f"class{member.data.normal[0]}-seed{member.seed}{''.join(point)}"


def _refuse_fixed(member: ExperimentConfig, shape: Shape, swept: list[str]) -> None:
    """Refuse to sweep over a field that does not set one of the learner's settings.

    Only these may differ between members of one program. A method may leave out a setting of 0.
    """
    settings = learners.build(member, shape, axis=None).settings
    fields = [
        name
        for name in checks.described(member)
        if settings.get(_last(name)) == checks.value(member, name) is not None
    ]
    for field in swept:
        if field not in fields and checks.value(member, field):
            raise UserError(
                f"sweep names {field}, but members of method {member.method} may differ only in "
                f"{', '.join(fields)}; run the protocol once for each value"
            )


def _last(field: str) -> str:
    return field.rpartition(".")[2]


def _check(cfg: ProtocolConfig) -> None:
    """Refuse fields that cannot work, before any data are read."""
    checks.validate(cfg)
    if cfg.seeds < 1 or cfg.seed + cfg.seeds > 2**32:
        raise UserError(f"seeds is {cfg.seeds}; it must be at least 1, and the last below 2**32")
    if len({*cfg.classes}) < len(cfg.classes):
        raise UserError(f"classes is {cfg.classes}; name each class once")
    of_classes = ("data.normal", "data.anomaly")
    checks.refuse_set(cfg, of_classes, "each of --classes is normal in turn, the rest anomalies")


def _classes(raw: Raw, names: tuple[int | str, ...]) -> list[int]:
    """The classes that take turns as the normal one; () = every class of the training rows."""
    classes = np.unique([] if raw.train_class_id is None else raw.train_class_id).tolist()
    if not names and len(classes) < 2:
        raise UserError(
            "one-vs-rest needs training rows of several classes: give y_train in the npz file"
        )
    numbers = [raw.schema.number(name) for name in names]
    if None in numbers:
        known = ", ".join(map(raw.schema.called, classes))
        raise UserError(
            f"classes names {names[numbers.index(None)]!r}, but the training rows are of {known}"
        )
    return [k for k in numbers if k is not None] or classes


def _refuse_few(raw: Raw, classes: list[int], cfg: DataConfig) -> None:
    """Refuse classes with too few rows to train on and to hold out."""
    class_id = raw.train_class_id
    if class_id is None or cfg.split == "random":
        class_id = np.concatenate([[] if class_id is None else class_id, raw.test_class_id])
    least = splits.FEWEST + (cfg.valid == "holdout")
    few = {k: n for k in classes if 0 < (n := int(np.sum(class_id == k))) < least}
    _refuse_classes(raw, classes, few, f"a model needs at least {least} to train and to validate;")


def _refuse_fewer_than_a_batch(
    raw: Raw, base: ExperimentConfig, datasets: dict[DataConfig, Dataset]
) -> None:
    """Refuse classes whose rows, without those held out, do not fill a batch."""
    counts = {int(k.normal[0]): len(dataset.train.x) for k, dataset in datasets.items()}
    few = {k: n for k, n in counts.items() if n < base.train.batch_size}
    why = f"train.batch_size is {base.train.batch_size}; set --train.batch-size {{}}, or"
    _refuse_classes(raw, [*counts], few, why.format(min(counts.values())))


def _refuse_classes(raw: Raw, classes: list[int], few: dict[int, int], why: str) -> None:
    """Raise a `UserError` that names classes and their numbers of rows, if others can be kept."""
    if not few or len(few) == len(classes):
        return
    counts = [f"class {raw.schema.called(k)} has {n} rows to train on" for k, n in few.items()]
    kept = [shlex.quote(raw.schema.known_as(k)) for k in classes if k not in few]
    raise UserError(f"{', '.join(counts)}: {why} keep the others, --classes {' '.join(kept)}")


def _axes(cfg: ProtocolConfig) -> list[tuple[str, list[float]]]:
    """The fields to sweep over and their values, each named once."""
    axes = [_axis(cfg, spec) for spec in cfg.sweep]
    fields = [field for field, _ in axes]
    for field, values in axes:
        if fields.count(field) > 1 or len({f"{value:g}" for value in values}) < len(values):
            raise UserError(
                f"sweep names {field}, or values of it that agree in six digits, more than once"
            )
    return axes


def _axis(cfg: ProtocolConfig, spec: str) -> tuple[str, list[float]]:
    """The field and the values of "optim.lr=1e-3,3e-4"."""
    field, _, text = spec.partition("=")
    try:
        values = [float(value) for value in text.split(",")]
    except ValueError:
        values = []
    settings = checks.described(cfg)
    if field not in settings or settings[field].type is not float or not values:
        raise UserError(
            f"sweep {spec!r} must be FIELD=A,B,C, as optim.lr=1e-3,3e-4, with a field of type float"
        )
    return field, values


def named(text: str, count: int) -> range:
    """The members that "A:B" names."""
    if not text:
        return range(count)
    low, colon, high = text.partition(":")
    if not (colon and (low + high).isdecimal()) and text != ":":
        raise UserError(f"members is {text!r}; write A:B, as 0:10 for the first ten of {count}")
    chosen = range(count)[int(low or 0) : int(high or count)]
    if not chosen:
        raise UserError(f"members {text} names none of the {count} members, 0 to {count - 1}")
    return chosen


def is_finished(member: ExperimentConfig, digest: str) -> bool:
    """Whether a member's folder contains the finished run of this configuration on these data.

    Raises:
      UserError: it was trained for more epochs, which would be lost.
    """
    if not (member.run_path / manifest.NAME).is_file():
        return False
    try:
        read_npz(member.run_path / "scores.npz", ("test",), ("test",))
        stored = config.from_json((member.run_path / "config.json").read_text())
        done = json.loads((member.run_path / "report.json").read_bytes())["epochs"]
        of_data = json.loads((member.run_path / "data.json").read_bytes())
    except (UserError, OSError, ValueError, KeyError, TypeError):
        return False
    if isinstance(done, int) and done > member.train.epochs:
        raise UserError(
            f"train.epochs is {member.train.epochs}, but {member.run_path} holds {done} epochs; "
            "ask for at least as many, or name another --run-dir"
        )
    is_same = of_data == digest and _result(stored) == _result(member)
    return is_same and done == member.train.epochs


def training_of(member: ExperimentConfig) -> tuple:
    """The settings on which a member's weights and its `metrics.jsonl` depend."""
    return checks.training_identity(member), member.train.epochs, member.train.monitor


def _result(member: ExperimentConfig) -> tuple:
    """The settings on which a member's scores and decisions depend."""
    return training_of(member), member.score, member.score_dtype, member.threshold
