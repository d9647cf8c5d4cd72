"""Every setting, its default and what is valid: a configuration is data and nothing but data.

`schema` has the settings of a run, `grids` those of protocols, each described once in the words of
`fields`. From the descriptions `checks` derives what is valid and `identity` what fixes the course
of a training; `migrations` reads configurations of before, `parsing` command lines. The package is
loaded before anything slow, so it uses no array and nothing of jaxae but `errors`. It does not know
what its settings do: no method, no data, no device.
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
