"""The settings of protocols: those of an experiment, and those in which members differ."""

from dataclasses import dataclass, fields

from jaxae.config.fields import Count, Positive, Share
from jaxae.config.schema import ExperimentConfig


def experiment_of(cfg: ExperimentConfig) -> ExperimentConfig:
    """The settings that a protocol shares with a single run; its members start from them."""
    return ExperimentConfig(**{f.name: getattr(cfg, f.name) for f in fields(ExperimentConfig)})


@dataclass(frozen=True)
class ProtocolConfig(ExperimentConfig):
    """One run for each normal class, each seed and each point of a sweep."""

    classes: tuple[int | str, ...] = ()
    """names or numbers of the classes that take turns as the normal one, all others being
    anomalies; () = every class"""
    seeds: Positive = 5
    """number of seeds, counting up from --seed"""
    sweep: tuple[str, ...] = ()
    """FIELD=A,B,C: values of a numeric setting, each run with each class and seed; for example
    optim.lr=1e-3,3e-4"""
    members: str = ""
    """A:B = train only members A to B - 1, counted from 0; "" = all; parts share one --run-dir"""
    baselines: tuple[str, ...] = ("pca", "nearest", "isolation_forest")
    """methods to compare with on the same rows: pca, nearest, isolation_forest, or pyod (needs the
    extra jaxae[pyod])"""


@dataclass(frozen=True)
class CrossConfig(ExperimentConfig):
    """Cross-conformal p-values: every normal row trains some models and calibrates the others."""

    folds: int = 10
    """CV+: number of folds; each model leaves one of them out"""
    bags: Count = 0
    """number of models for jackknife+-after-bootstrap, each on a bootstrap sample; 0 = use CV+"""
    alpha: Share = 0.05
    """flag rows whose p-value is at most this"""
