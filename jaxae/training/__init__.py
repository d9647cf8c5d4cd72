"""Training: a learner and rows become a trained state, for one model or many at a time.

`train` trains one model or an ensemble, `grid` many different members side by side, and `feeds`
brings the rows to the devices. `selection` decides which epoch is kept as the detector: one of its
`CHOICES` says by what, `selection.keep` compares epochs of a run, and `grid` those of each member.

It uses methods, data, devices, and, to choose an epoch, scores, detectors and checkpoints. It does
not know what becomes of the result: no report, no command. `train` and `grid` write no files; their
callers do.
"""

from jaxae.training.train import Fitted, Members, fit, initial_state

__all__ = ["Fitted", "Members", "fit", "initial_state"]
