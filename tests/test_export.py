"""Every program lowers for CPUs, NVIDIA GPUs and TPUs; traced with tiny shapes, never compiled."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import export
from probes import DEVICES, METHODS, SHAPE, tiny

from jaxae import learners, scoring, train
from jaxae.parallel import epoch_fn
from jaxae.types import Batch, Outputs, Rows

PLATFORMS = ("cpu", "cuda", "tpu")
X = jax.ShapeDtypeStruct((4, *SHAPE), jnp.float32)
SLOT = jax.ShapeDtypeStruct((4,), jnp.int32)
KEY = jax.eval_shape(lambda: jax.random.key(0))


def lowered(fn, *args):
    found = export.export(jax.jit(fn), platforms=PLATFORMS)(*args)
    assert found.platforms == PLATFORMS
    return found


def built(method, **changes):
    cfg = tiny(method, **changes)
    learner = learners.build(cfg, SHAPE, axis=None)
    return learner, train.abstract_state(learner, SHAPE, cfg.seed)


STEPS = {
    **{method: {"method": method} for method in METHODS},
    "ensemble": {"method": "dense", "ensemble": 2},
    "bfloat16": {"method": "conv", "model__compute_dtype": "bfloat16"},
    "faithful": {"method": "alocc", "variant": "faithful"},
}


@pytest.mark.parametrize("name", STEPS)
def test_a_train_step_lowers_everywhere(name):
    learner, state = built(**STEPS[name])
    leaves, tree = jax.tree.flatten(state)

    def step(leaves, x, slot, key):
        return jax.tree.leaves(learner.step(jax.tree.unflatten(tree, leaves), Batch(x, slot), key))

    found = lowered(step, leaves, X, SLOT, KEY)
    assert [aval.shape for aval in found.out_avals[: len(leaves)]] == [a.shape for a in leaves]


@pytest.mark.parametrize("method", METHODS)
def test_an_epoch_is_one_program(method):
    """`pmap(scan(step))`, which `jax.export` does not take, lowers for two devices as it is."""
    cfg, devices = tiny(method), DEVICES[:2]
    learner = learners.build(cfg, SHAPE)
    state = train.abstract_state(learner, SHAPE, 0)
    rows = jax.ShapeDtypeStruct((32, *SHAPE), jnp.float32)
    plan = jax.ShapeDtypeStruct((2, 4, 4), jnp.int32)
    text = epoch_fn(learner, devices).lower(state, rows, plan, KEY).as_text()
    assert "while" in text  # the scan
    assert "all_reduce" in text  # the mean over devices


@pytest.mark.parametrize("name", scoring.SCORES)
def test_every_scorer_lowers_everywhere_with_every_method(name):
    score = scoring.SCORES[name]
    for method in METHODS:
        learner, state = built(method)
        out = jax.eval_shape(learner.infer, state.variables, X)
        fitted = jax.eval_shape(score.fit, Rows(X, out), Rows(X, out))

        def judge(variables, fitted, x, learner=learner):
            return jax.vmap(partial(score.apply, fitted))(x, learner.infer(variables, x))

        found = lowered(judge, state.variables, fitted, X)
        assert found.out_avals[0].shape == (4,)


def test_fitting_a_score_lowers_everywhere():
    learner, state = built("dense")
    out = jax.eval_shape(learner.infer, state.variables, X)
    score = scoring.resolve("blurred_energy+latent_mahalanobis+latent_knn")

    def fit(x, out):
        rows = Rows(x, Outputs(*out))
        return score.fit(rows, rows)

    lowered(fit, X, tuple(out))


def test_a_scorer_survives_serialisation():
    learner, state = built("conv")

    def judge(variables, x):
        return jax.vmap(scoring.mse)(x, learner.infer(variables, x).x_hat)

    found = lowered(judge, state.variables, X)
    again = export.deserialize(found.serialize())
    variables = train.initial_state(learner, SHAPE, 0).variables
    x = jnp.full(X.shape, 0.25)
    assert jnp.allclose(again.call(variables, x), judge(variables, x), atol=1e-6)
