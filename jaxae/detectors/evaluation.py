"""Outputs, scores and losses of rows by a trained model, and metrics of scores. No file I/O."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from jaxae.data import sources
from jaxae.devices import members, parallel, tuning
from jaxae.errors import UserError
from jaxae.stats import metrics
from jaxae.types import AnyArray, Inferred, Learner, Outputs, PyTree, Score, Settings, Source

_Build = TypeVar("_Build", bound=Callable)
Pending = Callable[[], np.ndarray]  # waits for what devices compute, and gives it on the host


def _compiled_once(build: _Build) -> _Build:
    """`build`, cached by its arguments; the last one is the devices, which may be a list."""
    cached = functools.lru_cache(maxsize=16)(build)
    by_tuple: Any = functools.wraps(build)(lambda *args: cached(*args[:-1], tuple(args[-1])))
    return by_tuple


@_compiled_once
def inference(learner: Learner, devices: parallel.Devices) -> Callable[[PyTree, Source], Outputs]:
    """`(variables [E, ...], x [N, *S]) -> Outputs` of [E, N, ...] on the host; compiled once."""
    run = parallel.rows_fn(learner.infer, devices, learner, fast_compile=True)
    return _over_rows(run, learner, devices)


def _blocks(
    learner: Learner, params: PyTree, x: Source, devices: parallel.Devices
) -> Iterator[Array]:
    size = len(jax.tree.leaves(params)[0])
    chunk = tuning.chunk_rows(learner.tuning, devices[0].platform, x.shape[1:], size)
    return parallel.blocks(x, devices, chunk)


def _over_rows(run: Callable, learner: Learner, devices: parallel.Devices) -> Callable:
    """`(params [E, ...], x [N, *S]) -> run(params, x) [E, N, ...]` on the host."""

    def over_rows(params: PyTree, x: Source) -> PyTree:
        placed = parallel.place(params, devices)
        return parallel.map_rows(run, placed, _blocks(learner, params, x, devices), len(x))

    return over_rows


class Blocks:
    """The rows of a source with one member's outputs, block by block, as often as asked."""

    def __init__(self, outputs: Callable[[PyTree, Source], Outputs], variables: PyTree, x: Source):
        self._outputs, self._x = outputs, x
        self._variables = jax.tree.map(lambda leaf: leaf[None], variables)

    def __iter__(self) -> Iterator[Inferred]:
        for block in sources.blocks(self._x):
            out = members.pick(self._outputs(self._variables, block), 0)
            yield jax.tree.map(jnp.asarray, Inferred(block, out))


@_compiled_once
def scorer(
    learner: Learner, score: Score, devices: parallel.Devices
) -> Callable[[PyTree, PyTree, Source], Float[np.ndarray, "E N"]]:
    """`(variables [E, ...], fitted [E, ...], x [N, *S]) -> scores [E, N]`.

    Compiled once for all who ask for the same learner's score: the epochs' monitor, the detector
    and the studies.
    """
    run = _over_rows(_score_program(learner, score, devices), learner, devices)
    return lambda variables, fitted, x: run((variables, fitted), x)


@_compiled_once
def _score_program(learner: Learner, score: Score, devices: parallel.Devices) -> Callable:
    return parallel.rows_fn(_scored(learner, score), devices, learner)


@_compiled_once
def scores_at_once(
    learner: Learner, scores: tuple[Score, ...], devices: parallel.Devices
) -> Callable[[PyTree, Source], list[Float[np.ndarray, "E N"]]]:
    """`(variables [E, ...], x [N, *S]) -> scores [E, N]` by each of several that fit nothing."""
    by_each = [_scored(learner, score) for score in scores]

    def of_rows(variables: PyTree, x: Array) -> list[Array]:
        return [scored((variables, {}), x) for scored in by_each]

    run = parallel.rows_fn(of_rows, devices, learner, fast_compile=True)
    return _over_rows(run, learner, devices)


def _scored(learner: Learner, score: Score) -> Callable:
    """`((variables, fitted), x [B, *S]) -> scores [B]` of one member."""

    def of_rows(params: tuple[PyTree, PyTree], x: Array) -> Array:
        variables, fitted = params
        rows = Inferred(x, learner.infer(variables, x))
        return jax.vmap(score.apply, in_axes=(None, 0))(fitted, rows)

    return of_rows


def scores_fn(
    learner: Learner, score: Score, x: Source, devices: parallel.Devices
) -> Callable[[PyTree, PyTree], Pending]:
    """`(variables [E, ...], fitted [E, ...]) -> scores [E, N]` of the same rows, epoch by epoch.

    The devices begin at once; what is returned is called for the scores.
    """
    run = _on_same_rows(_score_program(learner, score, devices), learner, x, devices)
    return lambda variables, fitted: run((variables, fitted))


def loss_fn(
    learner: Learner, x: Source, devices: parallel.Devices
) -> Callable[[PyTree, Settings], Pending]:
    """`(variables [E, ...], settings [E]) -> mean of the learner's own loss [E]`, without noise.

    The devices begin at once; what is returned is called for the means.
    """
    run = _on_same_rows(_loss_program(learner, devices), learner, x, devices)

    def begin(variables: PyTree, settings: Settings) -> Pending:
        losses = run((variables, settings))
        return lambda: np.mean(losses(), axis=1)

    return begin


@_compiled_once
def _loss_program(learner: Learner, devices: parallel.Devices) -> Callable:
    def of_rows(params: tuple[PyTree, Settings], x: Array) -> Array:
        variables, settings = params
        rows = Inferred(x, learner.infer(variables, x))
        return jax.vmap(learner.loss, in_axes=(0, None))(rows, settings)

    return parallel.rows_fn(of_rows, devices, learner, fast_compile=True)


def _on_same_rows(
    run: Callable, learner: Learner, x: Source, devices: parallel.Devices
) -> Callable[[PyTree], Pending]:
    """`params [E, ...] -> run(params, x) [E, N]`: rows in memory stay on the devices."""
    placed: list[Array] = []

    def begin(params: PyTree) -> Pending:
        rows = placed or _blocks(learner, params, x, devices)
        if not placed and sources.is_resident(x):
            rows = placed[:] = list(rows)
        return parallel.dispatch_rows(run, parallel.place(params, devices), rows, len(x))

    return begin


def evaluate(
    scores: Float[AnyArray, " N"], y: Shaped[AnyArray, " N"], is_anomaly: Shaped[AnyArray, " N"]
) -> dict[str, float | int | None]:
    """`jaxae.stats.metrics` of scores and decisions against the truth, and both class counts.

    A value that does not exist is None: the equal-error threshold, say, where flagging every row
    is the best cut.

    Raises:
      UserError: truth or decisions are not bool.
    """
    if y.dtype != bool or is_anomaly.dtype != bool:
        raise UserError(f"truth is {y.dtype}, decisions are {is_anomaly.dtype}; both must be bool")
    measured = metrics.measure(scores, y, is_anomaly)
    values = {n: float(v) if np.isfinite(v) else None for n, v in measured._asdict().items()}
    return values | {"n_normal": int((~y).sum()), "n_anomaly": int(y.sum())}
