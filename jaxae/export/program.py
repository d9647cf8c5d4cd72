"""The programs of a detector for `jax.export`: raw rows to decisions, and to score maps."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax
from jaxtyping import Array

from jaxae import config, detectors, ops, scoring
from jaxae.data import inputs
from jaxae.data.raw_data import FARTHEST
from jaxae.detectors import Detector
from jaxae.devices import members, parallel, tuning
from jaxae.export import loader
from jaxae.methods import learners
from jaxae.scoring import pooling
from jaxae.stats.conformal import split_p_values
from jaxae.storage import archive
from jaxae.types import Inferred, PyTree

PLATFORMS = ("cpu", "cuda", "tpu")
_GOLDEN_ROWS = 32  # number of rows


def serialised_program(detector: Detector) -> bytes:
    """The serialised program for CPUs, NVIDIA GPUs and TPUs.

    It is `(arrays, raw [k, 64, *S], alpha []) -> (score, p_value, is_anomaly)` of 64 k rows, for
    any k; the arrays are those of the detector by their names in its file, `unit`, by which raw
    values are divided first, and `chunks`, the number of chunks to judge, of which k may be more.
    If alpha is NaN, the threshold rule decides. The same versions of jaxae, JAX and Flax write the
    same bytes.
    """
    return _serialised(detector, _judge_fn(detector), jax.ShapeDtypeStruct((), jnp.float32))


def serialised_maps(detector: Detector) -> bytes:
    """The same for score maps: `(arrays, raw [k, 64, *S]) -> maps [64 k, *P]`; b"" without maps."""
    functions = scoring_functions(detector)
    return _serialised(detector, _maps_fn(functions)) if functions.maps else b""


def _serialised(detector: Detector, fn: Callable, *args: jax.ShapeDtypeStruct) -> bytes:
    about = detector.about
    arrays = archive.flat(detectors.tree(detector))
    arrays |= {"unit": np.float32(1), "chunks": np.int32(1)}
    arrays |= loader.identity(arrays) if row_dtype(detector) == "float64" else {}
    (k,) = export.symbolic_shape("k")
    dtype = "uint8" if about.dtype == "uint8" else "float32"
    raw = jax.ShapeDtypeStruct((k, loader.CHUNK, *about.shape), dtype)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a), np.asarray(a).dtype), arrays)
    with _without_lines():
        exported = export.export(jax.jit(fn), platforms=PLATFORMS)
        return bytes(exported(shapes, raw, *args).serialize())


@contextlib.contextmanager
def _without_lines() -> Iterator[None]:
    """Leave lines of source out of programs: the same versions then write the same bytes."""
    name = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, name)
    jax.config.update(name, 0)
    try:
        yield
    finally:
        jax.config.update(name, before)


def row_dtype(detector: Detector) -> str:
    """The dtype of raw rows: uint8 for pixels, else that in which they are scaled.

    Rows in float64 are scaled before the compiled program, which computes in float32.
    """
    return "uint8" if detector.about.dtype == "uint8" else str(detector.scaling.shift.dtype)


class Functions(NamedTuple):
    """The functions that make up a program over raw rows."""

    # (shift, scale, unit, raw [B, *S]) -> input rows of the model; constants are arguments, so that
    # XLA divides as NumPy does.
    scaled: Callable[[Array, Array, Array, Array], Array]
    scores: Callable[[PyTree, PyTree, Array], Array]  # (variables, fitted, rows) of a member -> [B]
    maps: Callable[[PyTree, PyTree, Array], Array] | None  # the same -> [B, *P]; None: no maps
    chunk: int  # rows that a CPU computes at a time, as in a run; a divisor of 64


def scoring_functions(detector: Detector) -> Functions:
    """The functions of a detector over raw rows."""
    cfg = detector.about.config
    shape = inputs.shape_of(cfg.data.input, detector.about.shape)
    learner = learners.build(config.for_scoring(cfg), shape, axis=None)
    score = scoring.resolve(cfg.score)
    apply = inputs.INPUTS[cfg.data.input].apply

    def scaled(shift: Array, scale: Array, unit: Array, raw: Array) -> Array:
        x = (raw.astype(jnp.float32) / unit - shift) / scale
        x = jnp.clip(x, -FARTHEST, FARTHEST)
        if cfg.data.input == "none":
            return x
        mapped = jax.vmap(apply)(x)
        farthest = jnp.max(jnp.abs(x), axis=tuple(range(1, x.ndim)), keepdims=True)
        return jnp.where(farthest < FARTHEST, mapped, jnp.nan)  # maps keep the rank of images

    def by_row(of_row: Callable) -> Callable[[PyTree, PyTree, Array], Array]:
        def of_member(variables: PyTree, fitted: PyTree, x: Array) -> Array:
            rows = Inferred(x, learner.infer(variables, x))
            return jax.vmap(of_row, in_axes=(None, 0))(fitted, rows)

        return of_member

    maps = by_row(scoring.row_map(score)) if score.places else None
    chunk = math.gcd(loader.CHUNK, tuning.chunk_rows(learner.tuning, "cpu", shape))
    return Functions(scaled, by_row(score.apply), maps, chunk)


def _judge_fn(detector: Detector) -> Callable:
    """The function that `serialised_program` writes."""
    rule = scoring.rule(detector.decision.rule)
    functions = scoring_functions(detector)

    def judge(arrays: dict, raw: Array, alpha: Array) -> tuple[Array, Array, Array]:
        tree = archive.nested(arrays)
        calibration, state = tree["decision"]["calibration"], tree["decision"]["state"]
        x = _scaled(functions, tree, raw)
        scores = _combined(functions.scores, tree, x, functions.chunk)
        scores = jnp.asarray(detectors.saturated(scores, x.reshape(-1, *x.shape[2:])))
        p_value = split_p_values(calibration, scores)
        by_rule = rule.decide(state, scores)
        return scores, p_value, jnp.where(jnp.isnan(alpha), by_rule, p_value <= alpha)

    return judge


def _maps_fn(functions: Functions) -> Callable:
    """The function that `serialised_maps` writes."""

    def maps(arrays: dict, raw: Array) -> Array:
        tree = archive.nested(arrays)
        x = _scaled(functions, tree, raw)
        found = _combined(functions.maps, tree, x, functions.chunk)
        return jnp.minimum(found, pooling.LARGEST)

    return maps


def _scaled(functions: Functions, tree: dict, raw: Array) -> Array:
    """Raw rows [k, 64, *S] as inputs of the model.

    XLA would multiply by the inverse of a divisor that it sees is broadcast, and round otherwise.
    """
    shift, scale = (tree["scaling"][name][None] for name in ("shift", "scale"))
    flat = raw.reshape(-1, *raw.shape[2:])
    unit, scale = (
        lax.optimization_barrier(jnp.broadcast_to(one, flat.shape)) for one in (tree["unit"], scale)
    )
    x = functions.scaled(shift, scale, unit, flat)
    return x.reshape(*raw.shape[:2], *x.shape[1:])


def _combined(of_member: Callable | None, tree: dict, x: Array, chunk: int) -> Array:
    """What the members say of inputs x [k, 64, *S] of the model, combined: [64 k, ...].

    The loops are those of a run, member by member and over a number of chunks that XLA does not
    know: in others, such as one over a single chunk, it rounds some quotients otherwise. On a CPU
    chunks are as small as in a run, `chunk` rows, because other products may round otherwise.
    """

    def of_chunks(variables: PyTree, fitted: PyTree) -> Array:
        assert of_member

        def by(rows: int, variables: PyTree, fitted: PyTree, count: Array, x: Array) -> Array:
            count, x = count * (loader.CHUNK // rows), x.reshape(-1, rows, *x.shape[2:])
            found = parallel.until(
                count, lambda _, some: ((), of_member(variables, fitted, some)), (), x
            )[1]
            return found.reshape(-1, *found.shape[2:])

        small, large = (functools.partial(by, rows) for rows in (chunk, loader.CHUNK))
        args = variables, fitted, tree["chunks"], x
        return (
            large(*args)
            if chunk == loader.CHUNK
            else ops.by_platform(*args, cpu=small, default=large)
        )

    by_member = members.each(of_chunks, tree["variables"], tree.get("fitted", {}), one_by_one=True)
    return scoring.combine(by_member)


def golden_rows(detector: Detector) -> np.ndarray:
    """Rows to judge on export and on loading, for comparison: noise of growing amplitude."""
    about, generator = detector.about, np.random.default_rng(0)
    noise = generator.normal(size=(_GOLDEN_ROWS, *about.shape))
    noise *= np.linspace(0.01, 2, _GOLDEN_ROWS).reshape(-1, *(1,) * len(about.shape))
    shift, scale = detector.scaling
    if about.dtype == "uint8":
        return np.clip(128 + 64 * noise, 0, 255).astype(np.uint8)
    return (np.asarray(shift) + np.asarray(scale) * noise).astype(row_dtype(detector))


def golden_maps(detector: Detector, rows: np.ndarray) -> np.ndarray | None:
    """The score maps of some golden rows, for comparison; None: the score has none."""
    return detectors.score_maps(detector, rows[:: loader.EVERY]) if places_of(detector) else None


def places_of(detector: Detector) -> list[int]:
    """The shape of a score map; [] if the score has none."""
    has_maps = scoring.resolve(detector.about.config.score).places
    return [*detectors.map_shape(detector)] if has_maps else []
