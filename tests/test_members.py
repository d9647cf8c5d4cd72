import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from probes import (
    DEVICES,
    SHAPE,
    assert_close,
    assert_same,
    batch,
    images,
    leaves,
    start,
    stepped,
    tiny,
)

from jaxae import data, rng
from jaxae.devices import members, parallel
from jaxae.methods import learners
from jaxae.training import train

pytestmark = pytest.mark.device

KEY = jax.random.key(7)
ROWS, SIZE = 40, 3  # rows of each member, and members


# The leading axis.


@pytest.mark.parametrize("one_by_one", [True, False])
@pytest.mark.parametrize("size", [1, 3])
def test_each_member_gets_what_it_would_get_alone(size, one_by_one):
    def fun(tree, key, rate):
        noise = jax.random.normal(key, tree["a"].shape)
        return {"sum": (tree["a"] + rate * noise).sum(), "matrix": tree["b"] @ tree["b"].T}, rate

    generator = np.random.default_rng(0)
    tree = {
        "a": jnp.asarray(generator.random((size, 4)), jnp.float32),
        "b": jnp.asarray(generator.random((size, 2, 3)), jnp.float32),
    }
    args = (tree, jax.random.split(KEY, size), jnp.arange(1.0, size + 1))
    found = jax.jit(lambda *args: members.each(fun, *args, one_by_one=one_by_one))(*args)
    loop = [jax.jit(fun)(*members.pick(args, e)) for e in range(size)]
    assert_close(found, members.stack(loop), rtol=1e-6)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_members_go_one_by_one_in_a_loop_or_side_by_side_without(platform):
    rows = jax.ShapeDtypeStruct((SIZE, 4), jnp.float32)

    def loops(one_by_one, size=SIZE):
        fun = jax.jit(lambda rows: members.each(jnp.tanh, rows[:size], one_by_one=one_by_one))
        return "while" in export.export(fun, platforms=[platform])(rows).mlir_module()

    assert loops(True)
    assert not loops(False)
    assert not loops(True, size=1)  # a single one is not mapped at all


@pytest.mark.parametrize("size", [1, 3])
def test_keys_of_members_are_distinct_and_a_single_one_keeps_its_own(size):
    keys = members.keys(KEY, size)
    assert keys.shape == (size,)
    drawn = {jax.random.normal(key).item() for key in keys}
    assert len(drawn) == size
    if size == 1:
        assert jax.random.normal(keys[0]) == jax.random.normal(KEY)
    else:
        for e in range(size):
            assert jax.random.normal(keys[e]) == jax.random.normal(jax.random.fold_in(KEY, e))


def test_more_members_do_not_change_the_keys_of_the_first_ones():
    assert (members.keys(KEY, 5)[:2] == members.keys(KEY, 2)).all()


def test_what_is_stacked_can_be_picked():
    trees = [{"a": jnp.full((2, 3), float(e)), "b": (jnp.int32(e),)} for e in range(4)]
    stacked = members.stack(trees)
    assert members.count(stacked) == 4
    for e, tree in enumerate(trees):
        assert_same(members.pick(stacked, e), tree)


# Ensembles: the same rows, other random numbers. Members with rows of their own are grids.


def epoch(learner, state, x, plan, keys, settings):
    """One epoch on as many devices as the plan is for."""
    devices = DEVICES[: len(plan)]
    state, x, keys, settings = parallel.place((state, x, keys, settings), devices)
    args = (state, x, parallel.split(plan, devices), keys, settings)
    return jax.device_get(parallel.compiled_epoch(learner, devices, *args)(*args))


@pytest.mark.parametrize("method", ["dense", pytest.param("conv", marks=pytest.mark.slow)])
def test_members_of_an_ensemble_are_learners_with_keys_of_their_own(method):
    cfg, x = tiny(method, ensemble=2), images(8)
    single, _ = start(tiny(method))
    apart = train.ensemble(single, cfg, len(x))
    both = learners.build(cfg, SHAPE)
    state = jax.device_get(train.initial_state(both, SHAPE, apart.init))
    new, metrics = epoch(both, state, x, apart.plan(0, 1), apart.noise, apart.settings)
    assert metrics["loss"].shape == (2, 1)  # of each member, in the one step that there is
    order = data.index_plan(cfg.seed, 0, 8, 8, 1)[0, 0]
    init, step = jax.jit(single.init), stepped(single)
    initial_key, noise_key = (rng.stream(0, p) for p in (rng.Purpose.INIT, rng.Purpose.NOISE))
    for e in range(2):
        alone = init(jax.random.fold_in(initial_key, e), x[:1] * 0)
        assert_close(members.pick(state, e), alone, atol=1e-7)
        alone, measured = step(alone, batch(x[order]), jax.random.fold_in(noise_key, e))
        assert_close(members.pick(new, e), alone, atol=1e-5)
        assert metrics["loss"][e, 0] == pytest.approx(float(measured["loss"]), rel=1e-5)
    first, second = (leaves(members.pick(new.params, e)) for e in range(2))
    assert all((first[path] != second[path]).any() for path in first)


def test_members_of_an_ensemble_share_rows_batches_and_settings():
    cfg = tiny(ensemble=3, train__noise_std=0.2)
    apart = train.ensemble(learners.build(cfg, SHAPE), cfg, 20)
    for devices in (1, 2):
        plan = apart.plan(4, devices)
        assert plan.shape == (devices, 3, 8 // devices)
        np.testing.assert_array_equal(plan, data.index_plan(0, 4, 20, 8, devices))
    assert {name: v.tolist() for name, v in apart.settings.items()} == {
        "lr": pytest.approx([cfg.optim.lr] * 3),
        "noise_std": pytest.approx([0.2] * 3),
    }
    assert len(np.unique(jax.random.key_data(apart.init), axis=0)) == 3
    assert len(np.unique(jax.random.key_data(apart.noise), axis=0)) == 3


def test_new_states_are_written_over_the_old_ones():
    """So that members one after another need no second copy of all states."""

    def several(state, amount):
        return jax.lax.scan(lambda w, _: (w * amount, w.sum()), state, None, length=3)

    def advanced(states, amounts):
        return members.advance(several, states, amounts, one_by_one=True)

    states = jnp.arange(8 * 65_536, dtype=jnp.float32).reshape(8, -1) % 7
    amounts = jnp.arange(1.0, 9.0) % 3
    program = jax.jit(advanced, donate_argnums=0).lower(states, amounts).compile()
    assert program.memory_analysis().temp_size_in_bytes < states.nbytes / 2
    expected = members.each(several, states, amounts, one_by_one=True)
    assert_same(program(states, amounts), expected)
