import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxae.config import OptimConfig
from jaxae.errors import UserError
from jaxae.methods.optimisers import OPTIMISERS, optimiser

pytestmark = pytest.mark.device

# Optimisers, against NumPy on the loss sum(p^2) / 2 with gradient p.


def descend(cfg, steps=4, lr=0.1, gradient=lambda p: p):
    tx = optimiser(cfg, lr)
    p = jnp.array([1.0, -2.0, 0.5])
    state = tx.init(p)
    update = jax.jit(tx.update)
    for _ in range(steps):
        updates, state = update(gradient(p), state, p)
        p = p + updates
    return np.asarray(p)


def numpy_adam(decay, decoupled, steps=4, lr=0.1):
    p, m, v = np.array([1.0, -2.0, 0.5]), 0.0, 0.0
    for t in range(1, steps + 1):
        g = p if decoupled else p + decay * p
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        direction = m / (1 - 0.9**t) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        p = p - lr * (direction + (decay * p if decoupled else 0))
    return p


@pytest.mark.parametrize(("name", "decay"), [("adam", 0.0), ("adam", 0.3), ("adamw", 0.3)])
def test_adam_couples_its_weight_decay_and_adamw_does_not(name, decay):
    expected = numpy_adam(decay, name == "adamw")
    cfg = OptimConfig(name=name, weight_decay=decay)
    np.testing.assert_allclose(descend(cfg), expected, rtol=1e-4)
    if decay:
        other = numpy_adam(decay, name != "adamw")
        assert np.abs(expected - other).max() > 1e-3


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_rmsprop_is_that_of_keras(decay):
    p, v = np.array([1.0, -2.0, 0.5]), 0.0
    for _ in range(4):
        g = p + decay * p
        v = 0.9 * v + 0.1 * g**2
        p = p - 0.1 * g / np.sqrt(v + 1e-7)
    found = descend(OptimConfig(name="rmsprop", weight_decay=decay))
    np.testing.assert_allclose(found, p, rtol=1e-4, atol=1e-5)


def test_sgd():
    found = descend(OptimConfig(name="sgd", weight_decay=0.5))
    np.testing.assert_allclose(found, np.array([1.0, -2.0, 0.5]) * (1 - 0.15) ** 4, rtol=1e-5)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_keras_adam_adds_its_epsilon_to_the_uncorrected_root(decay):
    p, m, v = np.array([1.0, -2.0, 0.5]), 0.0, 0.0
    for t in range(1, 5):
        g = p + decay * p
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        p = p - 0.1 * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 0.01)
    cfg = OptimConfig(name="keras_adam", eps=0.01, weight_decay=decay)
    np.testing.assert_allclose(descend(cfg), p, rtol=1e-4)
    other = descend(OptimConfig(name="adam", eps=0.01, weight_decay=decay))
    assert np.abs(other - p).max() > 1e-2


@pytest.mark.parametrize("name", OPTIMISERS)
def test_members_may_learn_at_rates_of_their_own(name):
    """A rate is an argument, and a state that began at another rate fits it."""
    cfg = OptimConfig(name=name, weight_decay=0.1)
    p, g = jnp.array([1.0, -2.0]), jnp.array([0.5, 3.0])
    state = optimiser(cfg, 1.0).init(p)
    rates = jnp.array([0.1, 0.2, 0.4])
    found = jax.vmap(lambda lr: optimiser(cfg, lr).update(g, state, p)[0])(rates)
    alone = [optimiser(cfg, float(lr)).update(g, state, p)[0] for lr in rates]
    np.testing.assert_allclose(found, jnp.stack(alone), rtol=1e-5)
    np.testing.assert_allclose(found[2], 4 * found[0], rtol=1e-5)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UserError, match=r"optimiser 'lion'.*adam, adamw, keras_adam, rmsprop, sgd"):
        optimiser(OptimConfig(name="lion"), 0.1)
