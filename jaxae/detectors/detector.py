"""The types of a detector, and its storage in one self-contained folder."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxae import config
from jaxae.config import ExperimentConfig
from jaxae.data.own.schema import Schema, from_dict
from jaxae.detectors import calibration
from jaxae.devices import members
from jaxae.errors import UserError
from jaxae.storage import archive
from jaxae.types import Decision, PyTree, Scaling, Shape


class Scores(NamedTuple):
    """Anomaly scores of every row of a data set."""

    train: Float[np.ndarray, " N_train"]
    valid: Float[np.ndarray, " N_valid"]
    test: Float[np.ndarray, " N_test"]


class Judgement(NamedTuple):
    """The judgement of a detector on N rows."""

    score: Float[np.ndarray, " N"]
    p_value: Float[np.ndarray, " N"]  # the rank of the score; see `jaxae.detectors.calibration`
    is_anomaly: Bool[np.ndarray, " N"]


@dataclasses.dataclass(frozen=True)
class Description:
    """The description of a detector: everything except its arrays."""

    config: ExperimentConfig  # method and model, score and its precision, rule, ensemble, scaling
    shape: Shape  # of a raw row
    dtype: str  # of the raw rows it was fitted on
    version: str | None  # of jaxae, where it is installed
    data_digest: str = ""  # of the data set it was fitted on
    schema: Schema = dataclasses.field(default_factory=Schema)  # how files of raw rows are read


class Detector(NamedTuple):
    """Model, score, decision and scaling, with their description; arrays have members [E]."""

    about: Description
    variables: PyTree  # of the model
    fitted: PyTree  # of the score
    decision: Decision
    scaling: Scaling
    places: PyTree = {}  # noqa: RUF012 - never written to; what decides about places, {} = nothing


def units(dtype: str) -> str:
    """The unit of raw rows of a dtype."""
    return "pixels 0 ... 255" if dtype == "uint8" else "numbers as they are"


def folder_of(run: Path) -> Path:
    """The folder of a run's detector; `run` may also be that folder itself."""
    return run if (run / archive.DESCRIPTION).is_file() else run / "detector"


def save(folder: Path, detector: Detector) -> None:
    """Save a detector, replacing any detector in the folder."""
    archive.write(folder, described(detector), tree(detector))


def described(detector: Detector) -> dict[str, Any]:
    """What the description of a detector says, ready for JSON."""
    about, decision = detector.about, detector.decision
    return {
        "format": config.FORMAT,
        "jaxae": about.version,
        "shape": about.shape,
        "dtype": about.dtype,
        "units": units(about.dtype),
        "members": members.count(detector.variables),
        "threshold": decision.threshold,
        "calibration_flaw": calibration.why_no_guarantee(about.config) or None,
        "data_digest": about.data_digest,
        "schema": dataclasses.asdict(about.schema),
        "config": config.to_dict(about.config),
    }


def tree(detector: Detector) -> dict[str, PyTree]:
    """The arrays of a detector, as nested dicts."""
    decision = detector.decision
    parts = {
        "variables": detector.variables,
        "fitted": detector.fitted,
        "decision": {"state": decision.state, "calibration": decision.calibration},
        "scaling": detector.scaling._asdict(),
    }
    return parts | ({"places": detector.places} if detector.places else {})


def load(folder: Path) -> Detector:
    """The detector in a folder.

    Raises:
      UserError: there is none, it is damaged, or an incompatible version of jaxae wrote it.
    """
    if not (folder / archive.DESCRIPTION).is_file():
        raise UserError(
            f"no detector in {folder}: it holds no {archive.DESCRIPTION}; name a finished run of "
            "this version of jaxae, or run an older one again"
        )
    try:
        stored = archive.read_description(folder)
        cfg = config.from_dict(stored["config"])
        arrays = archive.read_arrays(folder, stored["digest"])
        names = ("dtype", "jaxae", "data_digest")
        schema = from_dict(stored.get("schema", {}))
        about = Description(cfg, tuple(stored["shape"]), *(stored[name] for name in names), schema)
        decision = Decision(cfg.threshold.rule, **arrays["decision"])
        variables, scaling = arrays["variables"], Scaling(**arrays["scaling"])
    except UserError as error:
        problem = str(error)
    except (KeyError, TypeError) as error:
        problem = f"{type(error).__name__}: {error}"
    else:
        fitted, places = (arrays.get(name, {}) for name in ("fitted", "places"))
        return Detector(about, variables, fitted, decision, scaling, places)
    raise UserError(f"the detector in {folder} cannot be used ({problem}); run it again")
