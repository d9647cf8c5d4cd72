"""Training methods: each a `Learner`, pure functions over a state that holds arrays only.

`learners` has them by name, with what each reads of a configuration; `reconstruction` and
`adversarial` are their mathematics, `networks` their Linen modules, `optimisers` their steps.

They use losses, settings and what devices compute fastest. They do not know who trains them: no
epoch, no device axis but its name, no file.
"""

from jaxae.methods.learners import METHODS, Method, build
from jaxae.methods.optimisers import OPTIMISERS
from jaxae.methods.reconstruction import descent

__all__ = ["METHODS", "OPTIMISERS", "Method", "build", "descent"]
