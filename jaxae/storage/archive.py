"""Arrays with a description of them in one folder, written whole and read only if they are whole.

The description names the file of arrays by its digest. The arrays are written first, so that
replacing the description replaces the archive atomically. Reading cannot run code.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from jaxae.data import arrayfiles
from jaxae.errors import UserError
from jaxae.storage import disk

DESCRIPTION = "description.json"


def write(folder: Path, description: dict, tree: dict) -> None:
    """Save nested dicts of arrays, in place of what the folder may hold.

    Args:
      folder: made if it does not exist.
      description: JSON-able; "digest" and "arrays" (name -> type and shape) are added.
      tree: its keys may hold any character; Flax names some layers with a "/".
    """
    arrays = {name: np.asarray(a) for name, a in flat(tree).items()}
    digest = _digest(arrays)
    shapes = {name: f"{a.dtype}{list(a.shape)}" for name, a in arrays.items()}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _arrays_name(digest)
    disk.write_arrays(path, arrays)
    disk.write_json(folder / DESCRIPTION, description | {"digest": digest, "arrays": shapes})
    for old in folder.glob(_arrays_name("*")):
        if old != path:
            old.unlink()


def read_description(folder: Path) -> dict:
    """The description that `write` saved, with the digest.

    Raises:
      UserError: it is absent, or damaged.
    """
    try:
        description = json.loads((folder / DESCRIPTION).read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{DESCRIPTION} cannot be read: {error}") from None
    if not isinstance(description, dict):
        raise UserError(f"{DESCRIPTION} holds no named values")
    return description


def read_arrays(folder: Path, digest: str) -> dict:
    """The nested dicts of arrays that `write` saved.

    Raises:
      UserError: they are absent, damaged, or have another digest.
    """
    path = folder / _arrays_name(digest)
    arrays = arrayfiles.read_npz(path)
    if _digest(arrays) != digest:
        raise UserError(f"{path.name} is not what was written")
    return nested(arrays)


def _arrays_name(digest: str) -> str:
    return f"arrays-{digest[:16]}.npz"


def flat(tree: dict, prefix: str = "") -> dict[str, Any]:
    """Nested dicts of arrays as one: keys are joined by "/".

    In a key "/" becomes "~1" and "~" becomes "~0", as in JSON Pointers (RFC 6901, section 3).
    """
    arrays: dict[str, Any] = {}
    for name, value in tree.items():
        escaped = name.replace("~", "~0").replace("/", "~1")
        path = f"{prefix}/{escaped}" if prefix else escaped
        arrays |= flat(value, path) if isinstance(value, dict) else {path: value}
    return arrays


def nested(arrays: dict[str, Any]) -> dict:
    """The inverse of `flat`; empty dicts are lost."""
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
    digest = hashlib.sha256()
    for name in sorted(arrays):
        a = arrays[name]
        digest.update(f"{name} {a.dtype.str} {a.shape}\n".encode())
        digest.update(np.ascontiguousarray(a).data)
    return digest.hexdigest()
