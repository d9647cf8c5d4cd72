"""What fixes the course of a training, and may not change while its run folder stands."""

from typing import Any

from jaxae.config.fields import Fact, settings


def training_identity(cfg: Any) -> dict[str, Any]:
    """The part of a configuration, or a section, that fixes the course of training: no free fields.

    Two configurations with the same identity share every step that both take: a run may be resumed,
    lengthened, or scored in another way, but not mixed with another identity in one folder.
    """
    return {
        name: training_identity(getattr(cfg, name)) if setting.is_section else getattr(cfg, name)
        for name, setting in settings(type(cfg)).items()
        if "." not in name and Fact.FREE not in setting.facts
    }
