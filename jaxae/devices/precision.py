"""The precision of float32 products on each platform.

By default an NVIDIA GPU since Ampere multiplies float32 in TensorFloat-32 (ten bits of mantissa),
and a TPU in bfloat16 (seven). A setting changes this for training. Values that are compared between
machines (scores, reconstructions, codes, validation losses, exports) are always computed in full
float32. A CPU has only full float32, so both are the same program there.
"""

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax

_CPU = Path("/proc/cpuinfo")
Function = TypeVar("Function", bound=Callable)

_EXACT = "highest"  # JAX's name for full float32


@functools.cache
def rounds_by_place() -> bool:
    """Whether the rows that are computed together show in the last bit of some results.

    So it is on a CPU with AVX2 alone, whose kernels round the last rows of a product otherwise than
    the others; with AVX-512 they do not.
    """
    text = _CPU.read_text() if _CPU.exists() else ""
    return " avx2 " in text and "avx512f" not in text


def at(precision: str, function: Function) -> Function:
    """`function`, with its float32 products computed at this precision wherever it is traced.

    Args:
      precision: as in JAX: "highest" is full float32, "high" three passes of bfloat16 on a TPU and
        TensorFloat-32 on a GPU. "default" leaves it to the platform, or to
        JAX_DEFAULT_MATMUL_PRECISION if that is set.
      function: traced by JAX, or called directly.
    """
    if precision == "default":
        return function

    @functools.wraps(function)
    def computed(*args: Any, **kwargs: Any) -> Any:
        with jax.default_matmul_precision(precision):
            return function(*args, **kwargs)

    return computed  # type: ignore[return-value]


def exact(function: Function) -> Function:
    """`function` in full float32, on every platform and with any environment variables."""
    return at(_EXACT, function)


def in_words(precision: str, device: Any) -> str:
    """The precision of float32 products in training on a device, for the run's records.

    Returns:
      "default (TensorFloat-32)", "highest (float32)" and the like.
    """
    options: Any = jax.config
    asked = options.jax_default_matmul_precision if precision == "default" else precision
    if device.platform == "cpu" or asked in (_EXACT, "float32"):
        means = "float32"
    elif asked not in (None, "default", "high"):
        means = "set by JAX_DEFAULT_MATMUL_PRECISION"
    elif device.platform == "tpu":
        means = "bfloat16, three passes" if asked == "high" else "bfloat16"
    else:
        generation = re.match(r"\d+", str(getattr(device, "compute_capability", "")))
        if generation is None:  # not an NVIDIA GPU: AMD's have names like "gfx942"
            means = "the platform's own"
        else:
            means = "TensorFloat-32" if int(generation[0]) >= 8 else "float32"
    return f"{asked or 'default'} ({means})"
