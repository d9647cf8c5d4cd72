"""Warnings of training that failed even though every number is finite.

Each check uses arrays on the host and yields a line for each problem. If a problem makes the
detector unusable, an error is raised instead.
"""

from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Bool, Float

from jaxae import detectors, scoring
from jaxae.data.raw_data import place
from jaxae.detectors import evaluation
from jaxae.methods import learners
from jaxae.stats import curve
from jaxae.types import Dataset, Learner, PyTree, Source

ROWS = 512  # the number of rows in which to look for dead units
NEGLIGIBLE = 1e-4  # values that vary over rows by less than this share of their size are constant
OVERSHADOWED = 0.01  # of a standard deviation
SATURATED = 15.0  # log-odds beyond which a sigmoid passes less than a millionth of a gradient


def look(
    learner: Learner,
    initial: PyTree,
    detector: detectors.Detector,
    scores: detectors.Scores,
    data: Dataset,
) -> list[str]:
    """All warnings about a finished run, one line each; infers a few hundred rows.

    `learner` is the one for scoring; `initial` are the parameters [E, ...] before the first step.

    Raises:
      FloatingPointError: no parameter of a member has changed.
    """
    cfg, variables = detector.about.config, detector.variables
    method, infer = learners.METHODS[cfg.method], evaluation.inference(learner, jax.local_devices())
    kind = "test" if data.is_labelled else "held-out"
    lines = [*constant_scores(scores.test, kind), *below_chance(scores.test, data.test.y)]
    if cfg.data.scale == "standard":
        lines += overshadowed(_some(data.train.x), detector.about.schema.features)
    names = log_odds(method)
    if names:
        extra = infer(variables, _some(data.test.x)).extra
        lines += dead_discriminator({name: np.asarray(extra[name]) for name in names})
    if "model.latent" in method.reads and cfg.model.latent:
        lines += dead_codes(infer(variables, _some(data.train.x)).z)
    params = jax.device_get(variables["params"])
    return [*lines, *unmoved(jax.device_get(initial), params), *identical(params)]


def log_odds(method: learners.Method) -> list[str]:
    """Names of a method's outputs that are log-odds of a discriminator and that scores use."""
    used = (score.needs for score in scoring.SCORES.values() if not score.log_scale)
    return sorted(frozenset().union(*used) & method.outputs)


def _some(x: Source) -> np.ndarray:
    """Up to `ROWS` rows, evenly spaced."""
    return x[np.unique(np.linspace(0, len(x) - 1, ROWS).astype(int))]


def _suffix(member: int, size: int) -> str:
    """The words that name the member of an ensemble in a line."""
    return f" of member {member}" if size > 1 else ""


def overshadowed(x: Float[np.ndarray, " N *S"], names: list[str]) -> Iterator[str]:
    """Warn of standardised features whose scale a few values set, so that the others hardly count.

    `names` of the values along the last axis may be empty.
    """
    low, high = np.quantile(x.astype(np.float64), [0.05, 0.95], axis=0)
    bad = np.argwhere((high > low) & (high - low < OVERSHADOWED))
    if len(bad):
        name = place(bad[0], x.shape[1:], names)
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        yield (
            f"feature {name}{more}: nine in ten training rows differ by less than "
            f"{OVERSHADOWED:.0%} of its scale, which a few far values set; are they marks for "
            "missing values?"
        )


def constant_scores(scores: Float[np.ndarray, " N"], kind: str = "test") -> Iterator[str]:
    """Warn of scores that hardly vary, or of one score shared by half of the rows of a `kind`."""
    size = np.abs(scores).max(initial=0)
    std = scores.std(dtype=np.float64)
    if len(scores) > 1 and std <= NEGLIGIBLE * size:
        yield (
            f"{kind} scores are nearly constant: their standard deviation is {std:.2g}, "
            f"the largest is {size:.4g}"
        )
    values, counts = np.unique(scores, return_counts=True)
    if len(scores) > 2 and 2 * counts.max() >= len(scores):
        yield (
            f"{counts.max()} of {len(scores)} {kind} rows have the same score, "
            f"{values[counts.argmax()]:.4g}: it is saturated, or the rows are the same"
        )


def below_chance(scores: Float[np.ndarray, " N"], y: Bool[np.ndarray, " N"]) -> Iterator[str]:
    """Warn of an AUROC below 1/2. Scores are never flipped: test labels would then decide."""
    area = curve.area(scores, y)  # NaN without rows of a class
    if area < 0.5:
        yield (
            f"AUROC is {area:.4f}, below chance: anomalies score lower than normals; scores are "
            "not flipped"
        )


def dead_discriminator(log_odds: dict[str, Float[np.ndarray, "E N"]]) -> Iterator[str]:
    """Warn of a discriminator that is constant over rows, or saturated for all rows."""
    for name, by_member in log_odds.items():
        for member, values in enumerate(by_member):
            who = f"the discriminator{_suffix(member, len(by_member))} is dead: {name}"
            size = np.abs(values)
            if values.std() <= NEGLIGIBLE * max(1.0, size.max()):
                yield f"{who} is {values.mean():.4g} for all of {len(values)} test rows"
            elif size.min() > SATURATED:
                yield (
                    f"{who}, log-odds, is beyond {SATURATED:g} for all of {len(values)} test rows, "
                    "where a sigmoid has no gradient"
                )


def dead_codes(z: Float[np.ndarray, "E N L"]) -> Iterator[str]:
    """Warn of latent units that are constant over training rows, as dead ReLU units are."""
    for member, codes in enumerate(z):
        spread = codes.std(axis=0)
        dead = int(np.sum(spread <= NEGLIGIBLE * np.abs(codes).max(axis=0)))
        if dead and len(codes) > 1:
            yield (
                f"{dead} of {codes.shape[1]} latent units{_suffix(member, len(z))} are constant "
                f"over {len(codes)} training rows"
            )


def unmoved(initial: PyTree, params: PyTree) -> Iterator[str]:
    """Warn of parameters that still have, bit for bit, their initial values.

    Raises:
      FloatingPointError: this is true for all parameters of a member.
    """
    before, after = (_leaves(tree) for tree in (initial, params))
    size = len(next(iter(after.values())))
    for member in range(size):
        same = [n for n in after if np.array_equal(before[n][member], after[n][member])]
        if len(same) == len(after):
            raise FloatingPointError(
                f"no parameter{_suffix(member, size)} has moved from its initial value; raise "
                "optim.lr"
            )
        if same:
            names = ", ".join(same[:3]) + (" ..." if len(same) > 3 else "")
            yield (
                f"{len(same)} of {len(after)} parameter arrays{_suffix(member, size)} have not "
                f"moved from their initial values: {names}"
            )


def identical(params: PyTree) -> Iterator[str]:
    """Warn of members with equal parameters, which make the ensemble effectively smaller."""
    leaves = _leaves(params).values()
    first: dict[bytes, int] = {}
    for member in range(len(next(iter(leaves)))):
        content = b"".join(np.ascontiguousarray(leaf[member]).tobytes() for leaf in leaves)
        if content in first:
            yield f"members {first[content]} and {member} are identical"
        first.setdefault(content, member)


def _leaves(params: PyTree) -> dict[str, np.ndarray]:
    """Name -> array [E, ...], without empty ones."""
    flat = jax.tree_util.tree_leaves_with_path(params)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in flat}
    return {name: np.asarray(leaf) for name, leaf in named.items() if leaf.size}
