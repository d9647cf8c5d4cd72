"""What was measured to be fast, by platform and method: the results do not depend on it.

Each constant stands with its evidence. "Intel" is a Xeon with AVX-512 and AMX, "AMD" an EPYC with
AVX2, "Zen 5" one with AVX-512, two cores each; JAX 0.10 where nothing else is said. Accelerators
take the plain form of everything here but `graphs` and `unroll`.

`python -m benchmarks.tune` measures these choices on another machine and writes a table; where the
variable JAXAE_TUNING names one, it wins over what stands here. A run records what it began with.
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
from jaxae.errors import UserError, words
from jaxae.types import Tuning

Options = dict[str, object]  # of XLA's compiler


# Activations of 32 rows stay in the cache of a core: denoising at batch 4,096 6.9 -> 17.2 thousand
# rows/s, S1 15.6 -> 29.7, S0 6.5 -> 12.4 (Intel). With YNNPACK convolutions train a tenth faster.
# In graphs, four steps a turn, S0 makes 1.20 times as many steps, in graphs alone 1.05 (H200, JAX
# 0.11). S2 makes .86 in graphs, S3 .92 with four steps a turn: dense models are left as they are.
CONV = Tuning(part=32, graphs=True)
# A dense model is mostly parameters, and few of its products are worth a second device: S2 at batch
# 32 makes .64 - .71 of the steps on two, ECG at 512 makes 1.32 times as many; S3, with two million
# parameters, is split from 2,048 rows on. Without YNNPACK ECG trains 9 %, S2 30 % faster; in place
# S2 gains 1 - 6 %, S3 2 - 5 % (Intel).
# JAX 0.12's products of 32 rows are slower (Zen 5, one core, 0.10 -> 0.12: x w 14.1 -> 15.7 us,
# h w 10.1 -> 13.5, h' dy 10.6 -> 15.1, dy w' 20.5 -> 25.5, x' dh 14.0 -> 23.7): S2 makes .80 of the
# steps. oneDNN's fused products (xla_cpu_use_onednn with its fusion type) made 1.42 times as many,
# but kill the process at other shapes, and cannot be kept in the cache of programs; YNNPACK's for
# single products and the scheduler that saves memory bring 1.05 and 1.04, within the noise.
# 128 rows at a time score S2 1.01, ECG 1.27 and S3 1.13 times as fast as 64 (JAX 0.12: 1.12, 1.18,
# 1.14), 512 only S3, 1.17 times (Zen 5).
DENSE = Tuning(share=256, parameters_per_row=2000, ynnpack=False, in_place=True, chunk=128)

# oneDNN's convolutions score 1.32 times as fast (JAX 0.12; 0.10 does not call them), and 32 rows at
# a time 1.06 times as fast as 64 (JAX 0.10: 1.09; Zen 5). In training they make .88 of the steps:
# the backward pass needs the patches that the matrix form has gathered by then.
# One device trains 128 rows 1.13 times (JAX 0.12: 1.11) as fast as two on Zen 5, .94 on Intel:
# batch normalisation has devices wait for each other in every layer.
ALOCC = Tuning(share=128 if Tuning().width else 16, chunk=32, library=True)

_WITHOUT_YNNPACK: Options = {"xla_cpu_experimental_ynn_fusion_type": ""}
_CALLS: Options = {"xla_cpu_experimental_onednn_custom_call": True}
_IN_PLACE: Options = {"xla_cpu_copy_insertion_use_region_analysis": True}


# XLA captures neither loops nor what calls cuDNN unless it is told to; and of the few operations of
# an epoch's entry it makes no graph, unless one operation is enough. Read off its log for an H100
# (JAX 0.10.2 and 0.11.2): the loop over steps is then one graph.
_GRAPHS: Options = {
    "xla_gpu_enable_command_buffer": "FUSION,CUBLAS,CUBLASLT,CUSTOM_CALL,CUDNN,"
    "DYNAMIC_SLICE_FUSION,CONDITIONAL,WHILE,CONVOLUTION",
    "xla_gpu_graph_min_graph_size": 1,
}
_GPUS = ("gpu", "cuda", "rocm")
_UNROLLED = 4


@functools.cache
def _is_amd() -> bool:
    """Whether the GPU at hand is AMD's, on which nobody has captured anything."""
    local = [device for device in jax.local_devices() if device.platform in _GPUS]
    return any("rocm" in device.client.platform_version.lower() for device in local)


def _captures(tuned: Tuning, platform: str) -> bool:
    return tuned.graphs and platform in _GPUS and not _is_amd()


def unrolled(tuned: Tuning, platform: str) -> int:
    """Steps of training in one turn of the loop."""
    return tuned.unroll or (_UNROLLED if _captures(tuned, platform) else 1)


def _vectors(width: int) -> Options:
    return {"xla_cpu_prefer_vector_width": width} if width else {}


@functools.cache
def _has_library() -> bool:
    """Whether this XLA calls oneDNN where it is told to: that of JAX 0.12, and not that of 0.10."""
    x, k = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((1, 9, 9, 16), (5, 5, 16, 16)))
    with ops.calling_library(), jax.default_device(jax.local_devices(backend="cpu")[0]):
        lowered = jax.jit(ops.conv).lower(x, k)
    text: Any = compiled(lowered, _CALLS)
    return "onednn" in text.as_text()


def _calls_library(tuned: Tuning, dtype: str, platform: str) -> bool:
    """In bfloat16 ALOCC scores 1.2 to 1.3 times as fast without (Zen 5)."""
    return platform == "cpu" and tuned.library and dtype == "float32" and _has_library()


def tracing_scorers(tuned: Tuning, dtype: str, platform: str) -> contextlib.AbstractContextManager:
    """In which programs are traced that will be compiled with `scoring_options`."""
    called = _calls_library(tuned, dtype, platform)
    return ops.calling_library() if called else contextlib.nullcontext()


_KEEPING = threading.RLock()


@contextlib.contextmanager
def _not_kept() -> Iterator[None]:
    """Write no program to JAX's cache: one that calls oneDNN kills the process when it is written.

    JAX asks for no program what it asks for all: what another thread compiles meanwhile is not
    written either, and is compiled again another time.
    """
    with _KEEPING:
        known: Any = jax.config
        before = known.jax_persistent_cache_min_compile_time_secs
        jax.config.update(_LEAST, float("inf"))
        try:
            yield
        finally:
            jax.config.update(_LEAST, before)


_LEAST = "jax_persistent_cache_min_compile_time_secs"


def kept(method: str, default: Tuning) -> Tuning:
    """A method's choices with those of the table that JAXAE_TUNING names, if it names one.

    Raises:
      UserError: the table cannot be read, or holds something else.
    """
    path = os.environ.get("JAXAE_TUNING")
    if not path:
        return default
    try:
        table = json.loads(Path(path).read_text())
    except OSError as error:
        raise UserError(f"JAXAE_TUNING is {path}, which cannot be read ({words(error)})") from None
    except ValueError as error:
        raise UserError(f"JAXAE_TUNING is {path}, which is no JSON ({error})") from None
    methods = table.get("methods") if isinstance(table, dict) else None
    if not isinstance(methods, dict):
        raise UserError(f'{path} has no "methods"; write it with python -m benchmarks.tune')
    return merged(default, methods.get(method, {}), f"{path}, {method}")


_MOST = 1 << 20  # of any choice: a share of so many rows is one device


def merged(default: Tuning, values: Any, where: str) -> Tuning:
    """Choices with others in their place.

    Raises:
      UserError: one that does not exist, or a value of another kind; names it and `where` it is.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where}: {values!r} is no table of choices")
    for name, value in values.items():
        if name not in default._fields:
            raise UserError(f"{where}: unknown choice {name!r}; known: {', '.join(Tuning._fields)}")
        kind = type(getattr(default, name))
        if type(value) is not kind or not 0 <= value <= _MOST:
            kinds = {int: f"a number from 0 up to {_MOST}", bool: "true or false"}
            raise UserError(f"{where}: {name} is {value!r}; it must be {kinds[kind]}")
    return default._replace(**values)


def cores() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def host_devices(tuning: Tuning, batch_size: int, parameters: int) -> int:
    """How many host devices train one model fastest.

    Convolutions also gather and scatter, which one device does on one core: there a batch is split,
    one device per core. Small batches of dense models leave the cores to one device's products.
    """
    by_parameters = parameters // tuning.parameters_per_row if tuning.parameters_per_row else 0
    return max(1, batch_size // max(1, tuning.share, by_parameters))


def training_options(tuning: Tuning, dtype: str, platform: str, devices: int) -> Options:
    """What XLA is told when an epoch is compiled.

    In bfloat16 YNNPACK is what reaches the matrix units: it stays.
    """
    if platform != "cpu":
        return _on_accelerator(tuning, platform)
    # Devices that share a batch have a core each already.
    options: Options = {"xla_cpu_multi_thread_eigen": devices == 1}
    if not tuning.ynnpack and dtype == "float32":
        options |= _WITHOUT_YNNPACK
    return options | _vectors(tuning.width) | (_IN_PLACE if tuning.in_place else {})


def _on_accelerator(tuning: Tuning, platform: str) -> Options:
    return _GRAPHS if _captures(tuning, platform) else {}


# Exact products are what XLA makes most Triton kernels of before it chooses one. Without, a scorer
# of S2 is compiled in .15 s instead of 3.0 and scores .94 times as fast, one of S0 in .45 instead
# of 2.1 and .98 (H200, JAX 0.11); a scorer of the digits' dense model took 12 s.
_WITHOUT_TRITON: Options = {"xla_gpu_enable_triton_gemm": False}


def scoring_options(tuning: Tuning, dtype: str, platform: str, brief: bool = False) -> Options:
    """What XLA is told when a scorer is compiled; a brief one is used a few times."""
    # In float32 dense models score two to three times as fast without YNNPACK (ECG .8 -> 2.3
    # million rows/s, S2 170 -> 490 thousand, Intel); convolutions lose nothing.
    # Wide vectors would score dense models 1.08 to 1.12 times as fast (Zen 5), but with JAX 0.12 a
    # row's score then depends on how many devices share the rows, in its last bit.
    if platform != "cpu":
        products = _WITHOUT_TRITON if platform in _GPUS else {}
        return _on_accelerator(tuning, platform) | products
    options = _CALLS if _calls_library(tuning, dtype, platform) else {}
    return options | (_WITHOUT_YNNPACK if dtype == "float32" else {}) | (BRIEF if brief else {})


def compiled(lowered: Any, options: Options) -> Callable:
    """A lowered program compiled with options, without what this version of XLA cannot do."""
    while True:
        calls = not options.keys().isdisjoint(_CALLS)
        try:
            with _not_kept() if calls else contextlib.nullcontext():
                return lowered.compile(compiler_options=options)
        except jax.errors.JaxRuntimeError as error:
            known = _known(options, str(error))
            if known == options:
                raise
            options = known


# XLA for an H100 (JAX 0.10.2) finds no tiles for some small batched products of its Triton kernels
# and gives the program up; cuBLAS has the same products.
_NO_TILES = "output tile sizes"


_BAD_VALUE = re.compile(r"While setting option (\w+), '([^']*)' is not a valid enum value")


def _known(options: Options, error: str) -> Options:
    """The options without what an error of XLA's names: one of them, or one value of a list."""
    if _NO_TILES in error:
        return options | _WITHOUT_TRITON
    known = {n: value for n, value in options.items() if f"option: '{n}'" not in error}
    if (bad := _BAD_VALUE.search(error)) and bad[1] in known:
        name, value = bad.groups()
        others = [part for part in str(known.pop(name)).split(",") if part != value]
        known |= {name: ",".join(others)} if others else {}
    return known


def compiled_scorer(
    program: Any, args: tuple, tuned: Tuning, dtype: str, platform: str, *, brief: bool = False
) -> Callable:
    """A program traced and compiled as `scoring_options` has it: the two belong together."""
    with tracing_scorers(tuned, dtype, platform):
        lowered = program.lower(*args)
    return compiled(lowered, scoring_options(tuned, dtype, platform, brief))


# Of programs that run a few times, where compiling is what takes long: LLVM's first level makes the
# initial state in .46 s instead of .74 (ECG) and .88 instead of 1.84 (ALOCC), a scorer of ALOCC in
# .68 instead of 1.31 (Zen 5). At that level denoising trains .80 times as fast, other models 1.00
# to 1.04, and convolutions score .93 to .96 times: what runs often is left alone.
BRIEF: Options = {"xla_backend_optimization_level": 1}

# Denoising scores 35 thousand rows/s by 64 and 20 by 512 (Intel); accelerators want many: 16,384
# rows at a time score S2 1.97 times and S0 1.24 times as fast as 1,024 (H200). But few rows are
# padded to as many, and large ones must leave room for what is computed of them.
_ACCELERATOR_CHUNK = 4096
_ACCELERATOR_CHUNK_BYTES = 64 << 20
STEPS_PER_DISPATCH = 16  # at most, a chunk each
# On a CPU few rows are padded to so many steps too: copying zeros takes 1 or 2 ms, a program of its
# own for them .2 to 1.3 s to compile. Up to so many bytes for rows of one step, and of more.
PADDED_BYTES, PADDED_BYTES_OF_MORE = 16 << 20, 256 << 20
BLOCK = 8192  # rows that are read at a time of a source that does not lie in memory
# Bytes of training rows that a streaming feed reads at a time; three such parts are in memory.
FEED_BYTES = 32 << 20


def chunk_rows(tuned: Tuning, platform: str, shape: tuple[int, ...], members: int = 1) -> int:
    """Rows of a shape to score at a time, by so many members, which an accelerator has at once."""
    if platform == "cpu":
        return max(1, tuned.chunk)
    fitting = _ACCELERATOR_CHUNK_BYTES // (4 * math.prod(shape))
    fitting = max(1, min(_ACCELERATOR_CHUNK, fitting) // members)
    return 1 << (fitting.bit_length() - 1)  # a power of two
