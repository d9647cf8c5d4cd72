import contextlib
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import DEVICES, FAST_AND_SLOW, SHAPE, assert_same, images, tiny

from jaxae import checkpoint, data, learners, parallel, train
from jaxae.errors import UserError

X = images(32)
DEVICES = DEVICES[:2]


def fit(learner, cfg, x=X, devices=DEVICES, **options):
    return train.fit(learner, x, cfg.train, cfg.seed, devices, quiet=True, **options)


@pytest.mark.parametrize("method", FAST_AND_SLOW)
def test_resumed_training_is_bit_identical_to_uninterrupted_training(method, tmp_path):
    cfg = tiny(method, train__epochs=4)
    learner = learners.build(cfg, SHAPE)
    with checkpoint.open_manager(tmp_path, keep=0) as manager:

        def save_second(epoch, state, row):
            if epoch == 2:
                checkpoint.save(manager, epoch, state, cfg)
            return row

        rows = {"whole": {}, "rest": {}}

        def logged(name):
            def on_epoch(epoch, state, row):
                rows[name][epoch] = row["loss"]
                return save_second(epoch, state, row) if name == "whole" else row

            return on_epoch

        whole = fit(learner, cfg, on_epoch=logged("whole"))
        manager.wait_until_finished()
        template = train.abstract_state(learner, SHAPE, cfg.seed)
        half = checkpoint.restore(manager, parallel.placed_like(template, DEVICES))
    assert train.epochs_done(half, 4) == 2
    resumed = fit(learner, cfg, state=half, on_epoch=logged("rest"))
    assert_same(resumed.state, whole.state)
    assert rows["rest"] == {epoch: rows["whole"][epoch] for epoch in (3, 4)}


def test_nothing_is_done_when_all_epochs_are_behind():
    cfg = tiny(train__epochs=1)
    learner = learners.build(cfg, SHAPE)
    state = fit(learner, cfg).state
    again = fit(learner, cfg, state=state)
    assert again.state is state
    assert again.compile_s == 0
    assert np.isnan(again.steps_per_s)


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

    def step(state, batch, key):
        traces.append(batch.x.shape)
        return inner.step(state, batch, key)

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

    def step(state, batch, key):
        del key
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
    assert [row["sum"] for row in rows] == [x.sum() / 4] * 3  # the mean over four steps
    expected = [data.index_plan(0, epoch, 32, 8, 1)[0][:, 0].mean() for epoch in range(3)]
    assert [row["first"] for row in rows] == pytest.approx(expected)
    assert len(set(expected)) > 1


def test_divergence_names_epoch_step_and_metric():
    cfg = tiny(train__epochs=3)
    inner = learners.build(cfg, SHAPE)

    def step(state, batch, key):
        state, metrics = inner.step(state, batch, key)
        return state, metrics | {"energy": jnp.where(state.step == 7, jnp.nan, metrics["loss"])}

    with pytest.raises(FloatingPointError, match=r"energy is nan in epoch 2, step 3; lower optim"):
        fit(inner._replace(step=step), cfg)


def test_extreme_data_are_caught_too():
    cfg = tiny(train__epochs=1, train__noise_std=0.0)
    with pytest.raises(FloatingPointError, match=r"loss is (inf|nan) in epoch 1"):
        fit(learners.build(cfg, SHAPE), cfg, x=X * np.float32(1e30))


def test_a_batch_that_does_not_fit_is_refused_before_anything_is_compiled():
    def never(*args):
        raise AssertionError("traced")

    learner = learners.Learner(never, never, never)
    with pytest.raises(UserError, match=r"batch_size 64 exceeds the 32 training rows"):
        fit(learner, tiny(train__batch_size=64))
    with pytest.raises(UserError, match=r"batch_size 7 is not divisible by the 2 devices"):
        fit(learner, tiny(train__batch_size=7))


def test_steps_of_an_epoch_cover_the_tail():
    assert [train.steps_per_epoch(n, 8) for n in (8, 9, 16, 17)] == [1, 2, 2, 3]


def test_abstract_state_is_the_state_without_its_values():
    learner = learners.build(tiny(ensemble=2), SHAPE)
    state = train.initial_state(learner, SHAPE, 0)
    abstract = train.abstract_state(learner, SHAPE, 0)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), state) == jax.tree.map(
        lambda a: (a.shape, a.dtype), abstract
    )
    assert train.epochs_done(state.replace(step=jnp.array([8, 8])), 4) == 2


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
    state = train.initial_state(learner, SHAPE, 0)
    x = X[:13]  # not a multiple of anything: the padding must not count
    x_hat = np.asarray(jax.jit(learner.infer)(state.variables, x).x_hat)
    measure = train.valid_loss_fn(learner, x, loss, DEVICES)
    assert measure(state.variables) == pytest.approx(expected(x - x_hat).mean(), rel=1e-5)
