"""The options that were measured fastest, by platform and method; results do not depend on them.

Comments give how many times as fast each choice is; docs/speed.md has the measurements. "Intel" is
a Xeon with AVX-512 and AMX, "Zen 5" an EPYC with AVX-512, two cores each. Accelerators ignore all
of `Tuning` but `graphs` and `unroll`.

`python -m benchmarks.tune` measures these options on another machine and writes a table; if the
variable JAXAE_TUNING names it, its values replace those here. A run records the options it used.
"""

import contextlib
import functools
import json
import math
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxae import ops
from jaxae.errors import UserError
from jaxae.types import Tuning

Options = dict[str, object]  # options of the XLA compiler


# part: the activations of 32 rows stay in a core's cache, 1.9 to 2.5 (Intel). YNNPACK: 1.1.
# graphs, with four steps per iteration: 1.20 (H200).
CONV = Tuning(part=32, graphs=True)
# share: every device updates all parameters, so two train fmnist_dense .64 times as fast at batch
# 32, but ecg_dense 1.32 times at 512. Without YNNPACK: 1.30, 1.09. in_place: 1.01 to 1.06 (Intel).
# chunk: 1.01 to 1.27 (Zen 5). graphs: .86 to 1.11 (H200), so they are off.
DENSE = Tuning(share=256, parameters_per_row=2000, ynnpack=False, in_place=True, chunk=128)
# library: oneDNN scores 1.32, but trains .88 times as fast (JAX 0.12). chunk: 1.06. share: one
# device, not two, for 128 rows 1.13 (Zen 5), .94 (Intel): two wait for each other in batch norms.
ALOCC = Tuning(share=128 if Tuning().width else 16, chunk=32, library=True)

_WITHOUT_YNNPACK: Options = {"xla_cpu_experimental_ynn_fusion_type": ""}
_CALLS: Options = {"xla_cpu_experimental_onednn_custom_call": True}
_IN_PLACE: Options = {"xla_cpu_copy_insertion_use_region_analysis": True}

# With these options the loop over steps is one graph; by default XLA captures no loops (H100).
_GRAPHS: Options = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,"
    "DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE,CONVOLUTION",
    "xla_gpu_graph_min_graph_size": 1,
}
_GPUS = ("gpu", "cuda", "rocm")
_UNROLLED = 4


@functools.cache
def _is_amd() -> bool:
    """Whether the GPU is from AMD; graphs were not measured there."""
    local = [device for device in jax.local_devices() if device.platform in _GPUS]
    return any("rocm" in device.client.platform_version.lower() for device in local)


def _captures(tuned: Tuning, platform: str) -> bool:
    return tuned.graphs and platform in _GPUS and not _is_amd()


def unrolled(tuned: Tuning, platform: str) -> int:
    """Training steps in one iteration of the epoch's loop."""
    return tuned.unroll or (_UNROLLED if _captures(tuned, platform) else 1)


@functools.cache
def _has_library() -> bool:
    """Whether this XLA can call oneDNN for convolutions: JAX 0.12's does, 0.10's does not."""
    x, k = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((16, 9, 9, 1), (5, 5, 16, 16)))
    with ops.calling_library(), jax.default_device(jax.local_devices(backend="cpu")[0]):
        lowered = jax.jit(ops.conv).lower(x, k)
    text: Any = compiled(lowered, _CALLS)
    return "__onednn$" in text.as_text()  # the target of its calls


def _calls_library(tuned: Tuning, dtype: str, platform: str) -> bool:
    """Whether scorers call oneDNN; in bfloat16 ALOCC scores 1.2 to 1.3 times as fast without it."""
    return platform == "cpu" and tuned.library and dtype == "float32" and _has_library()


def tracing_scorers(tuned: Tuning, dtype: str, platform: str) -> contextlib.AbstractContextManager:
    """The context in which to trace programs that `scoring_options` compiles."""
    called = _calls_library(tuned, dtype, platform)
    return ops.calling_library() if called else contextlib.nullcontext()


_CACHE_OPTION = "jax_persistent_cache_min_compile_time_secs"
_CACHE_LOCK = threading.RLock()


@contextlib.contextmanager
def _uncached() -> Iterator[None]:
    """Write no program to JAX's cache: writing one that calls oneDNN crashes the process.

    The option is global, so programs that other threads compile meanwhile are not written either.
    """
    with _CACHE_LOCK:
        before = getattr(jax.config, _CACHE_OPTION)
        jax.config.update(_CACHE_OPTION, float("inf"))
        try:
            yield
        finally:
            jax.config.update(_CACHE_OPTION, before)


def from_table(method: str, default: Tuning) -> Tuning:
    """The options of a method; those in the table that JAXAE_TUNING names replace the defaults.

    Raises:
      UserError: JAXAE_TUNING names a table that cannot be read or used.
    """
    path = os.environ.get("JAXAE_TUNING")
    if not path:
        return default
    try:
        values = json.loads(Path(path).read_text())["methods"].get(method, {})
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"JAXAE_TUNING is {path}, which cannot be used ({type(error).__name__}: {error}); "
            "write it with python -m benchmarks.tune"
        ) from None
    return merged(default, values, f"{path}, {method}")


ALONE = _MOST = 1 << 20  # the largest value of any option: with such a `share` one device trains


def merged(default: Tuning, values: Any, where: str) -> Tuning:
    """`default`, with the options in `values` replaced.

    Raises:
      UserError: an option that does not exist or has the wrong type; the message names `where`.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: {values!r} is not a table of options")
    for name, value in values.items():
        if name not in default._fields:
            raise UserError(f"{where}: unknown option {name!r}; known: {', '.join(Tuning._fields)}")
        kind = type(getattr(default, name))
        if type(value) is not kind or not 0 <= value <= _MOST:
            kinds = {int: f"a number from 0 up to {_MOST}", bool: "true or false"}
            raise UserError(f"{where}: {name} is {value!r}; it must be {kinds[kind]}")
    return default._replace(**values)


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def host_devices(tuning: Tuning, batch_size: int, parameters: int) -> int:
    """The number of host devices that train one model fastest.

    Convolutions gather and scatter, which a device does on one core, so their batch is split over
    one device per core. Small batches of dense models use one device, whose products use all cores.
    """
    by_parameters = parameters // tuning.parameters_per_row if tuning.parameters_per_row else 0
    return max(1, batch_size // max(1, tuning.share, by_parameters))


def training_options(tuning: Tuning, dtype: str, platform: str, devices: int) -> Options:
    """Compiler options of an epoch. In bfloat16 only YNNPACK uses the matrix units: it stays on."""
    if platform != "cpu":
        return _GRAPHS if _captures(tuning, platform) else {}
    # Devices that share a batch already use one core each.
    options: Options = {"xla_cpu_multi_thread_eigen": devices == 1}
    if not tuning.ynnpack and dtype == "float32":
        options |= _WITHOUT_YNNPACK
    if tuning.width:
        options |= {"xla_cpu_prefer_vector_width": tuning.width}
    return options | (_IN_PLACE if tuning.in_place else {})


# XLA compiles many Triton kernels and keeps the fastest; without them a scorer of fmnist_dense
# compiles in .15 s instead of 3.0 s and scores .94 times as fast (H200).
_WITHOUT_TRITON: Options = {"xla_gpu_enable_triton_gemm": False}


def scoring_options(
    tuning: Tuning, dtype: str, platform: str, fast_compile: bool = False
) -> Options:
    """Compiler options for a scorer; see `FAST_COMPILE`."""
    # In float32 dense models score 2.9 times as fast without YNNPACK (Intel). Wide vectors would
    # score 1.08 to 1.12 (Zen 5), but the last bit would depend on the devices that share the rows.
    if platform != "cpu":
        products = _WITHOUT_TRITON if platform in _GPUS else {}
        return training_options(tuning, dtype, platform, 1) | products
    options = _CALLS if _calls_library(tuning, dtype, platform) else {}
    options = options | (_WITHOUT_YNNPACK if dtype == "float32" else {})
    return options | (FAST_COMPILE if fast_compile else {})


def compiled(lowered: Any, options: Options) -> Callable:
    """Compile a lowered program, leaving out options that this version of XLA does not have."""
    while True:
        calls = not options.keys().isdisjoint(_CALLS)
        try:
            with _uncached() if calls else contextlib.nullcontext():
                return lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            supported = _supported(options, str(error))
            if supported == options:
                raise
            options = supported


# XLA for an H100 (JAX 0.10.2) rejects programs with some small batched products, for which its
# Triton kernels have no tiles; cuBLAS has the same products.
_NO_TILES = "output tile sizes"
_BAD_VALUE = re.compile(r"While setting option (\w+), '([^']*)' is not a valid enum value")


def _supported(options: Options, error: str) -> Options:
    """The options without the option, or the value in a list, that XLA's error names."""
    if _NO_TILES in error:
        return options | _WITHOUT_TRITON
    supported = {n: value for n, value in options.items() if f"option: '{n}'" not in error}
    if (bad := _BAD_VALUE.search(error)) and bad[1] in supported:
        name, value = bad.groups()
        others = [part for part in str(supported.pop(name)).split(",") if part != value]
        supported |= {name: ",".join(others)} if others else {}
    return supported


def compiled_scorer(
    program: Any,
    args: tuple,
    tuned: Tuning,
    dtype: str,
    platform: str,
    *,
    fast_compile: bool = False,
) -> Callable:
    """A program traced by `tracing_scorers` and compiled with `scoring_options`."""
    with tracing_scorers(tuned, dtype, platform):
        lowered = program.lower(*args)
    return compiled(lowered, scoring_options(tuned, dtype, platform, fast_compile))


# For programs that run a few times: they compile in about half the time, but denoising trains .80
# and convolutions score .93 to .96 times as fast (Zen 5).
FAST_COMPILE: Options = {"xla_backend_optimization_level": 1}

# Larger chunks score faster (16,384 for 1,024 rows: 1.97, H200), but pad more and need more memory.
_ACCELERATOR_CHUNK = 4096
_ACCELERATOR_CHUNK_BYTES = 64 << 20
STEPS_PER_DISPATCH = 16  # at most; a step is one chunk
# A CPU pads even few rows to this many steps: copying zeros takes 1 or 2 ms, compiling a program
# for fewer steps .2 to 1.3 s. The first limit is for rows that fill one step, the second for more.
PADDED_BYTES, PADDED_BYTES_OF_MORE = 16 << 20, 256 << 20
BLOCK = 8192  # rows read at a time from a source that is not in memory
FEED_BYTES = 32 << 20  # bytes of rows that a streaming feed reads at a time; it holds three parts


def chunk_rows(tuned: Tuning, platform: str, shape: tuple[int, ...], members: int = 1) -> int:
    """The number of rows to score at a time; an accelerator computes all members at once."""
    if platform == "cpu":
        return max(1, tuned.chunk)
    fitting = _ACCELERATOR_CHUNK_BYTES // (4 * math.prod(shape))
    fitting = max(1, min(_ACCELERATOR_CHUNK, fitting) // members)
    return 1 << (fitting.bit_length() - 1)  # a power of two
