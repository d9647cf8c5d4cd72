"""Applying a detector to new raw rows: scores, p-values and decisions."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Shaped

from jaxae import config, scoring
from jaxae.data import inputs
from jaxae.data.raw_data import scaled
from jaxae.detectors import evaluation
from jaxae.detectors.detector import Description, Detector, Judgement, units
from jaxae.devices import parallel
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.stats.conformal import p_values
from jaxae.types import Learner, PyTree, Score, Source


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

    def scores(x: Source) -> Float[np.ndarray, " N"]:
        by_member = scorer(variables, fitted, x)
        if len(by_member) == 1:  # the mean of one member needs no program
            return by_member[0]
        return np.asarray(scoring.combine(jnp.asarray(by_member)))

    return scores


def judge(detector: Detector, raw: Shaped[np.ndarray, "..."], first: int = 0) -> Judgement:
    """Judge raw rows, in the units of the data that the detector was fitted on.

    Args:
      detector: see `load`.
      raw: [N, *S]; a single channel may be left out.
      first: the number of the first row in messages, if these rows are a part of more rows.

    Raises:
      UserError: there are no rows, their shape or dtype does not match the detector, they contain
        NaN or infinite values, or are so far from the training rows that a score is not finite.
    """
    return judge_prepared(detector, prepared(detector, raw, first), first)


@parallel.on_host()
def judge_prepared(detector: Detector, x: Float[np.ndarray, " N *S"], first: int = 0) -> Judgement:
    """`judge` for `prepared` rows; raises a `UserError` if a score is not finite."""
    learner = learners.build(config.for_scoring(detector.about.config), x.shape[1:])
    scores = score_fn(detector, learner, jax.local_devices())(x)
    problem = "rows are too far from the training rows to have a finite score"
    require(np.isfinite(scores), problem, first)
    decision = detector.decision
    return Judgement(scores, p_values(decision, scores), scoring.decide(decision, scores))


def prepared(
    detector: Detector, raw: Shaped[np.ndarray, "..."], first: int = 0
) -> Float[np.ndarray, " N *S"]:
    """Raw rows as inputs of the detector's model: scaled, and mapped by `data.input`.

    Raises:
      UserError: the rows cannot be judged, see `judge`.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # overflow is refused below
        x = scaled(_checked(detector.about, raw), detector.scaling)
    require(np.isfinite(x), "rows hold NaN or infinite values", first)
    return inputs.mapped(detector.about.config.data.input, x)


def _checked(about: Description, raw: np.ndarray) -> np.ndarray:
    """The rows as [N, *S]; raises a `UserError` if the detector cannot take them."""
    if raw.dtype.kind not in "fiub":
        raise UserError(f"the rows are of type {raw.dtype}; a detector needs real numbers")
    if (raw.dtype == np.uint8) != (about.dtype == "uint8"):
        raise UserError(
            f"the rows are {raw.dtype}, but the detector was fitted on {about.dtype} rows "
            f"({units(about.dtype)}); convert them to this type"
        )
    without_channel = about.shape[:-1] if about.shape[-1] == 1 else about.shape
    if raw.ndim < 2 or raw.shape[1:] not in (about.shape, without_channel):
        raise UserError(
            f"the rows are given as {list(raw.shape)}; the detector takes {['N', *about.shape]}"
        )
    if not len(raw):
        raise UserError("there are no rows to judge")
    return raw.reshape(-1, *about.shape)


def require(ok: np.ndarray, problem: str, first: int = 0) -> None:
    """Refuse rows [N, ...], numbered from `first`, if one of their values is not ok."""
    bad = np.flatnonzero(~ok.reshape(len(ok), -1).all(axis=1))
    if bad.size:
        raise UserError(f"{bad.size} {problem}, first row {first + bad[0]}; remove or fix them")
