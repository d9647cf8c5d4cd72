"""The input of every study: a finished run, with functions that score, infer and decode."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxae import detectors, rng, scoring
from jaxae.config import ExperimentConfig
from jaxae.detectors import evaluation
from jaxae.devices import members, parallel
from jaxae.storage import checkpoint
from jaxae.training import train
from jaxae.types import Dataset, Learner, Outputs, PyTree, Source

Arrays = dict[str, np.ndarray]


class Findings(NamedTuple):
    """The results of a study."""

    arrays: Arrays  # to draw
    scalars: dict[str, float]  # to report
    table: str = ""  # in Markdown; "" = none


@dataclasses.dataclass(frozen=True)
class Context:
    """A finished run; pictures show the first member of an ensemble."""

    cfg: ExperimentConfig
    data: Dataset
    learner: Learner
    devices: parallel.Devices
    detector: detectors.Detector
    scores: detectors.Scores
    manager: checkpoint.Manager
    folder: Path

    @property
    def threshold(self) -> float:
        """The detector's threshold."""
        return self.detector.decision.threshold

    def decide(self, scores: Float[np.ndarray, " N"]) -> Bool[np.ndarray, " N"]:
        """The detector's decisions on scores, True = anomaly."""
        return scoring.decide(self.detector.decision, scores)

    @cached_property
    def score(self) -> Callable[[Float[np.ndarray, " N *S"]], Float[np.ndarray, " N"]]:
        """Scores of rows by the detector."""
        return detectors.score_fn(self.detector, self.learner, self.devices)

    def scores_by(self, names: Sequence[str], x: Source) -> dict[str, Float[np.ndarray, " N"]]:
        """Scores of rows by the first member with other scores, which must need no fitting."""
        scores = tuple(scoring.resolve(name) for name in names)
        scorer = evaluation.scores_at_once(self.learner, scores, tuple(self.devices))
        values = scorer(self.variables, x)
        return {name: of_members[0] for name, of_members in zip(names, values, strict=True)}

    @cached_property
    def variables(self) -> PyTree:
        """Variables of the first member, as [1, ...]."""
        return members.part(self.detector.variables, 0)

    def outputs(self, x: Source, variables: PyTree = None) -> Outputs:
        """Outputs of the first member, or of other variables [1, ...], on the host."""
        variables = self.variables if variables is None else variables
        outputs = evaluation.inference(self.learner, self.devices)(variables, x)
        return members.pick(outputs, 0)

    @cached_property
    def decode(self) -> Callable[[Float[np.ndarray, "N L"]], Float[np.ndarray, " N *S"]]:
        """Decodes codes; only for methods that can decode."""
        run, variables = jax.jit(self.learner.decode), members.pick(self.variables, 0)
        return lambda z: np.asarray(run(variables, jnp.asarray(z)))

    def at_epoch(self, epoch: int) -> PyTree:
        """Variables of the first member in the checkpoint of an epoch, as [1, ...]."""
        template = train.abstract_state(self.learner, self.data.shape, self.cfg.ensemble)
        template = parallel.placed_like(template, self.devices)
        state = checkpoint.restore(self.manager, template, epoch)
        return members.part(state.variables, 0)

    def pick(self, mask: Bool[np.ndarray, " N"], n: int) -> Int[np.ndarray, " K"]:
        """Positions of up to n test rows under a mask, drawn with the seed of the run."""
        generator = rng.host_generator(self.cfg.seed, rng.Purpose.FIGURES)
        return np.sort(generator.permutation(np.flatnonzero(mask))[:n])
