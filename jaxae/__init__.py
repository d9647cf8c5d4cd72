"""Anomaly detection with autoencoders in JAX and Flax: pure functions over a state of arrays.

The names below are imported on first use, so that `import jaxae` is quick and `jaxae.ops` can be
imported alone. CONTRIBUTING.md says where each kind of change goes.
"""

import importlib
from typing import Any

_MODULES = {  # module -> its public names
    "cli.train": ("main",),
    "config": ("ExperimentConfig", "ProtocolConfig"),
    "data": ("DATASETS", "Raw", "load"),
    "detectors": ("Detector", "judge"),
    "detectors.evaluation": ("evaluate",),
    "errors": ("UserError",),
    "estimators": ("AutoencoderDetector", "wrap"),
    "methods": ("METHODS", "Method", "build", "descent"),
    "reports.studies": ("STUDIES", "Study"),
    "scoring": ("RULES", "SCORES"),
    "storage.logs": ("Logger", "Media"),
    "training.train": ("fit",),
    "types": ("Dataset", "Learner", "Outputs", "Rule", "Score", "TrainState"),
    "workflows.auto": ("settle",),
    "workflows.experiment": ("run",),
}
_PUBLIC = {name: module for module, names in _MODULES.items() for name in names}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"jaxae.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'jaxae' has no attribute {name!r}")
