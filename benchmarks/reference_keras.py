"""The reference systems, written as an experienced TensorFlow/Keras user would."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

from benchmarks.cases import Case, Weights, recon_weight
from benchmarks.keras_weights import MIRRORED, load, to_flax


def _dense(*widths: int):
    n_in, *hidden, n_out = widths
    stack = [kl.Dense(n, activation="relu") for n in hidden]
    # The last layer's activation is float32 even if the network computes in bfloat16.
    last = [kl.Dense(n_out), kl.Activation("sigmoid", dtype="float32")]
    return keras.Sequential([keras.Input((n_in,)), *stack, *last])


def _down(filters: int, kernel: int = 3, activation: str | None = "relu", **kw):
    return kl.Conv2D(filters, kernel, strides=2, padding="same", activation=activation, **kw)


def _up(filters: int, kernel: int = 3, activation: str | None = "relu", **kw):
    return kl.Conv2DTranspose(
        filters, kernel, strides=2, padding="same", activation=activation, **kw
    )


def _image_model(*stack) -> keras.Sequential:
    return keras.Sequential([keras.Input((28, 28, 1)), *stack])


def _sigmoid():
    return kl.Activation("sigmoid", dtype="float32")


def _mnist_conv():
    return _image_model(
        _down(32), _down(64), kl.Flatten(), kl.Dense(32),
        kl.Dense(7 * 7 * 64, activation="relu"), kl.Reshape((7, 7, 64)),
        _up(32), _up(1, activation=None), _sigmoid(),
    )  # fmt: skip


def _mnist_conv_latent():
    return _image_model(
        _down(16), _down(32), kl.Conv2D(64, 7), kl.Flatten(), kl.Dense(20), kl.Dense(64),
        kl.Reshape((1, 1, 64)), kl.Conv2DTranspose(32, 7, activation="relu"),
        _up(16), _up(1, activation=None), _sigmoid(),
    )  # fmt: skip


def _fmnist_denoise():
    return _image_model(
        _down(16), _down(8), _up(8), _up(16), kl.Conv2D(1, 3, padding="same"), _sigmoid()
    )


def _normed(layer, negative_slope: float):
    return [layer, kl.BatchNormalization(), kl.LeakyReLU(negative_slope)]


def _refiner():
    down = [_normed(_down(n, 5, None), 0.2) for n in (32, 64, 128)]
    up = [_normed(_up(32, 5, None, output_padding=0), 0.0), _normed(_up(16, 5, None), 0.0)]
    flat = [layer for block in down + up for layer in block]
    return _image_model(*flat, _up(1, 5, None), kl.Activation("tanh", dtype="float32"))


def _discriminator():
    flat = [layer for n in (16, 32, 64) for layer in _normed(_down(n, 5, None), 0.2)]
    last = [_down(128, 5, None), kl.LeakyReLU(0.2), kl.Flatten(), kl.Dense(1, dtype="float32")]
    return _image_model(*flat, *last)


class Alocc(keras.Model):
    """Refiner and discriminator; the discriminator outputs logits."""

    def __init__(self, cfg):
        super().__init__()
        self.refiner, self.discriminator, self.cfg = _refiner(), _discriminator(), cfg
        self.opt_r = keras.optimizers.RMSprop(cfg.optim.lr)
        self.opt_d = keras.optimizers.RMSprop(cfg.optim.lr_discriminator)

    def call(self, x, training=False):
        """The refined images."""
        return self.refiner(x, training=training)

    def losses_and_gradients(self, x, noisy):
        """The loss of each network and its gradients, from one pass through both."""
        cfg = self.cfg
        with tf.GradientTape(persistent=True) as tape:
            refined = self.refiner(noisy, training=True)
            fake = self.discriminator(refined, training=True)[:, 0]
            real = self.discriminator(x, training=True)[:, 0]
            if cfg.variant == "faithful":  # treats sigmoids and tanh pixels as logits
                fake, real = tf.sigmoid(fake), tf.sigmoid(real)
                recon = tf.nn.sigmoid_cross_entropy_with_logits(labels=x, logits=refined)
            else:
                recon = tf.square(refined - x)
            loss_r = tf.reduce_mean(tf.nn.softplus(-fake))
            loss_r += recon_weight(cfg) * tf.reduce_mean(recon)
            loss_d = tf.reduce_mean(tf.nn.softplus(-real)) + tf.reduce_mean(tf.nn.softplus(fake))
        grads_r = tape.gradient(loss_r, self.refiner.trainable_variables)
        grads_d = tape.gradient(loss_d, self.discriminator.trainable_variables)
        return {"": loss_r, "_discriminator": loss_d}, (grads_r, grads_d)

    def train_step(self, x):
        """The step that `fit` runs for each batch."""
        x = x[0] if isinstance(x, tuple) else x
        noisy = x + self.cfg.train.noise_std * tf.random.normal(tf.shape(x))
        losses, (grads_r, grads_d) = self.losses_and_gradients(x, noisy)
        self.opt_r.apply(grads_r, self.refiner.trainable_variables)
        self.opt_d.apply(grads_d, self.discriminator.trainable_variables)
        return {"loss": losses[""]}


NETWORKS: dict[str, Callable[[], keras.Model]] = {
    "mnist_conv": _mnist_conv,
    "mnist_conv_latent": _mnist_conv_latent,
    "fmnist_dense": lambda: _dense(784, 64, 784),
    "fmnist_denoise": _fmnist_denoise,
    "ecg_dense": lambda: _dense(140, 32, 16, 8, 16, 32, 140),
    "fmnist_one_class": lambda: _dense(784, 800, 400, 100, 400, 800, 784),
}
LOSSES = {
    "mse": keras.losses.MeanSquaredError,
    "mae": keras.losses.MeanAbsoluteError,
    "bce": keras.losses.BinaryCrossentropy,
}


@contextlib.contextmanager
def computing(precision: str) -> Iterator[None]:
    """Set the precision of float32 products on a GPU: "default" = TF32, "highest" = exact."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(precision == "default")
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)


class Program(NamedTuple):
    """One model in Keras, for rows made by `prepare`; see `reference_torch.Program`.

    Losses and gradients from `gradients`, `outputs` and scores are computed in exact float32,
    training in the requested precision.

    Attributes:
      prepare: rows [N, *S] -> the tensor that the other functions take.
      load: set the weights and reset running statistics.
      outputs: reconstructions [B, *S] in evaluation mode, as NumPy.
      gradients: `x -> ({name: loss}, gradients)` without input noise.
      train: `(rows, order [T, B]) -> None`: T steps in the way of the setting.
      score: `(rows) -> [B]` mean squared error, pixels in [0, 1].
      precision: precision of float32 products in training, in words.
    """

    prepare: Callable[[np.ndarray], tf.Tensor]
    load: Callable[[Weights], None]
    outputs: Callable[[tf.Tensor], np.ndarray]
    gradients: Callable[[tf.Tensor], tuple[dict[str, float], Weights]]
    train: Callable[[tf.Tensor, np.ndarray], None]
    score: Callable[[tf.Tensor], tf.Tensor]
    precision: str


def build(case: Case, cfg, setting: str = "function", precision: str = "default") -> Program:
    """A case as a Keras model.

    Args:
      case: see `benchmarks.cases`.
      cfg: the experiment's configuration; its optimiser, loss, noise and compute dtype are used.
      setting: "function" (a `tf.function` per step), "xla" (the same with `jit_compile`), "loop"
        (many steps in one `tf.function`) or "fit" (`Model.fit`).
      precision: precision of training, see `computing`.
    """
    keras.config.set_dtype_policy(
        "mixed_bfloat16" if cfg.model.compute_dtype == "bfloat16" else "float32"
    )
    adversarial, xla = cfg.method == "alocc", setting == "xla"
    model = Alocc(cfg) if adversarial else NETWORKS[case.name]()
    losses_and_gradients, step = _adversarial(model) if adversarial else _reconstruction(model, cfg)
    one = tf.function(lambda rows, index: step(tf.gather(rows, index)), jit_compile=xla)

    @tf.function
    def many(rows, order):
        for index in order:
            step(tf.gather(rows, index))

    @tf.function(jit_compile=xla)
    def score(x):
        error = tf.square(tf.cast(model(x, training=False), tf.float32) - x)
        error = tf.reduce_mean(tf.reshape(error, (tf.shape(x)[0], -1)), axis=1)
        return error / 4 if adversarial else error  # pixels in [-1, 1] have twice the range

    def prepare(x: np.ndarray) -> tf.Tensor:
        x = x[:, ::-1, ::-1] if case.name in MIRRORED else x
        x = x.reshape(len(x), -1) if case.dense else x
        return tf.constant(2 * x - 1 if adversarial else x)

    def outputs(x: tf.Tensor) -> np.ndarray:
        x_hat = model(x, training=False).numpy().reshape(-1, *case.shape)
        x_hat = (x_hat + 1) / 2 if adversarial else x_hat
        return x_hat[:, ::-1, ::-1] if case.name in MIRRORED else x_hat

    def gradients(x: tf.Tensor) -> tuple[dict[str, float], Weights]:
        losses, grads = losses_and_gradients(x, x)
        flat = [g for part in (grads if adversarial else [grads]) for g in part]
        found = zip((p.path for p in model.trainable_variables), flat, strict=True)
        return {f"loss{k}": float(v) for k, v in losses.items()}, to_flax(model, case, dict(found))

    def train(rows: tf.Tensor, order: np.ndarray) -> None:
        if setting == "fit":
            _fit(model, cfg, rows, order)
        elif setting == "loop":
            many(rows, tf.constant(order))
        else:
            for index in tf.constant(order):
                one(rows, index)

    exact, stated = computing("highest"), computing(precision)
    return Program(
        prepare, lambda w: load(model, case, w), exact(outputs), exact(gradients), stated(train),
        exact(score), "tensorfloat32 allowed" if precision == "default" else "highest",
    )  # fmt: skip


def _reconstruction(model, cfg):
    """(losses and gradients of (x, noisy x), one training step)."""
    loss = LOSSES[cfg.train.loss]()
    optimiser = keras.optimizers.Adam(cfg.optim.lr, epsilon=1e-8)
    decay = cfg.optim.weight_decay

    def losses_and_gradients(x, noisy):
        with tf.GradientTape() as tape:
            value = loss(x, model(noisy, training=True))
        return {"": value}, tape.gradient(value, model.trainable_variables)

    def step(x):
        noisy = x
        if cfg.train.noise_std:
            noisy = tf.clip_by_value(x + cfg.train.noise_std * tf.random.normal(tf.shape(x)), 0, 1)
        losses, grads = losses_and_gradients(x, noisy)
        if decay:  # added to the gradient, as torch's Adam does
            pairs = zip(grads, model.trainable_variables, strict=True)
            grads = [g + decay * v for g, v in pairs]
        optimiser.apply(grads, model.trainable_variables)
        return losses[""]

    return losses_and_gradients, step


def _adversarial(model: Alocc):
    return model.losses_and_gradients, lambda x: model.train_step(x)["loss"]


def _fit(model, cfg, rows: tf.Tensor, order: np.ndarray) -> None:
    """One epoch of Keras's `fit` over as many rows as `order` has, shuffled by Keras."""
    if not model.compiled:
        _compile(model, cfg)
    x = rows[: order.size].numpy()
    noisy = x
    if cfg.train.noise_std and cfg.method != "alocc":
        noise = np.random.default_rng(0).standard_normal(x.shape, dtype=np.float32)
        noisy = np.clip(x + cfg.train.noise_std * noise, 0, 1)
    target = None if cfg.method == "alocc" else x
    model.fit(noisy, target, batch_size=order.shape[1], epochs=1, verbose=0)


def _compile(model, cfg) -> None:
    if cfg.method == "alocc":
        model.compile()
        return
    model.compile(
        optimizer=keras.optimizers.Adam(cfg.optim.lr, epsilon=1e-8), loss=LOSSES[cfg.train.loss]()
    )
