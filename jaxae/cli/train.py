"""The command line of an experiment; imports little, so that interrupts are handled early."""

import atexit
import gc

from jaxae.config import DataConfig, ExperimentConfig, ModelConfig, TrainConfig
from jaxae.config.checks import AUTO
from jaxae.config.grids import CrossConfig, ProtocolConfig
from jaxae.config.parsing import parse_cli
from jaxae.devices import hosts
from jaxae.errors import user_errors

# The defaults of `jaxae train`: all settings that can be chosen from the training rows are "auto".
OPEN = ExperimentConfig(
    name="run",
    method=AUTO,
    score=AUTO,
    data=DataConfig(scale=AUTO),
    model=ModelConfig(latent=AUTO, output_activation=AUTO),
    train=TrainConfig(epochs=AUTO, budget=AUTO, batch_size=AUTO, crop=AUTO, crops=AUTO),
)


TRAIN = """Train a detector on your own data or on a published data set.

Settings that are auto are chosen from the training rows, and printed. Examples: `jaxae train
--data.name table.csv --data.label kind`, `jaxae train --data.name images/ --run-dir runs/mine`,
`jaxae train --config runs/mine/config.json --seed 1 --run-dir runs/again`."""


def main(default: ExperimentConfig, args: list[str] | None = None, **more: str) -> dict | None:
    """Parse the command line and run.

    Errors are reported by `jaxae.errors.user_errors`; for the arguments see
    `jaxae.config.parsing.parse_cli`.
    """
    with hosts.exit_without_waiting(), user_errors():
        cfg = parse_cli(default, args, **more)
        hosts.watch(cfg.hosts)
        # Garbage collection of JAX's many objects would take half a second of a run of six seconds,
        # and half a second at exit, for memory that the end of the process frees anyway.
        gc.set_threshold(20_000, 20, 20)
        atexit.register(gc.freeze)
        from jaxae.devices import compile_cache  # imports JAX, which takes a second
        from jaxae.workflows import experiment, protocol

        compile_cache.enable()
        runs = {ProtocolConfig: protocol.run, CrossConfig: protocol.cross.run}
        with hosts.losses_named():
            return runs.get(type(cfg), experiment.run)(cfg)
