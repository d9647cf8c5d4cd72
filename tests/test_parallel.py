import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from probes import (
    DEVICES,
    FAST_AND_SLOW,
    METHODS,
    ON_DEVICES,
    SHAPE,
    assert_close,
    assert_same,
    batch,
    images,
    initial,
    start,
    stepped,
    tiny,
)

from jaxae import data, rng
from jaxae.devices import members, parallel, tuning
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.methods.adversarial import ADVERSARIAL, Pair, adversarial
from jaxae.methods.networks.alocc import Discriminator, Refiner
from jaxae.types import AXIS, Batch

X = images(160)
STEPS = 20


def first_epoch_args(cfg, count, x=X):
    """A learner, and what its first epoch takes on a number of devices."""
    devices = DEVICES[:count]
    learner = learners.build(cfg, SHAPE)
    state = initial(learner, size=cfg.ensemble)
    plan = data.index_plan(0, 0, len(x), cfg.train.batch_size, count)
    keys = members.keys(rng.stream(0, rng.Purpose.NOISE), cfg.ensemble)
    settings = {name: jnp.full(cfg.ensemble, value) for name, value in learner.settings.items()}
    state, x, keys, settings = parallel.place((state, x, keys, settings), devices)
    return learner, (state, x, parallel.split(plan, devices), keys, settings)


def first_epoch(cfg, count, x=X, options=None):
    """State and metrics after the first epoch on a number of devices."""
    learner, args = first_epoch_args(cfg, count, x)
    lowered = parallel.epoch_fn(learner, DEVICES[:count]).lower(*args)
    return jax.device_get(tuning.compiled(lowered, options or {})(*args))


def losses(method, count):
    """The metrics of the first 20 steps on a number of devices."""
    # Where a gradient is rounding noise, as that of a bias before batch normalisation, Adam makes
    # whole steps of it. Two networks that follow each other then leave one course for another: one
    # unit in the last place of an initial weight moves ALOCC's loss by 3e-4 within these steps, on
    # one device. An epsilon above the noise keeps rounding what it is.
    eps = 1e-3 if method == "alocc" else 1e-7
    return first_epoch(tiny(method, optim__eps=eps, train__batch_size=8), count)


@pytest.mark.parametrize("method", FAST_AND_SLOW)
def test_losses_do_not_depend_on_the_number_of_devices(method):
    (alone, expected), *others = [losses(method, count) for count in (1, 2, 4)]
    assert alone.step.tolist() == [STEPS]
    assert expected["loss"].shape == (1, STEPS)
    for state, metrics in others:
        assert state.step.tolist() == [STEPS]
        for name in expected:
            np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5, err_msg=name)


EIGHT = """
import sys
import jax, numpy as np
jax.config.update("jax_num_cpu_devices", 8)
sys.path.insert(0, "tests")
from test_parallel import losses
(_, expected), *others = [losses(sys.argv[1], count) for count in map(int, sys.argv[2:])]
for _, metrics in others:
    for name in expected:
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5, err_msg=name)
"""


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_eight_devices_follow_the_course_of_one(method):
    done = subprocess.run(
        [sys.executable, "-c", EIGHT, method, "1", "8"],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("count", [2, 4, 8])
def test_the_order_of_rows_does_not_depend_on_the_number_of_devices(count):
    alone = data.index_plan(3, 1, 163, 16, 1)
    shared = data.index_plan(3, 1, 163, 16, count)
    np.testing.assert_array_equal(shared.swapaxes(0, 1).reshape(-1, 16), alone[0])


@pytest.fixture
def shard_map():
    parallel.use("shard_map")
    yield
    parallel.use("pmap")


def test_an_unknown_driver_is_named():
    with pytest.raises(UserError, match="unknown driver 'vmap'; known: pmap, shard_map"):
        parallel.use("vmap")
    assert parallel.driver() == "pmap"


@pytest.mark.parametrize(("method", "count"), ON_DEVICES)
def test_both_drivers_compute_the_same_bits(method, count):
    expected = losses(method, count)
    parallel.use("shard_map")
    try:
        assert_same(losses(method, count), expected)
    finally:
        parallel.use("pmap")


@pytest.mark.usefixtures("shard_map")
def test_the_driver_in_use_is_the_one_that_runs():
    learner, args = first_epoch_args(tiny("dense"), 2)
    assert "shard_map" in str(jax.make_jaxpr(parallel.epoch_fn(learner, DEVICES[:2]))(*args))
    rows = parallel.rows_fn(scaled, DEVICES)
    found = parallel.map_rows(
        rows, parallel.place(jnp.ones(2), DEVICES), parallel.blocks(X, DEVICES, 64), len(X)
    )()
    np.testing.assert_array_equal(found["times"], np.stack([X, X]))


def test_an_epoch_is_its_steps_one_after_another():
    learner, state = start(tiny("dense", optim__eps=1e-7))
    step, key = stepped(learner), rng.stream(0, rng.Purpose.NOISE)
    course = []
    for rows in data.index_plan(0, 0, len(X), 8, 1)[0]:
        state, metrics = step(state, batch(X[rows]), key)
        course.append(metrics["loss"])
    np.testing.assert_allclose(losses("dense", 2)[1]["loss"][0], course, rtol=1e-5)


def small_alocc(axis):
    nets = Pair(
        Refiner(SHAPE, filters=(3, 4), up_filters=(3,), axis=axis),
        Discriminator(filters=(3, 4), axis=axis),
    )
    losses = ADVERSARIAL["default"]
    weight = losses.recon_weight
    settings = {"lr": 0.1, "lr_discriminator": 0.1, "noise_std": 0.1, "recon_weight": weight}
    return adversarial(nets, optax.sgd, losses, settings=settings, axis=axis)


@pytest.mark.parametrize(
    "make",
    [
        lambda axis: learners.build(tiny("dense"), SHAPE, axis),
        pytest.param(small_alocc, marks=pytest.mark.slow),
    ],
    ids=["dense", "alocc"],
)
def test_a_split_batch_has_gradients_and_statistics_of_the_whole_one(make):
    """Whatever maps the axis: here `vmap`, over two halves of a batch."""
    whole, shared = make(None), make(AXIS)
    key, slot = jax.random.key(0), jnp.arange(8, dtype=jnp.int32)
    state = jax.jit(whole.init)(key, X[:1])
    expected = stepped(whole)(state, Batch(jnp.asarray(X[:8]), slot), key)
    halves = Batch(jnp.asarray(X[:8]).reshape(2, 4, *SHAPE), slot.reshape(2, 4))
    shares = jax.jit(jax.vmap(shared.step, (None, 0, None, None), axis_name=AXIS))
    found = shares(state, halves, key, shared.settings)
    for half in range(2):
        one = jax.tree.map(lambda leaf, half=half: leaf[half], found)
        assert_close(one, expected, rtol=1e-4, atol=1e-5)


def test_every_device_holds_the_same_state_and_its_own_share():
    placed = parallel.place({"a": jnp.arange(3.0)}, DEVICES)["a"]
    assert placed.shape == (3,)
    assert {shard.data.shape for shard in placed.addressable_shards} == {(3,)}
    assert {shard.device for shard in placed.addressable_shards} == set(DEVICES)
    shared = parallel.split(np.arange(8).reshape(4, 2), DEVICES)
    assert [shard.data.tolist() for shard in shared.addressable_shards] == [
        [[0, 1]],
        [[2, 3]],
        [[4, 5]],
        [[6, 7]],
    ]


def scaled(variables, x):
    return {"times": variables * x, "sum": x.sum(axis=1)}


@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("size", [1, 3])
def test_map_rows_is_the_function_itself_for_awkward_numbers_of_rows(size, count):
    devices = DEVICES[:count]
    run = parallel.rows_fn(scaled, devices)
    factors = np.arange(2, 2 + size, dtype=np.float32)
    variables = parallel.place(jnp.asarray(factors), devices)
    for n in (1, 127, 129, 1000):
        x = np.random.default_rng(n).random((n, 3), np.float32)
        found = parallel.map_rows(run, variables, parallel.blocks(x, devices, 64), n)()
        np.testing.assert_array_equal(found["times"], factors[:, None, None] * x[None])
        assert found["sum"].shape == (size, n)
        for sums in found["sum"]:
            np.testing.assert_allclose(sums, x.sum(axis=1), rtol=1e-6)


def test_map_rows_of_more_than_one_block():
    """Blocks follow one another within each member."""
    devices = DEVICES[:2]
    x = np.random.default_rng(0).random((5000, 3), np.float32)
    variables = parallel.place(jnp.float32([2, 3]), devices)
    run = parallel.rows_fn(scaled, devices)
    found = parallel.map_rows(run, variables, parallel.blocks(x, devices, 64), len(x))()
    np.testing.assert_array_equal(found["times"], np.stack([2 * x, 3 * x]))


def test_map_rows_of_inference_is_inference():
    learner = learners.build(tiny("dense"), SHAPE)
    run = parallel.rows_fn(learner.infer, DEVICES)
    state = initial(learner, size=2)
    variables = parallel.place(state.variables, DEVICES)
    infer = jax.jit(learner.infer)
    expected = [infer(members.pick(state.variables, e), X) for e in range(2)]
    for n in (1, 127, 129):
        found = parallel.map_rows(run, variables, parallel.blocks(X[:n], DEVICES, 64), n)()
        for e in range(2):
            np.testing.assert_allclose(found.x_hat[e], expected[e].x_hat[:n], atol=1e-6)
            np.testing.assert_allclose(found.z[e], expected[e].z[:n], atol=1e-5)


def test_blocks_are_equal_and_hold_every_row_once():
    devices = DEVICES[:2]
    x = np.arange(5000, dtype=np.float32)[:, None]
    blocks = [np.asarray(block) for block in parallel.blocks(x, devices, 64)]
    assert {block.shape for block in blocks} == {(2, 16, 64, 1)}
    *whole, last = blocks
    np.testing.assert_array_equal(np.concatenate([b.reshape(-1) for b in whole]), x[:4096, 0])
    np.testing.assert_array_equal(last[:, :8].reshape(-1)[: 5000 - 4096], x[4096:, 0])
    assert (last[:, 8:] == 0).all()
    assert (last[1, 7, 8:] == 0).all()


@pytest.mark.parametrize(
    ("n", "side", "steps"),
    [
        (1, 8, 16),
        (129, 8, 16),
        (9000, 8, 16),
        (1, 64, 1),
        (129, 64, 16),
        (1, 256, 1),
        (129, 256, 2),
    ],
)
def test_blocks_of_large_rows_have_no_more_steps_than_they_fill(n, side, steps):
    rows = np.broadcast_to(np.float32(1), (n, side, side, 1))
    block = next(parallel.blocks(rows, DEVICES[:2], 64))
    assert block.shape == (2, steps, 64, side, side, 1)
    assert parallel.is_padded(rows.shape, DEVICES[:2], 64) == (steps == 16)


def test_one_program_serves_any_number_of_rows_of_more_than_one_step():
    """And computes no padding: a row that is not a number would be seen in no other."""
    traces = []

    def counted(variables, x):
        traces.append(x.shape)
        return {"times": variables * x, "sum": x.sum(axis=1)}

    devices = DEVICES[:2]
    run = parallel.rows_fn(counted, devices)
    for n in (129, 700, 2048, 2049, 5000):
        x = np.random.default_rng(n).random((n, 3), np.float32)
        found = parallel.map_rows(run, jnp.float32([2.0]), parallel.blocks(x, devices, 64), n)()
        np.testing.assert_array_equal(found["times"][0], 2 * x)
    assert len(traces) <= 3  # traced for its shapes too
    block = next(parallel.blocks(np.ones((200, 3), np.float32), devices, 64))
    raw = np.asarray(run(jnp.float32([2.0]), block, 2)["sum"])
    assert (raw[:, 0, :2] == 3).all()
    assert (raw[:, 0, 2:] == 0).all()


def test_devices_are_chosen_to_divide_the_batch():
    assert parallel.choose(0, 8) == DEVICES
    assert parallel.choose(0, 6) == DEVICES[:3]
    assert parallel.choose(0, 7) == DEVICES[:1]
    assert parallel.choose(2, 8) == DEVICES[:2]
    assert parallel.choose(0, 8, on_cpu=2) == DEVICES[:2]
    assert parallel.choose(0, 7, on_cpu=2) == DEVICES[:1]


def test_devices_that_do_not_exist_or_do_not_divide_the_batch():
    with pytest.raises(UserError, match=r"devices is 9, but JAX sees 4"):
        parallel.choose(9, 18)
    with pytest.raises(UserError, match=r"train\.batch_size 6 is not divisible by 4 devices"):
        data.index_plan(0, 0, len(X), 6, len(parallel.choose(4, 6)))


def test_a_template_has_the_sharding_of_what_is_placed():
    state = parallel.place({"a": jnp.zeros((2, 3))}, DEVICES[:2])
    template = parallel.placed_like(jax.eval_shape(lambda: {"a": jnp.zeros((2, 3))}), DEVICES[:2])
    assert template["a"].sharding == state["a"].sharding
    assert template["a"].shape == (2, 3)


@pytest.mark.parametrize("size", [1, 2])
def test_one_vector_crosses_devices_in_a_step(size):
    """On a CPU every reduced array is a rendezvous: gradients and metrics must share theirs."""
    for count, reductions in ((2, 1), (1, 0)):
        learner, args = first_epoch_args(tiny("dense", ensemble=size), count)
        text = parallel.epoch_fn(learner, DEVICES[:count]).lower(*args).as_text()
        assert text.count("stablehlo.all_reduce") == reductions


@pytest.mark.slow
def test_a_batch_in_parts_teaches_two_devices_what_it_teaches_one():
    """Of 128 rows one device takes all at once, each of two takes its share in two parts."""
    cfg = tiny("conv", optim__name="sgd", train__batch_size=128)
    alone, shared = (first_epoch(cfg, count, images(256)) for count in (1, 2))
    assert_close(alone, shared, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2])
def test_parameters_updated_in_place_are_those_updated_in_copies(count):
    options = tuning.training_options(tuning.DENSE, "float32", "cpu", count)
    copied = options | {"xla_cpu_copy_insertion_use_region_analysis": False}
    assert copied != options
    cfg = tiny("dense", train__batch_size=8)
    assert_same(*(first_epoch(cfg, count, options=chosen) for chosen in (options, copied)))


@pytest.mark.slow
def test_gpus_are_told_to_repeat_their_bits(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=4")
    parallel.initialize(0, deterministic=True)  # on a CPU it may come late: it changes nothing
    parallel.initialize(0, deterministic=True)
    expected = "--xla_force_host_platform_device_count=4 --xla_gpu_deterministic_ops=true"
    assert os.environ["XLA_FLAGS"] == expected
    parallel.initialize()
    assert os.environ["XLA_FLAGS"] == expected
