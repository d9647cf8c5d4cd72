"""The types of a detector and of its results."""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxae.config import ExperimentConfig
from jaxae.data.own.schema import Schema
from jaxae.types import Decision, PyTree, Scaling, Shape


class Scores(NamedTuple):
    """Anomaly scores of every row of a data set."""

    train: Float[np.ndarray, " N_train"]
    valid: Float[np.ndarray, " N_valid"]
    test: Float[np.ndarray, " N_test"]


class Judgement(NamedTuple):
    """The result of a detector for N rows."""

    score: Float[np.ndarray, " N"]
    p_value: Float[np.ndarray, " N"]  # the rank of the score; see `jaxae.detectors.calibration`
    is_anomaly: Bool[np.ndarray, " N"]


@dataclasses.dataclass(frozen=True)
class Description:
    """All of a detector but its arrays."""

    config: ExperimentConfig  # method and model, score and its precision, rule, ensemble, scaling
    shape: Shape  # of a raw row
    dtype: str  # of the raw rows that it was made of
    version: str | None  # of jaxae, where it is installed
    data_digest: str = ""  # of the data set that it was made of
    schema: Schema = dataclasses.field(default_factory=Schema)  # how files of raw rows are read


class Detector(NamedTuple):
    """Model, score, decision and scaling, with their description; arrays have members [E]."""

    about: Description
    variables: PyTree  # of the model
    fitted: PyTree  # of the score
    decision: Decision
    scaling: Scaling


def units(dtype: str) -> str:
    """What raw rows of a dtype mean."""
    return "pixels 0 ... 255" if dtype == "uint8" else "numbers as they are"
