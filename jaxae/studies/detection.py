"""Studies of what is detected: corrupted rows, other thresholds, the course over the epochs."""

import jax
import numpy as np

from jaxae import corruptions, evaluation, metrics, rng, runlog, scoring
from jaxae.parallel import Devices
from jaxae.studies.context import Context, Findings
from jaxae.types import Dataset, Learner, PyTree

# SPEC: what the Keras tutorial tries on normal digits, with the clipped noise for comparison.
TRIED = ("rotation:90", "negative:1", "noise_rescaled:0.05", "noise:0.05")
ROWS = 256  # of the severity surface


def _auroc(normal: np.ndarray, anomalous: np.ndarray) -> float:
    labels = np.arange(len(normal) + len(anomalous)) >= len(normal)
    return float(metrics.auroc(np.concatenate([normal, anomalous]), labels))


def corrupted(context: Context) -> Findings:
    """Normal test rows under the corruptions of the reference system: share flagged, and AUROC.

    The AUROC is also given by squared error, since it ranks the corruptions otherwise.
    """
    clean = context.data.test.x[~context.data.test.y]
    by_mse = evaluation.scorer(context.learner, scoring.SCORES["mse"], context.devices)
    normal, normal_mse = context.judge(clean), by_mse(context.variables, {}, clean)
    scalars = {"flagged_normal": float(np.mean(normal > context.threshold))}
    for spec in TRIED:
        x = corruptions.corrupt(spec, clean, context.cfg.seed)
        score, name = context.judge(x), spec.split(":")[0]
        scalars |= {
            f"flagged_{name}": float(np.mean(score > context.threshold)),
            f"auroc_{name}": _auroc(normal, score),
            f"auroc_{name}_mse": _auroc(normal_mse, by_mse(context.variables, {}, x)),
        }
    return Findings({}, scalars)


def loss_histograms(context: Context) -> Findings:
    """Scores of every training and calibration row."""
    return Findings({"train": context.scores.train, "valid": context.scores.valid}, {})


def batch_threshold(context: Context) -> Findings:
    """The PyTorch article's threshold, mean + std of *batch* losses, beside the per-image rule."""
    line = float(scoring.batch_mean_std(context.scores.valid, context.cfg.train.batch_size))
    test, y = context.scores.test, context.data.test.y
    return Findings(
        {},
        {
            "batch_threshold": line,
            "flagged_normal": float(np.mean(test[~y] > context.threshold)),
            "flagged_normal_batch_threshold": float(np.mean(test[~y] > line)),
            "recall_batch_threshold": float(np.mean(test[y] > line)),
        },
    )


def cut_and_paste(x: np.ndarray, seed: int) -> np.ndarray:
    """Pseudo-anomalies from normals [N, H, W, C]: a patch of another row at a random place.

    Patches are a quarter to a half of each side (after Li et al., "CutPaste", CVPR 2021). They
    need no labels, so they may rank detectors.
    """
    generator = rng.host_generator(seed, rng.Purpose.CORRUPTION)
    size = np.array(x.shape[1:3])
    pasted = x.copy()
    for i, donor in enumerate(generator.permutation(len(x))):
        side = generator.integers(np.maximum(size // 4, 1), size // 2 + 1)
        (a, b), (c, d) = (generator.integers(0, size - side + 1) for _ in range(2))
        h, w = side
        pasted[i, a : a + h, b : b + w] = x[donor, c : c + h, d : d + w]
    return pasted


def monitor(cfg, learner: Learner, data: Dataset, devices: Devices):
    """`variables -> metrics of one epoch`: how well the run's score tells the test rows apart.

    Beside AUROC and F1 at equal error, which look at test labels and may choose nothing, it gives
    the AUROC of held-out normals against pseudo-anomalies made from them, which may.
    """
    judge = evaluation.scorer(learner, scoring.SCORES[cfg.score], devices)
    test, valid = data.test, data.valid.x
    pseudo = cut_and_paste(valid, cfg.seed)

    def measure(variables: PyTree) -> dict[str, float]:
        scores = judge(variables, {}, test.x)
        found = evaluation.evaluate(scores, test.y, 0.0)
        return {
            "test_auroc": found["auroc"],
            "test_equal_error_f1": found["equal_error_f1"],
            "pseudo_auroc": _auroc(judge(variables, {}, valid), judge(variables, {}, pseudo)),
        }

    return measure


def epoch_scores(context: Context) -> Findings:
    """AUROC and equal-error F1 after each epoch, and which epoch three rules would choose.

    `final` takes the last; `label_free` the one that best tells held-out normals from
    pseudo-anomalies made of them; `oracle` the best F1 on the test labels, as the tutorial does: it
    is a leak, shown to be compared with.
    """
    rows = runlog.read_metrics(context.folder / "metrics.jsonl")
    column = lambda name: np.array([row[name] for row in rows])  # noqa: E731
    epochs, auroc, f1 = (column(n) for n in ("epoch", "test_auroc", "test_equal_error_f1"))
    chosen = {
        "final": len(rows) - 1,
        "label_free": int(np.argmax(column("pseudo_auroc"))),
        "oracle": int(np.argmax(f1)),
    }
    scalars = {}
    for rule, i in chosen.items():
        scalars |= {f"{rule}_epoch": int(epochs[i]), f"{rule}_auroc": auroc[i], f"{rule}_f1": f1[i]}
    arrays = {"epochs": epochs, "auroc": auroc, "equal_error_f1": f1}
    arrays |= {rule: np.int64(epochs[i]) for rule, i in chosen.items()}
    return Findings(arrays, {k: v if isinstance(v, int) else float(v) for k, v in scalars.items()})


def scores_compared(context: Context) -> Findings:
    """Test AUROC by each score that fits nothing; mean squared errors of normal rows, at the end.

    (The losses of an epoch are means over its course, while the weights still moved.)
    """
    test, scalars = context.data.test, {}
    names = ("mse", "mae", "d_of_r", "d_of_x") if context.cfg.method == "alocc" else ("mse", "mae")
    for name in names:
        judge = evaluation.scorer(context.learner, scoring.SCORES[name], context.devices)
        scores = judge(context.variables, {}, test.x)
        scalars[f"auroc_{name}"] = _auroc(scores[~test.y], scores[test.y])
        if name == "mse":
            train = judge(context.variables, {}, context.data.train.x)
            scalars |= {"mse_train": float(train.mean()), "mse_test": float(scores[~test.y].mean())}
    return Findings({}, scalars)


def severity(context: Context) -> Findings:
    """AUROC and share flagged against severity, for every corruption that fits the rows.

    All corruptions at all severities are made in one compiled call.
    """
    clean = context.data.test.x[context.pick(~context.data.test.y, ROWS)]
    names = corruptions.applicable(clean.shape[1:])
    grid = np.array([corruptions.CORRUPTIONS[name].severities for name in names])
    key = rng.stream(context.cfg.seed, rng.Purpose.CORRUPTION)
    made = np.asarray(corruptions.severity_grid(names, clean, key, grid))
    flat = made.reshape(-1, *clean.shape[1:])
    scores = context.judge(flat).reshape(*grid.shape, len(clean))
    normal = context.judge(clean)
    labels = np.arange(2 * len(clean)) >= len(clean)
    both = np.concatenate([np.broadcast_to(normal, scores.shape), scores], axis=-1)
    auroc = jax.vmap(jax.vmap(lambda s: metrics.auroc(s, labels)))(both)
    arrays = {
        "names": np.array(names),
        "severities": grid,
        "unit": np.array([corruptions.CORRUPTIONS[name].unit for name in names]),
        "auroc": np.asarray(auroc),
        "flagged": np.mean(scores > context.threshold, axis=-1),
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
