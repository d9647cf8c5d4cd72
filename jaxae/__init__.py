"""Anomaly detection with autoencoders in JAX and Flax: pure functions over a state of arrays.

The names below are loaded on first use, so that `import jaxae` is quick and `jaxae.ops` can be
imported alone. CONTRIBUTING.md says where each kind of change goes.
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
    "METHODS": "methods",
    "Method": "methods",
    "Outputs": "types",
    "ProtocolConfig": "config",
    "RULES": "scoring",
    "Raw": "data",
    "Rule": "types",
    "SCORES": "scoring",
    "STUDIES": "reports.studies",
    "Score": "types",
    "Study": "reports.studies",
    "TrainState": "types",
    "UserError": "errors",
    "build": "methods",
    "descent": "methods",
    "evaluate": "detectors.evaluation",
    "fit": "training.train",
    "judge": "detectors",
    "load": "data",
    "main": "cli.train",
    "run": "workflows.experiment",
    "settle": "workflows.auto",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"jaxae.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'jaxae' has no attribute {name!r}")
