"""Fields that were renamed or removed, so that configurations saved before can still be read.

Whoever renames or removes a field adds it to `RENAMED` or `REMOVED`. A renamed field keeps its
value. A removed one is dropped if it is at its default; any other value is an error, because this
version cannot do what it asks for.
"""

import copy
from collections.abc import Iterable
from typing import Any

from jaxae.errors import UserError

RENAMED: dict[str, str] = {}  # dotted name -> the new one
REMOVED: dict[str, tuple[Any, str]] = {}  # dotted name -> (default in JSON, what to use instead)


def migrated(values: dict[str, Any], current: int) -> dict[str, Any]:
    """A copy of a saved configuration with this version's fields, without its "format".

    Args:
      values: what JSON holds.
      current: the format that this version reads and writes.

    Raises:
      UserError: it has another format, or a removed field is not at its default.
    """
    version = values.get("format", 1)
    if version != current:
        raise UserError(
            f"it is of format {version}, written by another version of jaxae; this one reads and "
            f"writes format {current}"
        )
    values = copy.deepcopy({name: value for name, value in values.items() if name != "format"})
    for name in (*RENAMED, *REMOVED):
        section, _, field = name.rpartition(".")
        fields = values.get(section) if section else values
        if isinstance(fields, dict) and field in fields:
            _migrate(values, fields, name)
    return values


def _migrate(values: dict[str, Any], fields: dict[str, Any], name: str) -> None:
    field = name.rpartition(".")[2]
    if name in REMOVED:
        if fields[field] != REMOVED[name][0]:
            raise UserError(f"{name} is {fields[field]!r}, but it {_change(name)}")
        del fields[field]
        return
    section, _, new = RENAMED[name].rpartition(".")
    target = values.setdefault(section, {}) if section else values
    if isinstance(target, dict) and new not in target:
        target[new] = fields.pop(field)  # if both names are there, the old one is an unknown field


def _change(name: str) -> str:
    """What became of a field, in words."""
    if name in RENAMED:
        return f"is now --{RENAMED[name].replace('_', '-')}"
    return f"was removed; {REMOVED[name][1]}"


def refuse_old_flags(args: Iterable[str]) -> None:
    """Raise a `UserError` for the flag of a renamed or removed field; says what became of it."""
    for arg in args:
        flag = arg.partition("=")[0]
        name = flag.removeprefix("--").replace("-", "_")
        if flag.startswith("--") and (name in RENAMED or name in REMOVED):
            raise UserError(f"{flag} {_change(name)}")
