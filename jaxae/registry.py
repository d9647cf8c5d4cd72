"""Registries of methods, scores, rules, data sets and studies by name."""

from collections.abc import Mapping
from typing import TypeVar

from jaxae.errors import UserError, unknown

Entry = TypeVar("Entry")
_RESERVED = "+^*: "  # "+", "^" and "*" join scores, ":" separates arguments and paths


class Registry(dict[str, Entry]):
    """Name -> entry with all facts about it; an unknown name raises a `UserError`.

    Code outside the package adds its own entries with `add`, before a configuration names them.
    """

    def __init__(self, kind: str, entry_type: type, entries: Mapping[str, Entry]):
        super().__init__(entries)
        self.kind, self.entry_type = kind, entry_type

    def __missing__(self, name: str) -> Entry:
        raise unknown(self.kind, name, self)

    def add(self, name: str, entry: Entry) -> Entry:
        """Add an entry, and return it.

        Raises:
          UserError: the name exists or has a reserved character, or the entry has the wrong type.
        """
        if name in self:
            raise UserError(f"{self.kind} {name!r} already exists; choose another name")
        if not name or any(sign in name for sign in _RESERVED):
            raise UserError(f"{name!r} cannot name a {self.kind}; use letters, digits and _")
        if not isinstance(entry, self.entry_type):
            raise UserError(
                f"{self.kind} {name!r} must be a {self.entry_type.__name__}, "
                f"not {type(entry).__name__}"
            )
        self[name] = entry
        return entry
