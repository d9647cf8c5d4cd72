"""ALOCC as a `Learner`: two networks, one step (Sabokrou et al., CVPR 2018)."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxae import rng
from jaxae.devices import reductions, tuning
from jaxae.registry import Registry
from jaxae.scoring import LOSSES
from jaxae.types import (
    AXIS,
    Batch,
    Inferred,
    Key,
    Learner,
    LossFn,
    Metrics,
    Outputs,
    PyTree,
    Scalar,
    Settings,
    TrainState,
)


class Pair(NamedTuple):
    """A value for each of the two networks of an adversarial method."""

    refiner: Any
    discriminator: Any


class AdversarialLosses(NamedTuple):
    """The losses of an adversarial method; logits are D's raw outputs."""

    real: Callable[[Array], Array]  # logits [...] -> mean loss with the label "real"
    fake: Callable[[Array], Array]  # logits [...] -> mean loss with the label "fake"
    recon: LossFn  # (x, refined), pixels in [-1, 1] -> []
    recon_weight: float  # of the reconstruction loss, relative to the adversarial loss


def _tanh_cross_entropy(x: Array, x_hat: Array) -> Array:
    """The tutorial's reconstruction loss: tanh pixels serve as logits and as labels."""
    return optax.sigmoid_binary_cross_entropy(x_hat, x).mean()


ADVERSARIAL: Registry[AdversarialLosses] = Registry(
    "variant",
    AdversarialLosses,
    {
        "default": AdversarialLosses(
            real=lambda logits: jax.nn.softplus(-logits).mean(),
            fake=lambda logits: jax.nn.softplus(logits).mean(),
            recon=LOSSES["mse"],
            # At the tutorial's 0.2 the adversarial loss outweighs the reconstruction error, which
            # is what separates anomalies; see the record in experiments/mnist_alocc.py.
            recon_weight=10.0,
        ),
        # FastEstimator's tutorial squashes D's output and feeds it to a loss that expects logits.
        "faithful": AdversarialLosses(
            real=lambda logits: jax.nn.softplus(-jax.nn.sigmoid(logits)).mean(),
            fake=lambda logits: jax.nn.softplus(jax.nn.sigmoid(logits)).mean(),
            recon=_tanh_cross_entropy,
            recon_weight=0.2,
        ),
    },
)


def adversarial(
    nets: Pair,
    tx: Callable[[Any], optax.GradientTransformation],
    losses: AdversarialLosses,
    *,
    settings: Settings,
    axis: str | None = AXIS,
) -> Learner:
    """ALOCC (Sabokrou et al., CVPR 2018): refiner R against discriminator D, updated together.

    With n ~ N(0, noise_std^2) and pixels in [-1, 1]:
      R minimises  real(D(R(x + n))) + recon_weight * recon(x, R(x + n))
      D minimises  real(D(x)) + fake(D(R(x + n)))
    Both gradients are taken at the same parameters and share one pass through R and through D.
    The learner takes and returns rows in [0, 1]; D's outputs stay logits.

    Args:
      nets: Linen modules `Refiner` and `Discriminator`, built with the same `dtype` and `axis`.
      tx: learning rate -> optimiser, for both networks.
      losses: one of `ADVERSARIAL`.
      settings: "lr" of R, "lr_discriminator", "noise_std" on the [-1, 1] scale, "recon_weight";
        optionally "code_noise", see `Refiner`, and "ema", see `_averaged`.
      axis: mapped axis over which gradients, statistics and metrics are averaged.
    """

    def step(
        state: TrainState, batch: Batch, key: Key, settings: Settings
    ) -> tuple[TrainState, Metrics]:
        x, key = _signed(batch.x), jax.random.fold_in(key, state.step)
        noisy = rng.add_noise(x, batch.slot, key, settings["noise_std"])
        refine = partial(_run, nets.refiner, **_perturbation(batch, key, settings))
        discriminate = partial(_run, nets.discriminator)
        weight = settings["recon_weight"]
        grads, stats, metrics = _gradients(refine, discriminate, losses, state, x, noisy, weight)
        grads, metrics = reductions.over((grads, metrics), axis)
        return _updated(tx, state, grads, stats, settings), metrics

    def loss(row: Inferred, settings: Settings) -> Scalar:
        recon = losses.recon(_signed(row.x), _signed(row.out.x_hat))
        return losses.real(row.out.extra["d_of_r"]) + settings["recon_weight"] * recon

    init, infer = partial(_init, nets, tx, "ema" in settings), partial(_infer, nets)
    dtype = jnp.dtype(nets.refiner.dtype).name
    return Learner(init, step, infer, loss, settings, dtype=dtype, tuning=tuning.ALOCC)


def _signed(x: Array) -> Array:
    """Convert pixels from [0, 1] to [-1, 1], the range of the networks."""
    return 2.0 * x - 1.0


_CODE = 2**32 - 1  # the address of the noise on codes; larger than any slot in a batch


def _perturbation(batch: Batch, key: Key, settings: Settings) -> dict[str, Callable]:
    """The refiner's argument that adds noise to codes; empty without the setting "code_noise"."""
    if "code_noise" not in settings:
        return {}
    code_key, std = jax.random.fold_in(key, _CODE), settings["code_noise"]
    return {"perturb": lambda z: rng.add_noise(z, batch.slot, code_key, std)}


def _init(
    nets: Pair, tx: Callable, averages: bool, key: Key, x: Float[Array, " 1 *S"]
) -> TrainState:
    variables = {
        name: net.init(net_key, x, train=False)
        for name, net, net_key in zip(Pair._fields, nets, jax.random.split(key), strict=True)
    }
    params = {name: collections["params"] for name, collections in variables.items()}
    stats = {name: collections["batch_stats"] for name, collections in variables.items()}
    opt_state = {name: tx(1.0).init(weights) for name, weights in params.items()}
    ema = {"ema": {"params": params, "batch_stats": stats}} if averages else {}
    step, model_state = jnp.zeros((), jnp.int32), {"batch_stats": stats, **ema}
    return TrainState(step, params, model_state, opt_state)


def _infer(nets: Pair, variables: PyTree, x: Float[Array, " B *S"]) -> Outputs:
    refine, discriminate = (
        partial(net.apply, {kind: variables[kind][name] for kind in variables}, train=False)
        for name, net in zip(Pair._fields, nets, strict=True)
    )
    x = _signed(x)
    refined, z = refine(x)
    log_odds = {"d_of_r": discriminate(refined), "d_of_x": discriminate(x)}
    return Outputs((refined + 1.0) / 2.0, z, log_odds)


def _run(
    net: Any, params: PyTree, stats: PyTree, x: Array, **others: Callable
) -> tuple[Any, PyTree]:
    """Run a network in training mode: its output, and its running statistics after this batch."""
    variables = {"params": params, "batch_stats": stats}
    out, new = net.apply(variables, x, train=True, mutable=["batch_stats"], **others)
    return out, new["batch_stats"]


def _gradients(
    refine: Callable,
    discriminate: Callable,
    losses: AdversarialLosses,
    state: TrainState,
    x: Array,
    noisy: Array,
    recon_weight: Array,
) -> tuple[dict, dict, Metrics]:
    """Gradients and new running statistics of both networks, and the metrics of the step."""
    params, stats = state.params, state.model_state["batch_stats"]
    (refined, code), pull_refiner, stats_r = jax.vjp(
        lambda p: refine(p, stats["refiner"], noisy), params["refiner"], has_aux=True
    )
    fake_logits, pull_discriminator, stats_d = jax.vjp(
        lambda p, r: discriminate(p, stats["discriminator"], r),
        params["discriminator"],
        refined,
        has_aux=True,
    )
    adv, d_adv = jax.value_and_grad(losses.real)(fake_logits)
    fake, d_fake = jax.value_and_grad(losses.fake)(fake_logits)
    recon, d_recon = jax.value_and_grad(lambda r: jax.vmap(losses.recon)(x, r).mean())(refined)

    def real_loss(p: PyTree) -> tuple[Array, PyTree]:
        logits, new = discriminate(p, stats_d, x)
        return losses.real(logits), new

    real_and_grad = jax.value_and_grad(real_loss, has_aux=True)
    (real, stats_d), grad_real = real_and_grad(params["discriminator"])
    # R also returns code features, which are in no loss: their cotangent is zero.
    d_refined = pull_discriminator(d_adv)[1] + recon_weight * d_recon
    (grad_r,) = pull_refiner((d_refined, jnp.zeros_like(code)))
    grad_d = jax.tree.map(jnp.add, pull_discriminator(d_fake)[0], grad_real)
    grads = {"refiner": grad_r, "discriminator": grad_d}
    metrics = {
        "loss": adv + recon_weight * recon,
        "loss_reconstruction": recon,
        "loss_discriminator": real + fake,
    }
    return grads, {"refiner": stats_r, "discriminator": stats_d}, metrics


_RATES = Pair("lr", "lr_discriminator")


def _updated(
    tx: Callable, state: TrainState, grads: dict, stats: dict, settings: Settings
) -> TrainState:
    """The state after one step of both optimisers."""
    params, opt_state = {}, {}
    for name, rate in zip(Pair._fields, _RATES, strict=True):
        updates, opt_state[name] = tx(settings[rate]).update(
            grads[name], state.opt_state[name], state.params[name]
        )
        params[name] = optax.apply_updates(state.params[name], updates)
    model_state = {"batch_stats": stats}
    if "ema" in settings:
        new, old = {"params": params, **model_state}, state.model_state["ema"]
        model_state["ema"] = _averaged(old, new, state.step, settings["ema"])
    return TrainState(state.step + 1, params, model_state, opt_state)


def _averaged(old: PyTree, new: PyTree, step: Array, decay: Array) -> PyTree:
    """Averages d * old + (1 - d) * new of parameters and statistics, after a step t = 0, 1, ...

    d = min(decay, (1 + t) / (10 + t)): the decay is smaller in the first steps, so that the average
    soon forgets the initial weights.
    """
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda a, b: d * a + (1.0 - d) * b, old, new)
