"""What fixes the course of a training, and what may change while its run folder stands."""

import dataclasses

from jaxae.config.schema import ExperimentConfig

# Fields that do not change what is learned: a run folder may be entered again with other values.
_FREE = {
    *(
        "run_dir",
        "devices",
        "driver",
        "hosts",
        "score",
        "score_dtype",
        "deterministic",
        "profile",
        "tensorboard",
        "studies",
    ),
    "threshold",
}
_FREE_DATA = {"dir"}
_FREE_TRAIN = {
    *("epochs", "checkpoint_every", "checkpoint_minutes", "keep_checkpoints", "fall_back"),
    *("feed", "monitor", "oracle"),
}


def training_identity(cfg: ExperimentConfig) -> dict:
    """The part of a configuration that fixes the course of training.

    Two configurations with the same identity share every step that both take: a run may be resumed,
    lengthened, or scored in another way, but not mixed with another identity in one folder.
    """
    values = {k: v for k, v in dataclasses.asdict(cfg).items() if k not in _FREE}
    values["data"] = {k: v for k, v in values["data"].items() if k not in _FREE_DATA}
    values["train"] = {k: v for k, v in values["train"].items() if k not in _FREE_TRAIN}
    return values
