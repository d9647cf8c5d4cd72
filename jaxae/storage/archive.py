"""Arrays with a description of them in one folder, written whole and read only if they are whole.

The description names the file of arrays by its digest. The arrays are written first, so that
replacing the description replaces the archive, at once. Nothing that is read can run code.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxae.data import arrayfiles
from jaxae.errors import UserError
from jaxae.storage import runlog

DESCRIPTION = "description.json"


def write(folder: Path, description: dict, tree: dict) -> None:
    """Save nested dicts of arrays, in place of what the folder may hold.

    Args:
      folder: made if it does not exist.
      description: JSON-able; "digest" and "arrays" (name -> type and shape) are added.
      tree: of names that may hold anything; layers of Flax have some with a "/".
    """
    arrays = {name: np.asarray(a) for name, a in flat(tree).items()}
    digest = _digest(arrays)
    known = {name: f"{a.dtype}{list(a.shape)}" for name, a in arrays.items()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _arrays_name(digest)
    runlog.write_arrays(path, arrays)
    runlog.write_json(folder / DESCRIPTION, description | {"digest": digest, "arrays": known})
    for old in folder.glob(_arrays_name("*")):
        if old != path:
            old.unlink()


def read_description(folder: Path) -> dict:
    """What `write` was given, with the digest.

    Raises:
      UserError: it is absent, or damaged.
    """
    try:
        found = json.loads((folder / DESCRIPTION).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{DESCRIPTION} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise UserError(f"{DESCRIPTION} holds no named values")
    return found


def read_arrays(folder: Path, digest: str) -> dict:
    """The nested dicts of arrays that `write` was given.

    Raises:
      UserError: they are absent, damaged, or not those of this digest.
    """
    path = folder / _arrays_name(digest)
    arrays = arrayfiles.read_npz(path)
    if _digest(arrays) != digest:
        raise UserError(f"{path.name} is not what was written")
    return nested(arrays)


def _arrays_name(digest: str) -> str:
    return f"arrays-{digest[:16]}.npz"


def flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Nested dicts of arrays as one: keys joined by "/", their own / and ~ as JSON Pointers do.

    That is "~1" and "~0" (RFC 6901, section 3).
    """
    found: dict[str, Any] = {}
    for name, value in tree.items():
        plain = name.replace("~", "~0").replace("/", "~1")
        at = f"{prefix}/{plain}" if prefix else plain
        found |= flat(value, at) if isinstance(value, dict) else {at: value}
    return found


def nested(arrays: dict[str, Any]) -> dict:
    """The inverse of `flat`, but for empty dicts, which are left out."""
    tree: dict = {}
    for path, value in arrays.items():
        names = (name.replace("~1", "/").replace("~0", "~") for name in path.split("/"))
        *parents, name = names
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree


def _digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of names, types, shapes and values."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        a = arrays[name]
        found.update(f"{name} {a.dtype.str} {a.shape}\n".encode())
        found.update(np.ascontiguousarray(a).data)
    return found.hexdigest()
