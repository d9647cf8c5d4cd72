"""Studies of detection: corrupted rows, other thresholds and their costs, and single epochs."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from jaxae import rng, scoring
from jaxae.data import corruptions
from jaxae.devices import tuning
from jaxae.methods import learners
from jaxae.reports import tables
from jaxae.reports.studies.context import Context, Findings
from jaxae.stats import curve
from jaxae.storage import disk
from jaxae.training import selection
from jaxae.types import AnyArray, Dataset, Scalar

# The corruptions of the Keras tutorial, and clipped noise for comparison.
_CORRUPTIONS = ("rotation:90", "negative:1", "noise_rescaled:0.05", "noise:0.05")
_SEVERITY_ROWS = 256


def _auroc(normal: Float[np.ndarray, " N"], anomalous: Float[np.ndarray, " M"]) -> float:
    y = np.arange(len(normal) + len(anomalous)) >= len(normal)
    return curve.area(np.concatenate([normal, anomalous]), y)


def corrupted(context: Context) -> Findings:
    """Normal test rows with the corruptions of the reference system: share flagged, and AUROC.

    The AUROC is also given for the squared error, which ranks the corruptions differently.
    """
    clean = context.data.test.x[~context.data.test.y]
    normal, normal_mse = context.score(clean), context.scores_by(("mse",), clean)["mse"]
    scalars = {"flagged_normal": float(np.mean(context.decide(normal)))}
    for spec in _CORRUPTIONS:
        x = corruptions.corrupt(spec, clean, context.cfg.seed)
        scores, name = context.score(x), spec.split(":")[0]
        scalars |= {
            f"flagged_{name}": float(np.mean(context.decide(scores))),
            f"auroc_{name}": _auroc(normal, scores),
            f"auroc_{name}_mse": _auroc(normal_mse, context.scores_by(("mse",), x)["mse"]),
        }
    return Findings({}, scalars)


def loss_histograms(context: Context) -> Findings:
    """Scores of all training rows and all held-out rows."""
    return Findings({"train": context.scores.train, "valid": context.scores.valid}, {})


def batch_mean_std(scores: Float[AnyArray, " N"], batch_size: int, k: float = 1.0) -> Scalar:
    """Mean of the scores + k standard deviations *of the means of consecutive batches*.

    A tutorial's rule, kept for comparison: means of B rows spread about sqrt(B) times less than
    single rows, so the rule flags far more normals than its formula suggests.

    Args:
      scores: of N rows; the last batch may be shorter.
      batch_size: B.
      k: the number of standard deviations.

    Returns:
      The threshold. Its mean is also taken over the means of batches.
    """
    batch = jnp.arange(len(scores)) // batch_size
    count = (len(scores) - 1) // batch_size + 1
    sums = jax.ops.segment_sum(scores, batch, count)
    means = sums / jax.ops.segment_sum(jnp.ones_like(scores), batch, count)
    return jnp.mean(means) + k * jnp.std(means)


def batch_threshold(context: Context) -> Findings:
    """The PyTorch article's threshold, mean + std of *batch* losses, and the per-image rule."""
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
    """AUROC and equal-error F1 after the epoch that each of three rules would select.

    `final` takes the last epoch; `label_free` the one that best separates held-out rows from
    pseudo-anomalies made from them; `oracle` the best F1 on the test rows, as the tutorial does,
    which leaks labels and is shown for comparison.
    """
    epochs = disk.read_metrics(context.folder / "metrics.jsonl")
    rules = {
        "final": selection.CHOICES["last"],
        "label_free": selection.CHOICES["pseudo_anomalies"],
        "oracle": selection.Choice("test F1", "test_equal_error_f1"),
    }
    scalars: dict[str, float] = {}
    for rule, choice in rules.items():
        chosen = epochs[selection.best_epoch(epochs, choice) - 1]
        scalars |= {
            f"{rule}_epoch": chosen["epoch"],
            f"{rule}_auroc": chosen["test_auroc"],
            f"{rule}_f1": chosen["test_equal_error_f1"],
        }
    return Findings({}, scalars)


def scores_compared(context: Context) -> Findings:
    """Test AUROC of each score that needs no fitting, and the final mean squared errors of normals.

    (The losses of an epoch are means over its steps, during which the weights change.)
    """
    test, outputs = context.data.test, learners.METHODS[context.cfg.method].outputs
    special = [
        name
        for name, score in scoring.SCORES.items()
        if score.needs and score.needs <= outputs and not score.is_fitted
    ]
    names = ("mse", "mae", *special)
    by_name = context.scores_by(names, test.x)
    train = context.scores_by(names, context.data.train.x)["mse"]
    auroc = {f"auroc_{name}": curve.area(scores, test.y) for name, scores in by_name.items()}
    mse = {"mse_train": float(train.mean()), "mse_test": float(by_name["mse"][~test.y].mean())}
    return Findings({}, auroc | mse)


def _severities(names: tuple[str, ...]) -> Float[np.ndarray, "K L"]:
    levels = [corruptions.CORRUPTIONS[name].severities for name in names]
    return np.array(levels, np.float32)


_surface = jax.jit(
    corruptions.severity_grid, static_argnums=0, compiler_options=tuning.FAST_COMPILE
)


def compile_severity(data: Dataset) -> None:
    """Compile the corruptions of `severity` by calling them with the same number of rows."""
    names = corruptions.applicable(data.shape)
    rows = np.zeros((min(_SEVERITY_ROWS, int(np.sum(~data.test.y))), *data.shape), np.float32)
    key = rng.stream(0, rng.Purpose.CORRUPTION)
    jax.block_until_ready(_surface(names, rows, key, _severities(names)))


def severity(context: Context) -> Findings:
    """AUROC and share flagged against severity, for every corruption that works on the rows."""
    clean = context.data.test.x[context.pick(~context.data.test.y, _SEVERITY_ROWS)]
    names = corruptions.applicable(clean.shape[1:])
    grid = _severities(names)
    key = rng.stream(context.cfg.seed, rng.Purpose.CORRUPTION)
    corrupted_rows = np.asarray(_surface(names, clean, key, grid))
    scores = context.score(corrupted_rows.reshape(-1, *clean.shape[1:]))
    flagged = context.decide(scores).reshape(*grid.shape, len(clean))
    scores = scores.reshape(flagged.shape)
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
        arrays["examples"] = corrupted_rows[:, :, 0]
    return Findings(arrays, {}, _severity_table(arrays))


def _severity_table(arrays: dict[str, np.ndarray]) -> str:
    """One line for each corruption and severity."""
    rows = [
        (
            str(name),
            f"{severity:g} {arrays['unit'][i]}",
            f"{arrays['auroc'][i, j]:.4f}",
            f"{100 * arrays['flagged'][i, j]:.1f} %",
        )
        for i, name in enumerate(arrays["names"])
        for j, severity in enumerate(arrays["severities"][i])
    ]
    return tables.markdown(("corruption", "severity", "AUROC", "flagged"), rows)


# The cost of a missed anomaly divided by that of a false alarm.
_RATIOS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)


class Cut(NamedTuple):
    """A threshold, and the mean cost per row of flagging the scores above it."""

    threshold: float
    cost: float


def cost(is_anomaly: Bool[np.ndarray, " N"], y: Bool[np.ndarray, " N"], ratio: float) -> float:
    """(FP + ratio FN) / N: the mean cost per row, where a false alarm costs 1."""
    return float((np.sum(is_anomaly & ~y) + ratio * np.sum(~is_anomaly & y)) / len(y))


def oracle(scores: Float[np.ndarray, " N"], y: Bool[np.ndarray, " N"], ratio: float) -> Cut:
    """The cut of least cost (Elkan, IJCAI 2001, section 1): an oracle, because y selects it.

    Args:
      scores: of the rows, finite.
      y: the truth, True = anomaly.
      ratio: the cost of a missed anomaly divided by that of a false alarm, above 0.

    Returns:
      Among cuts of equal cost, the one that flags the fewest rows; -inf flags every row.
    """
    cuts = curve.sweep(scores, y)
    total = cuts.fp + ratio * (np.sum(y) - cuts.tp)
    best = int(np.argmin(total))
    return Cut(float(cuts.threshold[best]), float(total[best] / len(y)))


def costs(context: Context) -> Findings:
    """The costs of the detector's decisions and of the oracle's cut, for each cost ratio.

    The oracle uses the test labels, which no rule may use; the gap is the most that another
    threshold could gain. Flagging nothing costs ratio times the share of anomalies, flagging
    everything costs the share of normals.
    """
    scores, y = context.scores.test, context.data.test.y
    flagged = context.decide(scores)
    scalars: dict[str, float] = {}
    heads = "missed / false alarm", "detector", "oracle cut (test labels)", "flag none", "flag all"
    rows = []
    for ratio in _RATIOS:
        detector_cost, best = cost(flagged, y, ratio), oracle(scores, y, ratio)
        scalars |= {f"cost_{ratio:g}": detector_cost, f"oracle_cost_{ratio:g}": best.cost}
        oracle_cut = f"{best.cost:.4f} at {best.threshold:.4g}"
        none, every = f"{ratio * y.mean():.4f}", f"{(~y).mean():.4f}"
        rows.append((f"{ratio:g}", f"{detector_cost:.4f}", oracle_cut, none, every))
    return Findings({}, scalars, tables.markdown(heads, rows))
