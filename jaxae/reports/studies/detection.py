"""Studies of what is detected: corrupted rows, other thresholds, the course over the epochs."""

import functools
import threading
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxae import rng, scoring
from jaxae.data import corruptions
from jaxae.devices import tuning
from jaxae.methods import learners
from jaxae.reports.studies.context import Context, Findings
from jaxae.stats.intervals import headline
from jaxae.storage import runfiles
from jaxae.training import selection
from jaxae.types import AnyArray, Dataset, Scalar

# What the Keras tutorial tries on normal digits, with the clipped noise for comparison.
TRIED = ("rotation:90", "negative:1", "noise_rescaled:0.05", "noise:0.05")
ROWS = 256  # of the severity surface


def _auroc(normal: Float[np.ndarray, " N"], anomalous: Float[np.ndarray, " M"]) -> float:
    y = np.arange(len(normal) + len(anomalous)) >= len(normal)
    return headline.area(np.concatenate([normal, anomalous]), y)


def corrupted(context: Context) -> Findings:
    """Normal test rows under the corruptions of the reference system: share flagged, and AUROC.

    The AUROC is also given by squared error, since it ranks the corruptions otherwise.
    """
    clean = context.data.test.x[~context.data.test.y]
    normal, normal_mse = context.score(clean), context.scores_by(("mse",), clean)["mse"]
    scalars = {"flagged_normal": float(np.mean(context.decide(normal)))}
    for spec in TRIED:
        x = corruptions.corrupt(spec, clean, context.cfg.seed)
        scores, name = context.score(x), spec.split(":")[0]
        scalars |= {
            f"flagged_{name}": float(np.mean(context.decide(scores))),
            f"auroc_{name}": _auroc(normal, scores),
            f"auroc_{name}_mse": _auroc(normal_mse, context.scores_by(("mse",), x)["mse"]),
        }
    return Findings({}, scalars)


def loss_histograms(context: Context) -> Findings:
    """Scores of every training and every valid row."""
    return Findings({"train": context.scores.train, "valid": context.scores.valid}, {})


def batch_mean_std(scores: Float[AnyArray, " N"], batch_size: int, k: float = 1.0) -> Scalar:
    """Mean of the scores + k standard deviations *of the means of consecutive batches*.

    A tutorial's rule, kept for comparison with it: the spread of means of B rows is about sqrt(B)
    times smaller than that of single rows, so the rule flags far more normals than it seems to.

    Args:
      scores: of N rows; the last batch may be shorter.
      batch_size: B.
      k: how many standard deviations.

    Returns:
      The threshold. Its mean is over batch means too.
    """
    batch = jnp.arange(len(scores)) // batch_size
    count = (len(scores) - 1) // batch_size + 1
    sums = jax.ops.segment_sum(scores, batch, count)
    means = sums / jax.ops.segment_sum(jnp.ones_like(scores), batch, count)
    return jnp.mean(means) + k * jnp.std(means)


def batch_threshold(context: Context) -> Findings:
    """The PyTorch article's threshold, mean + std of *batch* losses, beside the per-image rule."""
    threshold = float(batch_mean_std(context.scores.valid, context.cfg.train.batch_size))
    test, y = context.scores.test, context.data.test.y
    return Findings(
        {},
        {
            "batch_threshold": threshold,
            "flagged_normal": float(np.mean(context.decide(test[~y]))),
            "flagged_normal_batch_threshold": float(np.mean(test[~y] > threshold)),
            "recall_batch_threshold": float(np.mean(test[y] > threshold)),
        },
    )


def epoch_scores(context: Context) -> Findings:
    """AUROC and equal-error F1 after each epoch, and which epoch three rules would choose.

    `final` takes the last; `label_free` the one that best tells valid rows from pseudo-anomalies
    made of them; `oracle` the best F1 on the test rows, as the tutorial does: it is a leak, shown
    to be compared with.
    """
    course = runfiles.read_metrics(context.folder / "metrics.jsonl")

    def column(name: str) -> np.ndarray:
        return np.array([epoch[name] for epoch in course])

    epochs, auroc, f1 = (column(n) for n in ("epoch", "test_auroc", "test_equal_error_f1"))
    best_f1 = selection.Choice("test F1", "test_equal_error_f1")
    rules = {
        "final": selection.CHOICES["last"],
        "label_free": selection.CHOICES["pseudo_anomalies"],
        "oracle": best_f1,
    }
    chosen = {rule: selection.best(course, choice) - 1 for rule, choice in rules.items()}
    scalars: dict[str, Any] = {}
    for rule, i in chosen.items():
        scalars |= {f"{rule}_epoch": int(epochs[i]), f"{rule}_auroc": auroc[i], f"{rule}_f1": f1[i]}
    arrays = {"epochs": epochs, "auroc": auroc, "equal_error_f1": f1}
    arrays |= {rule: np.asarray(epochs[i]) for rule, i in chosen.items()}
    return Findings(arrays, {k: v if isinstance(v, int) else float(v) for k, v in scalars.items()})


def scores_compared(context: Context) -> Findings:
    """Test AUROC by each score that fits nothing; mean squared errors of normal rows, at the end.

    (The losses of an epoch are means over its course, while the weights still moved.)
    """
    test, scalars = context.data.test, {}
    outputs = learners.METHODS[context.cfg.method].outputs
    special = [
        name
        for name, score in scoring.SCORES.items()
        if score.needs and score.needs <= outputs and not score.is_fitted
    ]
    names = ("mse", "mae", *special)
    found = context.scores_by(names, test.x)
    for name, scores in found.items():
        scalars[f"auroc_{name}"] = _auroc(scores[~test.y], scores[test.y])
    train = context.scores_by(names, context.data.train.x)["mse"]
    scalars |= {"mse_train": float(train.mean()), "mse_test": float(found["mse"][~test.y].mean())}
    return Findings({}, scalars)


def _severities(names: tuple[str, ...]) -> Float[np.ndarray, "K L"]:
    levels = [corruptions.CORRUPTIONS[name].severities for name in names]
    return np.array(levels, np.float32)


_COMPILING = threading.Lock()  # who comes second waits, see `jaxae.workflows.ahead`


def _surface(names: tuple[str, ...], shape: tuple[int, ...]) -> Callable:
    """`jaxae.data.corruptions.severity_grid` of so many rows, compiled."""
    with _COMPILING:
        return _compiled_surface(names, shape)


@functools.lru_cache(maxsize=4)
def _compiled_surface(names: tuple[str, ...], shape: tuple[int, ...]) -> Callable:
    make = functools.partial(corruptions.severity_grid, names)
    key = jax.eval_shape(lambda: rng.stream(0, rng.Purpose.CORRUPTION))
    clean = jax.ShapeDtypeStruct(shape, np.float32)
    return jax.jit(make).lower(clean, key, _severities(names)).compile(tuning.FAST_COMPILE)


def compile_severity(data: Dataset) -> None:
    """What `severity` makes its rows with."""
    shape = min(ROWS, int(np.sum(~data.test.y))), *data.shape
    _surface(corruptions.applicable(data.shape), shape)


def severity(context: Context) -> Findings:
    """AUROC and share flagged against severity, for every corruption that fits the rows.

    All corruptions at all severities are made in one compiled call.
    """
    clean = context.data.test.x[context.pick(~context.data.test.y, ROWS)]
    names = corruptions.applicable(clean.shape[1:])
    grid = _severities(names)
    key = rng.stream(context.cfg.seed, rng.Purpose.CORRUPTION)
    made = np.asarray(_surface(names, clean.shape)(clean, key, grid))
    flat = made.reshape(-1, *clean.shape[1:])
    found = context.score(flat)
    scores, flagged = (a.reshape(*grid.shape, len(clean)) for a in (found, context.decide(found)))
    normal = context.score(clean)
    auroc = np.apply_along_axis(lambda anomalous: _auroc(normal, anomalous), -1, scores)
    arrays = {
        "names": np.array(names),
        "severities": grid,
        "unit": np.array([corruptions.CORRUPTIONS[name].unit for name in names]),
        "auroc": auroc,
        "flagged": np.mean(flagged, axis=-1),
    }
    if clean.ndim == 4:
        arrays["examples"] = made[:, :, 0]
    return Findings(arrays, {}, _severity_table(arrays))


def _severity_table(found: dict[str, np.ndarray]) -> str:
    """One line for each corruption and severity."""
    lines = ["| corruption | severity | AUROC | flagged |", "|---|---|---|---|"]
    for i, name in enumerate(found["names"]):
        for j, severity in enumerate(found["severities"][i]):
            lines.append(
                f"| {name} | {severity:g} {found['unit'][i]} | {found['auroc'][i, j]:.4f} "
                f"| {100 * found['flagged'][i, j]:.1f} % |"
            )
    return "\n".join(lines) + "\n"
