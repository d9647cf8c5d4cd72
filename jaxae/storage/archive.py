"""Arrays and a description of them in one folder, written atomically and verified when read.

The description names the file of arrays by its digest. The arrays are written first, so that
replacing the description replaces the archive atomically. Reading never executes code.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from jaxae.data import arrayfiles
from jaxae.errors import UserError
from jaxae.storage import disk
from jaxae.storage.manifest import DESCRIPTION as DESCRIPTION


def write(folder: Path, description: dict, tree: dict) -> None:
    """Save nested dicts of arrays, replacing any archive in the folder.

    Args:
      folder: created if it does not exist.
      description: JSON-able; "digest" and "arrays" (name -> dtype and shape) are added.
      tree: keys may hold any character; Flax names some layers with a "/".
    """
    arrays = {name: np.asarray(a) for name, a in flat(tree).items()}
    added = described(arrays)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _arrays_name(added["digest"])
    disk.write_arrays(path, arrays)
    disk.write_json(folder / DESCRIPTION, description | added)
    for old in folder.glob(_arrays_name("*")):
        if old != path:
            old.unlink()


def described(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """What a description says of the arrays of a tree, see `flat`."""
    shapes = {name: f"{a.dtype}{list(a.shape)}" for name, a in arrays.items()}
    return {"digest": _digest(arrays), "arrays": shapes}


def read_description(folder: Path) -> dict:
    """The description that `write` saved, with the digest; a `UserError` if it cannot be read."""
    description = disk.read_json(folder / DESCRIPTION, "restore the file")
    if not isinstance(description, dict):
        raise UserError(f"{DESCRIPTION} is not a JSON object")
    return description


def read_arrays(folder: Path, digest: str) -> dict:
    """The nested dicts of arrays that `write` saved.

    Raises:
      UserError: the file is missing or damaged, or the arrays have a different digest.
    """
    path = folder / _arrays_name(digest)
    arrays = arrayfiles.read_npz(path)
    if _digest(arrays) != digest:
        raise UserError(f"{path.name} is damaged: its digest has changed")
    return nested(arrays)


def names(folder: Path) -> tuple[str, str]:
    """The two files of an archive: the description, and the arrays that it names.

    Raises:
      UserError: the description cannot be read.
    """
    return DESCRIPTION, _arrays_name(str(read_description(folder).get("digest")))


def _arrays_name(digest: str) -> str:
    return f"arrays-{digest[:16]}.npz"


def flat(tree: dict) -> dict[str, Any]:
    """Nested dicts of arrays as one dict whose keys are joined by "/".

    In a key "/" becomes "~1" and "~" becomes "~0", as in JSON Pointers (RFC 6901, section 3).
    """
    return {
        "/".join(name.replace("~", "~0").replace("/", "~1") for name in path): value
        for path, value in traverse_util.flatten_dict(tree).items()
    }


def nested(arrays: dict[str, Any]) -> dict:
    """The inverse of `flat`; empty dicts are lost."""
    return traverse_util.unflatten_dict(
        {
            tuple(name.replace("~1", "/").replace("~0", "~") for name in path.split("/")): value
            for path, value in arrays.items()
        }
    )


def _digest(arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of names, dtypes, shapes and values."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        a = arrays[name]
        digest.update(f"{name} {a.dtype.str} {a.shape}\n".encode())
        digest.update(np.ascontiguousarray(a).data)
    return digest.hexdigest()
