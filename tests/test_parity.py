"""jaxae's networks against the same networks in PyTorch and Keras: same weights, same numbers."""

import functools
import importlib

import jax
import numpy as np
import pytest

from benchmarks import cases, reference_flax
from jaxae.methods import learners
from jaxae.types import Batch

# The frameworks' own warnings at import and first use; ours stay errors.
pytestmark = [
    pytest.mark.optimised,
    pytest.mark.filterwarnings(
        "ignore::DeprecationWarning:(torch|keras|tensorflow|google|flatbuffers)"
    ),
]

ROWS = 8
TOLERANCE = 1e-5
# With plain gradient descent at a rate this large the weights before an update vanish beside it,
# so their difference over the rate is the gradient to full float32 precision.
RATE = 2.0**24
FAST = ("ecg_dense", "fmnist_dense")
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in cases.CASES if name not in FAST]
VARIANTS = [
    *(pytest.param(name, "default", id=name) for name in FAST),
    *(pytest.param(*p.values, "default", id=p.values[0], marks=pytest.mark.slow) for p in SLOW),
    pytest.param("mnist_alocc", "faithful", id="mnist_alocc-faithful", marks=pytest.mark.slow),
]


def framework(name: str, module: str):
    pytest.importorskip(module, reason=f"needs the bench extra: {module} is not installed")
    return importlib.import_module(f"benchmarks.reference_{name}")


def settings(name: str, variant: str):
    return cases.config(name, **{"train.noise_std": 0.0, "variant": variant})


def perturbed(params):
    """Biases start at 0 and scales at 1, where a mix-up would not show."""
    generator = np.random.default_rng(0)
    weights = cases.flatten(params).items()
    noisy = {k: v + generator.normal(0, 0.05, v.shape).astype(v.dtype) for k, v in weights}
    return cases.unflatten(noisy)


@functools.cache
def ours(name: str, variant: str):
    """(weights, rows, reconstructions, losses, gradients) of jaxae."""
    case = cases.CASES[name]
    sgd = {"name": "sgd", "lr": RATE, "lr_discriminator": RATE, "weight_decay": 0.0}
    cfg = settings(name, variant)
    for field, value in sgd.items():
        cfg = cases.replace(cfg, ["optim", field], value)
    learner = learners.build(cfg, case.shape, axis=None)
    x = cases.rows(case, ROWS)
    state = jax.jit(learner.init)(jax.random.key(0), x[:1])
    state = state.replace(params=perturbed(state.params))
    batch = Batch(x, np.arange(ROWS, dtype=np.int32))
    new, metrics = jax.jit(learner.step)(state, batch, jax.random.key(1), learner.settings)
    weights, after = cases.flatten(state.params), cases.flatten(new.params)
    gradients = {k: (weights[k] - after[k]) / np.float32(RATE) for k in weights}
    x_hat = np.asarray(jax.jit(learner.infer)(state.variables, x).x_hat)
    return weights, x, x_hat, {k: float(v) for k, v in metrics.items()}, gradients


def vanishes(name: str, weight: str) -> bool:
    """A bias right before batch normalisation: it has no effect, its exact gradient is zero."""
    layers = cases.CASES[name].layers
    layer, kind = weight.rsplit("/", 1)
    following = layers[layers.index(layer) + 1 :][:1]
    return kind == "bias" and "Norm" not in layer and any("BatchNorm" in f for f in following)


@pytest.mark.parametrize(("reference", "module"), [("torch", "torch"), ("keras", "tensorflow")])
@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_same_weights_same_numbers(name, variant, reference, module):
    reference = framework(reference, module)
    weights, x, x_hat, losses, gradients = ours(name, variant)
    program = reference.build(cases.CASES[name], settings(name, variant))
    program.load(weights)
    rows = program.prepare(x)

    np.testing.assert_allclose(program.outputs(rows), x_hat, atol=TOLERANCE, rtol=0)
    per_row = np.square(x_hat - x).reshape(ROWS, -1).mean(1)
    np.testing.assert_allclose(np.asarray(program.score(rows)), per_row, rtol=TOLERANCE)

    compare(name, losses, gradients, *program.gradients(rows))


def compare(name, losses, gradients, their_losses, their_gradients):
    for key, value in their_losses.items():
        np.testing.assert_allclose(losses[key], value, rtol=TOLERANCE, err_msg=key)
    assert set(their_gradients) == set(gradients)
    largest = max(np.abs(g).max() for g in gradients.values())
    for key, g in gradients.items():
        scale = largest if vanishes(name, key) else np.abs(g).max()
        np.testing.assert_allclose(
            their_gradients[key], g, atol=TOLERANCE * scale, rtol=0, err_msg=key
        )


@pytest.mark.parametrize("name", [*FAST, *SLOW])
def test_plain_flax_computes_the_same(name):
    weights, x, x_hat, losses, gradients = ours(name, "default")
    case = cases.CASES[name]
    init, gradients_of, _, score = reference_flax.build(case, settings(name, "default"))
    state = init(cases.unflatten(weights))
    per_row = np.square(x_hat - x).reshape(ROWS, -1).mean(1)
    np.testing.assert_allclose(jax.jit(score)(state, x), per_row, rtol=TOLERANCE)
    their_losses, their_gradients, _ = jax.jit(gradients_of)(state, x, x)
    compare(name, losses, gradients, their_losses, cases.flatten(their_gradients))


@pytest.mark.parametrize(("reference", "module"), [("torch", "torch"), ("keras", "tensorflow")])
def test_other_weights_other_numbers(reference, module):
    # Guards the test above: a reference that ignored its weights or rows would be noticed.
    reference = framework(reference, module)
    weights, x, x_hat, *_ = ours("ecg_dense", "default")
    program = reference.build(cases.CASES["ecg_dense"], settings("ecg_dense", "default"))
    program.load({k: 1.1 * v + 0.01 for k, v in weights.items()})
    assert np.abs(program.outputs(program.prepare(x)) - x_hat).max() > 100 * TOLERANCE
