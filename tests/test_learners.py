import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from probes import (
    FAST_AND_SLOW,
    METHODS,
    SHAPE,
    assert_close,
    assert_same,
    batch,
    edit,
    images,
    leaves,
    start,
    stepped,
    tiny,
)

from jaxae import rng
from jaxae.config import ExperimentConfig, ModelConfig
from jaxae.devices import members
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.methods.adversarial import ADVERSARIAL, Pair, adversarial
from jaxae.methods.networks.alocc import Discriminator, Refiner
from jaxae.training import train
from jaxae.types import Batch

pytestmark = pytest.mark.device

KEY = jax.random.key(7)
X = images(8)


@pytest.fixture(scope="module", params=FAST_AND_SLOW)
def trained(request):
    """Of each method: compiled inference and step, initial state, and 30 steps of metrics."""
    learner, state = start(tiny(request.param))
    step = stepped(learner)
    now, course = state, []
    for _ in range(30):
        now, metrics = step(now, batch(X), KEY)
        course.append(metrics)
    return request.param, jax.jit(learner.infer), step, state, now, course


# The contract that every method keeps.


def test_a_step_keeps_tree_shapes_and_dtypes(trained):
    _, _, _, state, now, _ = trained
    assert jax.tree.structure(now) == jax.tree.structure(state)
    for path, leaf in leaves(state).items():
        assert (leaf.shape, leaf.dtype) == (leaves(now)[path].shape, leaves(now)[path].dtype)
    assert state.step.dtype == jnp.int32
    assert int(now.step) == 30


def test_metrics_are_scalars_with_a_loss(trained):
    *_, course = trained
    assert "loss" in course[0]
    assert all(value.shape == () for value in course[0].values())


def test_the_loss_falls_on_a_fixed_batch(trained):
    method, *_, course = trained
    name = "loss_reconstruction" if method == "alocc" else "loss"
    assert course[-1][name] < 0.9 * course[0][name]


def test_a_step_is_a_function_of_its_arguments(trained):
    _, _, step, state, _, course = trained
    one, other = step(state, batch(X), KEY), step(state, batch(X), KEY)
    assert_same(one, other)
    assert_same(one[1], course[0])
    another_key = step(state, batch(X), jax.random.key(8))
    later = step(state.replace(step=state.step + 1), batch(X), KEY)
    assert float(another_key[1]["loss"]) != float(one[1]["loss"])  # other noise
    assert float(later[1]["loss"]) != float(one[1]["loss"])


def test_noise_belongs_to_the_slot_not_to_the_place_in_the_share(trained):
    _, _, step, state, _, _ = trained
    order = np.array([3, 0, 7, 1, 6, 2, 5, 4])
    straight = step(state, batch(X), KEY)
    carried = step(state, Batch(jnp.asarray(X[order]), jnp.asarray(order, jnp.int32)), KEY)
    exchanged = step(state, batch(X[order]), KEY)
    assert_close(carried[1], straight[1], rtol=1e-4)
    assert not np.isclose(exchanged[1]["loss"], straight[1]["loss"], rtol=1e-7)


def test_inference_is_deterministic_and_row_by_row(trained):
    _, infer, _, state, now, _ = trained
    out = infer(now.variables, X)
    assert_same(out, infer(now.variables, X))
    assert out.x_hat.shape == X.shape
    assert out.z.shape[0] == len(X)
    assert all(len(extra) == len(X) for extra in out.extra.values())
    turned = infer(now.variables, X[::-1].copy())
    assert_close(jax.tree.map(lambda a: a[::-1], turned), out, atol=1e-5)
    assert np.abs(out.x_hat - infer(state.variables, X).x_hat).max() > 1e-3


def test_a_method_infers_what_it_says_and_decodes_if_it_says_so(trained):
    name, infer, _, _, now, _ = trained
    method, (learner, _) = learners.METHODS[name], start(tiny(name))
    out = infer(now.variables, X)
    assert out.extra.keys() == method.outputs
    for extra in out.extra.values():
        assert extra.dtype == jnp.float32
        of_rows = np.unique(np.asarray(extra).reshape(len(X), -1), axis=0)
        assert len(of_rows) == len(X)  # it says something of each row
    assert (learner.decode is not None) == method.decodes
    if method.decodes:
        found = jax.jit(learner.decode)(now.variables, out.z)
        np.testing.assert_allclose(found, out.x_hat, atol=1e-6)


def test_only_adversarial_methods_judge():
    judging = {name for name, method in learners.METHODS.items() if "d_of_x" in method.outputs}
    assert judging == {"alocc"}


def test_reconstructions_stay_in_the_unit_interval(trained):
    _, infer, _, _, now, _ = trained
    x_hat = infer(now.variables, X).x_hat
    assert 0 <= x_hat.min() <= x_hat.max() <= 1


@pytest.mark.parametrize("method", FAST_AND_SLOW)
def test_a_learner_fits_its_own_abstract_state_for_any_batch_size(method):
    learner = learners.build(tiny(method), SHAPE, axis=None)
    state = train.abstract_state(learner, SHAPE, 2)
    keys = jax.eval_shape(lambda: members.keys(KEY, 2))
    settings = {name: jax.ShapeDtypeStruct((2,), jnp.float32) for name in learner.settings}
    for size in (1, 5):
        x = jax.ShapeDtypeStruct((size, *SHAPE), jnp.float32)
        slot = jax.ShapeDtypeStruct((size,), jnp.int32)

        def both(state, x, slot, keys, settings):
            def one(state, key, settings):
                return learner.step(state, Batch(x, slot), key, settings)

            return members.each(one, state, keys, settings, one_by_one=True)

        new, metrics = jax.eval_shape(both, state, x, slot, keys, settings)
        assert new == state
        assert all(value.shape == (2,) for value in metrics.values())


# What a method reads of a configuration.

# A second value of every field that some method reads and some other does not.
OTHERWISE = {
    "alocc.bottleneck": 4,
    "alocc.code_noise": 0.3,
    "alocc.spectral": True,
    "alocc.ema": 0.9,
    "fcn.depth": 2,
    "fcn.width": 3,
    "fcn.pooled": True,
    "fcn.spatial": False,
    "train.crop": 5,
    "train.crops": 3,
    "variant": "faithful",
    "optim.lr_discriminator": 3e-4,
    "train.loss": "mae",
    "train.noise_std": 0.3,
    "train.noise_clip": False,
    "model.latent": 5,
    "model.hidden": (12, 6),
    "model.filters": (3, 5),
    "model.kernels": (5, 3),
    "model.strides": (2, 1),
    "model.paddings": ("same", "valid"),
    "model.head_kernel": 3,
    "model.activation": "elu",
    "model.encoder_activation": "tanh",
    "model.code_activation": "tanh",
    "model.expand_activation": "tanh",
    "model.output_activation": "linear",
    "model.initializer": "torch",
    "model.compute_dtype": "bfloat16",
}
WITH = {"train.crops": {"train.crop": 5}}  # without which the field would say nothing


def test_every_field_of_a_method_is_tried_here():
    read = frozenset().union(*(method.reads for method in learners.METHODS.values()))
    assert OTHERWISE.keys() == read
    fields = {f"model.{field.name}" for field in dataclasses.fields(ModelConfig)}
    assert fields <= read  # or nobody would read it


def program(cfg):
    """All that a learner computes, as text, and the numbers it starts from."""
    learner = learners.build(cfg, SHAPE, axis=None)
    row = jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32)
    state = jax.eval_shape(learner.init, KEY, row)

    def everything(key, state, x, slot, settings):
        new, metrics = learner.step(state, Batch(x, slot), key, settings)
        return learner.init(key, x), new, metrics, learner.infer(state.variables, x)

    slot = jax.ShapeDtypeStruct((1,), jnp.int32)
    lowered = jax.jit(everything).lower(KEY, state, row, slot, learner.settings)
    return lowered.as_text(), learner.settings


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_method_reads_what_it_says_and_nothing_else(method):
    cfg, reads, read = tiny(method), learners.METHODS[method].reads, set()
    usual = program(cfg)
    for name, value in OTHERWISE.items():
        base = edit(cfg, WITH[name]) if name in WITH and name in reads else cfg
        found = program(edit(base, {name: value}))
        read |= {name} if found != (usual if base is cfg else program(base)) else set()
    assert read == reads


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", OTHERWISE)
def test_a_setting_is_refused_where_the_method_would_ignore_it(method, name):
    cfg = edit(ExperimentConfig("x", method=method), {name: OTHERWISE[name]})
    if name in learners.METHODS[method].reads:
        learners.check(edit(cfg, WITH.get(name, {})))
        return
    with pytest.raises(UserError) as refused:
        learners.check(cfg)
    words = f"{name} is {OTHERWISE[name]!r}, but it is not used with --method {method}; leave it"
    assert str(refused.value).startswith(words)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        ("alocc", "train.loss"),
        ("alocc", "train.noise_clip"),
        ("alocc", "model.latent"),
        ("dense", "model.filters"),
        ("dense", "variant"),
        ("conv", "model.hidden"),
        ("conv", "optim.lr_discriminator"),
    ],
)
def test_these_methods_do_not_read_these_fields(method, name):
    assert name not in learners.METHODS[method].reads


@pytest.mark.parametrize("method", METHODS)
def test_the_defaults_suit_every_method(method):
    learners.check(ExperimentConfig("x", method=method))


def test_one_configuration_has_one_learner():
    cfg = tiny()
    assert learners.build(cfg, SHAPE) is learners.build(tiny(), (8, 8, 1))
    assert learners.build(cfg, SHAPE) is not learners.build(cfg, SHAPE, axis=None)
    assert learners.build(cfg, SHAPE) is not learners.build(tiny(optim__lr=0.5), SHAPE)


# Noise.


def test_noise_of_a_row_depends_on_its_slot_alone():
    x, slot = jnp.zeros((6, 3)), jnp.arange(6, dtype=jnp.int32)
    whole = rng.add_noise(x, slot, KEY, 0.5)
    half = rng.add_noise(x[3:], slot[3:], KEY, 0.5)
    np.testing.assert_array_equal(whole[3:], half)
    assert len(np.unique(np.asarray(whole))) == 18


def test_noise_has_the_deviation_asked_for():
    x = jnp.ones((64, 64))
    noise = rng.add_noise(x, jnp.arange(64, dtype=jnp.int32), KEY, 0.3) - 1
    assert noise.std() == pytest.approx(0.3, rel=0.05)
    assert abs(noise.mean()) < 0.02


@pytest.mark.parametrize("clip", [True, False])
def test_the_input_is_noisy_and_the_target_clean(clip):
    learner, state = start(tiny(train__noise_std=0.5, train__noise_clip=clip))
    slot = jnp.arange(8, dtype=jnp.int32)
    noisy = rng.add_noise(jnp.asarray(X), slot, jax.random.fold_in(KEY, 0), 0.5)
    noisy = jnp.clip(noisy, 0, 1) if clip else noisy
    x_hat = np.asarray(learner.infer(state.variables, noisy).x_hat)
    _, metrics = stepped(learner)(state, batch(X), KEY)
    assert metrics["loss"] == pytest.approx(np.mean((x_hat - X) ** 2), rel=1e-5)


# Losses.


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("mse", lambda x, p: np.mean((x - p) ** 2)),
        ("mae", lambda x, p: np.mean(np.abs(x - p))),
        ("bce", lambda x, p: -np.mean(x * np.log(p) + (1 - x) * np.log(1 - p))),
    ],
)
def test_the_loss_is_the_mean_over_rows(loss, expected):
    learner, state = start(tiny(train__loss=loss, train__noise_std=0.0))
    x_hat = np.asarray(jax.jit(learner.infer)(state.variables, X).x_hat, np.float64)
    _, metrics = stepped(learner)(state, batch(X), KEY)
    assert metrics["loss"] == pytest.approx(expected(X, x_hat), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["default", "faithful"])
def test_alocc_gradients_are_those_of_its_two_losses(variant):
    """One shared pass gives what separate differentiation of the published losses gives."""
    nets = Pair(Refiner(SHAPE, filters=(3, 4), up_filters=(3,)), Discriminator(filters=(3, 4)))
    losses = ADVERSARIAL[variant]
    weight = losses.recon_weight
    settings = {"lr": 1.0, "lr_discriminator": 1.0, "noise_std": 0.0, "recon_weight": weight}
    learner = adversarial(nets, optax.sgd, losses, settings=settings, axis=None)
    state = jax.jit(learner.init)(KEY, X[:1])
    new, metrics = stepped(learner)(state, batch(X), KEY)
    x = jnp.asarray(2 * X - 1)

    def run(name, params, x):
        out, _ = getattr(nets, name).apply(
            {"params": params, "batch_stats": state.model_state["batch_stats"][name]},
            x,
            train=True,
            mutable=["batch_stats"],
        )
        return out

    def refiner_loss(r, d):
        refined = run("refiner", r, x)[0]
        recon = jax.vmap(losses.recon)(x, refined).mean()
        return losses.real(run("discriminator", d, refined)) + weight * recon

    def discriminator_loss(d, r):
        refined = run("refiner", r, x)[0]
        return losses.real(run("discriminator", d, x)) + losses.fake(
            run("discriminator", d, refined)
        )

    r, d = state.params["refiner"], state.params["discriminator"]
    value_r, grad_r = jax.jit(jax.value_and_grad(refiner_loss))(r, d)
    value_d, grad_d = jax.jit(jax.value_and_grad(discriminator_loss))(d, r)
    moved = jax.tree.map(jnp.subtract, state.params, new.params)
    assert_close(moved, {"refiner": grad_r, "discriminator": grad_d}, atol=2e-5)
    assert metrics["loss"] == pytest.approx(float(value_r), rel=1e-5)
    assert metrics["loss_discriminator"] == pytest.approx(float(value_d), rel=1e-5)
    assert_moved = leaves(jax.tree.map(jnp.subtract, new.model_state, state.model_state))
    assert all(np.abs(change).max() > 0 for change in assert_moved.values())


@pytest.mark.parametrize("logit", [-3.0, 0.0, 2.0])
def test_adversarial_losses_are_cross_entropies(logit):
    logits = jnp.array([logit])
    probability = 1 / (1 + np.exp(-logit))
    default, faithful = ADVERSARIAL["default"], ADVERSARIAL["faithful"]
    assert default.real(logits) == pytest.approx(-np.log(probability), rel=1e-5)
    assert default.fake(logits) == pytest.approx(-np.log(1 - probability), rel=1e-5)
    twice = 1 / (1 + np.exp(-probability))  # the tutorial's sigmoid of a sigmoid
    assert faithful.real(logits) == pytest.approx(-np.log(twice), rel=1e-5)
    assert faithful.fake(logits) == pytest.approx(-np.log(1 - twice), rel=1e-5)


def test_unknown_names_list_the_known_ones():
    known = r"method 'gan'.*alocc, conv, dense"
    cfg = ExperimentConfig(name="x", method="gan")
    with pytest.raises(UserError, match=known):
        learners.build(cfg, SHAPE)
    with pytest.raises(UserError, match=known):
        learners.check(cfg)


@pytest.mark.parametrize(
    ("method", "name", "words"),
    [
        ("conv", "optim.name", r"optimiser 'odd'.*adam, adamw, keras_adam, rmsprop, sgd"),
        ("conv", "train.loss", r"loss 'odd'.*bce, mae, mse"),
        ("conv", "model.initializer", r"initializer 'odd'.*glorot, lecun, torch"),
        ("alocc", "variant", r"variant 'odd'.*default, faithful"),
        *(
            ("conv", f"model.{field}activation", r"activation 'odd'.*elu, leaky_relu, linear, relu")
            for field in ("", "encoder_", "code_", "expand_", "output_")
        ),
    ],
)
def test_names_are_checked_before_anything_is_built(method, name, words):
    section, _, field = name.rpartition(".")
    cfg = tiny(method)
    part = dataclasses.replace(getattr(cfg, section) if section else cfg, **{field: "odd"})
    with pytest.raises(UserError, match=words):
        learners.check(dataclasses.replace(cfg, **{section: part}) if section else part)


def test_rows_that_a_method_cannot_take():
    with pytest.raises(UserError, match="alocc needs images"):
        learners.build(tiny("alocc"), (140, 1))
    for shape in ((140,), (4, 4, 4, 1)):
        for method in ("conv", "fcn"):
            with pytest.raises(UserError, match=f"{method} needs rows of shape"):
                learners.build(tiny(method), shape)


@pytest.mark.parametrize("method", ["dense", "fcn"])
def test_a_model_without_a_map_for_a_code_has_a_code(method):
    with pytest.raises(UserError, match=rf"model\.latent is 0; method {method} needs at least 1"):
        learners.build(tiny(method, model__latent=0), SHAPE)


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"train__crop": 8}, r"train\.crop is 8, but .*\[8, 8, 1\] are no larger.*--train\.crop 0"),
     ({"train__crop": 5, "fcn__spatial": False}, r"train\.crop is 5, but .*--fcn\.spatial")],
)  # fmt: skip
def test_crops_that_make_no_sense_are_refused(changes, words):
    with pytest.raises(UserError, match=words):
        learners.build(tiny("fcn", **changes), SHAPE)
    with pytest.raises(UserError, match=r"train\.crops is 3, but train\.crop is 0; leave it"):
        learners.check(tiny("fcn", train__crops=3))


# What steadies ALOCC.

STEADY = {
    "alocc__bottleneck": 4,
    "alocc__code_noise": 0.3,
    "alocc__spectral": True,
    "alocc__ema": 0.9,
}


def averaged(old, new, step, decay):
    kept = min(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda a, b: kept * a + (1 - kept) * b, old, new)


@pytest.mark.slow
def test_a_steady_alocc_is_scored_by_averages_of_its_weights():
    learner, state = start(tiny("alocc", **STEADY))
    step, mean = jax.jit(learner.step), None
    for i in range(3):
        held = {"params": state.params, "batch_stats": state.model_state["batch_stats"]}
        mean = mean or held  # averages begin at the initial weights
        before, rows = state, batch(images(8, seed=i))
        state, found = step(before, rows, KEY, learner.settings)
        new = {"params": state.params, "batch_stats": state.model_state["batch_stats"]}
        mean = averaged(mean, new, i, 0.9)
        assert all(np.isfinite(value) for value in found.values())
    assert_close(state.variables, mean, rtol=1e-5, atol=1e-6)
    # Averages are looked at and do not train; noise on the code does.
    other, _ = step(before, rows, KEY, learner.settings | {"ema": 0.5})
    assert_same(other.params, state.params)
    noisier, _ = step(before, rows, KEY, learner.settings | {"code_noise": 0.6})
    refiners = (leaves(of.params["refiner"]) for of in (noisier, state))
    assert any((one != two).any() for one, two in zip(*(r.values() for r in refiners), strict=True))
    # In evaluation there is no noise, and no row sees another.
    x = jnp.asarray(images(5))
    out, alone = learner.infer(state.variables, x), learner.infer(state.variables, x[2:3])
    assert out.z.shape == (5, 4)
    np.testing.assert_allclose(alone.x_hat[0], out.x_hat[2], atol=1e-5)


@pytest.mark.parametrize("name", ["bottleneck", "code_noise", "spectral", "ema"])
def test_only_alocc_reads_what_steadies_it(name):
    with pytest.raises(UserError, match=f"alocc.{name} is .* it is not used with --method dense"):
        learners.check(tiny("dense", **{f"alocc__{name}": STEADY[f"alocc__{name}"]}))


@pytest.mark.parametrize(("name", "value"), [("ema", 1.0), ("ema", -0.1), ("bottleneck", -1)])
def test_numbers_of_a_steady_alocc_that_make_no_sense(name, value):
    with pytest.raises(UserError, match=f"alocc.{name} is"):
        tiny("alocc", **{f"alocc__{name}": value})
