import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import DEVICES, FAST_AND_SLOW, SHAPE, assert_same, images, initial, tiny

from jaxae import data, rng
from jaxae.detectors import evaluation
from jaxae.devices import members, parallel, tuning
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.methods.adversarial import ADVERSARIAL
from jaxae.storage import checkpoint
from jaxae.training import train

pytestmark = pytest.mark.device

X = images(32)
DEVICES = DEVICES[:2]


def fit(learner, cfg, x=X, devices=DEVICES, **options):
    return train.fit(learner, x, cfg, devices, quiet=True, **options)


def check_resuming(method, size, folder):
    cfg = tiny(method, train__epochs=4, ensemble=size)
    learner = learners.build(cfg, SHAPE)
    with checkpoint.open_manager(folder, keep=0) as manager:

        def save_second(epoch, state, row):
            if epoch == 2:
                checkpoint.save(manager, epoch, state, {})
            return row

        rows = {"whole": {}, "rest": {}}

        def logged(name):
            def on_epoch(epoch, state, row):
                rows[name][epoch] = row["loss"].tolist()
                return save_second(epoch, state, row) if name == "whole" else row

            return on_epoch

        whole = fit(learner, cfg, on_epoch=logged("whole"))
        manager.wait_until_finished()
        template = train.abstract_state(learner, SHAPE, size)
        half = checkpoint.restore(manager, parallel.placed_like(template, DEVICES))
    assert train.epochs_done(half, 4) == 2
    resumed = fit(learner, cfg, state=half, on_epoch=logged("rest"))
    assert_same(resumed.state, whole.state)
    assert rows["rest"] == {epoch: rows["whole"][epoch] for epoch in (3, 4)}


@pytest.mark.parametrize(
    "x",
    [np.zeros((0, 4), np.float32), np.ones((20, 4), np.int32), np.ones((20, 4)),
     np.ones(20, np.float32), np.ones((20, 0), np.float32)],
    ids=["no rows", "whole numbers", "float64", "one axis", "no values"],
)  # fmt: skip
def test_what_is_no_rows_is_refused_before_anything_is_compiled(x):
    cfg = tiny()
    learner = learners.build(cfg, (4,))
    with pytest.raises(UserError, match=r"^training rows are .*; give float32 \[N, \.\.\.\]"):
        train.fit(learner, x, cfg, DEVICES[:1], quiet=True)


@pytest.mark.parametrize("method", FAST_AND_SLOW)
def test_resumed_training_is_bit_identical_to_uninterrupted_training(method, tmp_path):
    check_resuming(method, 1, tmp_path)


def test_a_resumed_ensemble_is_bit_identical_to_an_uninterrupted_one(tmp_path):
    check_resuming("dense", 2, tmp_path)


def test_nothing_is_done_when_all_epochs_are_behind():
    cfg = tiny(train__epochs=1)
    learner = learners.build(cfg, SHAPE)
    state = fit(learner, cfg).state
    calls = []
    again = fit(learner, cfg, state=state, on_epoch=lambda *args: calls.append(args))
    assert_same(again.state, state)
    assert again.compile_s == 0
    assert calls == []  # nothing was measured either


def test_training_is_a_function_of_the_seed():
    cfg = tiny(train__epochs=1)
    one, same = (fit(learners.build(cfg, SHAPE), cfg).state for _ in range(2))
    other_cfg = dataclasses.replace(cfg, seed=1)
    other = fit(learners.build(other_cfg, SHAPE), other_cfg).state
    assert_same(one, same)
    assert not np.allclose(
        one.params["encoder"]["Dense_0"]["kernel"], other.params["encoder"]["Dense_0"]["kernel"]
    )


def test_one_trace_serves_all_epochs_and_no_transfer_is_implicit():
    cfg = tiny(train__epochs=3)
    inner, traces, seen = learners.build(cfg, SHAPE), [], []

    def step(state, batch, key, settings):
        traces.append(batch.x.shape)
        return inner.step(state, batch, key, settings)

    with contextlib.ExitStack() as guard:

        def on_epoch(epoch, state, row):
            if epoch == 1:  # from here on, what is not copied by name is an error
                guard.enter_context(jax.transfer_guard("disallow"))
            seen.append((epoch, sorted(row)))
            return row

        fit(inner._replace(step=step), cfg, on_epoch=on_epoch)
    assert traces == [(4, *SHAPE)]
    assert seen == [(epoch, ["loss", "steps_per_s"]) for epoch in (1, 2, 3)]


def test_the_order_of_the_rows_does_not_depend_on_the_devices():
    whole = data.index_plan(3, 5, 30, 8, 1)[0]
    for devices in (2, 4):
        plan = data.index_plan(3, 5, 30, 8, devices)
        np.testing.assert_array_equal(plan.swapaxes(0, 1).reshape(whole.shape), whole)


def recorder():
    """A learner that learns nothing and records which rows pass by, as their sum."""
    cfg = tiny()
    inner = learners.build(cfg, (1,))

    def step(state, batch, key, settings):
        del key, settings
        seen = jax.lax.all_gather(batch.x[:, 0], "data").reshape(-1)
        metrics = {"loss": jnp.float32(0), "first": seen[0], "sum": seen.sum()}
        return state.replace(step=state.step + 1), metrics

    return inner._replace(step=step)


@pytest.mark.parametrize("count", [1, 4])
def test_every_row_is_seen_in_every_epoch_in_another_order(count):
    x = np.arange(32, dtype=np.float32)[:, None]
    cfg, rows = tiny(train__epochs=3), []
    fit(
        recorder(),
        cfg,
        x=x,
        devices=parallel.choose(count, 8),
        on_epoch=lambda epoch, state, row: rows.append(row) or row,
    )
    # The mean over four steps.
    assert [row["sum"].tolist() for row in rows] == [[x.sum() / 4]] * 3
    expected = [data.index_plan(0, epoch, 32, 8, 1)[0][:, 0].mean() for epoch in range(3)]
    assert [row["first"].item() for row in rows] == pytest.approx(expected)
    assert len(set(expected)) > 1


def diverging(cfg, at):
    """A learner whose energy is no number in the step in which `at` says so of the state."""
    inner = learners.build(cfg, SHAPE)

    def step(state, batch, key, settings):
        state, metrics = inner.step(state, batch, key, settings)
        energy = jnp.where(at(state, settings), jnp.nan, metrics["loss"])
        return state, metrics | {"energy": energy}

    return inner._replace(step=step)


def test_divergence_names_epoch_step_and_metric():
    cfg = tiny(train__epochs=3)
    learner = diverging(cfg, lambda state, settings: state.step == 7)
    with pytest.raises(FloatingPointError, match=r"^energy is nan in epoch 2, step 3; lower optim"):
        fit(learner, cfg)


def test_divergence_names_the_member():
    cfg = tiny(train__epochs=3, ensemble=3)
    learner = diverging(cfg, lambda state, settings: (state.step == 7) & (settings["lr"] > 0.01))
    apart = train.ensemble(learner, cfg, len(X))
    apart = apart._replace(settings=apart.settings | {"lr": jnp.array([1e-3, 1e-3, 2e-2])})
    with pytest.raises(FloatingPointError, match=r"member 2: energy is nan in epoch 2, step 3;"):
        fit(learner, cfg, members=apart)


def test_metrics_of_an_epoch_are_means_over_its_steps_of_each_member():
    cfg, rows = tiny(train__epochs=1, ensemble=3), []
    inner = learners.build(cfg, SHAPE)

    def step(state, batch, key, settings):
        state, metrics = inner.step(state, batch, key, settings)
        return state, metrics | {"rate": settings["lr"] * state.step}

    learner = inner._replace(step=step)
    apart = train.ensemble(learner, cfg, len(X))
    apart = apart._replace(settings=apart.settings | {"lr": jnp.array([1.0, 2.0, 4.0]) / 1024})
    fit(learner, cfg, members=apart, on_epoch=lambda epoch, state, row: rows.append(row) or row)
    assert {name: value.shape for name, value in rows[0].items()} == {
        "loss": (3,),
        "rate": (3,),
        "steps_per_s": (),
    }
    np.testing.assert_array_equal(rows[0]["rate"] * 1024, [2.5, 5.0, 10.0])
    assert len(set(rows[0]["loss"].tolist())) == 3


def test_extreme_data_are_caught_too():
    cfg = tiny(train__epochs=1, train__noise_std=0.0)
    with pytest.raises(FloatingPointError, match=r"loss is (inf|nan) in epoch 1"):
        fit(learners.build(cfg, SHAPE), cfg, x=X * np.float32(1e30))


def test_a_batch_that_does_not_fit_is_refused_before_anything_is_compiled():
    def never(*args):
        raise AssertionError("traced")

    learner = learners.Learner(never, never, never, never)
    with pytest.raises(UserError, match=r"batch_size 64 exceeds the 32 training rows"):
        fit(learner, tiny(train__batch_size=64))
    with pytest.raises(UserError, match=r"batch_size 7 is not divisible by 2 devices"):
        fit(learner, tiny(train__batch_size=7))


def test_steps_of_an_epoch_cover_the_tail():
    cfg = tiny()
    learner = learners.build(cfg, SHAPE)
    plans = [train.ensemble(learner, cfg, n).plan(0, 2) for n in (8, 9, 16, 17)]
    assert [plan.shape[1] for plan in plans] == [1, 2, 2, 3]
    assert [len(np.unique(plan)) for plan in plans] == [8, 9, 16, 17]


@pytest.mark.parametrize("size", [1, 2])
def test_abstract_state_is_the_state_without_its_values(size):
    learner = learners.build(tiny(), SHAPE)
    state = initial(learner, size=size)
    assert state.step.tolist() == [0] * size
    abstract = train.abstract_state(learner, SHAPE, size)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), state) == jax.tree.map(
        lambda a: (a.shape, a.dtype), abstract
    )
    assert train.epochs_done(state.replace(step=jnp.full(size, 8)), 4) == 2


def test_a_single_member_starts_where_its_learner_starts():
    learner, key = learners.build(tiny(), SHAPE), rng.stream(0, rng.Purpose.INIT)
    state = train.initial_state(learner, SHAPE, members.keys(key, 1))
    alone = jax.jit(learner.init)(key, jnp.zeros((1, *SHAPE)))
    assert_same(members.pick(state, 0), alone)


def test_devices_are_those_asked_for_or_those_that_train_fastest():
    learner = learners.build(tiny("conv"), SHAPE)
    share = tuning.CONV.share
    for batch_size, count in ((share, 1), (2 * share, 2), (4 * share, 4), (64 * share, 4)):
        found = train.devices_for(learner, tiny("conv", train__batch_size=batch_size), SHAPE)
        assert len(found) == count
    asked = train.devices_for(learner, tiny("conv", devices=2), SHAPE)
    assert asked == DEVICES
    with pytest.raises(UserError, match="devices is 9"):
        train.devices_for(learner, tiny("conv", devices=9, train__batch_size=9), SHAPE)


# The validation loss.


def stacked_settings(learner, size):
    """The learner's own settings, for each of several members."""
    return {name: jnp.full(size, value) for name, value in learner.settings.items()}


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("mse", lambda d: d**2),
        ("mae", np.abs),
    ],
)
def test_validation_loss_is_free_of_noise_and_weighs_rows_equally(loss, expected):
    cfg = tiny(train__loss=loss, train__noise_std=5.0)
    learner = learners.build(cfg, SHAPE)
    variables = initial(learner, size=3).variables
    x = X[:13]  # not a multiple of anything: the padding must not count
    found = evaluation.loss_fn(learner, x, DEVICES)(variables, stacked_settings(learner, 3))()
    assert found.shape == (3,)
    assert len(set(found.tolist())) == 3
    for e in range(3):
        x_hat = np.asarray(jax.jit(learner.infer)(members.pick(variables, e), x).x_hat)
        assert found[e] == pytest.approx(expected(x - x_hat).mean(), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["default", "faithful"])
def test_validation_loss_of_an_adversarial_method_is_what_its_refiner_minimises(variant):
    """real(D(R(x))) + weight * recon(x, R(x)), each member with a weight of its own."""
    cfg = tiny("alocc", variant=variant)
    learner, losses = learners.build(cfg, SHAPE), ADVERSARIAL[variant]
    variables, x = initial(learner, size=2).variables, X[:13]
    settings = stacked_settings(learner, 2) | {"recon_weight": jnp.array([0.5, 3.0])}
    assert learner.settings["recon_weight"] == losses.recon_weight
    found = evaluation.loss_fn(learner, x, DEVICES)(variables, settings)()
    assert found.shape == (2,)
    for e, weight in enumerate((0.5, 3.0)):
        out = jax.jit(learner.infer)(members.pick(variables, e), x)
        logits, x_hat = np.asarray(out.extra["d_of_r"]), np.asarray(out.x_hat)
        made, row = 2 * x_hat - 1, 2 * x - 1
        if variant == "default":
            real, recon = np.log1p(np.exp(-logits)), (row - made) ** 2
        else:
            real = np.log1p(np.exp(-1 / (1 + np.exp(-logits))))
            recon = np.log1p(np.exp(made)) - row * made
        assert found[e] == pytest.approx(real.mean() + weight * recon.mean(), rel=1e-5)
    assert found[0] != pytest.approx(found[1], rel=1e-2)
