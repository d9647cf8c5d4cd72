"""`jaxae score --drift`: whether the rows of a file, in order, stay like the held-out ones."""

import math
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from jaxae import detectors
from jaxae.detectors import steps
from jaxae.errors import UserError
from jaxae.stats import conformal

ALARM = 100.0  # the wealth at which drift is reported: without it, once in a hundred files at most

_LARGEST = 1e300  # the largest wealth that is told; float64 ends at 1e308


def check(detector: detectors.Detector, drift: bool) -> None:
    """Raise a `UserError` if rows of a file have no order that could be tested."""
    if drift and steps.state_of(detector):
        raise UserError(
            "--drift tests rows that are independent, but steps of a series depend on each other; "
            "omit --drift"
        )


def of(detector: detectors.Detector, scores: Float[np.ndarray, " N"]) -> dict[str, Any]:
    """The largest wealth of `jaxae.stats.conformal.bet`, its row, and the row of the alarm.

    Ties are broken by the seed of the run, so that the same file gives the same.
    """
    key = jax.random.key(detector.about.config.seed)
    p = conformal.stream_p_values(key, detector.decision.calibration, scores)
    log = np.asarray(conformal.bet(p).log)
    over = np.flatnonzero(log >= math.log(ALARM))
    row = int(log.argmax())
    wealth = math.exp(min(log[row], math.log(_LARGEST)))
    return {"alarm": int(over[0]) if len(over) else None, "wealth": wealth, "row": row}


def line(found: dict[str, Any], reason: str) -> str:
    """What `of` found, in words."""
    promise = "a file without drift gets there once in a hundred times at most"
    if reason:
        promise = f"without a guarantee: {reason}"
    if found["alarm"] is None:
        return (
            f"no drift: the wealth of bets on rising scores is {found['wealth']:.3g} at most, at "
            f"row {found['row']}; drift is reported at {ALARM:g} ({promise})"
        )
    more = " or more" if found["wealth"] >= 0.999 * _LARGEST else ""
    return (
        f"drift: scores have risen by row {found['alarm']}, where the wealth of bets on it reaches "
        f"{ALARM:g} ({promise}); the largest is {found['wealth']:.3g}{more}, at row {found['row']}"
    )
