"""Compiled programs, kept from one run to the next."""

from typing import Any

import jax

from jaxae.config import cache_dir
from jaxae.devices import private
from jaxae.errors import words


def keep() -> None:
    """Keep compiled programs for the next run of the same experiment, unless JAX was told where.

    For commands that people run; benchmarks do not call it. `JAX_ENABLE_COMPILATION_CACHE=0` turns
    it off. What is kept there is run when it is found, so the folder is this user's alone.

    Raises:
      UserError: others may write to the folder; see `private.make`.
    """
    known: Any = jax.config
    if not known.jax_enable_compilation_cache or known.jax_compilation_cache_dir:
        return
    folder = cache_dir() / "compiled"
    remedy = "name a folder in JAXAE_CACHE_DIR, or set JAX_ENABLE_COMPILATION_CACHE=0"
    try:
        private.make(folder, remedy)
    except OSError as error:
        print(f"compiled programs are not kept in {folder} ({words(error)}); {remedy}")
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
