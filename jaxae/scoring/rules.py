"""Threshold rules: from scores of normals to decisions about other rows.

To add one, enter a `Rule` in `RULES`, or call `RULES.add` from outside the package.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jaxae.errors import UserError
from jaxae.registry import Registry
from jaxae.scoring import tails
from jaxae.stats import conformal
from jaxae.types import AnyArray, Argument, Decision, Rule


def _mean_std(scores: Float[Array, " N"], k: float) -> dict:
    """Mean + k standard deviations, with the population's 1/N as in `numpy.std`.

    PyTorch's default, 1/(N-1), differs by a factor of sqrt(N / (N-1)).
    """
    return {"threshold": jnp.mean(scores) + k * jnp.std(scores)}


def _quantile(scores: Float[Array, " N"], q: float) -> dict:
    """The q-quantile, linearly interpolated: a share 1 - q of these rows lies above it."""
    return {"threshold": jnp.quantile(scores, q)}


def _quantile_rank(n: int, q: float) -> float:
    """1 + (1 - q)(N - 1): the rank from the top at which `numpy.quantile` interpolates."""
    return 1 + (1 - q) * (n - 1)


def _mad(scores: Float[Array, " N"], k: float) -> dict:
    """Median + k * 1.4826 * median absolute deviation: mean + k std for Gaussians, but robust."""
    median = jnp.median(scores)
    return {"threshold": median + k * 1.4826 * jnp.median(jnp.abs(scores - median))}


def _max(scores: Float[Array, " N"]) -> dict:
    """The largest score: none of these rows is flagged."""
    return {"threshold": jnp.max(scores)}


_DEVIATIONS = Argument("a number of deviations", 2, -1e6, 1e6)  # larger ones exceed float32
RULES: Registry[Rule] = Registry(
    "threshold rule",
    Rule,
    {
        "mean_std": Rule(_mean_std, _DEVIATIONS),
        "quantile": Rule(_quantile, Argument("a share", 0.95, 0, 1), rank=_quantile_rank),
        "mad": Rule(_mad, _DEVIATIONS),
        "max": Rule(_max, rank=lambda n: 1),
        "conformal": Rule(
            conformal.fit,
            Argument("alpha", 0.05, 0, 1),
            exchangeable=True,
            rank=conformal.rank_allowed,
        ),
        "pot": Rule(tails.peaks_over_threshold, Argument("a risk", 0.001, 0, tails.TAIL)),
    },
)


def rule(spec: str) -> Rule:
    """The threshold rule of a specification, with its number filled in.

    Args:
      spec: a name in `RULES`, and a number if the rule takes one: "quantile:0.95", "max".

    Raises:
      UserError: the rule is unknown, or its number is missing, superfluous or out of range.
    """
    name, colon, number = spec.partition(":")
    entry = RULES[name]
    argument = entry.argument
    if argument is None:
        if colon:
            raise UserError(f"threshold rule {spec!r} takes no number; write {name!r}")
        return entry._replace(fit=_fitting(entry.fit, None))
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    needed = f"{argument.meaning} after {name}, as in {name}:{argument.example:g}"
    if not math.isfinite(value):
        raise UserError(f"threshold rule {spec!r} needs a finite number: {needed}")
    low, high = argument.low, argument.high
    if not low < value < high:
        raise UserError(f"threshold rule {spec!r} needs {needed}, between {low:g} and {high:g}")
    rank: Any = entry.rank
    return entry._replace(
        fit=_fitting(entry.fit, value), argument=None, rank=rank and (lambda n: rank(n, value))
    )


def fit_rule(spec: str, scores: Float[AnyArray, " N"]) -> Decision:
    """Fit a rule on the scores of normals.

    Raises:
      UserError: see `rule`; a score is NaN, or the rule needs more scores.
    """
    conformal.refuse_nan(calibration=scores)
    scores = jnp.asarray(scores)
    return Decision(spec, rule(spec).fit(scores), scores)


@functools.lru_cache(maxsize=64)
def _fitting(fit: Callable[..., dict], number: float | None) -> Callable[[Array], dict]:
    """A rule's `fit` with its number, compiled once for every number of scores."""
    return jax.jit(lambda scores: fit(scores) if number is None else fit(scores, number))


def decide(decision: Decision, scores: Float[AnyArray, " N"]) -> Bool[np.ndarray, " N"]:
    """The decisions of a fitted rule, True = anomaly; all decisions on scores are made here."""
    state = jax.device_get(decision.state)  # a comparison on the host needs no program
    return np.asarray(rule(decision.rule).decide(state, np.asarray(scores)))
