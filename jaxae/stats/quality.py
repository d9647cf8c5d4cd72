"""What scores and decisions are worth against the truth, in one program."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxae.devices import tuning
from jaxae.stats import metrics


class Quality(NamedTuple):
    """What scores are worth; anomaly = positive unless a name says otherwise."""

    auroc: Array
    average_precision: Array
    fpr_at_95_tpr: Array  # false-positive rate where 95 % of the anomalies are found
    accuracy: Array  # from here to recall_normal_positive: of the detector's decisions
    precision: Array
    recall: Array
    f1: Array
    fpr: Array
    precision_normal_positive: Array
    recall_normal_positive: Array
    equal_error_threshold: Array  # where false-positive and false-negative rates meet
    equal_error_f1: Array
    best_f1_oracle: Array  # over all thresholds: it looks at the truth and is no result


@functools.partial(jax.jit, compiler_options=tuning.FAST_COMPILE)
def measure(scores: Array, y: Array, is_anomaly: Array) -> Quality:
    """`Quality` of scores [N], truth and decisions [N] bool, on the device; NaN = there is none."""
    confusion = metrics.confusion(is_anomaly, y)
    flipped = metrics.normal_as_positive(is_anomaly, y)
    equal_error = metrics.equal_error(scores, y)
    found = Quality(
        auroc=metrics.auroc(scores, y),
        average_precision=metrics.average_precision(scores, y),
        fpr_at_95_tpr=metrics.fpr_at_tpr(scores, y),
        accuracy=confusion.accuracy,
        precision=confusion.precision,
        recall=confusion.recall,
        f1=confusion.f1,
        fpr=confusion.fpr,
        precision_normal_positive=flipped.precision,
        recall_normal_positive=flipped.recall,
        equal_error_threshold=equal_error.threshold,
        equal_error_f1=equal_error.f1,
        best_f1_oracle=metrics.best_f1(scores, y),
    )
    # A score that is not a number was never judged.
    return jax.tree.map(lambda value: jnp.where(jnp.isnan(scores).any(), jnp.nan, value), found)
