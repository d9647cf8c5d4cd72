"""Every program lowers for CPUs, NVIDIA GPUs and TPUs; traced with tiny shapes, never compiled."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import export
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
from probes import DEVICES, FAST_AND_SLOW, METHODS, SHAPE, initial, tiny

from jaxae import scoring
from jaxae.devices import members
from jaxae.devices.parallel import drivers, epoch_fn
from jaxae.methods import learners
from jaxae.methods.learners import METHODS as FACTS
from jaxae.training import train
from jaxae.types import AXIS, Batch, Inferred

PLATFORMS = ("cpu", "cuda", "tpu")
# Of a step: all, those that give the gradient of a kernel, and those over a dilated input: the
# transposed ones, and the input gradients of the others.
CONVOLUTIONS = {"dense": (0, 0, 0), "conv": (11, 4, 3), "fcn": (11, 4, 1), "alocc": (43, 14, 15)}
ON_A_CPU_ONLY = ("optimization_barrier", "scatter")
X = jax.ShapeDtypeStruct((4, *SHAPE), jnp.float32)
SLOT = jax.ShapeDtypeStruct((4,), jnp.int32)


def lowered(fn, *args):
    found = export.export(jax.jit(fn), platforms=PLATFORMS)(*args)
    assert found.platforms == PLATFORMS
    return found


def one(tree):
    """Shapes of one member of several."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree)


def numbers(learner, size):
    """Shapes of the keys and settings of members."""
    keys = jax.eval_shape(lambda: members.keys(jax.random.key(0), size))
    rate = jax.ShapeDtypeStruct((size,), jnp.float32)
    return keys, dict.fromkeys(learner.settings, rate)


def built(method, **changes):
    """A learner outside any map, and the shapes of its state, of one member."""
    learner = learners.build(tiny(method, **changes), SHAPE, axis=None)
    return learner, one(train.abstract_state(learner, SHAPE, 1))


STEPS = {
    **{method: {"method": method} for method in METHODS},
    "bfloat16": {"method": "conv", "model__compute_dtype": "bfloat16"},
    "faithful": {"method": "alocc", "variant": "faithful"},
}


@pytest.mark.parametrize("name", STEPS)
def test_a_train_step_lowers_everywhere(name):
    learner, state = built(**STEPS[name])
    leaves, tree = jax.tree.flatten(state)
    key, settings = one(numbers(learner, 1))

    def step(leaves, x, slot, key, settings):
        state = jax.tree.unflatten(tree, leaves)
        return jax.tree.leaves(learner.step(state, Batch(x, slot), key, settings))

    found = lowered(step, leaves, X, SLOT, key, settings)
    assert [aval.shape for aval in found.out_avals[: len(leaves)]] == [a.shape for a in leaves]


@pytest.mark.parametrize("one_by_one", [True, False])
def test_a_step_of_an_ensemble_lowers_everywhere(one_by_one):
    learner, _ = built("dense")
    state = train.abstract_state(learner, SHAPE, 2)
    leaves, tree = jax.tree.flatten(state)

    def step(leaves, x, slot, keys, settings):
        own = (jax.tree.unflatten(tree, leaves), keys, settings)

        def member(state, key, settings):
            return learner.step(state, Batch(x, slot), key, settings)

        return jax.tree.leaves(members.each(member, *own, one_by_one=one_by_one))

    found = lowered(step, leaves, X, SLOT, *numbers(learner, 2))
    assert [aval.shape for aval in found.out_avals[: len(leaves)]] == [a.shape for a in leaves]
    assert [aval.shape for aval in found.out_avals[len(leaves) :]] == [(2,)]  # the loss of each


@pytest.mark.parametrize(("method", "size"), [*((method, 1) for method in METHODS), ("dense", 2)])
def test_an_epoch_is_one_program(method, size):
    """`pmap(scan(step))`, which `jax.export` does not take, lowers for two devices as it is."""
    learner, devices = learners.build(tiny(method), SHAPE), DEVICES[:2]
    state = train.abstract_state(learner, SHAPE, size)
    rows = jax.ShapeDtypeStruct((32, *SHAPE), jnp.float32)
    plan = jax.ShapeDtypeStruct((2, 4, 4), jnp.int32)
    text = epoch_fn(learner, devices).lower(state, rows, plan, *numbers(learner, size)).as_text()
    assert "while" in text  # the scan
    assert "all_reduce" in text  # the mean over devices


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("own_rows", [False, True])
@pytest.mark.parametrize("method", FAST_AND_SLOW)
def test_the_program_of_many_hosts_lowers_with_either_feed(method, own_rows, platform, monkeypatch):
    """For 16 devices of nobody: all processes run one program, and whose they are is no part."""
    mesh = AbstractMesh((1, 16), ("groups", AXIS))
    monkeypatch.setattr(drivers, "Mesh", lambda devices, names: mesh)
    monkeypatch.setitem(drivers._using, "driver", "shard_map")
    learner = learners.build(tiny(method), SHAPE)

    def of(leaf, *spec):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    rows = (16, 32, *SHAPE) if own_rows else (32, *SHAPE)
    rows = of(jax.ShapeDtypeStruct(rows, jnp.float32), *((AXIS,) if own_rows else ()))
    plan = of(jax.ShapeDtypeStruct((16, 4, 2), jnp.int32), AXIS)
    state, (keys, settings) = train.abstract_state(learner, SHAPE, 1), numbers(learner, 1)
    state, keys, settings = jax.tree.map(of, (state, keys, settings))
    traced = epoch_fn(learner, DEVICES[:2], own_rows=own_rows).trace(
        state, rows, plan, keys, settings
    )
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert '"data"=16' in text
    assert "while" in text
    # Every gradient and the loss cross as they are, which XLA combines, and not as the one vector
    # that a CPU wants; batch normalisation adds its moments.
    own = len(jax.tree.leaves(state.params)) + 1
    crossing = text.count("stablehlo.all_reduce")
    assert crossing == own if method != "alocc" else crossing > own
    # One loop, that over the steps: a batch is not taken in parts. No product is kept from XLA's
    # own order of operands, and nothing is scattered but by a convolution.
    counts = {name: text.count(f"stablehlo.{name}") for name in ("while", *ON_A_CPU_ONLY)}
    assert counts == {"while": 1, **dict.fromkeys(ON_A_CPU_ONLY, 0)}
    convolutions = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    of_kernels = [line for line in convolutions if re.search(r"->\[0, 1, b, f\]", line)]
    dilated = [line for line in convolutions if re.search(r"lhs_dilate = \[(?!1, 1)", line)]
    assert (len(convolutions), len(of_kernels), len(dilated)) == CONVOLUTIONS[method]
    assert not set(of_kernels) & set(dilated)  # the slow way to a weight gradient, see `jaxae.ops`


def fit(score, row_blocks):
    """The fitted state of a score, all steps of it."""
    fitted = score.fit(row_blocks) if score.fit else {}
    return score.standardise([fitted], [row_blocks])[0] if score.standardise else fitted


@pytest.mark.parametrize("name", scoring.SCORES)
def test_every_scorer_lowers_everywhere_with_every_method_that_has_what_it_needs(name):
    score = scoring.SCORES[name]
    able = [method for method in METHODS if score.needs <= FACTS[method].outputs]
    assert able
    assert able == list(METHODS) or score.needs
    for method in able:
        learner, state = built(method)
        out = jax.eval_shape(learner.infer, state.variables, X)
        fitted = jax.eval_shape(lambda row: fit(score, [row]), Inferred(X, out))

        def judge(variables, fitted, x, learner=learner):
            rows = Inferred(x, learner.infer(variables, x))
            return jax.vmap(partial(score.apply, fitted))(rows)

        found = lowered(judge, state.variables, fitted, X)
        assert found.out_avals[0].shape == (4,)


def test_fitting_a_score_lowers_everywhere():
    learner, state = built("dense")
    out = jax.eval_shape(learner.infer, state.variables, X)
    leaves, tree = jax.tree.flatten(Inferred(X, out))
    score = scoring.resolve("blurred_energy+latent_mahalanobis+latent_knn")
    lowered(lambda leaves: fit(score, [jax.tree.unflatten(tree, leaves)]), leaves)


def test_a_scorer_survives_serialisation():
    learner, _ = built("conv")

    def judge(variables, x):
        return jax.vmap(scoring.mse)(x, learner.infer(variables, x).x_hat)

    variables = members.pick(initial(learner).variables, 0)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), variables)
    found = lowered(judge, shapes, X)
    again = export.deserialize(found.serialize())
    x = jnp.full(X.shape, 0.25)
    assert jnp.allclose(again.call(variables, x), judge(variables, x), atol=1e-6)
