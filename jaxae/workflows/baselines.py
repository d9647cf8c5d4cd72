"""Baselines without a network, which a protocol reports for comparison with its detectors.

They use the rows that a member trains on, after scaling and `data.input`, flattened. None is tuned.
"""

import importlib.util
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from jaxae.config import DataConfig
from jaxae.config.grids import ProtocolConfig
from jaxae.data import sources
from jaxae.errors import UserError
from jaxae.registry import Registry
from jaxae.reports.plots import files
from jaxae.storage import disk
from jaxae.types import Dataset

# (training rows [N, F], rows to score [M, F], seed) -> scores [M], higher = more anomalous.
Baseline = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
COMPONENTS = 32


def _pca(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Squared error of the reconstruction from the first 32 principal components."""
    from sklearn.decomposition import PCA

    pca = PCA(min(COMPONENTS, *train.shape), random_state=seed).fit(train)
    return np.square(test - pca.inverse_transform(pca.transform(test))).mean(axis=1)


def _nearest(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Distance to the nearest training row."""
    from sklearn.neighbors import NearestNeighbors

    neighbours = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(train)
    distances, _ = neighbours.kneighbors(test)
    return distances[:, 0]


def _isolation_forest(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """Isolation forest (Liu, Ting and Zhou, ICDM 2008), 100 trees on 256 rows each."""
    from sklearn.ensemble import IsolationForest

    return -IsolationForest(random_state=seed).fit(train).score_samples(test)


def _pyod(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
    """PyOD's AutoEncoder with its default settings."""
    from pyod.models.auto_encoder import AutoEncoder

    return AutoEncoder(random_state=seed, verbose=0).fit(train).decision_function(test)


BASELINES: Registry[Baseline] = Registry(
    "baseline",
    Callable,
    {"pca": _pca, "nearest": _nearest, "isolation_forest": _isolation_forest, "pyod": _pyod},
)
SEEDED = frozenset({"isolation_forest", "pyod"})  # the others do not depend on the seed


def check(names: Sequence[str]) -> None:
    """Refuse baselines that could not be fitted, before anything is trained.

    Raises:
      UserError: a name is unknown or repeated, or a package is not installed.
    """
    for name in names:
        BASELINES[name]
    if len({*names}) < len(names):
        raise UserError(f"baselines is {tuple(names)}; name each one once")
    if "pyod" in names and importlib.util.find_spec("pyod") is None:
        raise UserError('baseline "pyod" needs the extra: python -m pip install "jaxae[pyod]"')


def scores(
    name: str, train: Float[np.ndarray, " N *S"], test: Float[np.ndarray, " M *S"], seed: int
) -> Float[np.ndarray, " M"]:
    """Scores of test rows by a baseline fitted on normal rows: float32, higher = more anomalous.

    Raises:
      UserError: the name is unknown.
    """
    flat = (np.asarray(rows, np.float32).reshape(len(rows), -1) for rows in (train, test))
    return np.asarray(BASELINES[name](*flat, seed), np.float32)


def path_of(folder: Path, name: str, data: DataConfig) -> Path:
    """Where a protocol's folder keeps the scores of a baseline on the rows of one class."""
    return folder / "baselines" / f"{name}-class{data.normal[0]}.npz"


def cached_scores(
    cfg: ProtocolConfig, name: str, data: DataConfig, dataset: Dataset
) -> Float[np.ndarray, "S M"]:
    """Scores of a protocol's test rows by seed; kept in its run folder."""
    seeds = range(cfg.seed, cfg.seed + cfg.seeds) if name in SEEDED else [cfg.seed]
    path = path_of(cfg.run_path, name, data)
    if path.exists():
        cached = files.arrays(path, "scores", "seeds", "digest")
        if cached["seeds"].tolist() == [*seeds] and str(cached["digest"]) == dataset.digest:
            return cached["scores"]
    train, test = sources.read(dataset.train.x), sources.read(dataset.test.x)
    by_seed = np.stack([scores(name, train, test, seed) for seed in seeds])
    path.parent.mkdir(exist_ok=True)
    arrays = {"scores": by_seed, "seeds": np.array(seeds), "digest": np.array(dataset.digest)}
    disk.write_arrays(path, arrays)
    return by_seed
