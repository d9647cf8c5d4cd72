import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax import lax

from jaxae import ops
from jaxae.methods.networks import layers

pytestmark = [pytest.mark.device, pytest.mark.optimised]

FORMS = ("matrix", "native")
PLAIN = ("NHWC", "HWIO", "NHWC")
# These programs are compiled once and run once.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def normal(seed, *shape, dtype=jnp.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def assert_close(actual, desired, tolerance=1e-5):
    assert actual.shape == desired.shape
    actual, desired = np.asarray(actual, np.float64), np.asarray(desired, np.float64)
    assert np.linalg.norm(actual - desired) <= tolerance * np.linalg.norm(desired) + 1e-30


@st.composite
def convolutions(draw):
    """A geometry and channels for which the convolution exists; odd sizes and strides included."""
    small = st.integers(1, 3)
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    strides = draw(st.one_of(st.just((1, 1)), st.tuples(small, small)))
    # Paddings below the kernel size: on CPU, lax's own gradient reads beyond its input otherwise.
    pads = [st.tuples(*[st.integers(0, min(2, k - 1))] * 2) for k in kernel]
    padding = draw(st.one_of(st.sampled_from(("SAME", "VALID")), st.tuples(*pads)))
    size = tuple(draw(st.integers(k, 9)) for k in kernel)
    if draw(st.integers(0, 5)) == 0:
        size, strides, padding = kernel, (1, 1), "VALID"
    return size, kernel, strides, padding, draw(st.sampled_from(((1, 3), (3, 1), (2, 2))))


@settings(max_examples=12, deadline=None)
@given(convolutions())
@example(((7, 4), (5, 5), (2, 2), "SAME", (2, 3)))  # made in bands
@example(((4, 4), (4, 4), (1, 1), "VALID", (2, 3)))  # a plain matrix product
def test_values_and_gradients_are_those_of_lax(case):
    size, kernel_size, strides, padding, (channels, depth) = case
    x, k = normal(0, 2, *size, channels), normal(1, *kernel_size, channels, depth)

    def plain(x, k):
        return lax.conv_general_dilated(x, k, strides, padding, dimension_numbers=PLAIN)

    @jit
    def reference(x, k):
        y, pull = jax.vjp(plain, x, k)
        g = normal(2, *y.shape)
        dx, dk = pull(g)
        _, pull_transpose = jax.vjp(lambda g, k: jax.vjp(plain, x, k)[1](g)[0], g, k)
        return g, (y, dx, dx, *pull_transpose(x), dk)

    @functools.partial(jit, static_argnums=3)
    def ours(x, k, g, form):
        x, g = ops.batch_last(x), ops.batch_last(g)
        with ops.using(form):
            y, pull = jax.vjp(lambda x, k: ops.conv(x, k, strides, padding), x, k)
            u, pull_transpose = jax.vjp(
                lambda g, k: ops.conv_transpose(g, k, strides, padding, output_size=size), g, k
            )
            (dx, dk), (dg_of_transpose, dk_of_transpose) = pull(g), pull_transpose(x)
        images = (ops.batch_first(a) for a in (y, dx, u, dg_of_transpose))
        return *images, dk_of_transpose, dk

    g, desired = reference(x, k)
    for form in FORMS:
        for actual, wanted in zip(ours(x, k, g, form), desired, strict=True):
            assert_close(actual, wanted)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("small", "large", "kernel", "strides", "padding"),
    [
        (4, 7, 5, 2, "SAME"),
        (7, 14, 3, 2, "SAME"),
        (2, 4, 5, 2, "SAME"),
        (1, 7, 7, 1, "VALID"),
        (3, 8, 3, 3, "SAME"),
    ],
)
def test_transposed_convolution_is_the_adjoint(form, small, large, kernel, strides, padding):
    u, y = normal(0, 2, large, large, 3), normal(1, 4, small, small, 3)
    k = normal(2, kernel, kernel, 2, 4)
    how = {"strides": (strides,) * 2, "padding": padding}
    size = (large, large)
    with ops.using(form):
        left = jnp.vdot(jit(lambda u: ops.conv(u, k, **how))(u), y)
        right = jnp.vdot(u, jit(lambda y: ops.conv_transpose(y, k, output_size=size, **how))(y))
    np.testing.assert_allclose(left, right, rtol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_is_float32_to_its_precision(form):
    x, k, g = normal(0, 16, 9, 9, 4), normal(1, 3, 3, 16, 8), normal(2, 8, 5, 5, 4)

    @jit
    def all_passes(x, k, g):
        with ops.using(form):
            y, pull = jax.vjp(lambda x, k: ops.conv(x, k, (2, 2)), x, k)
            return y, *pull(g)

    low = all_passes(*(a.astype(jnp.bfloat16) for a in (x, k, g)))
    for a, wanted in zip(low, all_passes(x, k, g), strict=True):
        assert a.dtype == jnp.bfloat16
        assert_close(a.astype(jnp.float32), wanted, 0.01)


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
def test_layers_are_those_of_flax(padding):
    x = normal(0, 2, 7, 6, 3)
    options = {"features": 4, "kernel_size": (3, 5), "strides": (2, 2), "padding": padding}
    size = (14, 12) if padding == "SAME" else (15, 15)
    for theirs, ours in (
        (nn.Conv(**options), layers.Conv(**options)),
        (
            nn.ConvTranspose(**options, transpose_kernel=True),
            layers.ConvTranspose(**options, output_size=size),
        ),
    ):
        variables = jit(theirs.init)(jax.random.key(0), x)
        mine = jax.eval_shape(ours.init, jax.random.key(0), ops.batch_last(x))
        assert jax.tree.map(jnp.shape, mine) == jax.tree.map(jnp.shape, variables)
        variables["params"]["bias"] = normal(1, 4)
        y = ops.batch_first(jit(ours.apply)(variables, ops.batch_last(x)))
        assert_close(y, jit(theirs.apply)(variables, x))


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv(2, (3, 3), (1, 1), "SAME", dtype=jnp.bfloat16),
        layers.ConvTranspose(2, (3, 3), (1, 1), "SAME", (5, 5), dtype=jnp.bfloat16),
    ],
)
def test_a_layer_in_bfloat16_keeps_float32_parameters(layer):
    y, variables = jax.eval_shape(layer.init_with_output, jax.random.key(0), normal(0, 3, 5, 5, 1))
    assert y.dtype == jnp.bfloat16
    assert variables["params"].keys() == {"kernel", "bias"}
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


def test_scan_trains_as_a_loop_does():
    x, k = normal(0, 2, 6, 6, 4), normal(1, 3, 3, 2, 4) * 0.1

    def step(k, x):
        def loss(k):
            y = ops.conv(x, k, (2, 2))
            return jnp.mean((ops.conv_transpose(y, k, (2, 2), output_size=(6, 6)) - x) ** 2)

        return k - 0.1 * jax.grad(loss)(k), None

    scanned, _ = jit(lambda k, xs: lax.scan(step, k, xs))(k, jnp.stack([x, -x, 2 * x]))
    for row in (x, -x, 2 * x):
        k, _ = jit(step)(k, row)
    assert_close(scanned, k)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("form", FORMS)
def test_members_of_an_ensemble_have_kernels_of_their_own(form, dtype):
    x, kernels = normal(0, 3, 5, 5, 2, dtype=dtype), normal(1, 4, 3, 3, 3, 2, dtype=dtype)

    def gradient(k):
        with ops.using(form):
            return jax.grad(lambda k: jnp.sum(ops.conv(x, k, (2, 2)) ** 2))(k)

    one_by_one = jnp.stack([jit(gradient)(k) for k in kernels])
    tolerance = 1e-5 if dtype == jnp.float32 else 0.02
    assert_close(jit(jax.vmap(gradient))(kernels), one_by_one, tolerance)


def test_second_derivatives():
    x, k = normal(0, 2, 5, 5, 2), normal(1, 3, 3, 2, 3)

    def penalty(conv):  # the norm of the input gradient, as gradient penalties take it
        def value(k):
            return jnp.sum(jax.grad(lambda x: jnp.sum(jnp.tanh(conv(x, k))))(x) ** 2)

        return jit(jax.grad(value))(k)

    def plain(x, k):
        return lax.conv_general_dilated(x, k, (2, 2), "SAME", dimension_numbers=PLAIN)

    def ours(x, k):
        return ops.conv(ops.batch_last(x), k, (2, 2))

    expected = penalty(plain)
    for form in FORMS:
        with ops.using(form):
            assert_close(penalty(ours), expected)


def test_forward_mode_is_refused():
    x, k = normal(0, 1, 4, 4, 1), normal(1, 3, 3, 1, 1)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(lambda k: ops.conv(x, k), (k,), (k,))


@pytest.mark.parametrize(("channels", "depth"), [(1, 3), (3, 1)])
def test_padding_may_exceed_the_kernel(channels, depth):
    x, k, pads = normal(0, 2, 3, 4, channels), normal(1, 1, 2, channels, depth), ((0, 1), (2, 3))

    def plain(x, k):
        x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
        return lax.conv_general_dilated(x, k, (1, 1), "VALID", dimension_numbers=PLAIN)

    def ours(x, k):
        return ops.batch_first(ops.conv(ops.batch_last(x), k, (1, 1), pads))

    def all_passes(conv):
        y, pull = jax.vjp(conv, x, k)
        return y, *pull(jnp.sin(y))

    for actual, wanted in zip(
        jit(lambda: all_passes(ours))(), jit(lambda: all_passes(plain))(), strict=True
    ):
        assert_close(actual, wanted)


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="does not fit"):
        ops.conv(normal(0, 1, 4, 4, 1), normal(1, 5, 5, 1, 1), padding="VALID")
    with pytest.raises(ValueError, match="output_size"):
        ops.conv_transpose(normal(0, 1, 4, 4, 1), normal(1, 3, 3, 1, 1), output_size=(9, 9))


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_each_platform_gets_its_form(platform):
    def loss(kernels, x):
        y = ops.conv(x, kernels[0], (2, 2))
        return jnp.sum(ops.conv_transpose(y, kernels[1], (2, 2), output_size=x.shape[1:3]) ** 2)

    k, x = normal(0, 3, 3, 2, 4), normal(1, 2, 7, 7, 4)
    exported = jax.export.export(jax.jit(jax.grad(loss)), platforms=[platform])((k, k), x)
    lines = exported.mlir_module().splitlines()
    convolutions = [line for line in lines if "stablehlo.convolution" in line]
    if platform == "cpu":
        assert not convolutions
        assert any("dot_general" in line for line in lines)
        return
    # A weight gradient is the convolution whose result is a kernel, spatial axes first.
    weight_gradients = [line for line in convolutions if re.search(r"->\[0, 1, b, f\]", line)]
    assert len(weight_gradients) == 2
    assert not any("lhs_dilate" in line for line in weight_gradients)
    assert sum("lhs_dilate" in line for line in convolutions) == 1  # the transposed one itself


def convolutions(fun, *args):
    """How many there are in the program of a CPU."""
    exported = jax.export.export(jax.jit(fun), platforms=["cpu"])(*args)
    return exported.mlir_module().count("stablehlo.convolution")


@pytest.mark.slow
def test_a_library_is_called_for_large_convolutions_where_it_may_be():
    """Forward ones only: what a gradient takes stays matrices."""
    x, k = normal(0, 16, 9, 8, 2), normal(1, 5, 5, 16, 24)
    how = functools.partial(ops.conv, strides=(2, 2))
    plain = jax.jit(how)(x, k)
    assert convolutions(how, x, k) == 0
    with ops.calling_library():
        assert convolutions(functools.partial(how), x, k) == 1
        called = jax.jit(functools.partial(how))(x, k)
        with ops.using("matrix"):
            assert convolutions(functools.partial(how), x, k) == 0
        gradients = jax.grad(lambda x, k: jnp.sum(how(x, k) ** 2), (0, 1))
        assert convolutions(gradients, x, k) == 1
        found = gradients(x, k)
    np.testing.assert_allclose(called, plain, atol=1e-5 * np.abs(plain).max())
    for a, b in zip(
        found, jax.grad(lambda x, k: jnp.sum(how(x, k) ** 2), (0, 1))(x, k), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())
    assert convolutions(functools.partial(how), x, k) == 0


@pytest.mark.parametrize(
    ("x", "k"),
    [
        ((16, 14, 14, 2), (3, 3, 16, 16)),  # few taps
        ((1, 28, 28, 2), (5, 5, 1, 16)),  # few channels
        ((16, 4, 4, 2), (5, 5, 16, 16)),  # maps of 2 x 2
        ((16, 5, 5, 2), (5, 5, 16, 16)),  # one product
    ],
)
def test_no_library_is_called_where_matrices_are_faster(x, k):
    padding = "VALID" if x[1] == 5 else "SAME"
    with ops.calling_library():
        how = functools.partial(ops.conv, strides=(2, 2), padding=padding)
        assert convolutions(how, normal(0, *x), normal(1, *k)) == 0
        assert (
            convolutions(
                how,
                *(
                    a.astype(jnp.bfloat16)
                    for a in (normal(0, 16, 9, 9, 2), normal(1, 5, 5, 16, 16))
                ),
            )
            == 0
        )
