"""Every setting with its default and its valid values: a configuration is plain data.

`schema` has the settings of a run and `grids` those of protocols, each described once in the terms
of `fields`. `checks` derives from the descriptions which values are valid and which settings fix
the course of training; `migrations` reads configurations saved before, `parsing` command lines. The
package is imported before anything slow, so it uses no arrays, and of jaxae only `errors`. It does
not know what its settings do: no method, no data, no device.
"""

from jaxae.config.checks import AUTO, validate
from jaxae.config.grids import CrossConfig, ProtocolConfig
from jaxae.config.schema import (
    FORMAT,
    AloccConfig,
    DataConfig,
    ExperimentConfig,
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
    "AUTO", "FORMAT", "AloccConfig", "CrossConfig", "DataConfig", "ExperimentConfig", "HostsConfig",
    "ModelConfig", "OptimConfig", "ProtocolConfig", "ThresholdConfig", "TrainConfig", "cache_dir",
    "for_scoring", "from_dict", "from_json", "to_dict", "to_json", "validate",
]  # fmt: skip
