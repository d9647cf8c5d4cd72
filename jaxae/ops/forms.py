"""The form in which a program is traced: by default the fastest on each platform.

"auto"      by platform: matrix products on a CPU, convolutions on GPUs and TPUs
"library"   the same, but on a CPU oneDNN computes large forward convolutions
"matrix"    matrix products everywhere
"native"    convolutions everywhere
"portable"  convolutions with channels last, and nothing that depends on the platform: for
            converters, which support only a part of JAX
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any, Literal

import jax
from jax import lax

Form = Literal["auto", "library", "matrix", "native", "portable"]

_FORM: contextvars.ContextVar[Form] = contextvars.ContextVar("form", default="auto")


@contextlib.contextmanager
def using(form: Form) -> Iterator[None]:
    """Trace programs in a form."""
    token = _FORM.set(form)
    try:
        yield
    finally:
        _FORM.reset(token)


def calling_library() -> contextlib.AbstractContextManager[None]:
    """Trace programs for compilation with the option that makes XLA call oneDNN."""
    return using("library")


def current() -> Form:
    """The form in which a program is traced now."""
    return _FORM.get()


def by_platform(*args: Any, cpu: Callable, default: Callable) -> Any:
    """`lax.platform_dependent`, or only the default if the program must be portable."""
    if current() == "portable":
        return default(*args)
    return lax.platform_dependent(*args, cpu=cpu, default=default)


def keep_layout(a: jax.Array) -> jax.Array:
    """The array itself; on a CPU, XLA must give it the memory layout that the program states.

    Otherwise XLA folds a matrix's transposition into its product, or swaps the operands of a
    product that is transposed, and some of those products are up to four times slower.
    """
    return by_platform(a, cpu=lax.optimization_barrier, default=lambda a: a)
