"""Renamed and removed fields, so that older saved configurations can still be read.

When you rename or remove a field, add it to `RENAMED` or `REMOVED`. A renamed field keeps its
value. A removed field is dropped if it has its default value; any other value is an error, because
this version does not support it.
"""

import copy
from collections.abc import Iterable
from typing import Any

from jaxae.errors import UserError

RENAMED = {"threshold.aside": "threshold.standardise_fraction"}  # dotted name -> the new one
REMOVED: dict[str, tuple[Any, str]] = {}  # dotted name -> (default in JSON, what to use instead)


def migrated(values: dict[str, Any], current: int) -> dict[str, Any]:
    """A copy of a saved configuration with this version's fields, without its "format".

    Args:
      values: the content of the JSON file.
      current: the format that this version reads and writes.

    Raises:
      UserError: it has another format, or a removed field does not have its default value.
    """
    version = values.get("format", 1)
    if version != current:
        raise UserError(
            f"it has format {version}, written by another version of jaxae; this one reads and "
            f"writes format {current}"
        )
    values = copy.deepcopy({name: value for name, value in values.items() if name != "format"})
    for name, (default, remedy) in REMOVED.items():
        section, field = _section(values, name)
        if field in section and (value := section.pop(field)) != default:
            raise UserError(f"{name} is {value!r}, but it was removed; {remedy}")
    for name, new_name in RENAMED.items():
        (section, field), (new_section, new) = _section(values, name), _section(values, new_name)
        if field in section and new not in new_section:  # with both, the old name is unknown
            new_section[new] = section.pop(field)
    return values


def _section(values: dict[str, Any], name: str) -> tuple[dict[str, Any], str]:
    """The section that contains a field, and the field's name in it."""
    section, _, field = name.rpartition(".")
    fields = values.setdefault(section, {}) if section else values
    return fields if isinstance(fields, dict) else {}, field


def refuse_old_flags(args: Iterable[str]) -> None:
    """Raise a `UserError` for the flag of a renamed or removed field; says what to use instead."""
    for flag in (arg.partition("=")[0] for arg in args if arg.startswith("--")):
        name = flag.removeprefix("--").replace("-", "_")
        if name in RENAMED:
            raise UserError(f"{flag} is now --{RENAMED[name].replace('_', '-')}")
        if name in REMOVED:
            raise UserError(f"{flag} was removed; {REMOVED[name][1]}")
