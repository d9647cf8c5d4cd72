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
    "Logger": "storage.logs",
    "METHODS": "methods.learners",
    "Method": "methods.learners",
    "Outputs": "types",
    "RULES": "scoring",
    "Rule": "types",
    "SCORES": "scoring",
    "STUDIES": "reports.studies",
    "Score": "types",
    "Study": "reports.studies",
    "TrainState": "types",
    "UserError": "errors",
    "build": "methods.learners",
    "evaluate": "detectors.evaluation",
    "fit": "training.train",
    "judge": "detectors",
    "load": "data",
    "run": "workflows.experiment",
    "settle": "workflows.choices",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"jaxae.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'jaxae' has no attribute {name!r}")
