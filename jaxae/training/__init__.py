"""Training: from a learner and rows to a trained state, for one model or many at a time.

`train.fit` trains members on the devices that a layout gives them: of an ensemble, or of a `grid`,
in which each has rows and settings of its own. `feeds` brings the rows to the devices. `selection`
decides which epoch becomes the detector: its `CHOICES` are the criteria, and `selection.keep`
compares the epochs of all runs.

This wing uses methods, data and devices, and scores and detectors to choose an epoch. It knows
nothing of reports and commands, and writes no files; its callers do.
"""

from jaxae.training.train import Fitted, Members, fit, initial_state

__all__ = ["Fitted", "Members", "fit", "initial_state"]
