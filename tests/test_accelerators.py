"""Programs as they are lowered for GPUs and TPUs, and what runs beside them; no accelerator needed.

What is read here holds wherever the program runs: XLA has no batched convolution to make of a
grouped one, asks the host where the length of a loop depends on data, and waits where a program
calls back.
"""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec
from probes import DEVICES, SHAPE, images, tiny

from benchmarks.cases import CASES, config
from jaxae import ops
from jaxae.detectors import evaluation
from jaxae.devices import members, parallel, tuning
from jaxae.devices.parallel import drivers, programs
from jaxae.methods import learners
from jaxae.training import grid, train
from jaxae.types import AXIS

PLATFORMS = ("cuda", "tpu")
ROWS, STEPS = 256, 6


def playing(platform):
    """A device that is asked for its platform and for nothing else."""
    return Mock(spec=jax.Device, platform=platform)


def numbers(learner, size):
    """Shapes of the keys and settings of members."""
    keys = jax.eval_shape(lambda: members.keys(jax.random.key(0), size))
    rate = jax.ShapeDtypeStruct((size,), jnp.float32)
    return keys, dict.fromkeys(learner.settings, rate)


def of_a_run(cfg, shape, platform, monkeypatch):
    """The epoch of a run on one device, of its ensemble."""
    mesh = AbstractMesh((1, 1), ("groups", AXIS))
    monkeypatch.setattr(drivers, "Mesh", lambda devices, names: mesh)
    monkeypatch.setitem(drivers._using, "driver", "shard_map")
    learner = learners.build(cfg, shape)

    def of(leaf, *spec):
        sharding = NamedSharding(mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    plan = jax.ShapeDtypeStruct((1, STEPS, cfg.train.batch_size), jnp.int32)
    state = train.abstract_state(learner, shape, cfg.ensemble)
    rows = jax.ShapeDtypeStruct((ROWS, *shape), jnp.float32)
    whole = jax.tree.map(of, (state, rows, *numbers(learner, cfg.ensemble)))
    program = parallel.epoch_fn(learner, [playing(platform)])
    traced = program.trace(*whole[:2], of(plan, AXIS), *whole[2:])
    return traced.lower(lowering_platforms=(platform,)).as_text()


def of_a_grid(cfg, shape, platform, size):
    """The epoch, and the validation losses, of so many members side by side."""
    learner = learners.build(cfg, shape, axis=None)
    epoch = programs.device_epoch(learner, platform, has_axis=False)
    losses = grid.losses_fn(learner, platform)
    state = train.abstract_state(learner, shape, size)
    rows = jax.ShapeDtypeStruct((ROWS, *shape), jnp.float32)
    plan = jax.ShapeDtypeStruct((size, STEPS, cfg.train.batch_size), jnp.int32)
    counts = jax.ShapeDtypeStruct((size,), jnp.int32)
    valid = jax.ShapeDtypeStruct((size, 2, 16), jnp.int32)
    keys, settings = numbers(learner, size)
    of = export.export(jax.jit(epoch), platforms=[platform])
    text = of(state, rows, plan, keys, settings, counts).mlir_module()
    of = export.export(jax.jit(losses), platforms=[platform])
    return text, of(state.variables, rows, valid, settings).mlir_module()


def loops(text):
    """The conditions of all loops, as text."""
    return re.findall(r"stablehlo\.while.*?\bcond \{(.*?)\} do \{", text, re.DOTALL)


def convolutions(text):
    return [line for line in text.splitlines() if "stablehlo.convolution" in line]


def is_dilated_kernel_gradient(line):
    """Its result is a kernel, [0, 1, i, o] with the batch contracted, and its input is dilated."""
    dilated = re.search(r"lhs_dilate = \[(\d+), (\d+)\]", line)
    result = re.search(r"->\[([^\]]*)\]", line)[1].replace(" ", "").split(",")
    return result[:2] == ["0", "1"] and dilated is not None and dilated.groups() != ("1", "1")


def assert_runs_alone(text):
    """It asks the host for nothing, and makes no convolution that an accelerator is slow at."""
    for line in convolutions(text):
        assert "feature_group_count = 1 :" in line
        assert "batch_group_count = 1 :" in line
        assert not is_dilated_kernel_gradient(line), line
    assert loops(text)
    for condition in loops(text):
        # One comparison of the counter with a constant: the number of turns is known.
        assert condition.count("stablehlo.") - condition.count("stablehlo.constant") == 2, condition
        assert re.search(r"stablehlo\.compare\s+LT, %iterArg\S*, %c", condition), condition
    asks = ("callback", "infeed", "outfeed", "stablehlo.send", "stablehlo.recv")
    assert not [word for word in asks if word in text]


def test_what_is_looked_for_is_found_where_it_is():
    """Else the tests below would pass whatever the programs hold."""
    x = jax.ShapeDtypeStruct((3, 2, 8, 8, 4), jnp.float32)
    maps = jax.ShapeDtypeStruct((3, 4, 8, 8, 2), jnp.float32)
    k = jax.ShapeDtypeStruct((3, 3, 3, 4, 5), jnp.float32)

    def text(fun, *args):
        return export.export(jax.jit(fun), platforms=["cuda"])(*args).mlir_module()

    with ops.using("native"):
        grouped = text(jax.vmap(ops.conv), maps, k)
    assert "feature_group_count = 3" in grouped

    def plain(k, x):
        y = jax.lax.conv_transpose(x, k, (2, 2), "SAME")
        return jnp.sum(jnp.square(y))

    gradient = text(jax.grad(plain), shape_of_one(k), shape_of_one(x))
    assert any(map(is_dilated_kernel_gradient, convolutions(gradient)))
    counted = text(lambda n: jax.lax.fori_loop(0, n, lambda i, a: a + i, 0), np.int32(3))
    with pytest.raises(AssertionError):
        assert_runs_alone(counted)

    def calls_back(x):
        return jax.lax.scan(lambda c, _: (jax.pure_callback(np.sin, c, c), None), x, None, 4)[0]

    called = jax.jit(calls_back).lower(np.float32(1)).as_text()
    with pytest.raises(AssertionError):
        assert_runs_alone(called)


def shape_of_one(shape):
    return jax.ShapeDtypeStruct(shape.shape[1:], shape.dtype)


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("model", CASES)
def test_an_epoch_of_a_published_model_runs_alone(model, platform, monkeypatch):
    text = of_a_run(config(model), CASES[model].shape, platform, monkeypatch)
    assert_runs_alone(text)
    assert bool(convolutions(text)) == (not CASES[model].dense), "one member: XLA's own form"


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("model", ["fmnist_dense", "mnist_conv", "mnist_conv_latent"])
def test_fifty_members_of_a_grid_run_alone(model, platform):
    for text in of_a_grid(config(model), CASES[model].shape, platform, 50):
        assert_runs_alone(text)
        assert not convolutions(text), "they are batched products"


@pytest.mark.slow
@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize(
    "model", ["fmnist_denoise", "ecg_dense", "fmnist_one_class", "mnist_alocc"]
)
def test_fifty_members_of_any_grid_run_alone(model, platform):
    test_fifty_members_of_a_grid_run_alone(model, platform)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_an_ensemble_of_shared_rows_runs_alone(platform, monkeypatch):
    """Where only one operand of a convolution is a member's own, XLA widens it without groups."""
    text = of_a_run(tiny("conv", ensemble=5, train__noise_std=0.0), SHAPE, platform, monkeypatch)
    assert_runs_alone(text)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["dense", "conv"])
def test_members_side_by_side_learn_what_they_learn_one_by_one(method):
    """The loop of one length, with the matrix form, against each member's own loop."""
    cfg = tiny(method)
    learner = learners.build(cfg, SHAPE, axis=None)
    x, generator = jnp.asarray(images(64)), np.random.default_rng(0)
    plan = jnp.asarray(generator.integers(0, 64, (3, 5, 8)), jnp.int32)
    counts = jnp.array([5, 3, 0], jnp.int32)
    keys = members.keys(jax.random.key(0), 3)
    settings = {name: jnp.full(3, float(v)) for name, v in learner.settings.items()}
    state = train.initial_state(learner, SHAPE, keys)
    found = {}
    for platform in ("cpu", "gpu"):
        epoch = programs.device_epoch(learner, platform, has_axis=False)
        found[platform] = jax.jit(epoch)(state, x, plan, keys, settings, counts)
    (one_by_one, told), (side_by_side, also) = found["cpu"], found["gpu"]
    assert side_by_side.step.tolist() == counts.tolist()
    for a, b in zip(jax.tree.leaves(one_by_one), jax.tree.leaves(side_by_side), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    for member, count in enumerate(counts.tolist()):
        np.testing.assert_allclose(
            told["loss"][member, :count], also["loss"][member, :count], rtol=1e-5
        )
    for a, b in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(side_by_side.params), strict=True
    ):
        np.testing.assert_array_equal(a[2], b[2])  # no step of its own: nothing has moved


@pytest.mark.parametrize("mapped", [(0, None), (None, 0), (0, 0)])
@pytest.mark.parametrize(
    "fun", [ops.conv, functools.partial(ops.conv_transpose, output_size=(12, 12))]
)
def test_a_mapped_convolution_is_the_same_with_any_operand_mapped_twice_too(fun, mapped):
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.normal(size=(2, 3, 4, 6, 6, 2)), jnp.float32)
    k = jnp.asarray(generator.normal(size=(2, 3, 3, 3, 4, 4)), jnp.float32)
    a, b = (v if axis == 0 else v[0] for v, axis in zip((x, k), mapped, strict=True))

    def mapped_twice(x, k):
        return jax.vmap(jax.vmap(lambda x, k: fun(x, k, (2, 2))), in_axes=mapped)(x, k)

    def unlike_a_cpu(a, b):
        """The branch that an accelerator takes, computed here."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                jax.lax, "platform_dependent", lambda *args, default, **others: default(*args)
            )
            return mapped_twice(a, b)

    with ops.using("matrix"):
        expected = np.asarray(mapped_twice(a, b))
    np.testing.assert_allclose(unlike_a_cpu(a, b), expected, rtol=1e-4, atol=1e-4)


# Steps that are unrolled, and what XLA is told.


@pytest.mark.slow
def test_unrolled_steps_are_the_same_steps():
    cfg = tiny("dense", train__epochs=1, train__batch_size=8)
    learner, x = learners.build(cfg, SHAPE), images(56)  # seven steps: four do not divide them
    found = []
    for unroll in (1, 4):
        tuned = learner._replace(tuning=learner.tuning._replace(unroll=unroll))
        found.append(train.fit(tuned, x, cfg, DEVICES[:1], quiet=True).state)
    for a, b in zip(*(jax.tree.leaves(state.params) for state in found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("platform", "told"), [("gpu", True), ("cuda", True), ("tpu", False)])
def test_graphs_are_asked_for_where_there_are_any(platform, told):
    on = tuning.CONV._replace(graphs=True)
    for options in (
        tuning.training_options(on, "float32", platform, 1),
        tuning.scoring_options(on, "float32", platform),
    ):
        assert ("xla_gpu_enable_command_buffer" in options) == told
        assert all(name.startswith("xla_gpu_") for name in options)
    assert not any("gpu" in name for name in tuning.training_options(on, "float32", "cpu", 1))
    assert tuning.unrolled(on, platform) == (4 if told else 1)
    assert tuning.unrolled(on._replace(unroll=2), platform) == 2
    assert tuning.unrolled(on, "cpu") == tuning.unrolled(tuning.DENSE, platform) == 1


def test_graphs_are_not_asked_of_a_gpu_on_which_nobody_has_measured_them(monkeypatch):
    monkeypatch.setattr(tuning, "_is_amd", lambda: True)
    assert not tuning.training_options(tuning.CONV, "float32", "gpu", 1)
    assert tuning.unrolled(tuning.CONV, "gpu") == 1


class Refusing:
    """A lowered program whose compiler knows some values of an option only."""

    def __init__(self, *known):
        self.known, self.asked = known, []

    def compile(self, compiler_options):
        self.asked.append(dict(compiler_options))
        for value in compiler_options.get("xla_gpu_enable_command_buffer", "").split(","):
            if value and value not in self.known:
                raise jax.errors.JaxRuntimeError(
                    "INVALID_ARGUMENT: While setting option xla_gpu_enable_command_buffer, "
                    f"'{value}' is not a valid enum value."
                )
        return print


@pytest.mark.parametrize("known", [("FUSION", "WHILE"), ("FUSION",), ()])
def test_a_value_that_xla_does_not_know_is_dropped_alone(known):
    program = Refusing(*known)
    options = {"xla_gpu_enable_command_buffer": "FUSION,NEW,WHILE,NEWER", "xla_gpu_other": 1}
    assert tuning.compiled(program, options) is print
    kept = {"xla_gpu_enable_command_buffer": ",".join(known)} if known else {}
    assert program.asked[-1] == kept | {"xla_gpu_other": 1}


def test_products_that_triton_has_no_tiles_for_are_left_to_another_library():
    asked = []

    class Untiled:
        def compile(self, compiler_options):
            asked.append(compiler_options)
            if "xla_gpu_enable_triton_gemm" not in compiler_options:
                raise jax.errors.JaxRuntimeError(
                    "INTERNAL: Couldn't find output tile sizes that satisfy hlo: %dot"
                )
            return print

    assert tuning.compiled(Untiled(), {"a": 1}) is print
    assert asked == [{"a": 1}, {"a": 1, "xla_gpu_enable_triton_gemm": False}]

    class Hopeless:
        def compile(self, compiler_options):
            raise jax.errors.JaxRuntimeError("INTERNAL: Couldn't find output tile sizes")

    with pytest.raises(jax.errors.JaxRuntimeError, match="tile sizes"):
        tuning.compiled(Hopeless(), {})


# What is compiled for an accelerator, and what for the CPU beside it.

COUNTED = {"digits_conv": (57, 28), "one_vs_rest": (112, 56)}


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("name", COUNTED)
def test_few_programs_are_compiled_for_an_accelerator(name):
    """At most half of what was compiled when everything ran on it."""
    before, most = COUNTED[name]
    assert most == before // 2
    script = Path(__file__).with_name("beside_an_accelerator.py")
    done = subprocess.run(
        [sys.executable, str(script), name],
        capture_output=True, text=True, check=True, timeout=600,
        env=os.environ | {"JAX_PLATFORMS": "cpu"}, cwd=Path(__file__).parents[1],
    )  # fmt: skip
    counts = json.loads(done.stdout.splitlines()[-1])
    assert 3 <= counts["accelerator"] <= most, counts
    assert counts["cpu"] >= 5, counts


def test_blocks_of_rows_have_few_lengths_on_an_accelerator(monkeypatch):
    monkeypatch.setattr(parallel.programs, "split_by", lambda read, shape, devices: shape)
    device = [playing("gpu")]
    steps = {next(parallel.blocks(np.zeros((n, 2)), device, 8))[1] for n in range(1, 400)}
    assert steps == {1, 2, 4, 8, 16}
    for n in (1, 9, 17, 65, 300):
        found = list(parallel.blocks(np.zeros((n, 2), np.float32), device, 8))
        assert sum(shape[1] * shape[2] for shape in found) >= n


def test_a_brief_program_runs_beside_an_accelerator(monkeypatch):
    """Of two CPU devices the first plays an accelerator."""
    local = jax.local_devices
    with parallel.on_host():
        assert jnp.zeros(1).devices() == {jax.local_devices()[0]}, "a CPU alone is left as it is"
    fake = playing("gpu")
    monkeypatch.setattr(
        jax, "local_devices", lambda backend=None: [DEVICES[1]] if backend == "cpu" else [fake]
    )
    with parallel.on_host():
        assert jnp.zeros(1).devices() == {DEVICES[1]}

    def none_here(backend=None):
        if backend == "cpu":
            raise RuntimeError("Unknown backend cpu")
        return [fake]

    monkeypatch.setattr(jax, "local_devices", none_here)
    with parallel.on_host():
        assert jnp.zeros(1).devices() == {local()[0]}


def test_rules_of_many_members_are_compiled_once(monkeypatch):
    from jaxae import scoring

    scoring.rules._fitting.cache_clear()
    compiled = []
    jit = jax.jit
    monkeypatch.setattr(jax, "jit", lambda fun: compiled.append(fun) or jit(fun))
    scores = np.random.default_rng(0).random((10, 50), np.float32)
    for spec in ("quantile:0.95", "mad:2", "max"):
        for row in scores:
            scoring.fit_rule(spec, row)
    assert len(compiled) == 3


def test_what_measures_is_begun_before_metrics_are_fetched():
    """Else a device idles between an epoch and what looks at it."""
    events, cfg = [], tiny("dense", train__epochs=3)
    learner = learners.build(cfg, SHAPE)
    fetch = parallel.Layout.fetch

    def measure(state):
        events.append("begun")
        return lambda: events.append("waited") or {"measured": np.float32([1.0])}

    def fetched(self, tree):
        events.append("fetched")
        return fetch(self, tree)

    shown = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parallel.Layout, "fetch", fetched)
        train.fit(
            learner, images(32), cfg, DEVICES[:1], measure=measure, quiet=True,
            on_epoch=lambda epoch, state, found: shown.append(found) or found,
        )  # fmt: skip
    assert events == ["begun", "fetched", "waited"] * 3
    assert all(found["measured"] == 1 and "loss" in found for found in shown)


def test_losses_and_scores_are_begun_at_once_and_waited_for_when_they_are_asked_for():
    learner = learners.build(tiny("dense"), SHAPE)
    variables = train.initial_state(learner, SHAPE, members.keys(jax.random.key(0), 1)).variables
    x = images(700)
    begin = evaluation.loss_fn(learner, x, DEVICES[:1])
    settings = {name: np.ones(1, np.float32) for name in learner.settings}
    several = [begin(variables, settings) for _ in range(3)]
    found = [wait() for wait in reversed(several)]
    assert found[0] == found[1] == found[2]
