import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from probes import METHODS, SHAPE, assert_close, assert_same, batch, images, leaves, start, tiny

from jaxae import learners, rng
from jaxae.adversarial import ADVERSARIAL, Pair, adversarial
from jaxae.config import ExperimentConfig, OptimConfig
from jaxae.errors import UserError
from jaxae.models.alocc import Discriminator, Refiner
from jaxae.types import Batch

KEY = jax.random.key(7)
X = images(8)


@pytest.fixture(scope="module", params=METHODS)
def trained(request):
    """Of each method: compiled inference and step, initial state, and 30 steps of metrics."""
    learner, state = start(tiny(request.param))
    step = jax.jit(learner.step)
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
    assert out.z.shape[0] == out.d_of_r.shape[0] == out.d_of_x.shape[0] == len(X)
    turned = infer(now.variables, X[::-1].copy())
    assert_close(jax.tree.map(lambda a: a[::-1], turned), out, atol=1e-5)
    assert np.abs(out.x_hat - infer(state.variables, X).x_hat).max() > 1e-3


def test_only_adversarial_methods_judge(trained):
    method, infer, _, _, now, _ = trained
    out = jax.eval_shape(infer, now.variables, X)
    assert out.d_of_x.dtype == jnp.float32
    assert (method != "alocc") == (infer(now.variables, X).d_of_x == 0).all()


def test_reconstructions_stay_in_the_unit_interval(trained):
    _, infer, _, _, now, _ = trained
    x_hat = infer(now.variables, X).x_hat
    assert 0 <= x_hat.min() <= x_hat.max() <= 1


@pytest.mark.parametrize("method", METHODS)
def test_a_learner_fits_its_own_abstract_state_for_any_batch_size(method):
    learner = learners.build(tiny(method, ensemble=2), SHAPE, axis=None)
    state = jax.eval_shape(learner.init, KEY, jax.ShapeDtypeStruct((1, *SHAPE), jnp.float32))
    for size in (1, 5):
        x = jax.ShapeDtypeStruct((size, *SHAPE), jnp.float32)
        slot = jax.ShapeDtypeStruct((size,), jnp.int32)
        new, metrics = jax.eval_shape(learner.step, state, Batch(x, slot), KEY)
        assert new == state
        assert all(value.shape == () for value in metrics.values())


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
    _, metrics = jax.jit(learner.step)(state, batch(X), KEY)
    assert metrics["loss"] == pytest.approx(np.mean((x_hat - X) ** 2), rel=1e-5)


# Ensembles.


@pytest.mark.parametrize("method", ["dense", pytest.param("conv", marks=pytest.mark.slow)])
def test_members_of_an_ensemble_are_learners_with_keys_of_their_own(method):
    single, _ = start(tiny(method))
    both, state = start(tiny(method, ensemble=2))
    new, metrics = jax.jit(both.step)(state, batch(X), KEY)
    init, step = jax.jit(single.init), jax.jit(single.step)
    losses = []
    for e in range(2):
        alone = init(jax.random.fold_in(rng.stream(0, rng.Purpose.INIT), e), X[:1] * 0)
        assert_close(jax.tree.map(lambda a, e=e: a[e], state), alone, atol=1e-7)
        alone, measured = step(alone, batch(X), jax.random.fold_in(KEY, e))
        assert_close(jax.tree.map(lambda a, e=e: a[e], new), alone, atol=1e-5)
        losses.append(measured["loss"])
    assert metrics["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    first, second = (leaves(jax.tree.map(lambda a, e=e: a[e], new.params)) for e in range(2))
    assert all((first[path] != second[path]).any() for path in first)


# Parts of a batch.


@pytest.mark.parametrize("count", [256, 192, 131])
def test_gradients_of_a_batch_are_those_of_its_parts(count, monkeypatch):
    """131 rows have no equal parts of 64 to 128 and stay whole."""
    seen, x = [], images(count)
    cfg = tiny("conv", optim__name="sgd", train__noise_std=0.2)
    learner, state = start(cfg)
    by_parts, metrics = jax.jit(learner.step)(state, batch(x), KEY)
    monkeypatch.setattr(learners, "_CONV_PART", 0)
    whole, expected = jax.jit(start(cfg)[0].step)(state, batch(x), KEY)
    moved = jax.tree.map(jnp.subtract, whole.params, state.params)
    assert max(np.abs(leaf).max() for leaf in leaves(moved).values()) > 1e-4
    assert_close(by_parts, whole, rtol=1e-5, atol=1e-6)
    assert_close(metrics, expected, rtol=1e-5)

    def mean(rows):
        seen.append(len(rows))
        return rows.mean(0)

    np.testing.assert_allclose(
        learners.mean_by_parts(mean, jnp.asarray(x), 128), x.mean(0), rtol=1e-5, atol=1e-6
    )
    assert min(seen) == {256: 128, 192: 96, 131: 131}[count]


def test_only_a_cpu_takes_a_batch_in_parts():
    rows = jax.ShapeDtypeStruct((64, 3), jnp.float32)
    mean = jax.jit(lambda rows: learners.mean_by_parts(lambda part: part.mean(0), rows, 32))
    loops = {
        platform: "while" in jax.export.export(mean, platforms=[platform])(rows).mlir_module()
        for platform in ("cpu", "cuda", "tpu")
    }
    assert loops == {"cpu": True, "cuda": False, "tpu": False}


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
    x_hat = np.asarray(learner.infer(state.variables, X).x_hat, np.float64)
    _, metrics = jax.jit(learner.step)(state, batch(X), KEY)
    assert metrics["loss"] == pytest.approx(expected(X, x_hat), rel=1e-5)


@pytest.mark.parametrize("variant", ADVERSARIAL)
def test_alocc_gradients_are_those_of_its_two_losses(variant):
    """One shared pass gives what separate differentiation of the published losses gives."""
    nets = Pair(Refiner(SHAPE, filters=(3, 4), up_filters=(3,)), Discriminator(filters=(3, 4)))
    losses = ADVERSARIAL[variant]
    learner = adversarial(
        nets, Pair(optax.sgd(1.0), optax.sgd(1.0)), losses, noise_std=0.0, axis=None
    )
    state = jax.jit(learner.init)(KEY, X[:1])
    new, metrics = jax.jit(learner.step)(state, batch(X), KEY)
    x = 2 * X - 1

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
        return losses.real(run("discriminator", d, refined)) + losses.recon_weight * recon

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


# Optimisers, against NumPy on the loss sum(p^2) / 2 with gradient p.


def descend(cfg, steps=4, lr=0.1, gradient=lambda p: p):
    tx = learners.optimiser(cfg, lr)
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


def test_unknown_names_list_the_known_ones():
    with pytest.raises(UserError, match=r"optimiser 'lion'.*adam, adamw, keras_adam, rmsprop, sgd"):
        learners.optimiser(OptimConfig(name="lion"), 0.1)
    with pytest.raises(UserError, match=r"method 'gan'.*alocc, conv, dense"):
        learners.build(ExperimentConfig(name="x", method="gan"), SHAPE)


def test_rows_that_a_method_cannot_take():
    with pytest.raises(UserError, match="alocc needs images"):
        learners.build(tiny("alocc"), (140, 1))
    with pytest.raises(UserError, match="conv needs rows of shape"):
        learners.build(tiny("conv"), (140,))
    with pytest.raises(UserError, match="no single autoencoder"):
        learners.autoencoder(tiny("alocc"), SHAPE)
