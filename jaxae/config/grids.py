"""The settings of protocols: those of an experiment, and what its members differ in."""

from dataclasses import dataclass, fields

from jaxae.config.fields import Count, Positive, Share
from jaxae.config.schema import ExperimentConfig


def experiment_of(cfg: ExperimentConfig) -> ExperimentConfig:
    """The settings of a single run in those of a protocol: what its members start from."""
    return ExperimentConfig(**{f.name: getattr(cfg, f.name) for f in fields(ExperimentConfig)})


@dataclass(frozen=True)
class ProtocolConfig(ExperimentConfig):
    """One experiment for each class as the normal one, each seed and each point of a sweep."""

    classes: tuple[int, ...] = ()
    """classes that are normal in turn, all others being anomalies; () = every class there is"""
    seeds: Positive = 5
    """how many, from `seed` on"""
    sweep: tuple[str, ...] = ()
    """FIELD=A,B,C: continuous settings, each value with each class and seed: optim.lr=1e-3,3e-4"""
    members: str = ""
    """A:B = train these members only, counted from 0; "" = all. Slices share one --run-dir"""
    baselines: tuple[str, ...] = ("pca", "nearest", "isolation_forest")
    """on the same rows: pca, nearest, isolation_forest, pyod (an extra: jaxae[pyod])"""


@dataclass(frozen=True)
class CrossConfig(ExperimentConfig):
    """One experiment whose normals all train and all calibrate, by models that left them out."""

    folds: int = 10
    """CV+: each model leaves one of so many parts out"""
    bags: Count = 0
    """jackknife+-after-bootstrap instead: so many models, each on a bootstrap sample; 0 = CV+"""
    alpha: Share = 0.05
    """flag a row where its p-value is at most this"""
