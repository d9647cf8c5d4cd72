"""Outputs, scores and losses of rows by a trained model, and the metrics of scores."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from jaxae import scoring
from jaxae.data import sources
from jaxae.devices import members, parallel, tuning
from jaxae.errors import UserError
from jaxae.stats import metrics
from jaxae.types import AnyArray, Inferred, Learner, Outputs, PyTree, Score, Settings, Source

_Build = TypeVar("_Build", bound=Callable)
Pending = Callable[[], np.ndarray]  # waits for the devices and returns the result on the host


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
    return lambda params, x: parallel.map_rows(
        run, parallel.place(params, devices), _blocks(learner, params, x, devices), len(x)
    )()


class Blocks:
    """The rows of a source with one member's outputs, block by block; can be iterated again."""

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

    It is compiled once for all callers with the same learner and score: monitoring, the detector
    and the studies.
    """
    run = _over_rows(_program(learner, score, devices), learner, devices)
    return lambda variables, fitted, x: run((variables, fitted), x)


@_compiled_once
def mapper(
    learner: Learner, score: Score, detailed: bool, devices: parallel.Devices
) -> Callable[[PyTree, PyTree, Source], Float[np.ndarray, "E N *P"]]:
    """`(variables [E, ...], fitted [E, ...], x [N, *S]) -> score maps [E, N, *P]`.

    Maps have the row's places, see `jaxae.scoring.row_map`.
    """
    of_rows = _by_row(learner, scoring.row_map(score, detailed))
    run = _over_rows(parallel.rows_fn(of_rows, devices, learner), learner, devices)
    return lambda variables, fitted, x: run((variables, fitted), x)


@_compiled_once
def scores_at_once(
    learner: Learner, scores: tuple[Score, ...], devices: parallel.Devices
) -> Callable[[PyTree, Source], list[Float[np.ndarray, "E N"]]]:
    """`(variables [E, ...], x [N, *S]) -> [scores [E, N], ...]` for scores that need no fitting."""
    functions = [_by_row(learner, score.apply) for score in scores]

    def of_rows(variables: PyTree, x: Array) -> list[Array]:
        return [function((variables, {}), x) for function in functions]

    run = parallel.rows_fn(of_rows, devices, learner, fast_compile=True)
    return _over_rows(run, learner, devices)


def _by_row(learner: Learner, apply: Callable[[PyTree, Inferred], Array]) -> Callable:
    """`((variables, state), x [B, *S]) -> apply(state, row) [B, ...]` for one member."""

    def of_rows(params: tuple[PyTree, PyTree], x: Array) -> Array:
        variables, state = params
        rows = Inferred(x, learner.infer(variables, x))
        return jax.vmap(apply, in_axes=(None, 0))(state, rows)

    return of_rows


@_compiled_once
def _program(learner: Learner, score: Score | None, devices: parallel.Devices) -> Callable:
    """The score of every row; for None the learner's own loss, whose state is its settings."""
    if score:
        return parallel.rows_fn(_by_row(learner, score.apply), devices, learner)
    losses = _by_row(learner, lambda settings, row: learner.loss(row, settings))
    return parallel.rows_fn(losses, devices, learner, fast_compile=True)


def scores_fn(
    learner: Learner, score: Score, x: Source, devices: parallel.Devices
) -> Callable[[PyTree, PyTree], Pending]:
    """`(variables [E, ...], fitted [E, ...]) -> scores [E, N]` of the same rows, epoch by epoch.

    The devices begin at once; call the result to wait for the scores.
    """
    run = _on_same_rows(_program(learner, score, devices), learner, x, devices)
    return lambda variables, fitted: run((variables, fitted))


def loss_fn(
    learner: Learner, x: Source, devices: parallel.Devices
) -> Callable[[PyTree, Settings], Pending]:
    """`(variables [E, ...], settings [E]) -> mean of the learner's own loss [E]`, without noise.

    The devices begin at once; call the result to wait for the means.
    """
    run = _on_same_rows(_program(learner, None, devices), learner, x, devices)

    def begin(variables: PyTree, settings: Settings) -> Pending:
        losses = run((variables, settings))
        return lambda: np.mean(losses(), axis=1)

    return begin


def _on_same_rows(
    run: Callable, learner: Learner, x: Source, devices: parallel.Devices
) -> Callable[[PyTree], Pending]:
    """`params [E, ...] -> run(params, x) [E, N]`: rows in memory stay on the devices."""
    placed: list[Array] = []

    def begin(params: PyTree) -> Pending:
        rows = placed or _blocks(learner, params, x, devices)
        if not placed and sources.is_resident(x):
            rows = placed[:] = list(rows)
        return parallel.map_rows(run, parallel.place(params, devices), rows, len(x))

    return begin


def evaluate(
    scores: Float[AnyArray, " N"], y: Shaped[AnyArray, " N"], is_anomaly: Shaped[AnyArray, " N"]
) -> dict[str, float | int | None]:
    """Every metric of `jaxae.stats.metrics`, and both class counts; all are None if a score is NaN.

    fpr_at_95_tpr is the false-positive rate at which 95 % of the anomalies are found;
    best_f1_oracle is the best over all thresholds: it uses the truth, so it is not a result. Values
    that do not exist are None, as the equal-error threshold if the best cut flags every row.

    Raises:
      UserError: truth or decisions are not bool.
    """
    if y.dtype != bool or is_anomaly.dtype != bool:
        raise UserError(f"truth is {y.dtype}, decisions are {is_anomaly.dtype}; both must be bool")
    equal_error = metrics.equal_error(scores, y)
    measured = {
        "auroc": metrics.auroc(scores, y),
        "average_precision": metrics.average_precision(scores, y),
        "fpr_at_95_tpr": metrics.fpr_at_tpr(scores, y),
        **metrics.confusion(is_anomaly, y)._asdict(),
        "equal_error_threshold": equal_error.threshold,
        "equal_error_f1": equal_error.f1,
        "best_f1_oracle": metrics.best_f1(scores, y),
    }
    defined = not np.isnan(scores).any()
    values = {n: float(v) if defined and np.isfinite(v) else None for n, v in measured.items()}
    return values | {"n_normal": int((~y).sum()), "n_anomaly": int(y.sum())}
