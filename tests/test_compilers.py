"""XLA's own compilers make the programs of GPUs and TPUs on any machine: read, and never run.

Needs the `compilers` extra; skipped, loudly, without it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import METHODS, SHAPE, tiny

from benchmarks import accelerators, cost_model
from jaxae import scoring
from jaxae.devices import memory, parallel, tuning
from jaxae.devices.parallel import programs
from jaxae.methods import learners
from jaxae.training import train
from jaxae.types import Inferred

HOSTS = {"H100": 2, "TPU v5e": 4}


@pytest.fixture(scope="module", params=accelerators.KINDS)
def devices(request):
    """Sixteen devices of several hosts."""
    try:
        found = accelerators.devices(request.param, 16, HOSTS[request.param])
    except RuntimeError as error:
        pytest.skip(str(error))
    assert len({device.process_index for device in found}) == HOSTS[request.param]
    return found


@pytest.fixture(params=parallel.DRIVERS)
def driver(request):
    before = parallel.driver()
    parallel.use(request.param)
    yield request.param
    parallel.use(before)


@pytest.mark.slow
@pytest.mark.parametrize("own_rows", [False, True], ids=["resident", "streaming"])
@pytest.mark.parametrize("method", METHODS)
def test_an_epoch_of_many_hosts_is_compiled(method, own_rows, devices, driver):
    cfg = tiny(method, train__batch_size=32)
    program = accelerators.epoch(cfg, SHAPE, devices, own_rows=own_rows).compile()
    body = accelerators.body(program.as_text())
    learner = learners.build(cfg, SHAPE)
    count = sum(
        leaf.size for leaf in jax.tree.leaves(train.abstract_state(learner, SHAPE, 1).params)
    )
    assert body.kernels > 5
    assert body.reduced >= 4 * (count + 1), "gradients and the loss"
    if method != "alocc":  # whose batch normalisation has statistics of the whole batch
        assert body.collectives == 1
        assert body.reduced == 4 * (count + 1)
    assert memory.of_program(program) > 3 * 4 * count, "parameters and moments, on each device"


@pytest.mark.slow
def test_members_go_side_by_side_in_one_program(devices):
    bodies = [
        accelerators.body(
            accelerators.epoch(tiny("dense", ensemble=n, train__batch_size=32), SHAPE, devices)
            .compile()
            .as_text()
        )
        for n in (1, 8)
    ]
    assert bodies[1].kernels < 2 * bodies[0].kernels
    assert bodies[1].reduced == 8 * bodies[0].reduced


def compiled_grid(cfg, device, size=50, steps=6):
    """The epoch of so many members of a grid, as XLA compiles it for one device."""
    learner = learners.build(cfg, SHAPE, axis=None)
    epoch = programs.device_epoch(learner, device.platform, has_axis=False)
    sharding = jax.sharding.SingleDeviceSharding(device)

    def of(shape, dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    state, keys = (
        train.abstract_state(learner, SHAPE, size),
        jax.eval_shape(lambda: jax.random.split(jax.random.key(0), size)),
    )
    state, keys = jax.tree.map(lambda a: of(a.shape, a.dtype), (state, keys))
    settings = {name: of((size,), jnp.float32) for name in learner.settings}
    rows, plan = of((64, *SHAPE), jnp.float32), of((size, steps, 8), jnp.int32)
    lowered = jax.jit(epoch).lower(state, rows, plan, keys, settings, of((size,), jnp.int32))
    return tuning.compiled(lowered, {}).as_text()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dense", "conv"])
def test_a_grid_is_compiled(method, devices):
    """For a GPU as a loop of known length, without a convolution."""
    text = compiled_grid(tiny(method), devices[0])
    if devices[0].platform != "tpu":  # whose compiler writes products as convolutions
        assert 'known_trip_count":{"n":"6"}' in text
        assert not [word for word in ("convolution(", "_group_count", "cudnn$conv") if word in text]


@pytest.mark.slow
def test_xla_knows_what_captures_an_epoch_in_one_graph(devices):
    """`tuning.compiled` does without what it cannot have, so nothing else would notice."""
    if devices[0].platform == "tpu":
        pytest.skip("a TPU has no CUDA graphs")
    lowered = accelerators.epoch(tiny("conv", train__batch_size=32), SHAPE, devices[:1])
    options = tuning.training_options(tuning.CONV._replace(graphs=True), "float32", "gpu", 1)
    assert len(options) == 2
    assert lowered.compile(compiler_options=options)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_scorer_is_compiled(method, devices):
    learner = learners.build(tiny(method), SHAPE)
    mesh = jax.sharding.SingleDeviceSharding(devices[0])

    def of(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=mesh)

    state = train.abstract_state(learner, SHAPE, 1)
    variables = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape[1:], a.dtype), state.variables)

    def judge(variables, x):
        found = Inferred(x, learner.infer(variables, x))
        return jax.vmap(scoring.SCORES["mse"].apply, in_axes=(None, 0))({}, found)

    x = of(jax.ShapeDtypeStruct((64, *SHAPE), jnp.float32))
    program = jax.jit(judge).lower(jax.tree.map(of, variables), x).compile()
    assert "f32[64]" in program.as_text()


@pytest.mark.slow
def test_a_prediction_counts_what_is_compiled(devices):
    kind = {"gpu": "H100", "tpu": "TPU v5e"}[devices[0].platform]
    target = next(target for target in cost_model.TARGETS if target.kind == kind)
    step = cost_model.step_of("fmnist_dense", target, target.count, 32 * target.count)
    products = 3 * 2 * 2 * 32 * 784 * 64 - 2 * 32 * 784 * 64  # no gradient of the rows is needed
    assert products < step.flops < 1.3 * products
    assert step.body.collectives == 1
    assert np.isfinite(cost_model.seconds(step, target, target.count))
