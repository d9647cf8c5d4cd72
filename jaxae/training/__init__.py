"""Training: a learner and rows become states, epoch by epoch.

`train` trains one model or an ensemble, `grid` many different models side by side, `feeds` brings
the rows to the devices, `selection` chooses the epoch that becomes the detector.

It uses methods, data, devices and, to choose an epoch, detectors. It knows nothing of reports and
commands. `train` and `grid` write no files; their callers do.
"""

from jaxae.training.train import Fitted, Members, fit, initial_state

__all__ = ["Fitted", "Members", "fit", "initial_state"]
