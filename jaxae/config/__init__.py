"""All settings, with defaults and valid values: a configuration is plain data.

`schema` has the settings of a run and `grids` those of protocols, each described once in the terms
of `fields`. From these descriptions `checks` derives which values are valid and which settings
determine training; `migrations` reads old configurations, `parsing` command lines. The package is
imported before anything slow, so it uses no arrays, and of jaxae only `errors`. It does not know
what its settings do: it knows no method, data set or device.
"""

from jaxae.config.checks import AUTO, validate
from jaxae.config.grids import CrossConfig, ProtocolConfig
from jaxae.config.schema import (
    FORMAT,
    AloccConfig,
    DataConfig,
    ExperimentConfig,
    FcnConfig,
    HostsConfig,
    ModelConfig,
    OptimConfig,
    ThresholdConfig,
    TrainConfig,
    cache_dir,
    for_scoring,
    from_dict,
    from_json,
    to_dict,
    to_json,
)

__all__ = [
    "AUTO", "FORMAT", "AloccConfig", "CrossConfig", "DataConfig", "ExperimentConfig", "FcnConfig",
    "HostsConfig", "ModelConfig", "OptimConfig", "ProtocolConfig", "ThresholdConfig", "TrainConfig",
    "cache_dir", "for_scoring", "from_dict", "from_json", "to_dict", "to_json", "validate",
]  # fmt: skip
