"""Which configurations make sense: all that can be checked without data or devices."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable
from types import UnionType
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from jaxae.errors import UserError

if TYPE_CHECKING:  # a configuration is read before anything that takes long is loaded
    from jaxae.types import Source

AUTO = "auto"  # a setting that is left to the rows: see `jaxae.workflows.choices`
Config = Any  # jaxae.config.ExperimentConfig, or a section of it: checked by field names alone


def _at_least(least: int) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value >= least, f"at least {least}"


_positive = (lambda value: value > 0, "above 0")
_share = (lambda value: 0 < value < 1, "between 0 and 1")
_all_positive = (lambda values: all(v >= 1 for v in values), "all at least 1")
_paddings = (
    lambda values: all(v in ("same", "valid") or v.isdigit() for v in values),
    "same, valid or a number of pixels for each layer",
)

# Field -> (what must hold of it, in code and in words).
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "seed": (lambda value: 0 <= value < 2**32, "from 0 to 2**32 - 1"),
    "ensemble": _at_least(1),
    "devices": _at_least(0),
    "data.test_fraction": _share,
    "data.valid_fraction": _share,
    "data.limit": (lambda value: value == 0 or value >= 2, "0, for all, or at least 2"),
    "data.split_seed": _at_least(0),
    "data.size": (lambda value: value == 0 or value >= 4, "0, for their own, or at least 4"),
    "data.window": (lambda value: value == 0 or value >= 2, "0, for a usual one, or at least 2"),
    "data.stride": _at_least(0),
    "model.latent": _at_least(0),
    "model.hidden": _all_positive,
    "model.filters": _all_positive,
    "model.kernels": _all_positive,
    "model.strides": _all_positive,
    "model.paddings": _paddings,
    "model.head_kernel": _at_least(0),
    "alocc.bottleneck": _at_least(0),
    "alocc.code_noise": _at_least(0),
    "alocc.ema": (lambda value: 0 <= value < 1, "at least 0 and below 1"),
    "optim.lr": _positive,
    "optim.lr_discriminator": _positive,
    "optim.eps": _positive,
    "optim.weight_decay": _at_least(0),
    "train.epochs": _at_least(1),
    "train.batch_size": _at_least(1),
    "train.noise_std": _at_least(0),
    "train.checkpoint_every": _at_least(1),
    "train.checkpoint_minutes": _at_least(0),
    "train.keep_checkpoints": _at_least(0),
    "hosts.count": _at_least(0),
    "hosts.index": _at_least(-1),
    "hosts.timeout": _at_least(5),
    "threshold.limit": _at_least(0),
    "threshold.aside": (lambda value: 0 <= value < 1, "at least 0 and below 1"),
}


def validate(cfg: Config) -> Config:
    """Check every field that can be checked without data or devices.

    Returns:
      `cfg` itself.

    Raises:
      UserError: names the field, its value and what it must be.
    """
    _check_types(cfg, "")
    for name, (holds, words) in _RULES.items():
        found = value(cfg, name)
        _require(found == AUTO or holds(found), name, found, words)
    shared = sorted(set(cfg.data.normal) & set(cfg.data.anomaly))
    _require(not shared, "data.anomaly", cfg.data.anomaly, f"without {shared}, which are normal")
    layers = ("filters", "kernels", "strides", "paddings")
    lengths = {name: len(getattr(cfg.model, name)) for name in layers}
    _require(
        len(set(lengths.values())) == 1 and lengths["filters"] > 0,
        "the length of model." + ", ".join(layers),
        lengths,
        "the same, and at least 1",
    )
    return cfg


# Fields of which each method reads some, beside those of whole sections.
_METHOD_FIELDS = (
    "variant",
    "optim.lr_discriminator",
    "train.loss",
    "train.noise_std",
    "train.noise_clip",
)


def refuse_unread(cfg: Config, reads: frozenset[str]) -> None:
    """Refuse settings that the configured method would ignore.

    Args:
      cfg: the configuration.
      reads: dotted names of the method's fields, see `jaxae.methods.learners.Method`.

    Raises:
      UserError: a field that the method does not read is not at its default.
    """
    unread = (name for name in _of_methods(cfg) if name not in reads)
    refuse_set(cfg, unread, f"method {cfg.method} does not read it")


def refuse_set(cfg: Config, names: Iterable[str], why: str, section: str = "") -> None:
    """Refuse settings that would be ignored.

    Args:
      cfg: the configuration, or a section of it.
      names: dotted names of the fields that nothing would read.
      why: what does not read them, and what to do.
      section: which one it is, with a dot.

    Raises:
      UserError: one of them is not at its default.
    """
    for name in names:
        found, usual = value(cfg, name), default(cfg, name)
        if found != usual:
            raise UserError(f"{section}{name} is {found!r}, but {why}; leave it at {usual!r}")


def is_read(cfg: Config, name: str, reads: frozenset[str]) -> bool:
    """Whether a method that reads these fields, of those that not every method does, reads one."""
    return name in reads or name not in _of_methods(cfg)


def _of_methods(cfg: Config) -> tuple[str, ...]:
    return *_METHOD_FIELDS, *fields(cfg, "model"), *fields(cfg, "alocc")


def fields(cfg: Config, section: str) -> tuple[str, ...]:
    """Dotted names of the fields of a section."""
    return tuple(f"{section}.{field.name}" for field in dataclasses.fields(value(cfg, section)))


_OPEN = (
    "method",
    "data.scale",
    "data.input",
    "model.output_activation",
    "model.latent",
    "train.batch_size",
    "train.epochs",
    "score",
)


def open_fields(cfg: Config) -> list[str]:
    """The fields that a configuration leaves to the rows."""
    return [name for name in _OPEN if value(cfg, name) == AUTO]


def refuse_open(cfg: Config) -> None:
    """Refuse a configuration that leaves something to the rows, where it is too late for that.

    Raises:
      UserError: a field is "auto".
    """
    for name in open_fields(cfg):
        raise UserError(f"{name} is {AUTO!r}; set it, or take what `jaxae.settle` chooses")


def refuse_rows(x: "Source") -> None:
    """Refuse what is no rows to train on, as `jaxae.data.load` gives them.

    Raises:
      UserError: another type than float32, no leading axis, or an axis of length 0.
    """
    if x.dtype != "float32" or len(x.shape) < 2 or 0 in x.shape:
        raise UserError(
            f"training rows are {x.dtype} {list(x.shape)}; give float32 [N, ...] with at least one"
        )


def value(cfg: Config, name: str) -> Any:
    """A field by its dotted name."""
    return functools.reduce(getattr, name.split("."), cfg)


def replaced(cfg: Config, name: str, new: Any) -> Config:
    """The configuration with another value of a field by its dotted name."""
    section, _, field = name.rpartition(".")
    part = dataclasses.replace(value(cfg, section) if section else cfg, **{field: new})
    return dataclasses.replace(cfg, **{section: part}) if section else part


def default(cfg: Config, name: str) -> Any:
    """What a field is where nobody says."""
    section, _, field = name.rpartition(".")
    owner = type(value(cfg, section)) if section else type(cfg)
    return next(known.default for known in dataclasses.fields(owner) if known.name == field)


def _require(ok: bool, name: str, value: Any, must_be: str) -> None:
    if not ok:
        raise UserError(f"{name} is {value!r}; it must be {must_be}")


_UNIONS = (Union, UnionType)  # `int | Literal[...]` is the former
_WORDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text"}


def _check_types(node: Any, prefix: str) -> None:
    """Every field is of the type that its configuration states: a run folder can hold it."""
    for name, hint in get_type_hints(type(node)).items():
        value = getattr(node, name)
        if dataclasses.is_dataclass(hint):
            _require(
                isinstance(value, hint),
                prefix + name,
                value,
                f"a {getattr(hint, '__name__', hint)}",
            )
            _check_types(value, f"{prefix}{name}.")
        else:
            _require(_fits(value, hint), prefix + name, value, _words(hint))


def _fits(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(v, get_args(hint)[0]) for v in value)
    if get_origin(hint) in _UNIONS:
        return any(_fits(value, one) for one in get_args(hint))
    if hint is bool or isinstance(value, bool):
        return hint is bool and isinstance(value, bool)
    if hint is float:
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, hint)


def _words(hint: Any) -> str:
    if get_origin(hint) is Literal:
        names = ", ".join(map(str, get_args(hint)))
        return f"one of {names}" if len(get_args(hint)) > 1 else names
    if get_origin(hint) is tuple:
        return f"a tuple, each {_words(get_args(hint)[0])}"
    if get_origin(hint) in _UNIONS:
        return " or ".join(_words(one) for one in get_args(hint))
    return _WORDS[hint]
