"""The same networks in plain Flax: `nn.Conv`, `nn.ConvTranspose` and one jitted step per dispatch.

This is typical Flax code, with which `jaxae.ops` and `jaxae.devices.parallel` are compared. Dense
models and losses are those of jaxae; there only the dispatch differs.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from benchmarks.cases import Case, recon_weight
from jaxae.methods.networks.dense import DenseAutoencoder
from jaxae.methods.optimisers import optimiser
from jaxae.scoring import LOSSES
from jaxae.types import Array


def _up(features: int, name: str | None = None, kernel: int = 3, padding="SAME", **kw):
    return nn.ConvTranspose(
        features, (kernel, kernel), (2, 2), padding, transpose_kernel=True, name=name, **kw
    )


class MnistConv(nn.Module):
    """S0."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Reconstruct [B, 28, 28, 1]."""
        kw = {"dtype": self.dtype}
        x = nn.relu(nn.Conv(32, (3, 3), (2, 2), name="convs_0", **kw)(x))
        x = nn.relu(nn.Conv(64, (3, 3), (2, 2), name="convs_1", **kw)(x))
        x = nn.Dense(32, name="to_code", **kw)(x.reshape(len(x), -1))
        x = nn.relu(nn.Dense(7 * 7 * 64, name="expand", **kw)(x)).reshape(-1, 7, 7, 64)
        x = nn.relu(_up(32, "deconvs_0", **kw)(x))
        return nn.sigmoid(_up(1, "deconvs_1", **kw)(x)).astype(jnp.float32)


class MnistConvLatent(nn.Module):
    """S1, with PyTorch's padding of one pixel, and its transpose, written out."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Reconstruct [B, 28, 28, 1]."""
        kw, one, back = {"dtype": self.dtype}, ((1, 1), (1, 1)), ((1, 2), (1, 2))
        x = nn.relu(nn.Conv(16, (3, 3), (2, 2), one, name="convs_0", **kw)(x))
        x = nn.relu(nn.Conv(32, (3, 3), (2, 2), one, name="convs_1", **kw)(x))
        x = nn.Conv(64, (7, 7), padding="VALID", name="convs_2", **kw)(x).reshape(len(x), -1)
        x = nn.Dense(20, name="to_code", **kw)(x)
        x = nn.Dense(64, name="expand", **kw)(x).reshape(-1, 1, 1, 64)
        x = nn.ConvTranspose(
            32, (7, 7), padding="VALID", transpose_kernel=True, name="deconvs_0", **kw
        )(x)
        x = nn.relu(_up(16, "deconvs_1", padding=back, **kw)(nn.relu(x)))
        return nn.sigmoid(_up(1, "deconvs_2", padding=back, **kw)(x)).astype(jnp.float32)


class FmnistDenoise(nn.Module):
    """The convolutional model of S2."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """Reconstruct [B, 28, 28, 1]."""
        kw = {"dtype": self.dtype}
        x = nn.relu(nn.Conv(16, (3, 3), (2, 2), name="convs_0", **kw)(x))
        x = nn.relu(nn.Conv(8, (3, 3), (2, 2), name="convs_1", **kw)(x))
        x = nn.relu(_up(8, "deconvs_0", **kw)(x))
        x = nn.relu(_up(16, "deconvs_1", **kw)(x))
        return nn.sigmoid(nn.Conv(1, (3, 3), name="head", **kw)(x)).astype(jnp.float32)


class Refiner(nn.Module):
    """S4's refiner."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Refine [B, 28, 28, 1] in [-1, 1]."""
        kw = {"dtype": self.dtype}
        norm = {"use_running_average": not train, "momentum": 0.99, "epsilon": 1e-3, **kw}
        for features in (32, 64, 128):
            x = nn.BatchNorm(**norm)(nn.Conv(features, (5, 5), (2, 2), **kw)(x))
            x = nn.leaky_relu(x, 0.2)
        seven = ((2, 2), (2, 2))  # 4 -> 7
        x = nn.relu(nn.BatchNorm(**norm)(_up(32, None, 5, seven, **kw)(x)))
        x = nn.relu(nn.BatchNorm(**norm)(_up(16, None, 5, **kw)(x)))
        return jnp.tanh(_up(1, None, 5, **kw)(x).astype(jnp.float32))


class Discriminator(nn.Module):
    """S4's discriminator."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Log-odds [B]."""
        kw = {"dtype": self.dtype}
        norm = {"use_running_average": not train, "momentum": 0.99, "epsilon": 1e-3, **kw}
        for features in (16, 32, 64):
            x = nn.BatchNorm(**norm)(nn.Conv(features, (5, 5), (2, 2), **kw)(x))
            x = nn.leaky_relu(x, 0.2)
        x = nn.leaky_relu(nn.Conv(128, (5, 5), (2, 2), **kw)(x), 0.2)
        return nn.Dense(1, **kw)(x.reshape(len(x), -1))[:, 0].astype(jnp.float32)


NETWORKS = {
    "mnist_conv": MnistConv,
    "mnist_conv_latent": MnistConvLatent,
    "fmnist_denoise": FmnistDenoise,
}


DENSE_FIELDS = (
    "hidden",
    "latent",
    "activation",
    "code_activation",
    "output_activation",
    "initializer",
)


def build(case: Case, cfg):
    """`(init, gradients, step, score)` of a case; the caller jits each of them.

    Returns:
      init: `(params) -> state`, a dictionary.
      gradients: `(state, x, noisy) -> ({name: loss}, gradients, statistics)`.
      step: `(state, x, key) -> state`.
      score: `(state, x) -> [B]` mean squared reconstruction error.
    """
    return (_adversarial if cfg.method == "alocc" else _reconstruction)(case, cfg)


def _noisy(cfg, x: Array, key) -> Array:
    std = cfg.train.noise_std
    return x + std * jax.random.normal(key, x.shape) if std else x


def _per_row(x: Array, x_hat: Array) -> Array:
    return jnp.square(x - x_hat).reshape(len(x), -1).mean(1)


def _reconstruction(case: Case, cfg):
    dtype = jnp.dtype(cfg.model.compute_dtype)
    if case.dense:
        fields = {name: getattr(cfg.model, name) for name in DENSE_FIELDS}
        net = DenseAutoencoder(case.shape, dtype=dtype, **fields)
        apply = lambda params, x: net.apply({"params": params}, x)[0]  # noqa: E731
    else:
        net = NETWORKS[case.name](dtype)
        apply = lambda params, x: net.apply({"params": params}, x)  # noqa: E731
    tx, loss = optimiser(cfg.optim, cfg.optim.lr), jax.vmap(LOSSES[cfg.train.loss])

    def init(params):
        # The caller makes the parameters, so that every competitor starts from the same ones.
        return {"params": params, "opt": tx.init(params)}

    def gradients(state, x, noisy):
        mean_loss = lambda params: loss(x, apply(params, noisy)).mean()  # noqa: E731
        value, grads = jax.value_and_grad(mean_loss)(state["params"])
        return {"loss": value}, grads, {}

    def step(state, x, key):
        noisy = _noisy(cfg, x, key)
        noisy = jnp.clip(noisy, 0, 1) if cfg.train.noise_std else noisy
        _, grads, _ = gradients(state, x, noisy)
        updates, opt = tx.update(grads, state["opt"], state["params"])
        return {"params": jax.tree.map(jnp.add, state["params"], updates), "opt": opt}

    return init, gradients, step, lambda state, x: _per_row(x, apply(state["params"], x))


def _adversarial(case: Case, cfg):
    dtype = jnp.dtype(cfg.model.compute_dtype)
    nets = {"refiner": Refiner(dtype), "discriminator": Discriminator(dtype)}
    rates = {"refiner": cfg.optim.lr, "discriminator": cfg.optim.lr_discriminator}
    tx = {name: optimiser(cfg.optim, lr) for name, lr in rates.items()}

    def run(name, params, stats, x):
        variables = {"params": params, "batch_stats": stats}
        out, new = nets[name].apply(variables, x, train=True, mutable=["batch_stats"])
        return out, new["batch_stats"]

    def init(params):
        row = jnp.zeros((1, *case.shape))
        made = {n: net.init(jax.random.key(0), row, train=False) for n, net in nets.items()}
        stats = {n: v["batch_stats"] for n, v in made.items()}
        return {"params": params, "stats": stats, "opt": {n: tx[n].init(params[n]) for n in tx}}

    def gradients(state, x, noisy):
        params, stats = state["params"], state["stats"]

        def loss_r(p):
            refined, new = run("refiner", p, stats["refiner"], noisy)
            fake, _ = run("discriminator", params["discriminator"], stats["discriminator"], refined)
            recon = jnp.square(x - refined).mean()
            value = jax.nn.softplus(-fake).mean() + recon_weight(cfg) * recon
            return value, (refined, new)

        def loss_d(p, refined):
            fake, new = run("discriminator", p, stats["discriminator"], refined)
            real, new = run("discriminator", p, new, x)
            return jax.nn.softplus(-real).mean() + jax.nn.softplus(fake).mean(), new

        (value_r, (refined, stats_r)), grad_r = jax.value_and_grad(loss_r, has_aux=True)(
            params["refiner"]
        )
        (value_d, stats_d), grad_d = jax.value_and_grad(loss_d, has_aux=True)(
            params["discriminator"], refined
        )
        losses = {"loss": value_r, "loss_discriminator": value_d}
        new = {"refiner": stats_r, "discriminator": stats_d}
        return losses, {"refiner": grad_r, "discriminator": grad_d}, new

    def step(state, x, key):
        x = 2 * x - 1
        _, grads, stats = gradients(state, x, _noisy(cfg, x, key))
        params, opt = {}, {}
        for n in tx:
            updates, opt[n] = tx[n].update(grads[n], state["opt"][n], state["params"][n])
            params[n] = jax.tree.map(jnp.add, state["params"][n], updates)
        return {"params": params, "stats": stats, "opt": opt}

    def score(state, x):
        variables = {"params": state["params"]["refiner"], "batch_stats": state["stats"]["refiner"]}
        return _per_row(2 * x - 1, nets["refiner"].apply(variables, 2 * x - 1, train=False)) / 4

    def in_range(state, x, noisy):
        return gradients(state, 2 * x - 1, 2 * noisy - 1)

    return init, in_range, step, score
