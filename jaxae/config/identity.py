"""What fixes the course of a training, and may not change while its run folder stands."""

from typing import Any

from jaxae.config.fields import Fact, settings
from jaxae.config.schema import ExperimentConfig


def training_identity(cfg: ExperimentConfig) -> dict:
    """The part of a configuration that fixes the course of training: all fields but the free ones.

    Two configurations with the same identity share every step that both take: a run may be resumed,
    lengthened, or scored in another way, but not mixed with another identity in one folder.
    """
    return _bound(cfg)


def _bound(node: Any) -> dict:
    return {
        name: _bound(getattr(node, name)) if setting.is_section else getattr(node, name)
        for name, setting in settings(type(node)).items()
        if "." not in name and Fact.FREE not in setting.facts
    }
