"""The description of a setting besides its type and default: its range, and what reads it.

In `jaxae.config.schema` a setting is `name: Annotated[type, facts ...] = default`; the facts of a
section hold for each of its fields. Checks, refusals, the training identity and the list of "auto"
fields are all derived from these descriptions; there is no other list of fields.
"""

import dataclasses
import enum
import functools
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, get_type_hints

from jaxae.errors import UserError


class Range(NamedTuple):
    """The valid values, in code and in words; "auto" is valid too if the type allows it."""

    holds: Callable[[Any], bool]
    words: str


class Fact(enum.Enum):
    """Facts that may be true for a setting."""

    FREE = "does not change what is learned: a run may be resumed with another value"
    FROM_ROWS = 'may be "auto": chosen from the training rows, see `jaxae.workflows.auto`'
    BY_METHOD = "read only by methods that name it in `jaxae.methods.learners.Method.reads`"
    OF_PROCESS = "may differ between processes that train together; all others are compared"
    SINGLE_RUN = "read by single runs only, not by a grid of members side by side"


def at_least(least: int) -> Range:
    """Numbers >= `least`."""
    return Range(lambda value: value >= least, f"at least {least}")


def zero_or(least: int, meaning: str) -> Range:
    """Numbers >= `least`, or 0, which has a special meaning."""
    return Range(lambda n: n == 0 or n >= least, f"0, for {meaning}, or at least {least}")


Count = Annotated[int, at_least(0)]
Positive = Annotated[int, at_least(1)]
Amount = Annotated[float, at_least(0)]
Rate = Annotated[float, Range(lambda value: value > 0, "above 0")]
Share = Annotated[float, Range(lambda value: 0 < value < 1, "between 0 and 1")]
ShareOrZero = Annotated[float, Range(lambda value: 0 <= value < 1, "at least 0 and below 1")]
Minority = Annotated[float, Range(lambda value: 0 <= value <= 0.5, "from 0 to 0.5")]
Seed = Annotated[int, Range(lambda value: 0 <= value < 2**32, "from 0 to 2**32 - 1")]
Sizes = Annotated[
    tuple[int, ...], Range(lambda sizes: min(sizes, default=1) >= 1, "all at least 1")
]
Paddings = Annotated[
    tuple[str, ...],
    Range(
        lambda values: all(v in ("same", "valid") or v.isdigit() for v in values),
        "same, valid or a number of pixels for each layer",
    ),
]


class Setting(NamedTuple):
    """A field of a configuration, or a whole section of it."""

    type: Any
    default: Any
    facts: frozenset[Fact]
    range: Range | None

    @property
    def is_section(self) -> bool:
        """Whether it has fields of its own."""
        return dataclasses.is_dataclass(self.type)


METHOD_SETTINGS: dict[str, type] = {}  # method -> the class of its own settings
OWN = "method_settings"  # the field that holds them; their section has the method's name


@functools.cache
def settings(cls: type, own: tuple[str, type] | None = None) -> dict[str, Setting]:
    """The settings of a configuration class by dotted name, each section before its fields.

    `own`: the name of the method and the class of its own settings, if it has any.
    """
    types, described = get_type_hints(cls), get_type_hints(cls, include_extras=True)
    settings_by_name = {}
    for field in dataclasses.fields(cls):
        section, hint = field.name, types[field.name]
        if section == OWN:
            if own is None:
                continue
            section, hint = own
        extras = getattr(described[field.name], "__metadata__", ())
        facts = frozenset(extra for extra in extras if isinstance(extra, Fact))
        valid = next((extra for extra in extras if isinstance(extra, Range)), None)
        setting = Setting(hint, field.default, facts, valid)
        settings_by_name[section] = setting
        if setting.is_section:
            for name, inner in settings(setting.type).items():
                inherited = inner._replace(facts=inner.facts | facts)
                settings_by_name[f"{section}.{name}"] = inherited
    return settings_by_name


def add_method_settings(method: str, cls: type, config: type) -> None:
    """Register the class of a method's own settings.

    Raises:
      UserError: the class is not a frozen dataclass with a default for every field, or `config`
        has a field with the method's name.
    """
    if method in settings(config):
        raise UserError(f"a method with settings cannot be called {method!r}: it is a setting")
    try:
        hash(cls())
        is_valid = dataclasses.is_dataclass(cls)
    except TypeError:
        is_valid = False
    if not is_valid:
        raise UserError(
            f"the settings of method {method!r} must be a frozen dataclass with a default for "
            f"every field, not {cls!r}"
        )
    METHOD_SETTINGS[method] = cls
