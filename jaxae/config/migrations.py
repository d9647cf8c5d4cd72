"""Fields that were renamed or removed: saved configurations of before are still read.

A field that goes leaves a line in `MIGRATIONS`, under the format of the files that may hold it. A
renamed one is carried over. A removed one is dropped where it was at its default, and refused by
name elsewhere: nothing of this version does what it asked for.
"""

import copy
from collections.abc import Iterable
from typing import Any, NamedTuple

from jaxae.errors import UserError


class Renamed(NamedTuple):
    """The field has another name now."""

    to: str  # dotted


class Removed(NamedTuple):
    """The field is gone."""

    default: Any  # as JSON holds it
    remedy: str = ""  # what to use in its place


# Format of a file -> dotted name of a field -> what became of it. Files of a format that is no key
# cannot be read; those of an older format go through the entries of every newer one, too.
MIGRATIONS: dict[int, dict[str, Renamed | Removed]] = {2: {}}


def migrated(values: dict[str, Any], current: int) -> dict[str, Any]:
    """A saved configuration, without its "format", as this version would have written it.

    Args:
      values: what JSON holds; left as it is.
      current: the format that this version writes.

    Raises:
      UserError: its format cannot be read, or a field was removed whose value is not the default.
    """
    version = values.get("format", 1)
    if version not in [*MIGRATIONS]:  # it may be anything, a list for one
        raise UserError(
            f"it is of format {version}, written by another version of jaxae; this one writes and "
            f"reads format {current}"
        )
    values = copy.deepcopy({name: value for name, value in values.items() if name != "format"})
    for step in sorted(step for step in MIGRATIONS if step >= version):
        for name, change in MIGRATIONS[step].items():
            _apply(values, name, change)
    return values


def _apply(values: dict[str, Any], name: str, change: Renamed | Removed) -> None:
    section, _, field = name.rpartition(".")
    part = values.get(section) if section else values
    if not isinstance(part, dict) or field not in part:
        return
    if isinstance(change, Removed):
        if part[field] != change.default:
            raise UserError(f"{name} is {part[field]!r}, but it {_words(change)}")
        del part[field]
        return
    section, _, renamed = change.to.rpartition(".")
    home = values.setdefault(section, {}) if section else values
    if isinstance(home, dict) and renamed not in home:
        home[renamed] = part.pop(field)  # with both names, the old one is refused as unknown


def _words(change: Renamed | Removed) -> str:
    if isinstance(change, Renamed):
        return f"is now --{change.to.replace('_', '-')}"
    return "was removed" + (f"; {change.remedy}" if change.remedy else "")


def refuse_old_flags(args: Iterable[str]) -> None:
    """Refuse flags of fields that were renamed or removed, and say what became of them.

    Raises:
      UserError: one of the arguments is such a flag.
    """
    changes = {name: change for step in MIGRATIONS.values() for name, change in step.items()}
    for arg in args:
        flag = arg.partition("=")[0]
        change = changes.get(flag.removeprefix("--").replace("-", "_"))
        if change and flag.startswith("--"):
            raise UserError(f"{flag} {_words(change)}")
