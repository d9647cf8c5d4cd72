"""Training methods: each is a `Learner`, pure functions over a state that holds only arrays.

A new method is entered in `learners.METHODS`, with the settings that it reads. `reconstruction` and
`adversarial` have the objectives and training steps, `networks` the Linen modules with their
initialisers and activations, `optimisers` the optimisers by name. `descent` turns any loss of a row
into a learner's `init` and `step`; `wrappers` change any learner.

This wing uses losses, settings, augmentations and the tuning of devices. It knows nothing of epochs
and files, and about devices only the name of the mapped axis.
"""

from jaxae.methods.learners import METHODS, Method, build
from jaxae.methods.optimisers import OPTIMISERS
from jaxae.methods.reconstruction import descent

__all__ = ["METHODS", "OPTIMISERS", "Method", "build", "descent"]
