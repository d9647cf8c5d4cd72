"""What every study has in hand: a finished run and the means to question it."""

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxae import checkpoint, evaluation, learners, parallel, rng, scoring, train
from jaxae.config import ExperimentConfig, for_scoring
from jaxae.types import Dataset, Detector, Learner, Outputs, PyTree

Arrays = dict[str, np.ndarray]


class Findings(NamedTuple):
    """What a study found."""

    arrays: Arrays  # to draw; {} where a study only measures
    scalars: dict[str, float]  # to report
    table: str = ""  # in Markdown, to read; "" where the scalars say it all


@dataclasses.dataclass(frozen=True)
class Context:
    """A finished run; pictures show the first member of an ensemble."""

    cfg: ExperimentConfig
    data: Dataset
    learner: Learner
    devices: parallel.Devices
    detector: Detector
    scores: evaluation.Scores
    manager: checkpoint.Manager
    folder: Path

    @property
    def threshold(self) -> float:
        """The detector's."""
        return float(self.detector.threshold)

    @cached_property
    def variables(self) -> PyTree:
        """Of the model that pictures show."""
        return evaluation.members(self.detector.variables, self.cfg.ensemble)[0]

    @cached_property
    def judge(self) -> Callable[[np.ndarray], np.ndarray]:
        """`x [N, *S] -> scores [N]` by the run's own score."""
        score = scoring.resolve(self.cfg.score)
        return evaluation.detector_scorer(
            self.learner, score, self.detector, self.devices, self.cfg.ensemble
        )

    @cached_property
    def _reconstructor(self) -> Callable:
        return evaluation.reconstructor(self.learner, self.devices)

    def outputs(self, x: np.ndarray, variables: PyTree | None = None) -> Outputs:
        """What the model, or another state of it, says of rows [N, *S]; on the host."""
        return self._reconstructor(self.variables if variables is None else variables, x).out

    @cached_property
    def decode(self) -> Callable[[np.ndarray], np.ndarray]:
        """`codes [N, L] -> rows [N, *S]`; for methods with one autoencoder."""
        model = learners.autoencoder(for_scoring(self.cfg), self.data.shape)
        run = jax.jit(partial(model.apply, method="decode"))
        return lambda z: np.asarray(run(self.variables, jnp.asarray(z)))

    def at_epoch(self, epoch: int) -> PyTree:
        """The variables that a checkpoint holds."""
        template = train.abstract_state(self.learner, self.data.shape, self.cfg.seed)
        template = parallel.placed_like(template, self.devices)
        state = checkpoint.restore(self.manager, template, epoch)
        return evaluation.members(state.variables, self.cfg.ensemble)[0]

    def pick(self, mask: np.ndarray, n: int) -> np.ndarray:
        """Up to n of the test rows under a mask [N], always the same ones in one run."""
        generator = rng.host_generator(self.cfg.seed, rng.Purpose.FIGURES)
        return np.sort(generator.permutation(np.flatnonzero(mask))[:n])
