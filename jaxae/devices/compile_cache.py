"""A cache of compiled programs between runs, in a folder that only this user can write to."""

import os
import stat
from pathlib import Path
from typing import Any

import jax

from jaxae.config import cache_dir
from jaxae.errors import UserError, words

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
_REMEDY = "name a folder in JAXAE_CACHE_DIR, or set JAX_ENABLE_COMPILATION_CACHE=0"


def enable() -> None:
    """Turn on the cache of compiled programs, unless JAX already has a cache folder.

    For commands that people run; benchmarks do not call it. `JAX_ENABLE_COMPILATION_CACHE=0` turns
    it off.

    Raises:
      UserError: others may write to the folder; see `make_private`.
    """
    options: Any = jax.config
    if not options.jax_enable_compilation_cache or options.jax_compilation_cache_dir:
        return
    folder = cache_dir() / "compiled"
    try:
        make_private(folder)
    except OSError as error:
        print(f"compiled programs are not kept in {folder} ({words(error)}); {_REMEDY}")
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def make_private(folder: Path) -> None:
    """Create a folder (and its parents) for this user alone, or restrict an existing one.

    JAX runs the programs that it finds there, so nobody else may write to it.

    Raises:
      OSError: the folder cannot be created.
      UserError: another user owns it, others can write to it and may have done so, or others can
        replace it because they can write to a parent without the sticky bit (/tmp has it).
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = folder.resolve()
    status = folder.stat()
    if status.st_uid != os.geteuid():
        raise UserError(f"{folder} belongs to another user (number {status.st_uid}); {_REMEDY}")
    if status.st_mode & _OTHERS_WRITE:
        raise UserError(f"other users can write to {folder}; remove it, or {_REMEDY}")
    for parent in folder.parents:
        mode = parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise UserError(f"{parent} may be written by everyone, and so {folder} too; {_REMEDY}")
    folder.chmod(status.st_mode & stat.S_IRWXU)
