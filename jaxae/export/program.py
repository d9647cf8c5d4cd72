"""The program of a detector: from raw rows to scores, p-values and decisions, for `jax.export`."""

import contextlib
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax
from jaxtyping import Array, Float

from jaxae import config, detectors, scoring
from jaxae.data import inputs
from jaxae.data.raw_data import FARTHEST
from jaxae.detectors import Detector
from jaxae.export import loader
from jaxae.methods import learners
from jaxae.stats.conformal import split_p_values
from jaxae.storage import archive
from jaxae.types import Inferred, PyTree

PLATFORMS = ("cpu", "cuda", "tpu")
_GOLDEN_ROWS = 32  # number of rows


def serialised_program(detector: Detector) -> bytes:
    """The serialised program for CPUs, NVIDIA GPUs and TPUs.

    It is `(arrays, raw [k, 64, *S], alpha []) -> (score, p_value, is_anomaly)` of 64 k rows, for
    any k; the arrays are those of the detector by their names in its file, and `unit`, by which raw
    values are divided first. If alpha is NaN, the threshold rule decides. The same versions of
    jaxae, JAX and Flax write the same bytes.
    """
    about = detector.about
    arrays = archive.flat(detectors.tree(detector)) | {"unit": np.float32(1)}
    arrays |= loader.identity(arrays) if row_dtype(detector) == "float64" else {}
    (k,) = export.symbolic_shape("k")
    dtype = "uint8" if about.dtype == "uint8" else "float32"
    raw = jax.ShapeDtypeStruct((k, loader.CHUNK, *about.shape), dtype)
    alpha = jax.ShapeDtypeStruct((), jnp.float32)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a), np.asarray(a).dtype), arrays)
    with _without_places():
        exported = export.export(jax.jit(_judge_fn(detector)), platforms=PLATFORMS)
        return bytes(exported(shapes, raw, alpha).serialize())


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
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


def scoring_functions(detector: Detector) -> tuple[Callable, Callable]:
    """The two functions that make up a program over raw rows.

    Returns:
      `(scaling, unit, raw [B, *S]) -> input rows of the model`, with constants as arguments so
      that XLA divides as NumPy does; and `(variables, fitted, rows) -> scores [B]` of a member.
    """
    cfg = detector.about.config
    shape = inputs.shape_of(cfg.data.input, detector.about.shape)
    learner = learners.build(config.for_scoring(cfg), shape, axis=None)
    score = scoring.resolve(cfg.score)
    apply = inputs.INPUTS[cfg.data.input].apply

    def scaled(scaling: dict, unit: Array, raw: Array) -> Array:
        x = (raw.astype(jnp.float32) / unit - scaling["shift"][None]) / scaling["scale"][None]
        x = jnp.clip(x, -FARTHEST, FARTHEST)
        if cfg.data.input == "none":
            return x
        mapped = jax.vmap(apply)(x)
        farthest = jnp.max(jnp.abs(x), axis=tuple(range(1, x.ndim)), keepdims=True)
        return jnp.where(farthest < FARTHEST, mapped, jnp.nan)  # maps keep the rank of images

    def member_scores(variables: PyTree, fitted: PyTree, x: Array) -> Array:
        rows = Inferred(x, learner.infer(variables, x))
        return jax.vmap(score.apply, in_axes=(None, 0))(fitted, rows)

    return scaled, member_scores


def _judge_fn(detector: Detector) -> Callable:
    """The function that `serialised_program` writes."""
    rule = scoring.rule(detector.decision.rule)
    scaled, member_scores = scoring_functions(detector)

    def judge(arrays: dict, raw: Array, alpha: Array) -> tuple[Array, Array, Array]:
        tree = archive.nested(arrays)
        calibration, state = tree["decision"]["calibration"], tree["decision"]["state"]

        def chunk(rows: Array) -> Float[Array, " 64"]:
            x = scaled(tree["scaling"], tree["unit"], rows)
            all_members = (tree["variables"], tree.get("fitted", {}))
            scores = scoring.combine(lax.map(lambda one: member_scores(*one, x), all_members))
            return jnp.asarray(detectors.saturated(scores, x))

        scores = lax.map(chunk, raw).reshape(-1)
        p_value = split_p_values(calibration, scores)
        by_rule = rule.decide(state, scores)
        return scores, p_value, jnp.where(jnp.isnan(alpha), by_rule, p_value <= alpha)

    return judge


def golden_rows(detector: Detector) -> np.ndarray:
    """Rows to judge on export and on loading, for comparison: noise of growing amplitude."""
    about, generator = detector.about, np.random.default_rng(0)
    noise = generator.normal(size=(_GOLDEN_ROWS, *about.shape))
    noise *= np.linspace(0.01, 2, _GOLDEN_ROWS).reshape(-1, *(1,) * len(about.shape))
    shift, scale = detector.scaling
    if about.dtype == "uint8":
        return np.clip(128 + 64 * noise, 0, 255).astype(np.uint8)
    return (np.asarray(shift) + np.asarray(scale) * noise).astype(row_dtype(detector))
