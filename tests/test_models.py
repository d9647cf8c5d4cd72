import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from probes import assert_close, tiny

from experiments import (
    ecg_dense,
    fmnist_denoise,
    fmnist_dense,
    fmnist_one_class,
    mnist_conv,
    mnist_conv_2d,
    mnist_conv_latent,
)
from jaxae import ops
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.methods.networks import layers
from jaxae.methods.networks.alocc import Discriminator, Refiner
from jaxae.methods.networks.conv import ConvAutoencoder
from jaxae.methods.networks.dense import DenseAutoencoder
from jaxae.methods.networks.fcn import FullyConvolutional, code_places, depth_of

MNIST, ECG = (28, 28, 1), (140, 1)
KEY = jax.random.key(0)


# Weights + biases of every layer, worked out by hand from the published descriptions.
COUNTS = {
    "S0 latent 32": (
        mnist_conv.CONFIG,
        MNIST,
        [
            9 * 1 * 32 + 32,
            9 * 32 * 64 + 64,  # 28 -> 14 -> 7
            7 * 7 * 64 * 32 + 32,
            32 * 7 * 7 * 64 + 7 * 7 * 64,
            9 * 64 * 32 + 32,
            9 * 32 * 1 + 1,
        ],
    ),
    "S0 latent 2": (
        mnist_conv_2d.CONFIG,
        MNIST,
        [
            320,
            18496,
            3136 * 2 + 2,
            2 * 3136 + 3136,
            18464,
            289,
        ],
    ),
    "S1": (
        mnist_conv_latent.CONFIG,
        MNIST,
        [
            9 * 1 * 16 + 16,
            9 * 16 * 32 + 32,
            49 * 32 * 64 + 64,  # 28 -> 14 -> 7 -> 1
            64 * 20 + 20,
            20 * 64 + 64,
            49 * 64 * 32 + 32,
            9 * 32 * 16 + 16,
            9 * 16 * 1 + 1,
        ],
    ),
    "S2 dense": (fmnist_dense.CONFIG, MNIST, [784 * 64 + 64, 64 * 784 + 784]),
    "S2 denoise": (
        fmnist_denoise.CONFIG,
        MNIST,
        [
            9 * 1 * 16 + 16,
            9 * 16 * 8 + 8,
            9 * 8 * 8 + 8,
            9 * 8 * 16 + 16,
            9 * 16 * 1 + 1,
        ],
    ),
    "S2 ecg": (
        ecg_dense.CONFIG,
        ECG,
        [
            140 * 32 + 32,
            32 * 16 + 16,
            16 * 8 + 8,
            8 * 16 + 16,
            16 * 32 + 32,
            32 * 140 + 140,
        ],
    ),
    "S3": (
        fmnist_one_class.CONFIG,
        MNIST,
        [
            784 * 800 + 800,
            800 * 400 + 400,
            400 * 100 + 100,
            100 * 400 + 400,
            400 * 800 + 800,
            800 * 784 + 784,
        ],
    ),
}
# Batch normalisation adds scale and shift, 2 x channels; its statistics are not trained.
REFINER = [
    25 * 1 * 32 + 32 + 2 * 32,
    25 * 32 * 64 + 64 + 2 * 64,
    25 * 64 * 128 + 128 + 2 * 128,
    25 * 128 * 32 + 32 + 2 * 32,
    25 * 32 * 16 + 16 + 2 * 16,
    25 * 16 * 1 + 1,
]
DISCRIMINATOR = [  # 28 -> 14 -> 7 -> 4 -> 2
    25 * 1 * 16 + 16 + 2 * 16,
    25 * 16 * 32 + 32 + 2 * 32,
    25 * 32 * 64 + 64 + 2 * 64,
    25 * 64 * 128 + 128,
    2 * 2 * 128 * 1 + 1,
]


def abstract(shape, n=2):
    return jax.ShapeDtypeStruct((n, *shape), jnp.float32)


def weights(init, shape):
    """Initial parameters on the host; compiled, the forward pass of `init` is left out."""
    return jax.device_get(jax.jit(init)(KEY, jnp.zeros((1, *shape))))


def learner_of(cfg, shape):
    """The learner of a configuration, and the shapes of its state."""
    learner = learners.build(cfg, shape, axis=None)
    return learner, jax.eval_shape(learner.init, KEY, abstract(shape, 1))


def layer_sizes(params):
    """Parameters of each layer, sorted: kernel and bias lie side by side."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        layer = jax.tree_util.keystr(path[:-1])
        found[layer] = found.get(layer, 0) + math.prod(leaf.shape)
    return sorted(found.values())


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_count_of_every_layer(name):
    cfg, shape, layers = COUNTS[name]
    _, state = learner_of(cfg, shape)
    assert layer_sizes(state.params) == sorted(layers)


@pytest.mark.parametrize(
    ("net", "layers"),
    [
        (Refiner(MNIST), REFINER),
        (Discriminator(), DISCRIMINATOR),
    ],
)
def test_parameter_count_of_alocc(net, layers):
    variables = jax.eval_shape(lambda key, x: net.init(key, x, train=False), KEY, abstract(MNIST))
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    assert count == sum(layers)


def test_codes_have_the_published_sizes():
    def code(cfg, shape):
        learner, state = learner_of(cfg, shape)
        return jax.eval_shape(learner.infer, state.variables, abstract(shape)).z.shape

    assert code(mnist_conv.CONFIG, MNIST) == (2, 32)
    assert code(mnist_conv_latent.CONFIG, MNIST) == (2, 20)
    assert code(fmnist_denoise.CONFIG, MNIST) == (2, 7 * 7 * 8)
    assert code(ecg_dense.CONFIG, ECG) == (2, 8)


# What every model must be told, as a configuration's defaults have it.
DENSE = {
    "activation": "relu",
    "code_activation": "linear",
    "output_activation": "sigmoid",
    "initializer": "glorot",
    "dtype": jnp.float32,
}
CONV = DENSE | {
    "kernels": (3, 3),
    "strides": (2, 2),
    "paddings": ("same", "same"),
    "latent": 4,
    "head_kernel": 0,
    "encoder_activation": "relu",
    "expand_activation": "relu",
}
ONE_LAYER = CONV | {"filters": (2,), "kernels": (3,), "strides": (2,), "paddings": ("same",)}
SIZES = [(28, 28, 1), (8, 8, 1), (32, 32, 3), (30, 17, 1), (7, 5, 2), (140, 1), (33, 2), (5, 1)]
CONVS = {
    "same": {},
    "no code": {"latent": 0},
    "head": {"latent": 0, "head_kernel": 3},
    "pixels": {"paddings": ("1", "1")},
    "valid": {"kernels": (3, 2), "strides": (1, 2), "paddings": ("valid", "valid")},
    "stride 3": {"strides": (3, 2), "kernels": (5, 3)},
}


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("settings", CONVS)
def test_reconstruction_has_the_shape_of_the_input_whatever_its_parity(shape, settings):
    model = ConvAutoencoder(shape, filters=(2, 3), **(CONV | CONVS[settings]))
    x = abstract(shape)
    (x_hat, z), _ = jax.eval_shape(lambda x: model.init_with_output(KEY, x), x)
    assert x_hat.shape == x.shape
    assert z.ndim == 2


FCN = DENSE | {"latent": 2, "width": 2, "pooled": False, "spatial": True}


@pytest.mark.parametrize("shape", [*SIZES, (256, 200, 3)])
@pytest.mark.parametrize("changes", [{}, {"pooled": True}, {"spatial": False}])
def test_a_fully_convolutional_network_takes_any_size_and_ends_in_a_small_map(shape, changes):
    depth = depth_of(shape)
    model, x = FullyConvolutional(shape, depth=depth, **(FCN | changes)), abstract(shape)
    (x_hat, z), params = jax.eval_shape(lambda x: model.init_with_output(KEY, x), x)
    assert x_hat.shape == x.shape
    of_code = code_places(shape, depth, model.spatial)
    assert z.shape == (len(x), 2 * math.prod(of_code))
    assert 4 <= min(of_code) < 8 or depth == 1 or "spatial" in changes
    decoded = jax.eval_shape(lambda p, z: model.apply(p, z, method="decode"), params, z)
    assert decoded.shape == x.shape
    if "spatial" not in changes:  # the weights are those of rows of any other size
        bigger = (*(3 * n + 1 for n in shape[:-1]), shape[-1])
        again = jax.eval_shape(model.apply, params, abstract(bigger))
        assert again[0].shape == (len(x), *bigger)


def test_a_code_says_what_is_near_its_place():
    model = FullyConvolutional((64, 64, 1), depth=2, **(FCN | {"activation": "tanh"}))
    x = jax.random.uniform(KEY, (1, 64, 64, 1))
    rows = jnp.concatenate([x, x.at[:, 32:36, 48:52].add(1)])
    z, _ = jax.jit(lambda x: model.init_with_output(KEY, x, method="encode"))(rows)
    differs = np.ptp(z.reshape(2, 16, 16, 2), axis=0).any(-1)
    assert differs[8, 12]
    assert {*map(tuple, np.argwhere(differs))} <= {(i, j) for i in (7, 8, 9) for j in (11, 12, 13)}


@pytest.mark.parametrize("shape", [(28, 28, 1), (8, 8, 1), (32, 32, 3), (30, 17, 1), (9, 3, 1)])
def test_refiner_and_discriminator_take_any_image(shape):
    x = abstract(shape)
    refiner = Refiner(shape)
    (refined, code), _ = jax.eval_shape(lambda x: refiner.init_with_output(KEY, x, train=False), x)
    logits, _ = jax.eval_shape(lambda x: Discriminator().init_with_output(KEY, x, train=False), x)
    assert refined.shape == x.shape
    height, width = (-(-n // 8) for n in shape[:2])  # three times the half, rounded up
    assert code.shape == (2, height * width * 128)
    assert logits.shape == (2,)


def test_layer_sizes_along_the_way():
    model = ConvAutoencoder((30, 17, 1), filters=(2, 3), **CONV)
    assert model.bind({}).code_shape == (8, 5, 3)


MODELS = {
    "dense": DenseAutoencoder((5, 3, 1), hidden=(6,), latent=2, **DENSE),
    "conv": ConvAutoencoder((5, 3, 1), **(ONE_LAYER | {"latent": 2})),
    "series": ConvAutoencoder((7, 2), **(ONE_LAYER | {"latent": 0})),
    "fcn": FullyConvolutional((5, 3, 1), depth=1, **FCN),
    "pooled": FullyConvolutional((7, 2), depth=2, **(FCN | {"pooled": True})),
    "one code": FullyConvolutional((7, 2), depth=2, **(FCN | {"spatial": False})),
}


@pytest.mark.parametrize("name", MODELS)
def test_encode_then_decode_is_the_model_and_rows_do_not_see_each_other(name):
    model = MODELS[name]
    x = jnp.asarray(np.random.default_rng(0).random((3, *model.shape), np.float32))
    params = jax.jit(model.init)(KEY, x)

    @jax.jit
    def results(params, x):
        code = model.apply(params, x, method="encode")
        return model.apply(params, x), (model.apply(params, code, method="decode"), code)

    whole, parts = results(params, x)
    assert_close(whole, parts, atol=1e-6)
    mixed = np.concatenate([1 - x[:1], x[1:2], 1 - x[2:]])
    np.testing.assert_allclose(results(params, mixed)[0][0][1], whole[0][1], atol=1e-6)
    assert np.abs(whole[0][0] - whole[0][1]).max() > 1e-3  # or the rows would not matter at all


@pytest.mark.parametrize("method", learners.METHODS)
def test_bfloat16_keeps_parameters_and_outputs_in_float32(method):
    cfg = tiny(method, model__compute_dtype="bfloat16")
    learner = learners.build(cfg, (8, 8, 1), axis=None)
    state = jax.eval_shape(learner.init, KEY, abstract((8, 8, 1), 1))
    floats = {
        leaf.dtype for leaf in jax.tree.leaves(state) if jnp.issubdtype(leaf.dtype, jnp.floating)
    }
    assert floats == {jnp.dtype("float32")}
    out = jax.eval_shape(learner.infer, state.variables, abstract((8, 8, 1)))
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {jnp.dtype("float32")}
    text = str(jax.make_jaxpr(learner.infer)(state.variables, abstract((8, 8, 1))))
    assert "bf16" in text


def test_bfloat16_computes_nearly_the_same():
    x = jax.random.uniform(KEY, (4, 5, 3, 1))
    params = jax.jit(MODELS["dense"].init)(KEY, x)
    full, _ = MODELS["dense"].apply(params, x)
    half, _ = MODELS["dense"].clone(dtype=jnp.bfloat16).apply(params, x)
    assert 0 < np.abs(full - half).max() < 0.02


def test_torch_weights_fill_the_bounds_of_torch():
    # torch: U(-b, b) with b = 1 / sqrt(fan_in), for weights and biases; of a transposed
    # convolution it takes the OUTPUT channels for the fan-in.
    learner, _ = learner_of(mnist_conv_latent.CONFIG, MNIST)
    params = weights(learner.init, MNIST).params
    fan_in = {
        "convs_0": 9 * 1,
        "convs_1": 9 * 16,
        "convs_2": 49 * 32,
        "to_code": 64,
        "expand": 20,
        "deconvs_0": 49 * 32,
        "deconvs_1": 9 * 16,
        "deconvs_2": 9 * 1,
    }
    assert params.keys() == fan_in.keys()
    for name, layer in params.items():
        bound = 1 / math.sqrt(fan_in[name])
        assert np.abs(layer["kernel"]).max() <= bound
        assert np.abs(layer["bias"]).max() <= bound
        assert np.abs(layer["kernel"]).max() > 0.9 * bound
        assert layer["kernel"].std() == pytest.approx(bound / math.sqrt(3), rel=0.2)


def test_glorot_weights_have_keras_bounds_and_zero_biases():
    learner, _ = learner_of(mnist_conv.CONFIG, MNIST)
    params = weights(learner.init, MNIST).params
    bound = math.sqrt(6 / (9 * 32 + 9 * 64))
    for layer in ("convs_1", "deconvs_0"):
        assert 0.98 * bound < np.abs(params[layer]["kernel"]).max() <= bound
    assert all((layer["bias"] == 0).all() for layer in params.values())


def test_alocc_weights_are_as_wide_as_published():
    refiner = Refiner((4, 4, 1), filters=(32, 64), up_filters=(32,))
    params = weights(partial(refiner.init, train=False), refiner.shape)["params"]
    down, up = params["Conv_1"]["kernel"], params["ConvTranspose_0"]["kernel"]
    # Cut at two deviations, a normal keeps 0.88 of its deviation.
    assert np.abs(down).max() <= 0.04
    assert down.std() == pytest.approx(0.88 * 0.02, rel=0.02)
    assert np.abs(up).max() > 0.06
    assert up.std() == pytest.approx(0.02, rel=0.02)


def test_kernels_larger_than_the_row_are_refused():
    too_large = {"filters": (2, 3), "paddings": ("valid", "valid"), "kernels": (3, 7)}
    model = ConvAutoencoder((4, 4, 1), **(CONV | too_large))
    with pytest.raises(UserError, match=r"model\.kernels \(3, 7\).*\(4, 4, 1\)"):
        jax.eval_shape(model.init, KEY, abstract((4, 4, 1)))


def test_a_bfloat16_dense_layer_sums_in_float32():
    """1 + 2048 halves: a bfloat16 sum would stop growing at 256."""
    layer = layers.Dense(1, kernel_init=nn.initializers.ones, dtype=jnp.bfloat16)
    x = jnp.full((2, 2048), 0.5)
    params = layer.init(jax.random.key(0), x)
    assert layer.apply(params, x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.float32(layer.apply(params, x)), 1024.0)
    many = jnp.full((2048, 1), 0.5)
    layer = layers.Dense(1, kernel_init=nn.initializers.ones, dtype=jnp.bfloat16)
    params = layer.init(jax.random.key(0), many)
    grads = jax.grad(lambda p: layer.apply(p, many).sum(dtype=jnp.float32))(params)
    assert float(grads["params"]["kernel"][0, 0]) == 1024.0
    assert float(grads["params"]["bias"][0]) == 2048.0


@pytest.mark.parametrize(("batch", "is_long"), [(1, False), (3, True), (9, False)])
def test_dense_layers_beside_maps_are_flaxs_on_the_flattened_maps(batch, is_long, monkeypatch):
    """Same parameters, values and gradients; only the order in memory differs."""
    monkeypatch.setattr(layers, "_LONG", 23 if is_long else 24)  # of 24 values
    x = jax.random.normal(jax.random.key(1), (batch, 3, 2, 4))
    z = jax.random.normal(jax.random.key(2), (batch, 5))
    random = {"bias_init": nn.initializers.normal(1.0)}
    pairs = (
        (nn.Dense(5, **random), lambda net, p: net.apply(p, x.reshape(batch, -1)),
         layers.DenseFromMaps(5), lambda net, p: net.apply(p, ops.batch_last(x)), z[:1]),
        (nn.Dense(24, **random), lambda net, p: net.apply(p, z),
         layers.DenseToMaps((3, 2, 4)),
         lambda net, p: ops.batch_first(net.apply(p, z)).reshape(batch, -1), x[:1]),
    )  # fmt: skip
    for flat, run_flat, maps, run_maps, weight in pairs:
        shape = (24,) if flat.features == 5 else (5,)
        params = flat.init(jax.random.key(0), jnp.zeros((1, *shape)))

        def summary(p, run, net, weight=weight):
            y = run(net, p)
            return jnp.sum(jnp.square(y) * weight.reshape(1, -1)), y

        (_, expected), want = jax.value_and_grad(summary, has_aux=True)(params, run_flat, flat)
        (_, found), got = jax.value_and_grad(summary, has_aux=True)(params, run_maps, maps)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), got, want)
