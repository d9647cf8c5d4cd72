"""ALOCC as a `Learner`: two networks, one step (Sabokrou et al., CVPR 2018)."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxae import rng
from jaxae.scoring import LOSSES
from jaxae.types import (
    AXIS,
    Array,
    Batch,
    Key,
    Learner,
    Metrics,
    Outputs,
    PyTree,
    TrainState,
    mean_over,
)

LossFn = Callable[[Array, Array], Array]  # (x [*S], x_hat [*S]) -> []


class Pair(NamedTuple):
    """Something for each of the two networks of an adversarial method."""

    refiner: Any
    discriminator: Any


class AdversarialLosses(NamedTuple):
    """What an adversarial method minimises; logits are D's raw outputs [B]."""

    real: Callable[[Array], Array]  # logits -> loss of calling them real
    fake: Callable[[Array], Array]  # logits -> loss of calling them made
    recon: LossFn  # (x, refined), pixels in [-1, 1] -> []
    recon_weight: float  # of the reconstruction against the adversarial loss


def _tanh_cross_entropy(x: Array, x_hat: Array) -> Array:
    """The tutorial's reconstruction loss: tanh pixels serve as logits and as labels."""
    return optax.sigmoid_binary_cross_entropy(x_hat, x).mean()


ADVERSARIAL: dict[str, AdversarialLosses] = {
    "default": AdversarialLosses(
        real=lambda logits: jax.nn.softplus(-logits).mean(),
        fake=lambda logits: jax.nn.softplus(logits).mean(),
        recon=LOSSES["mse"],
        # At the tutorial's 0.2 the adversarial loss drowns the reconstruction, which is what tells
        # anomalies apart; see the record in experiments/mnist_alocc.py.
        recon_weight=10.0,
    ),
    # FastEstimator's tutorial squashes D's output and then feeds it to a loss that expects logits.
    "faithful": AdversarialLosses(
        real=lambda logits: jax.nn.softplus(-jax.nn.sigmoid(logits)).mean(),
        fake=lambda logits: jax.nn.softplus(jax.nn.sigmoid(logits)).mean(),
        recon=_tanh_cross_entropy,
        recon_weight=0.2,
    ),
}


def adversarial(
    nets: Pair,
    tx: Pair,
    losses: AdversarialLosses,
    *,
    noise_std: float,
    axis: str | None = AXIS,
) -> Learner:
    """ALOCC (Sabokrou et al., CVPR 2018): refiner R against discriminator D, updated together.

    With n ~ N(0, noise_std^2) and pixels in [-1, 1]:
      R minimises  real(D(R(x + n))) + recon_weight * recon(x, R(x + n))
      D minimises  real(D(x)) + fake(D(R(x + n)))
    Both gradients are taken at the same parameters and share one pass through R and through D.
    Rows and reconstructions are in [0, 1] outside; D's outputs stay logits.

    Args:
      nets: Linen modules `Refiner` and `Discriminator`, built with the same `axis`.
      tx: their optimisers.
      losses: one of `ADVERSARIAL`.
      noise_std: of the input noise in training, on the [-1, 1] scale.
      axis: mapped axis over which gradients, statistics and metrics are averaged.
    """
    refiner, discriminator = nets

    def init(key: Key, x: Array) -> TrainState:
        key_r, key_d = jax.random.split(key)
        variables = Pair(
            refiner.init(key_r, x, train=False), discriminator.init(key_d, x, train=False)
        )
        params = {name: getattr(variables, name)["params"] for name in Pair._fields}
        stats = {name: getattr(variables, name)["batch_stats"] for name in Pair._fields}
        opt_state = {name: getattr(tx, name).init(params[name]) for name in Pair._fields}
        return TrainState(jnp.zeros((), jnp.int32), params, {"batch_stats": stats}, opt_state)

    def run(net: Any, params: PyTree, stats: PyTree, x: Array) -> tuple[Any, PyTree]:
        out, new = net.apply(
            {"params": params, "batch_stats": stats}, x, train=True, mutable=["batch_stats"]
        )
        return out, new["batch_stats"]

    def gradients(state: TrainState, x: Array, noisy: Array) -> tuple[dict, dict, Metrics]:
        params, stats = state.params, state.model_state["batch_stats"]
        (refined, code), pull_refiner, stats_r = jax.vjp(
            lambda p: run(refiner, p, stats["refiner"], noisy), params["refiner"], has_aux=True
        )
        judge = partial(run, discriminator)
        fake_logits, pull_judge, stats_d = jax.vjp(
            lambda p, r: judge(p, stats["discriminator"], r),
            params["discriminator"],
            refined,
            has_aux=True,
        )
        adv, d_adv = jax.value_and_grad(losses.real)(fake_logits)
        fake, d_fake = jax.value_and_grad(losses.fake)(fake_logits)
        recon, d_recon = jax.value_and_grad(lambda r: jax.vmap(losses.recon)(x, r).mean())(refined)

        def real_loss(p: PyTree) -> tuple[Array, PyTree]:
            logits, new = judge(p, stats_d, x)
            return losses.real(logits), new

        (real, stats_d), grad_real = jax.value_and_grad(real_loss, has_aux=True)(
            params["discriminator"]
        )
        # Code features leave R beside the image and are in no loss: their cotangent is zero.
        d_refined = pull_judge(d_adv)[1] + losses.recon_weight * d_recon
        (grad_r,) = pull_refiner((d_refined, jnp.zeros_like(code)))
        grad_d = jax.tree.map(jnp.add, pull_judge(d_fake)[0], grad_real)
        grads = {"refiner": grad_r, "discriminator": grad_d}
        metrics = {
            "loss": adv + losses.recon_weight * recon,
            "loss_reconstruction": recon,
            "loss_discriminator": real + fake,
        }
        return grads, {"refiner": stats_r, "discriminator": stats_d}, metrics

    def step(state: TrainState, batch: Batch, key: Key) -> tuple[TrainState, Metrics]:
        x = 2.0 * batch.x - 1.0
        noisy = rng.add_noise(x, batch.slot, jax.random.fold_in(key, state.step), noise_std)
        grads, stats, metrics = gradients(state, x, noisy)
        grads, metrics = mean_over((grads, metrics), axis)
        params, opt_state = {}, {}
        for name, net_tx in zip(Pair._fields, tx, strict=True):
            updates, opt_state[name] = net_tx.update(
                grads[name], state.opt_state[name], state.params[name]
            )
            params[name] = optax.apply_updates(state.params[name], updates)
        return TrainState(state.step + 1, params, {"batch_stats": stats}, opt_state), metrics

    def infer(variables: PyTree, x: Array) -> Outputs:
        def part(name: str) -> dict:
            return {kind: variables[kind][name] for kind in ("params", "batch_stats")}

        scaled = 2.0 * x - 1.0
        refined, z = refiner.apply(part("refiner"), scaled, train=False)
        judge = partial(discriminator.apply, part("discriminator"), train=False)
        return Outputs((refined + 1.0) / 2.0, z, judge(refined), judge(scaled))

    return Learner(init, step, infer)
