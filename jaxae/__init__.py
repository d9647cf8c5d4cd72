"""Anomaly detection with autoencoders in JAX and Flax: pure functions over a state of arrays.

The names below are loaded when they are first used, so that `jaxae.ops` can be imported alone.
"""

import importlib
from typing import Any

_PUBLIC = {
    "AutoencoderDetector": "estimator",
    "DATASETS": "data",
    "Dataset": "types",
    "Detector": "detectors",
    "ExperimentConfig": "config",
    "Learner": "types",
    "Logger": "logs",
    "METHODS": "learners",
    "Method": "learners",
    "Outputs": "types",
    "RULES": "scoring",
    "Rule": "types",
    "SCORES": "scoring",
    "STUDIES": "studies",
    "Score": "types",
    "Study": "studies",
    "TrainState": "types",
    "UserError": "errors",
    "build": "learners",
    "evaluate": "evaluation",
    "fit": "train",
    "judge": "detectors",
    "load": "data",
    "run": "experiment",
    "settle": "choices",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"jaxae.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'jaxae' has no attribute {name!r}")
