"""Applying a detector to new raw rows: scores, p-values and decisions."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from jaxae import config, scoring
from jaxae.data import inputs
from jaxae.data.raw_data import FARTHEST, are_pixels, numbers, place, scaled
from jaxae.detectors import evaluation
from jaxae.detectors.detector import Description, Detector, Judgement, units
from jaxae.devices import parallel
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.scoring import pooling
from jaxae.stats.conformal import p_values
from jaxae.types import AnyArray, Learner, PyTree, Score, Shape, Source

LARGEST = pooling.LARGEST  # the score of rows that are too far away to have another


def score_fn(
    detector: Detector, learner: Learner, devices: parallel.Devices
) -> Callable[[Float[np.ndarray, " N *S"]], Float[np.ndarray, " N"]]:
    """Scores of already scaled rows, averaged over the members."""
    score = scoring.resolve(detector.about.config.score)
    return scores_of(learner, score, detector.variables, detector.fitted, devices)


def scores_of(
    learner: Learner, score: Score, variables: PyTree, fitted: PyTree, devices: parallel.Devices
) -> Callable[[Source], Float[np.ndarray, " N"]]:
    """`score_fn` from the parts of a detector whose decision is not fitted yet."""
    scorer = evaluation.scorer(learner, score, devices)

    return lambda x: _combined(scorer(variables, fitted, x))


def _combined(by_member: Float[np.ndarray, "E N *P"]) -> Float[np.ndarray, " N *P"]:
    if len(by_member) == 1:  # the mean of one member needs no program
        return by_member[0]
    return np.asarray(scoring.combine(jnp.asarray(by_member)))


def maps_fn(
    detector: Detector, learner: Learner, devices: parallel.Devices
) -> Callable[[Source], Float[np.ndarray, " N *P"]]:
    """Score maps of already scaled rows, averaged over the members; see `score_maps`.

    Raises:
      UserError: the score has no map.
    """
    score = _with_map(detector.about.config.score)
    return maps_of(learner, score, detector.variables, detector.fitted, devices)


def _with_map(spec: str) -> Score:
    score = scoring.resolve(spec)
    if not score.places:
        names = scoring.with_maps()
        raise UserError(f"score {spec!r} says nothing of single places; use one of {names}")
    return score


def maps_of(
    learner: Learner,
    score: Score,
    variables: PyTree,
    fitted: PyTree,
    devices: parallel.Devices,
    detailed: bool = False,
) -> Callable[[Source], Float[np.ndarray, " N *P"]]:
    """`maps_fn` of any score that has a map; `detailed`: see `jaxae.scoring.row_map`."""
    mapper = evaluation.mapper(learner, score, detailed, devices)
    return lambda x: np.minimum(_combined(mapper(variables, fitted, x)), LARGEST)


def score_maps(
    detector: Detector, raw: Shaped[np.ndarray, "..."], first: int = 0
) -> Float[np.ndarray, " N *P"]:
    """How anomalous each place of raw rows is: pixels [N, H, W], steps [N, T], features [N, F].

    The map of the detector's score, at least 0, averaged over channels and members. With
    `data.input`, places are those of the mapped row, such as cells of gradients. The map of a row
    that is too far away is the largest float32 where its values are, see `pooling.bounded`.

    Args:
      detector: see `load`.
      raw: [N, *S]; a single channel may be left out.
      first: the number of the first row in messages, if these rows are a part of more rows.

    Raises:
      UserError: the score has no map, or the rows cannot be judged; see `judge`.
    """
    return map_prepared(detector, prepared(detector, raw, first))


@parallel.on_host()
def map_prepared(detector: Detector, x: Float[np.ndarray, " N *S"]) -> Float[np.ndarray, " N *P"]:
    """`score_maps` of `prepared` rows."""
    learner = learners.build(config.for_scoring(detector.about.config), x.shape[1:])
    return maps_fn(detector, learner, jax.local_devices())(x)


def map_shape(detector: Detector) -> Shape:
    """The shape of the map of a row.

    Raises:
      UserError: the score has no map.
    """
    about = detector.about
    _with_map(about.config.score)
    shape = inputs.shape_of(about.config.data.input, about.shape)
    return shape[:-1] if len(shape) > 1 else shape


def judge(detector: Detector, raw: Shaped[np.ndarray, "..."], first: int = 0) -> Judgement:
    """Judge raw rows, in the units of the data that the detector was fitted on.

    Args:
      detector: see `load`.
      raw: [N, *S]; a single channel may be left out.
      first: the number of the first row in messages, if these rows are a part of more rows.

    Raises:
      UserError: there are no rows, their shape or dtype does not match the detector, or they
        contain NaN or infinite values.
    """
    return judge_prepared(detector, prepared(detector, raw, first))


@parallel.on_host()
def judge_prepared(detector: Detector, x: Float[np.ndarray, " N *S"]) -> Judgement:
    """`judge` for `prepared` rows."""
    learner = learners.build(config.for_scoring(detector.about.config), x.shape[1:])
    scores = saturated(score_fn(detector, learner, jax.local_devices())(x), x)
    decision = detector.decision
    return Judgement(scores, p_values(decision, scores), scoring.decide(decision, scores))


def prepared(
    detector: Detector, raw: Shaped[np.ndarray, "..."], first: int = 0
) -> Float[np.ndarray, " N *S"]:
    """Raw rows as inputs of the detector's model: scaled, and mapped by `data.input`.

    A row with a value beyond `FARTHEST` has no map: it becomes NaN.

    Raises:
      UserError: the rows cannot be judged, see `judge`.
    """
    about = detector.about
    raw = _checked(about, raw)
    require(np.isfinite(raw), "rows hold NaN or infinite values", first, about.schema.features)
    x, name = scaled(raw, detector.scaling), about.config.data.input
    if name == "none":
        return x
    mapped = inputs.mapped(name, x)
    is_near = (np.abs(x) < FARTHEST).all(axis=tuple(range(1, x.ndim)), keepdims=True)
    return np.where(is_near, mapped, np.float32(np.nan))  # maps keep the rank of images


def _checked(about: Description, raw: np.ndarray) -> np.ndarray:
    """The rows as [N, *S]; raises a `UserError` if the detector cannot take them."""
    if np.ma.is_masked(raw):
        raise UserError("the rows hold masked values; fill them, or leave their rows out")
    if raw.dtype.kind not in "fiub":
        raise UserError(f"the rows are of type {raw.dtype}; a detector needs real numbers")
    if (raw.dtype == np.uint8) != (about.dtype == "uint8") and (
        about.dtype == "uint8" or are_pixels(raw.dtype, about.shape)
    ):
        raise UserError(
            f"the rows are {raw.dtype}, but the detector was fitted on {about.dtype} rows "
            f"({units(about.dtype)}); convert them to this type"
        )
    without_channel = about.shape[:-1] if about.shape[-1] == 1 else about.shape
    if raw.ndim < 2 or raw.shape[1:] not in (about.shape, without_channel):
        raise UserError(
            f"the rows are given as {list(raw.shape)}; the detector takes "
            f"[N, {', '.join(map(str, about.shape))}]"
        )
    if not len(raw):
        raise UserError("there are no rows to judge")
    raw = raw.reshape(-1, *about.shape)
    return raw if about.dtype == "uint8" else numbers(raw, pixels=False)


def saturated(scores: Float[AnyArray, " N"], x: Float[AnyArray, " N *S"]) -> Float[AnyArray, " N"]:
    """Scores of inputs x of a model, `LARGEST` for rows that are too far away to have another.

    These are rows with a value beyond `FARTHEST`, and those with a score that is not finite.
    """
    xp = np if isinstance(scores, np.ndarray) else jnp
    is_near = xp.max(xp.abs(x), axis=tuple(range(1, x.ndim))) < FARTHEST  # False for NaN
    return xp.where(is_near & (xp.abs(scores) <= LARGEST), scores, LARGEST)


def require(ok: np.ndarray, problem: str, first: int = 0, names: Sequence[str] = ()) -> None:
    """Refuse rows [N, ...], numbered from `first`, if one of their values is not ok.

    `names` are those of the values along the last axis, if they have any.
    """
    bad = np.flatnonzero(~ok.reshape(len(ok), -1).all(axis=1))
    if bad.size:
        at = np.argwhere(~ok[bad[0]])[0].tolist() if ok.ndim > 1 else []
        where = f" in {place(at, ok.shape[1:], names)}" if at else ""
        raise UserError(
            f"{bad.size} {problem}, first row {first + bad[0]}{where}; remove or fix them"
        )
