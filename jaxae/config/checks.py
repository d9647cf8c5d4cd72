"""Checks of a configuration that need no data or devices, and the settings that fix training."""

import dataclasses
import functools
import math
from collections.abc import Iterable
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from jaxae.config.fields import METHOD_SETTINGS, OWN, Fact, Setting, settings
from jaxae.errors import UserError

if TYPE_CHECKING:  # importing it is slow, and configurations are read first
    from jaxae.types import Source

AUTO = "auto"  # the setting is chosen from the training rows: see `jaxae.workflows.auto`
Config = Any  # jaxae.config.ExperimentConfig, or a section of it


def validate(cfg: Config) -> Config:
    """Check every field that can be checked without data or devices, and return `cfg`.

    Raises:
      UserError: names the field, its value and what it must be.
    """
    _check_own(cfg)
    for name, setting in described(cfg).items():
        current, valid = value(cfg, name), setting.range
        _require(_fits(current, setting.type), name, current, _words(setting.type))
        if valid and current != AUTO:
            _require(valid.holds(current), name, current, valid.words)
    both = sorted(set(cfg.data.normal) & set(cfg.data.anomaly), key=str)
    _require(not both, "data.anomaly", cfg.data.anomaly, f"without {both}, which are normal")
    layers = ("filters", "kernels", "strides", "paddings")
    lengths = {name: len(getattr(cfg.model, name)) for name in layers}
    _require(
        len(set(lengths.values())) == 1 and lengths["filters"] > 0,
        "the length of model." + ", ".join(layers),
        lengths,
        "the same, and at least 1",
    )
    return cfg


def _check_own(cfg: Config) -> None:
    own, cls = cfg.method_settings, METHOD_SETTINGS.get(str(cfg.method))
    words = f"None: method {cfg.method} has no settings of its own"
    if cls:
        words = f"a {cls.__name__}; make the configuration after METHODS.add({cfg.method!r}, ...)"
    _require(own is None if cls is None else type(own) is cls, OWN, own, words)


def refuse_unread(cfg: Config, reads: frozenset[str]) -> None:
    """Refuse settings that the method ignores; `reads`: those it reads, see `Method.reads`."""
    unread = (name for name in marked(cfg, Fact.BY_METHOD) if name not in reads)
    refuse_set(cfg, unread, f"it is not used with --method {cfg.method}")


def refuse_set(cfg: Config, names: Iterable[str], why: str, section: str = "") -> None:
    """Raise a `UserError` if a setting that would be ignored is not at its default.

    Args:
      cfg: the configuration, or a section of it.
      names: dotted names of fields that would be ignored.
      why: why they are ignored, and what to do.
      section: the section's name and a dot, if `cfg` is one.
    """
    for name in names:
        current, usual = value(cfg, name), default(cfg, name)
        if current != usual:
            raise UserError(f"{section}{name} is {current!r}, but {why}; leave it at {usual!r}")


def is_read(cfg: Config, name: str, reads: frozenset[str]) -> bool:
    """Whether a method reads a field: all methods do, or the field is in the method's `reads`."""
    return name in reads or Fact.BY_METHOD not in described(cfg)[name].facts


def marked(cfg: Config, fact: Fact) -> list[str]:
    """Dotted names of the fields for which a fact is true."""
    every = described(cfg).items()
    return [name for name, s in every if fact in s.facts and not s.is_section]


def fields(cfg: Config, section: str) -> list[str]:
    """Dotted names of the fields of a section."""
    return [name for name in described(cfg) if name.startswith(f"{section}.")]


def open_fields(cfg: Config) -> list[str]:
    """Dotted names of the fields that are "auto"."""
    return [name for name in marked(cfg, Fact.FROM_ROWS) if value(cfg, name) == AUTO]


def refuse_open(cfg: Config) -> None:
    """Raise a `UserError` if a field is still "auto"."""
    for name in open_fields(cfg):
        raise UserError(f"{name} is {AUTO!r}; set it, or let `jaxae.settle` choose it")


def training_identity(cfg: Config) -> dict[str, Any]:
    """The settings that determine training: all except those marked `Fact.FREE`, nested.

    Two configurations with the same identity share every step that both take: a run may be resumed,
    extended or scored in another way, but a run folder never mixes two identities. The number
    of epochs is part of it if the learning rates follow a schedule.
    """
    identity = _identity(cfg)
    if cfg.optim.is_scheduled:
        identity["optim"]["schedule"] += f" over {cfg.train.epochs} epochs"
    return identity


def _identity(cfg: Config) -> dict[str, Any]:
    return {
        name: _identity(value(cfg, name)) if setting.is_section else value(cfg, name)
        for name, setting in described(cfg).items()
        if "." not in name and Fact.FREE not in setting.facts
    }


def refuse_rows(x: "Source") -> None:
    """Raise a `UserError` unless rows are float32 [N, ...] without an axis of length 0."""
    if x.dtype != "float32" or len(x.shape) < 2 or 0 in x.shape:
        raise UserError(
            f"training rows are {x.dtype} {list(x.shape)}; give float32 [N, ...] with at least one"
        )


def described(cfg: Config) -> dict[str, Setting]:
    """The settings of a configuration, or of a section of it, by dotted name."""
    own = getattr(cfg, OWN, None)
    return settings(type(cfg), None if own is None else (cfg.method, type(own)))


def _attributes(cfg: Config, name: str) -> list[str]:
    """The attributes that lead to a field; a method's own settings are in the attribute `OWN`."""
    section, *field = name.split(".")
    is_own = getattr(cfg, OWN, None) is not None and section == cfg.method
    return [OWN if is_own else section, *field]


def value(cfg: Config, name: str) -> Any:
    """A field by its dotted name."""
    return functools.reduce(getattr, _attributes(cfg, name), cfg)


def replaced(cfg: Config, name: str, new: Any) -> Config:
    """The configuration with a new value of a field, by its dotted name."""
    section, _, field = ".".join(_attributes(cfg, name)).rpartition(".")
    part = dataclasses.replace(value(cfg, section) if section else cfg, **{field: new})
    return dataclasses.replace(cfg, **{section: part}) if section else part


def default(cfg: Config, name: str) -> Any:
    """The default of a field by its dotted name."""
    return described(cfg)[name].default


def _require(ok: bool, name: str, value: Any, must_be: str) -> None:
    if not ok:
        raise UserError(f"{name} is {value!r}; it must be {must_be}")


_UNIONS = (Union, UnionType)  # `int | Literal[...]` is a `Union`
_WORDS = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a string"}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value has the type that its field declares."""
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
    return _WORDS.get(hint, f"a {hint.__name__}")
