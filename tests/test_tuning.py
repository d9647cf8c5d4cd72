import platform
import re

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from probes import DEVICES, SHAPE, assert_close, batch, images, initial, leaves, stepped, tiny

from jaxae import ops, types
from jaxae.devices import members, parallel, reductions, tuning
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.storage import run_folder
from jaxae.types import AXIS

KEY = jax.random.key(7)
YNNPACK = "xla_cpu_experimental_ynn_fusion_type"


# Means over devices and over parts of a batch.


@pytest.mark.parametrize("shape", [(1,), (784,), (4097,)])
def test_the_mean_of_a_vector_is_numpys(shape):
    values = np.random.default_rng(0).normal(1, 2, shape).astype(np.float32)
    found = jax.jit(reductions.of_vector)(values)
    assert found.shape == ()
    assert found == pytest.approx(values.astype(np.float64).mean(), rel=1e-5)
    grad = jax.jit(jax.grad(reductions.of_vector))(values)
    np.testing.assert_allclose(grad, np.full(shape, 1 / values.size), rtol=1e-6)


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
    found = jax.pmap(lambda t: reductions.over(t, AXIS), AXIS, devices=DEVICES[:count])(tree)
    for name, leaf in tree.items():
        assert found[name].dtype == leaf.dtype
        expected = np.broadcast_to(np.float32(leaf).mean(axis=0), leaf.shape)
        tolerance = 1e-2 if name == "half" else 1e-6
        np.testing.assert_allclose(np.float32(found[name]), expected, tolerance, tolerance)


def test_where_nothing_is_mapped_the_mean_is_the_tree_itself():
    tree = {"a": jnp.arange(3.0)}
    assert reductions.over(tree, None) is tree


@pytest.mark.parametrize(("count", "least"), [(256, 128), (192, 96), (131, 131)])
def test_parts_of_a_batch_have_64_to_128_rows_or_are_the_whole(count, least):
    seen, x = [], images(count)

    def mean(rows):
        seen.append(len(rows))
        return rows.mean(0)

    found = reductions.by_parts(mean, jnp.asarray(x), 32, None)
    np.testing.assert_allclose(found, x.mean(0), rtol=1e-5, atol=1e-6)
    assert min(seen) == least


@pytest.mark.parametrize("count", [192, 131])
def test_gradients_of_a_batch_are_those_of_its_parts(count, monkeypatch):
    """131 rows have no equal parts of 64 to 128 and stay whole."""
    x = images(count)
    cfg = tiny("conv", optim__name="sgd", train__noise_std=0.2)
    build = learners.METHODS["conv"].build  # another learner each time: tuning is no setting
    learner = build(cfg, SHAPE, None)
    state = members.pick(initial(learner), 0)
    by_parts, metrics = stepped(learner)(state, batch(x), KEY)
    monkeypatch.setattr(tuning, "CONV", tuning.CONV._replace(part=0))
    whole, expected = stepped(build(cfg, SHAPE, None))(state, batch(x), KEY)
    moved = jax.tree.map(jnp.subtract, whole.params, state.params)
    assert max(np.abs(leaf).max() for leaf in leaves(moved).values()) > 1e-4
    assert_close(by_parts, whole, rtol=1e-5, atol=1e-6)
    assert_close(metrics, expected, rtol=1e-5)


@pytest.mark.parametrize(("devices", "part"), [(1, 32), (2, 8)])
def test_a_device_that_works_alone_takes_larger_parts(devices, part):
    """Of 64 rows that each device has: 4 times 8 at a time, or 8 where others work beside it."""
    seen = []

    def mean(rows):
        seen.append(len(rows))
        return rows.mean(0)

    x = np.random.default_rng(0).random((devices, 64, 3), np.float32)
    run = jax.pmap(
        lambda rows: reductions.by_parts(mean, rows, 8, AXIS), AXIS, devices=DEVICES[:devices]
    )
    np.testing.assert_allclose(run(x), x.mean(axis=1), rtol=1e-5)
    assert min(seen) == part


def test_only_a_cpu_takes_a_batch_in_parts():
    rows = jax.ShapeDtypeStruct((64, 3), jnp.float32)
    mean = jax.jit(lambda rows: reductions.by_parts(lambda part: part.mean(0), rows, 8, None))
    loops = {
        platform: "while" in jax.export.export(mean, platforms=[platform])(rows).mlir_module()
        for platform in ("cpu", "cuda", "tpu")
    }
    assert loops == {"cpu": True, "cuda": False, "tpu": False}


def test_a_mean_over_devices_takes_arrays_without_values():
    """Writing nothing into the vector that crosses devices crashed the compiler of JAX 0.11."""
    tree = {"none": np.zeros((2, 0), np.float32), "some": np.float32([[0, 2], [4, 8]])}
    mean = jax.pmap(
        lambda tree: reductions.over(tree, "data"), axis_name="data", devices=DEVICES[:2]
    )
    found = jax.device_get(mean(tree))
    assert found["none"].shape == (2, 0)
    np.testing.assert_array_equal(found["some"], [[2, 5]] * 2)


# What XLA is told.

TUNED = {"dense": tuning.DENSE, "conv": tuning.CONV, "alocc": tuning.ALOCC}


class Lowered:
    """A lowered program that remembers what it was compiled with."""

    def __init__(self, count=1):
        self.x, self.asked = np.zeros((count, 2)), []
        self._lowered = jax.pmap(lambda x: x + 1, devices=DEVICES[:count]).lower(self.x)

    def compile(self, compiler_options):
        self.asked.append(dict(compiler_options))
        return self._lowered.compile(compiler_options=compiler_options)


@pytest.mark.parametrize("method", TUNED)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("count", [1, 2])
def test_xla_knows_every_option_that_it_is_given(method, dtype, count):
    """`compiled` does without options that it cannot have, so nothing else would notice."""
    training = tuning.training_options(TUNED[method], dtype, "cpu", count)
    assert training
    for options in (training, tuning.scoring_options(TUNED[method], dtype, "cpu")):
        lowered = Lowered(count)
        tuning.compiled(lowered, options)
        assert lowered.asked == [options]  # all at once, and none was dropped


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_accelerators_are_told_nothing_of_cpus(platform):
    for tuned in TUNED.values():
        options = tuning.training_options(tuned, "float32", platform, 2)
        options |= tuning.scoring_options(tuned, "float32", platform)
        assert all(name.startswith("xla_gpu_") for name in options)
        assert platform == "gpu" or not options


@pytest.mark.parametrize("unknown", [("xla_cpu_no_such",), ("xla_no_such", "xla_cpu_no_such")])
def test_an_option_that_xla_does_not_know_is_dropped_alone(unknown):
    known = tuning.training_options(tuning.DENSE, "float32", "cpu", 1)
    assert len(known) >= 3
    lowered = Lowered()
    run = tuning.compiled(lowered, dict.fromkeys(unknown, True) | known)
    np.testing.assert_array_equal(run(lowered.x), lowered.x + 1)
    assert lowered.asked[-1] == known
    for before, after in zip(lowered.asked, lowered.asked[1:], strict=False):
        assert before.keys() - after.keys() <= set(unknown)
        assert after.items() <= before.items()


def test_an_option_is_dropped_though_another_name_begins_like_it():
    lowered = Lowered()
    tuning.compiled(lowered, {"xla_cpu_multi_thread": True, "xla_cpu_multi_thread_eigen": False})
    assert lowered.asked[-1] == {"xla_cpu_multi_thread_eigen": False}


def test_a_known_option_with_a_bad_value_is_an_error():
    lowered = Lowered()
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_cpu_multi_thread_eigen"):
        tuning.compiled(lowered, {"xla_cpu_multi_thread_eigen": "perhaps"})
    assert len(lowered.asked) == 1


def test_an_error_of_the_program_itself_is_an_error():
    class Broken:
        def compile(self, compiler_options):
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    with pytest.raises(jax.errors.JaxRuntimeError, match="out of memory"):
        tuning.compiled(Broken(), {"xla_cpu_multi_thread_eigen": True})


# Which choices there are, and who makes them.


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 26\nflags\t: sse avx512f\n", 512),
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 25\nflags\t: sse avx512f\n", 0),
        ("vendor_id\t: AuthenticAMD\ncpu family\t: 26\nflags\t: sse avx2\n", 0),
        ("vendor_id\t: GenuineIntel\ncpu family\t: 6\nflags\t: avx512f\n", 0),
        ("nothing of the kind", 0),
    ],
)
def test_vectors_are_as_wide_as_the_processor_was_measured_to_like(text, width, tmp_path):
    (tmp_path / "cpuinfo").write_text(text)
    assert types._vector_width(tmp_path / "cpuinfo") == width
    assert types._vector_width(tmp_path / "nowhere") == 0
    options = tuning.training_options(tuning.CONV._replace(width=width), "float32", "cpu", 2)
    assert options.get("xla_cpu_prefer_vector_width", 0) == width


def test_a_table_of_the_user_wins(tmp_path, monkeypatch):
    path = tmp_path / "tuning.json"
    path.write_text('{"methods": {"dense": {"share": 3, "ynnpack": true}}}')
    monkeypatch.setenv("JAXAE_TUNING", str(path))
    assert tuning.from_table("dense", tuning.DENSE) == tuning.DENSE._replace(share=3, ynnpack=True)
    assert tuning.from_table("conv", tuning.CONV) == tuning.CONV
    cfg = tiny("dense", model__latent=5)  # not built before
    assert learners.build(cfg, SHAPE).tuning.share == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "No such file"),
        ("{", "JSONDecodeError"),
        ("[]", "cannot be used"),
        ("{}", "KeyError: 'methods'"),
        ('{"methods": {"dense": 3}}', "is not a table of options"),
        ('{"methods": {"dense": {"speed": 1}}}', "unknown option 'speed'; known: share"),
        ('{"methods": {"dense": {"share": true}}}', "share is True; it must be a number"),
        ('{"methods": {"dense": {"part": -1}}}', "part is -1; it must be a number from 0 up"),
        ('{"methods": {"dense": {"width": 1e20}}}', "width is 1e+20; it must be a number"),
        ('{"methods": {"dense": {"width": 9999999}}}', "a number from 0 up to 1048576"),
        ('{"methods": {"dense": {"in_place": 1}}}', "in_place is 1; it must be true or false"),
    ],
)
def test_a_table_that_is_none_is_named(text, words, tmp_path, monkeypatch):
    path = tmp_path / "tuning.json"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("JAXAE_TUNING", str(path))
    with pytest.raises(UserError, match=re.escape(str(path))) as caught:
        tuning.from_table("dense", tuning.DENSE)
    assert words in str(caught.value)


def test_no_least_share_is_a_device_for_each_row():
    assert tuning.host_devices(tuning.CONV._replace(share=0), 8, 100) == 8


def test_a_training_goes_on_with_the_choices_that_it_began_with(tmp_path):
    learner = learners.build(tiny("conv"), SHAPE)
    assert run_folder.with_stored_tuning(tmp_path, learner) is learner
    changed = learner.tuning._replace(part=7, width=128)
    run_folder.write_tuning(tmp_path, learner._replace(tuning=changed))
    found = run_folder.with_stored_tuning(tmp_path, learner)
    assert found.tuning == learner.tuning._replace(part=7, width=128)
    (tmp_path / run_folder.TUNING).write_text('{"part": "many"}')
    with pytest.raises(UserError, match=r"tuning\.json: part is 'many'"):
        run_folder.with_stored_tuning(tmp_path, learner)


@pytest.fixture
def told(monkeypatch):
    """Options of everything that is compiled from here on."""
    asked, compiled = [], tuning.compiled

    def spy(lowered, options):
        asked.append(options)
        return compiled(lowered, options)

    monkeypatch.setattr(tuning, "compiled", spy)
    return asked


def test_bfloat16_keeps_ynnpack():
    for options in (
        lambda dtype: tuning.training_options(tuning.DENSE, dtype, "cpu", 1),
        lambda dtype: tuning.scoring_options(tuning.Tuning(), dtype, "cpu"),
    ):
        assert options("float32")[YNNPACK] == ""
        assert YNNPACK not in options("bfloat16")
    assert YNNPACK not in tuning.training_options(tuning.CONV, "float32", "cpu", 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_options_follow_the_dtype_that_a_learner_states(dtype, told):
    """Not from what its program looks like: the same one is compiled under either statement."""
    learner = learners.build(tiny("dense", model__compute_dtype=dtype), SHAPE)
    assert learner.dtype == dtype
    for stated in ("float32", "bfloat16"):
        state = parallel.place(initial(learner), DEVICES[:1])
        args = (
            state,
            parallel.place(images(8), DEVICES[:1]),
            parallel.split(np.zeros((1, 1, 1, 8), np.int32), DEVICES[:1]),
            *parallel.place((members.keys(KEY, 1), {"lr": jnp.ones(1), "noise_std": jnp.ones(1)}),
                            DEVICES[:1]),
        )  # fmt: skip
        parallel.compiled_epoch(learner._replace(dtype=stated), DEVICES[:1], *args)
        score = parallel.rows_fn(learner.infer, DEVICES[:1], learner._replace(dtype=stated))
        score(state.variables, next(parallel.blocks(images(8), DEVICES[:1], 64)), 1)
        assert [YNNPACK in options for options in told[-2:]] == [stated == "float32"] * 2


# Devices and chunks.


@pytest.mark.parametrize(
    ("method", "batch_size", "parameters", "devices"),
    [("conv", 32, 10**4, 2), ("dense", 32, 10**5, 1), ("dense", 512, 10**5, 2),
     ("dense", 512, 2 * 10**6, 1), ("dense", 2048, 2 * 10**6, 2)],
)  # fmt: skip
def test_a_batch_is_split_where_that_is_faster(method, batch_size, parameters, devices):
    assert tuning.host_devices(TUNED[method], batch_size, parameters) == devices


@pytest.mark.parametrize("batch_size", [1, 15, 31])
def test_one_device_is_the_least(batch_size):
    assert tuning.host_devices(tuning.CONV, batch_size, 0) == 1


def test_large_images_are_taken_few_at_a_time_and_others_as_always():
    def tuned(method, size, **changes):
        return learners.build(tiny(method, **changes), (size, size, 3)).tuning

    assert tuned("conv", 64) == tuned("fcn", 64) == tuning.CONV
    dense, shared = tuned("conv", 256), tuned("fcn", 256)
    assert (dense.chunk, dense.part, dense.share) == (2, 2, tuning.ALONE)
    assert (shared.chunk, shared.part, shared.share) == (2, 1, 1)
    crops = tuned("fcn", 256, train__crop=64)
    assert crops == tuning.CONV._replace(chunk=2)
    assert [tuned("fcn", size).chunk for size in (96, 128, 512, 1024)] == [4, 4, 1, 1]


def test_a_cpu_scores_fewer_rows_at_a_time_than_an_accelerator():
    assert tuning.chunk_rows(tuning.CONV, "cpu", (28, 28, 1)) == 64
    assert tuning.chunk_rows(tuning.CONV, "gpu", (28, 28, 1)) == 4096
    assert tuning.chunk_rows(tuning.ALOCC, "tpu", (256, 256, 3)) == 64  # 50 MB
    assert tuning.chunk_rows(tuning.DENSE, "gpu", (10_000, 10_000, 1)) == 1
    assert tuning.chunk_rows(tuning.CONV, "gpu", (28, 28, 1), members=50) == 64
    assert tuning.chunk_rows(tuning.CONV, "gpu", (28, 28, 1), members=5000) == 1


# A library for convolutions.

VERSION = tuple(int(n) for n in jax.__version__.split(".")[:2])
CALLS = "xla_cpu_experimental_onednn_custom_call"


@pytest.mark.parametrize("has", [False, True])
def test_a_library_is_called_by_scorers_where_xla_has_it(has, monkeypatch):
    monkeypatch.setattr(tuning, "_has_library", lambda: has)
    for tuned in (tuning.ALOCC, tuning.CONV, tuning.DENSE):
        calls = has and tuned.library
        for fast_compile in (False, True):
            options = tuning.scoring_options(tuned, "float32", "cpu", fast_compile)
            assert (CALLS in options) == calls
        assert CALLS not in tuning.scoring_options(tuned, "bfloat16", "cpu")
        assert CALLS not in tuning.scoring_options(tuned, "float32", "gpu")
        assert CALLS not in tuning.training_options(tuned, "float32", "cpu", 2)
        with tuning.tracing_scorers(tuned, "float32", "cpu"):
            assert (ops.current() == "library") == calls
        for dtype, where in (("bfloat16", "cpu"), ("float32", "gpu")):
            with tuning.tracing_scorers(tuned, dtype, where):
                assert ops.current() == "auto"
    assert ops.current() == "auto"


def test_scores_are_the_same_with_a_library_and_without(monkeypatch):
    """Of a version of XLA that has none, the same program runs more slowly."""
    learner = learners.build(tiny("alocc", data__name="mnist"), (28, 28, 1))
    variables = initial(learner, shape=(28, 28, 1)).variables
    x = np.random.default_rng(0).random((5, 28, 28, 1), np.float32)
    found = []
    for has in (False, True):
        monkeypatch.setattr(tuning, "_has_library", lambda has=has: has)
        run = parallel.rows_fn(learner.infer, DEVICES[:2], learner)
        placed = parallel.place(variables, DEVICES[:2])
        found.append(parallel.map_rows(run, placed, parallel.blocks(x, DEVICES[:2], 2), len(x))())
    for a, b in zip(*(jax.tree.leaves(outputs) for outputs in found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(
    platform.machine() != "x86_64" or VERSION == (0, 11),
    reason="measured of JAX 0.10 and 0.12, x86",
)
def test_whether_xla_has_the_library_is_seen_by_asking_it():
    assert tuning._has_library() == (VERSION >= (0, 12))


def test_what_calls_the_library_is_not_written_to_the_cache_of_programs():
    """Writing such a program kills the process (JAX 0.12)."""
    seen = []

    class Seen:
        def compile(self, compiler_options):
            seen.append(jax.config.jax_persistent_cache_min_compile_time_secs)
            if compiler_options.get("fails"):
                raise ValueError("it fails")
            return print

    before = jax.config.jax_persistent_cache_min_compile_time_secs
    assert before < float("inf")
    calls = tuning.scoring_options(tuning.ALOCC, "float32", "cpu") | {CALLS: True}
    tuning.compiled(Seen(), calls)
    tuning.compiled(Seen(), tuning.scoring_options(tuning.CONV, "float32", "cpu"))
    with pytest.raises(ValueError, match="it fails"):
        tuning.compiled(Seen(), calls | {"fails": True})
    assert seen == [float("inf"), before, float("inf")]
    assert jax.config.jax_persistent_cache_min_compile_time_secs == before


def test_a_table_of_choices_may_name_a_chunk_of_no_rows():
    assert tuning.chunk_rows(tuning.ALOCC._replace(chunk=0), "cpu", (28, 28, 1)) == 1
