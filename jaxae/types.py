"""The types that the modules of jaxae exchange: rows, outputs, states and methods.

One idea carries the design: a method is a `Learner`, three pure functions over a state that holds
arrays only. Parallelism, ensembles, checkpoints, scoring and benchmarks are written once for all.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax

Array = jax.Array
PyTree = Any
Key = jax.Array  # a typed key, jax.random.key
Shape = tuple[int, ...]
Metrics = dict[str, Array]

AXIS = "data"  # the mapped axis over which a batch is split


def mean_over(tree: PyTree, axis: str | None) -> PyTree:
    """The mean over a mapped axis, or the tree itself where nothing is mapped (`axis` = None).

    All leaves meet in one vector: on a CPU every array that is reduced costs the devices a
    rendezvous of its own. They are written into it one by one, because XLA would fuse a
    concatenation with the gradients' sums, and compute those element by element.
    """
    if not axis or lax.axis_size(axis) == 1:
        return tree
    leaves, treedef = jax.tree.flatten(tree)
    ends = np.cumsum([leaf.size for leaf in leaves])
    vector = jnp.zeros(ends[-1], jnp.result_type(*leaves))
    for leaf, end in zip(leaves, ends, strict=True):
        part = leaf.reshape(-1).astype(vector.dtype)
        vector = lax.dynamic_update_slice(vector, part, (end - leaf.size,))
    vector = lax.pmean(vector, axis)
    means = [
        vector[end - leaf.size : end].reshape(leaf.shape).astype(leaf.dtype)
        for leaf, end in zip(leaves, ends, strict=True)
    ]
    return jax.tree.unflatten(treedef, means)


class Batch(NamedTuple):
    """The rows one device sees in one step."""

    x: Array  # [B, *S] float32
    slot: Array  # [B] int32, position in the GLOBAL batch: addresses the noise of each row


class Split(NamedTuple):
    """Rows of one role (train, valid or test), on the host."""

    x: np.ndarray  # [N, *S] float32
    y: np.ndarray  # [N] bool, True = anomaly
    label: np.ndarray  # [N] int32, class as published; colours figures, never seen in training
    row: np.ndarray  # [N] int64, identity of the row in its source; splits must not share any


class Dataset(NamedTuple):
    """Train and valid hold normals only; test holds both."""

    shape: Shape  # S, of one row
    train: Split
    valid: Split
    test: Split
    shift: np.ndarray  # scaling fitted on the training rows: x = (raw - shift) / scale
    scale: np.ndarray


class Outputs(NamedTuple):
    """What a method says of rows, in evaluation mode."""

    x_hat: Array  # [B, *S] reconstruction
    z: Array  # [B, L] latent code
    d_of_r: Array  # [B] discriminator's log-odds that the reconstruction is real; 0 where none
    d_of_x: Array  # [B] discriminator's log-odds that the row itself is real; 0 where none


@struct.dataclass
class TrainState:
    """Everything that training carries from step to step: arrays only, no device axis, no key."""

    step: Array  # [] int32
    params: PyTree
    model_state: PyTree  # Flax's other collections, such as batch_stats; {} where there are none
    opt_state: PyTree

    @property
    def variables(self) -> dict:
        """What `Learner.infer` takes: parameters and running statistics."""
        return {"params": self.params, **self.model_state}


class Learner(NamedTuple):
    """A training method as three pure functions.

    Attributes:
      init: `(key, x [1, *S]) -> TrainState`.
      step: `(state, batch, key) -> (state, metrics)`; folds `state.step` into the key itself and
        averages gradients and metrics over the mapped axis, if it was built with one.
      infer: `(variables, x [B, *S]) -> Outputs`; deterministic, running statistics.
    """

    init: Callable[[Key, Array], TrainState]
    step: Callable[[TrainState, Batch, Key], tuple[TrainState, Metrics]]
    infer: Callable[[PyTree, Array], Outputs]


class Rows(NamedTuple):
    """Rows with what a method says of them: what a score is fitted on or applied to."""

    x: Array  # [N, *S]
    out: Outputs  # leading axis N


class Score(NamedTuple):
    """An anomaly score: higher = more anomalous.

    Attributes:
      fit: `(train rows, calibration rows) -> dict of arrays`; {} when there is nothing to fit.
        Both hold normals only, and the calibration rows were not trained on.
      apply: `(fitted, x [*S], outputs of ONE example) -> []`; map it with `jax.vmap`.
    """

    fit: Callable[[Rows, Rows], dict]
    apply: Callable[[dict, Array, Outputs], Array]


ThresholdRule = Callable[[Array], Array]  # scores of normal rows [N] -> threshold []


@struct.dataclass
class Detector:
    """All that is needed to judge a new row; plain dicts of arrays."""

    variables: dict  # of the model
    fitted: dict  # of the score
    threshold: Array  # []
    shift: Array  # scaling of raw rows: x = (raw - shift) / scale
    scale: Array
