"""Tables: detectors beside each other on every set of a folder, in the form of ADBench.

    python -m experiments.adbench                      # tables of scikit-learn, no download
    python -m experiments.adbench --data.dir DIR       # each .npz with X and y (1 = anomaly)
    python -m experiments.adbench --data.dir DIR --contaminated 0.05 --seeds 3

Half of the normal rows train, as in DTE and DDAE (https://arxiv.org/abs/2305.18593,
https://arxiv.org/abs/2508.00758); the others and all anomalies are tested. With `--contaminated` a
share of the training rows are anomalies, which then are not tested. No detector sees a label or the
name of a set. Printed, and written as a page: the mean over sets and seeds of AUROC and average
precision, with the difference from five nearest neighbours and its 95 % interval over sets, mean
ranks, sets on which a detector is at least as good as neighbours, the share of normal test rows
that are flagged where one in ten is asked for, and seconds. A repeated command goes on.
"""

import argparse
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Shaped

from jaxae.data.arrayfiles import read_npz
from jaxae.devices import compile_cache, hosts
from jaxae.errors import UserError, user_errors
from jaxae.reports import tables
from jaxae.reports.pages import frame
from jaxae.rng import Purpose, host_generator
from jaxae.stats import curve, metrics
from jaxae.storage import disk, outputs
from jaxae.storage.provenance import version

NEIGHBOURS = "neighbours"  # what the others are compared with
ROWS = 10_000  # the most rows of a set, drawn at random
MEASURED = "measured.jsonl"  # the file of what was measured, a line each
_RESAMPLES = 2000
_KEY = ("set", "digest", "detector", "seed", "contaminated")  # what a measurement is of


class Table(NamedTuple):
    """A set: rows, of which some are anomalies."""

    name: str
    x: Float[np.ndarray, "N F"]
    y: Bool[np.ndarray, " N"]  # True = anomaly

    def digest(self) -> str:
        """The first digits of a digest of values and labels."""
        return hashlib.sha256(self.x.tobytes() + self.y.tobytes()).hexdigest()[:16]


class Neighbours:
    """Mean distance to the five nearest training rows, of standardised columns."""

    def __init__(self, seed: int):
        from sklearn.neighbors import NearestNeighbors
        from sklearn.preprocessing import StandardScaler

        self.scaler, self.search = StandardScaler(), NearestNeighbors()

    def fit(self, x: np.ndarray) -> "Neighbours":
        """Keep the training rows [N, F]."""
        self.search.fit(self.scaler.fit_transform(x))
        return self

    def score_samples(self, x: np.ndarray) -> np.ndarray:
        """The negated mean distance of rows [M, F]: lower is more anomalous."""
        few = min(5, self.search.n_samples_fit_)
        return -self.search.kneighbors(self.scaler.transform(x), few)[0].mean(axis=1)


class Components:
    """Squared error of the projection on principal components with 95 % of the variance."""

    def __init__(self, seed: int):
        from sklearn.decomposition import PCA
        from sklearn.preprocessing import StandardScaler

        self.scaler, self.pca = StandardScaler(), PCA(0.95, svd_solver="full")

    def fit(self, x: np.ndarray) -> "Components":
        """Find the components of training rows [N, F]."""
        self.pca.fit(self.scaler.fit_transform(x))
        return self

    def score_samples(self, x: np.ndarray) -> np.ndarray:
        """The negated error of rows [M, F]: lower is more anomalous."""
        z = self.scaler.transform(x)
        return -np.square(z - self.pca.inverse_transform(self.pca.transform(z))).sum(axis=1)


def _default(seed: int) -> Any:
    from jaxae import AutoencoderDetector

    return AutoencoderDetector(random_state=seed)


def _reconstruction(seed: int) -> Any:
    from jaxae import AutoencoderDetector

    return AutoencoderDetector(anomaly_score="mse", random_state=seed)


def _forest(seed: int) -> Any:
    from sklearn.ensemble import IsolationForest

    return IsolationForest(random_state=seed)


def _pyod_neighbours(seed: int) -> Any:
    from pyod.models.knn import KNN

    return KNN(method="mean")


def _pyod_autoencoder(seed: int) -> Any:
    from pyod.models.auto_encoder import AutoEncoder

    return AutoEncoder(random_state=seed, verbose=0)


# The seed -> a detector that is fitted on rows [N, F]; the last two need the extra `pyod`.
DETECTORS: dict[str, Callable[[int], Any]] = {
    "jaxae": _default,
    "jaxae_mse": _reconstruction,
    NEIGHBOURS: Neighbours,
    "pca": Components,
    "isolation_forest": _forest,
    "pyod_knn": _pyod_neighbours,
    "pyod_autoencoder": _pyod_autoencoder,
}
EXTRA = frozenset({"pyod_knn", "pyod_autoencoder"})


def bundled() -> Iterator[Table]:
    """Tables of scikit-learn: each class of each data set against the others."""
    from sklearn import datasets

    for name in ("breast_cancer", "digits", "iris", "wine"):
        x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
        for normal in np.unique(y):
            yield Table(f"{name}_{normal}", x.astype(np.float64), y != normal)


def of_folder(folder: Path) -> Iterator[Table]:
    """The .npz files with X and y of a folder, in alphabetical order.

    Raises:
      UserError: there is none, or one is damaged, holds other values, or has no anomaly.
    """
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        raise UserError(f"{folder} has no .npz file; name a folder with ADBench's sets")
    for path in paths:
        arrays = read_npz(path)
        if not {"X", "y"} <= arrays.keys():
            raise UserError(f"{path} has no X and y, but {', '.join(arrays)}; move it elsewhere")
        x, y = arrays["X"], arrays["y"].ravel()
        if x.ndim != 2 or len(x) != len(y) or x.dtype.kind not in "fiu":
            raise UserError(
                f"{path}: X is {x.dtype.name} {list(x.shape)} beside {len(y)} labels; "
                "it must be numbers [N, F], a row for each label"
            )
        if not np.isin(y, (0, 1)).all() or y.all() or not y.any():
            raise UserError(f"{path}: y must hold 0 (normal) and 1 (anomaly), and both of them")
        if not np.isfinite(x).all():
            raise UserError(f"{path}: X holds NaN or infinite values; remove such rows")
        yield Table(path.stem, x.astype(np.float64), y == 1)


class Split(NamedTuple):
    """Training rows, and rows that are tested, with their truth."""

    train: Float[np.ndarray, "N F"]
    test: Float[np.ndarray, "M F"]
    y: Bool[np.ndarray, " M"]


def split(table: Table, seed: int, contaminated: float = 0.0) -> Split:
    """Half of the normal rows train, with anomalies if `contaminated`; what does not is tested.

    Of more than 10,000 rows as many are drawn. Of the anomalies at most half train.
    """
    rng = host_generator(seed, Purpose.SPLIT)
    kept = rng.permutation(len(table.x))[:ROWS]
    x, y = table.x[kept], table.y[kept]
    normal, anomalous = np.flatnonzero(~y), np.flatnonzero(y)
    half = len(normal) // 2
    count = min(round(half * contaminated / (1 - contaminated)), len(anomalous) // 2)
    train = np.concatenate([normal[:half], anomalous[:count]])
    test = np.concatenate([normal[half:], anomalous[count:]])
    return Split(x[rng.permutation(train)], x[test], y[test])


def measured(make: Callable[[int], Any], rows: Split, seed: int) -> dict[str, float]:
    """AUROC and average precision in [0, 1], the share of normals flagged, and seconds."""
    from jaxae.estimators import wrapped  # imports JAX and scikit-learn, which take seconds

    start = time.perf_counter()
    detector = make(seed).fit(rows.train)
    scores = wrapped.anomaly_scores(detector, rows.test, wrapped.orientation(detector))
    result = {
        "auroc": curve.area(scores, rows.y),
        "ap": float(metrics.average_precision(scores, rows.y)),
        "seconds": time.perf_counter() - start,
    }
    if hasattr(detector, "decision_scores_"):  # contamination is .1 by default, in PyOD as well
        result["flagged"] = float((scores[~rows.y] > detector.threshold_).mean())
    return result


def run(
    sets: Sequence[Table], names: Sequence[str], seeds: int, contaminated: float, out: Path
) -> dict[str, dict[str, Float[np.ndarray, " S"]]]:
    """Measure each detector on each set, and print a line for each set; see the module.

    What `out` holds of an earlier call is not measured again.

    Returns:
      Measure -> detector -> its mean over seeds on each set; NaN where it has none.

    Raises:
      UserError: a detector refuses the rows of a set; names the set.
    """
    path = out / MEASURED
    about = {"jaxae": version("jaxae")}
    known = {
        tuple(one[name] for name in _KEY): one
        for one in disk.read_lines(path, "name another folder with --out")
        if one.keys() >= {*_KEY, "auroc", "ap", "seconds"} and one.items() >= about.items()
    }
    by_measure: dict[str, Any] = {
        measure: {name: [] for name in names} for measure in ("auroc", "ap", "flagged", "seconds")
    }
    for number, table in enumerate(sets, 1):
        digest = table.digest()
        for name in names:
            found = []
            for seed in range(seeds):
                key = (table.name, digest, name, seed, contaminated)
                if key not in known:
                    rows = split(table, seed, contaminated)
                    try:
                        values = measured(DETECTORS[name], rows, seed)
                    except (UserError, FloatingPointError) as error:
                        raise UserError(f"{table.name}: {name}: {error}") from None
                    known[key] = dict(zip(_KEY, key, strict=True)) | about | values
                    disk.append_line(path, known[key])
                found.append(known[key])
            for measure, by_detector in by_measure.items():
                by_detector[name].append(np.mean([one.get(measure, np.nan) for one in found]))
        shown = "  ".join(
            f"{name} {values[-1]:.4f}" for name, values in by_measure["auroc"].items()
        )
        print(f"[{number}/{len(sets)}] {table.name} {list(table.x.shape)}: {shown}", flush=True)
    return {
        measure: {name: np.array(values) for name, values in by_detector.items()}
        for measure, by_detector in by_measure.items()
    }


def interval(difference: Shaped[np.ndarray, " S"]) -> tuple[float, float]:
    """The 95 % interval of a mean over sets: percentiles of resampled sets."""
    rng = host_generator(0, Purpose.RESAMPLING)
    drawn = rng.integers(len(difference), size=(_RESAMPLES, len(difference)))
    low, high = np.quantile(difference[drawn].mean(axis=1), (0.025, 0.975))
    return float(low), float(high)


HEADS = (
    "detector", "AUROC", "AP", "rank", "AUROC - neighbours", "95 % interval", "AP - neighbours",
    "sets not worse", "lowest difference", "normals flagged", "s a set",
)  # fmt: skip


def summary(by_measure: dict[str, dict[str, np.ndarray]]) -> list[list[str]]:
    """Rows of the table, best mean AUROC first."""
    auroc, ap = by_measure["auroc"], by_measure["ap"]
    names = sorted(auroc, key=lambda name: -auroc[name].mean())
    higher = np.array([[(auroc[b] > auroc[a]).astype(float) for b in names] for a in names])
    ties = np.array([[(auroc[b] == auroc[a]).astype(float) for b in names] for a in names])
    ranks = higher.sum(axis=1) + (ties.sum(axis=1) + 1) / 2
    rows = []
    for name, rank in zip(names, ranks, strict=True):
        row = [name, f"{auroc[name].mean():.4f}", f"{ap[name].mean():.4f}", f"{rank.mean():.2f}"]
        if NEIGHBOURS in auroc and name != NEIGHBOURS:
            more = auroc[name] - auroc[NEIGHBOURS]
            low, high = interval(more)
            row += [f"{more.mean():+.4f}", f"[{low:+.4f}, {high:+.4f}]"]
            row += [f"{(ap[name] - ap[NEIGHBOURS]).mean():+.4f}"]
            row += [f"{int((more >= 0).sum())} of {len(more)}", f"{more.min():+.4f}"]
        else:
            row += ["-"] * 5
        flagged = by_measure["flagged"][name]
        row += ["-" if np.isnan(flagged).any() else f"{flagged.mean():.3f}, {flagged.max():.3f}"]
        rows.append([*row, f"{by_measure['seconds'][name].mean():.1f}"])
    return rows


def page(title: str, rows: list[list[str]], sets: Sequence[str], auroc: dict[str, Any]) -> str:
    """The page: the table, and the AUROC of each detector on each set."""
    by_set = [[name, *(f"{auroc[row[0]][i]:.4f}" for row in rows)] for i, name in enumerate(sets)]
    body = [
        f"<h1>{frame.text(title)}</h1>",
        frame.table("Means over sets, best first; of normals flagged also the most", HEADS, rows),
        frame.table("AUROC of each set", ["set", *(row[0] for row in rows)], by_set),
    ]
    return frame.page(title, body)


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print; see the docstring of the module."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data.dir", dest="folder", type=Path, help="folder of .npz files")
    parser.add_argument("--detectors", nargs="+", default=[n for n in DETECTORS if n not in EXTRA])
    parser.add_argument("--seeds", type=int, default=1, help="splits and seeds of each set")
    parser.add_argument("--contaminated", type=float, default=0.0, help="share, below 0.5")
    parser.add_argument("--out", type=Path, default=Path("runs/adbench"), help="folder of results")
    with hosts.exit_without_waiting(), user_errors():
        order = parser.parse_args(args)
        unknown = [name for name in order.detectors if name not in DETECTORS]
        if unknown:
            raise UserError(f"unknown detector {unknown[0]!r}; known: {', '.join(DETECTORS)}")
        if order.seeds < 1 or not 0 <= order.contaminated < 0.5:
            raise UserError("--seeds must be at least 1, --contaminated in [0, 0.5)")
        if order.folder and not order.folder.is_dir():
            raise UserError(f"{order.folder} is no folder; name one with ADBench's .npz files")
        names = list(dict.fromkeys(order.detectors))
        _require_packages(names)
        sets = list(of_folder(order.folder) if order.folder else bundled())
        order.out.mkdir(parents=True, exist_ok=True)
        out = order.out / ("contaminated.html" if order.contaminated else "report.html")
        for path in (out, out.with_suffix(".json"), order.out / MEASURED):
            outputs.check(path, (path.suffix,), overwrite=True, name="the file")
        compile_cache.enable()
        by_measure = run(sets, names, order.seeds, order.contaminated, order.out)
        rows = summary(by_measure)
        title = f"{len(sets)} tables, {order.seeds} seed{'s' * (order.seeds > 1)}, " + (
            f"{order.contaminated:.0%} anomalies among the training rows"
            if order.contaminated
            else "trained on normal rows"
        )
        of_sets = [table.name for table in sets]
        disk.write_text(out, page(title, rows, of_sets, by_measure["auroc"]))
        disk.write_json(
            out.with_suffix(".json"), [dict(zip(HEADS, row, strict=True)) for row in rows]
        )
        print(f"\n{title}\n{tables.aligned([HEADS, *rows], right=range(1, len(HEADS)))}")
        print(f"\nthe page with each set is {out}")


def _require_packages(names: Sequence[str]) -> None:
    """Refuse detectors of PyOD if it is not installed."""
    if EXTRA & {*names} and find_spec("pyod") is None:
        raise UserError('PyOD is missing; run: python -m pip install "jaxae[pyod]"')


if __name__ == "__main__":
    main()
