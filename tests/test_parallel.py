import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from probes import (
    DEVICES,
    FAST_AND_SLOW,
    SHAPE,
    assert_close,
    assert_same,
    batch,
    images,
    start,
    tiny,
)

from jaxae import data, learners, parallel, rng, train
from jaxae.adversarial import ADVERSARIAL, Pair, adversarial
from jaxae.errors import UserError
from jaxae.models.alocc import Discriminator, Refiner
from jaxae.types import AXIS, Batch, mean_over

X = images(160)
STEPS = 20


def first_epoch(cfg, count, x=X, options=None):
    """State and metrics after the first epoch on a number of devices."""
    devices = DEVICES[:count]
    learner = learners.build(cfg, SHAPE)
    state = parallel.place(train.initial_state(learner, SHAPE, 0), devices)
    plan = parallel.split(data.index_plan(0, 0, len(x), cfg.train.batch_size, count), devices)
    key = parallel.place(rng.stream(0, rng.Purpose.NOISE), devices)
    args = (state, parallel.place(x, devices), plan, key)
    run = parallel.compiled(parallel.epoch_fn(learner, devices), options or {}, *args)
    return jax.device_get(run(*args))


def losses(method, count):
    """The metrics of the first 20 steps on a number of devices."""
    # A bias before batch normalisation has a gradient of pure rounding noise, which Adam at its
    # default epsilon, 1e-8, blows up to whole steps; with the ALOCC experiment's it stays noise.
    return first_epoch(tiny(method, optim__eps=1e-7, train__batch_size=8), count)


@pytest.mark.parametrize("method", FAST_AND_SLOW)
def test_losses_do_not_depend_on_the_number_of_devices(method):
    (alone, expected), *others = [losses(method, count) for count in (1, 2, 4)]
    assert int(alone.step) == STEPS
    assert expected["loss"].shape == (STEPS,)
    for state, metrics in others:
        assert int(state.step) == STEPS
        for name in expected:
            np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5, err_msg=name)


def test_an_epoch_is_its_steps_one_after_another():
    learner, state = start(tiny("dense", optim__eps=1e-7))
    step, key = jax.jit(learner.step), rng.stream(0, rng.Purpose.NOISE)
    course = []
    for rows in data.index_plan(0, 0, len(X), 8, 1)[0]:
        state, metrics = step(state, batch(X[rows]), key)
        course.append(metrics["loss"])
    np.testing.assert_allclose(losses("dense", 2)[1]["loss"], course, rtol=1e-5)


def small_alocc(axis):
    nets = Pair(
        Refiner(SHAPE, filters=(3, 4), up_filters=(3,), axis=axis),
        Discriminator(filters=(3, 4), axis=axis),
    )
    tx = Pair(optax.sgd(0.1), optax.sgd(0.1))
    return adversarial(nets, tx, ADVERSARIAL["default"], noise_std=0.1, axis=axis)


@pytest.mark.parametrize(
    "make",
    [
        lambda axis: learners.build(tiny("dense"), SHAPE, axis),
        small_alocc,
    ],
    ids=["dense", "alocc"],
)
def test_a_split_batch_has_gradients_and_statistics_of_the_whole_one(make):
    """Whatever maps the axis: here `vmap`, over two halves of a batch."""
    whole, shared = make(None), make(AXIS)
    key, slot = jax.random.key(0), jnp.arange(8, dtype=jnp.int32)
    state = jax.jit(whole.init)(key, X[:1])
    expected = jax.jit(whole.step)(state, Batch(jnp.asarray(X[:8]), slot), key)
    halves = Batch(jnp.asarray(X[:8]).reshape(2, 4, *SHAPE), slot.reshape(2, 4))
    found = jax.jit(jax.vmap(shared.step, (None, 0, None), axis_name=AXIS))(state, halves, key)
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


def double(variables, x):
    return {"twice": variables * x, "sum": x.sum(axis=1)}


@pytest.mark.parametrize("count", [1, 4])
def test_map_rows_is_the_function_itself_for_awkward_numbers_of_rows(count):
    devices = DEVICES[:count]
    run = parallel.rows_fn(double, devices)
    variables = parallel.place(jnp.float32(2), devices)
    for n in (1, 127, 129, 1000):
        x = np.random.default_rng(n).random((n, 3), np.float32)
        found = parallel.map_rows(run, variables, parallel.blocks(x, devices), n)
        np.testing.assert_array_equal(found["twice"], 2 * x)
        np.testing.assert_allclose(found["sum"], x.sum(axis=1), rtol=1e-6)


def test_map_rows_of_inference_is_inference():
    learner, state = start(tiny("dense"))
    run = parallel.rows_fn(learner.infer, DEVICES)
    variables = parallel.place(state.variables, DEVICES)
    expected = jax.jit(learner.infer)(state.variables, X)
    for n in (1, 127, 129):
        found = parallel.map_rows(run, variables, parallel.blocks(X[:n], DEVICES), n)
        np.testing.assert_allclose(found.x_hat, expected.x_hat[:n], atol=1e-6)
        np.testing.assert_allclose(found.z, expected.z[:n], atol=1e-5)


def test_blocks_are_equal_and_hold_every_row_once():
    devices = DEVICES[:2]
    x = np.arange(5000, dtype=np.float32)[:, None]
    blocks = [np.asarray(block) for block in parallel.blocks(x, devices)]
    assert {block.shape for block in blocks} == {(2, 16, 64, 1)}
    flat = np.concatenate([block.reshape(-1) for block in blocks])
    np.testing.assert_array_equal(flat[:5000], x[:, 0])
    assert (flat[5000:] == 0).all()


@pytest.mark.parametrize(
    ("n", "count", "chunk"), [(1, 1, 1), (9, 2, 8), (64, 4, 16), (5000, 1, 64)]
)
def test_tight_chunks_waste_less_than_half(n, count, chunk):
    assert parallel.tight_chunk(n, DEVICES[:count]) == chunk


def test_one_compilation_serves_any_number_of_rows_of_many_blocks():
    traces = []

    def counted(variables, x):
        traces.append(x.shape)
        return x * variables

    run = parallel.rows_fn(counted, DEVICES)
    for n in (5000, 9000):
        x = np.ones((n, 2), np.float32)
        parallel.map_rows(run, jnp.float32(1), parallel.blocks(x, DEVICES), n)
    assert len(traces) == 1


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
        parallel.choose(4, 6)


def test_a_template_has_the_sharding_of_what_is_placed():
    state = parallel.place({"a": jnp.zeros((2, 3))}, DEVICES[:2])
    template = parallel.placed_like(jax.eval_shape(lambda: {"a": jnp.zeros((2, 3))}), DEVICES[:2])
    assert template["a"].sharding == state["a"].sharding
    assert template["a"].shape == (2, 3)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_mean_over_devices_is_numpys_leaf_by_leaf(count):
    """All leaves travel in one vector: each must come back in its place, shape and dtype."""
    rng = np.random.default_rng(0)
    tree = {
        "kernel": rng.normal(size=(count, 3, 3, 2, 5)).astype(np.float32),
        "scalar": rng.normal(size=count).astype(np.float32),
        "empty": np.zeros((count, 0), np.float32),
        "half": rng.normal(size=(count, 7)).astype(jnp.bfloat16),
    }
    found = jax.pmap(lambda t: mean_over(t, AXIS), AXIS, devices=DEVICES[:count])(tree)
    for name, leaf in tree.items():
        assert found[name].dtype == leaf.dtype
        expected = np.broadcast_to(np.float32(leaf).mean(axis=0), leaf.shape)
        tolerance = 1e-2 if name == "half" else 1e-6
        np.testing.assert_allclose(np.float32(found[name]), expected, tolerance, tolerance)


def test_one_vector_crosses_devices_in_a_step():
    """On a CPU every reduced array is a rendezvous: gradients and metrics must share theirs."""
    learner = learners.build(tiny("dense"), SHAPE)
    state = parallel.place(train.initial_state(learner, SHAPE, 0), DEVICES[:2])
    plan = parallel.split(data.index_plan(0, 0, len(X), 8, 2), DEVICES[:2])
    key = parallel.place(rng.stream(0, rng.Purpose.NOISE), DEVICES[:2])
    rows = parallel.place(X, DEVICES[:2])
    text = parallel.epoch_fn(learner, DEVICES[:2]).lower(state, rows, plan, key).as_text()
    assert text.count("stablehlo.all_reduce") == 1
    alone = [parallel.place(leaf, DEVICES[:1]) for leaf in (state, X)]
    plan = parallel.split(data.index_plan(0, 0, len(X), 8, 1), DEVICES[:1])
    key = parallel.place(rng.stream(0, rng.Purpose.NOISE), DEVICES[:1])
    text = parallel.epoch_fn(learner, DEVICES[:1]).lower(*alone, plan, key).as_text()
    assert "stablehlo.all_reduce" not in text


def test_a_batch_in_parts_teaches_two_devices_what_it_teaches_one():
    """Of 128 rows one device takes all at once, each of two takes its share in two parts."""
    cfg = tiny("conv", optim__name="sgd", train__batch_size=128)
    alone, shared = (first_epoch(cfg, count, images(256)) for count in (1, 2))
    assert_close(alone, shared, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", ["dense", "conv"])
@pytest.mark.parametrize("count", [1, 2])
def test_xla_knows_every_option_that_it_is_given(method, count):
    """`compiled` does without options that it cannot have, so nothing else would notice."""
    options = parallel.compiler_options(method, DEVICES[:count])
    assert options
    mapped = jax.pmap(lambda x: x + 1, devices=DEVICES[:count])
    mapped.lower(np.zeros((count, 2))).compile(compiler_options=options)


@pytest.mark.parametrize("count", [1, 2])
def test_parameters_updated_in_place_are_those_updated_in_copies(count):
    options = parallel.compiler_options("dense", DEVICES[:count])
    copied = options | {"xla_cpu_copy_insertion_use_region_analysis": False}
    cfg = tiny("dense", train__batch_size=8)
    assert_same(*(first_epoch(cfg, count, options=chosen) for chosen in (options, copied)))


def test_a_program_compiles_without_options_that_xla_does_not_know():
    mapped, x = jax.pmap(lambda x: x + 1, devices=DEVICES[:1]), np.zeros((1, 2))
    run = parallel.compiled(mapped, {"xla_cpu_no_such_option": True}, x)
    np.testing.assert_array_equal(run(x), x + 1)


@pytest.mark.parametrize(
    ("method", "batch_size", "parameters", "devices"),
    [("conv", 32, 10**4, 2), ("dense", 32, 10**5, 1), ("dense", 512, 10**5, 2),
     ("dense", 512, 2 * 10**6, 1), ("dense", 2048, 2 * 10**6, 2)],
)  # fmt: skip
def test_a_batch_is_split_where_that_is_faster(method, batch_size, parameters, devices):
    assert parallel.cpu_devices(method, batch_size, parameters) == devices
