"""Epochs: a learner and rows become states, one model or many at a time.

`train` is the training of one model and of an ensemble, `grid` that of many different ones side by
side, `feeds` brings the rows to the devices, `selection` chooses the epoch that becomes the
detector.

It uses methods, data, devices and, to choose an epoch, detectors. It does not know what is made of
it: no report, no command. `train` and `grid` write no files; who calls them does.
"""

from jaxae.training.train import Fitted, Members, fit, initial_state

__all__ = ["Fitted", "Members", "fit", "initial_state"]
