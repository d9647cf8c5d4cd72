"""What a training began with: choices of speed, on which its bits depend, stay with its folder."""

from pathlib import Path

from jaxae.devices import tuning
from jaxae.storage import runlog
from jaxae.types import Learner

NAME = "tuning.json"


def as_begun(folder: Path, learner: Learner) -> Learner:
    """The learner with the choices that training in a folder began with, if it has begun there.

    Whoever measured again meanwhile, or has another version or machine, so goes on as it was.

    Raises:
      UserError: the file is damaged, or of a version with other choices.
    """
    path = folder / NAME
    if not path.is_file():
        return learner
    return learner._replace(tuning=tuning.merged(learner.tuning, runlog.read_json(path), str(path)))


def write(folder: Path, learner: Learner) -> None:
    """Say how training is computed here."""
    runlog.write_json(folder / NAME, learner.tuning._asdict())
