"""Training methods: each builds a `Learner`, pure functions over a state of arrays.

To add a method, name a `Method` in `METHODS`, or call `METHODS.add` from outside of the package.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxae.config import ExperimentConfig, checks
from jaxae.data import sources
from jaxae.devices import precision, tuning
from jaxae.errors import UserError
from jaxae.methods.adversarial import ADVERSARIAL, Pair, adversarial
from jaxae.methods.networks.alocc import Discriminator, Refiner
from jaxae.methods.networks.conv import ConvAutoencoder
from jaxae.methods.networks.dense import DenseAutoencoder
from jaxae.methods.networks.init import ACTIVATIONS, INITS
from jaxae.methods.optimisers import OPTIMISERS, optimiser
from jaxae.methods.reconstruction import reconstruction
from jaxae.registry import Registry
from jaxae.scoring import LOSSES
from jaxae.types import AXIS, Learner, Shape, Source


class Method(NamedTuple):
    """A training method, and what must be known to use it.

    Attributes:
      build: `(configuration, shape of a row, mapped axis or None) -> Learner`.
      reads: the fields of the configuration that it reads, of those that not every method does (see
        `jaxae.config.checks.refuse_unread`); what others are set to is refused.
      span: `configuration -> (low, high)`, the values of rows that it can learn to reconstruct.
      decodes: whether its learner has `decode`.
      outputs: names of the `Outputs.extra` that its learner infers.
    """

    build: Callable[[ExperimentConfig, Shape, str | None], Learner]
    reads: frozenset[str]
    span: Callable[[ExperimentConfig], tuple[float, float]] = lambda cfg: (-math.inf, math.inf)
    decodes: bool = False
    outputs: frozenset[str] = frozenset()


def _autoencoder(cfg: ExperimentConfig, model: Any, tuned: tuning.Tuning, axis: str | None):
    noise = {"noise_std": cfg.train.noise_std} if cfg.train.noise_std else {}
    return reconstruction(
        model,
        functools.partial(optimiser, cfg.optim),
        LOSSES[cfg.train.loss],
        settings={"lr": cfg.optim.lr, **noise},
        noise_clip=cfg.train.noise_clip,
        dtype=cfg.model.compute_dtype,
        tuned=tuned,
        axis=axis,
    )


def _span(cfg: ExperimentConfig) -> tuple[float, float]:
    """That of the output's activation; cross-entropy takes shares only."""
    unit = cfg.train.loss == "bce"
    return (0.0, 1.0) if unit else ACTIVATIONS[cfg.model.output_activation].span


def _fields(cfg: ExperimentConfig, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(cfg.model, name) for name in names}


_SHARED = ("latent", "activation", "code_activation", "output_activation", "initializer")
_DENSE = (*_SHARED, "hidden")
_CONV = (
    *_SHARED,
    "filters",
    "kernels",
    "strides",
    "paddings",
    "head_kernel",
    "encoder_activation",
    "expand_activation",
)


def _dense(cfg: ExperimentConfig, shape: Shape, axis: str | None) -> Learner:
    if cfg.model.latent < 1:
        raise UserError(f"model.latent is {cfg.model.latent}; method dense needs at least 1")
    dtype = jnp.dtype(cfg.model.compute_dtype)
    model = DenseAutoencoder(shape, dtype=dtype, **_fields(cfg, _DENSE))
    return _autoencoder(cfg, model, tuning.DENSE, axis)


def _conv(cfg: ExperimentConfig, shape: Shape, axis: str | None) -> Learner:
    if len(shape) not in (2, 3):
        raise UserError(
            f"method conv needs rows of shape [H, W, C] or [T, C], not {list(shape)}; "
            "use --method dense"
        )
    dtype = jnp.dtype(cfg.model.compute_dtype)
    model = ConvAutoencoder(shape, dtype=dtype, **_fields(cfg, _CONV))
    return _autoencoder(cfg, model, tuning.CONV, axis)


def _alocc(cfg: ExperimentConfig, shape: Shape, axis: str | None) -> Learner:
    if len(shape) != 3:
        raise UserError(
            f"method alocc needs images [H, W, C], not rows of shape {list(shape)}; "
            "use conv or dense"
        )
    dtype = jnp.dtype(cfg.model.compute_dtype)
    nets = Pair(
        Refiner(shape, bottleneck=cfg.alocc.bottleneck, dtype=dtype, axis=axis),
        Discriminator(spectral=cfg.alocc.spectral, dtype=dtype, axis=axis),
    )
    losses = ADVERSARIAL[cfg.variant]
    steadying = {"code_noise": cfg.alocc.code_noise, "ema": cfg.alocc.ema}
    settings = {
        "lr": cfg.optim.lr,
        "lr_discriminator": cfg.optim.lr_discriminator,
        "noise_std": cfg.train.noise_std,
        "recon_weight": losses.recon_weight,
        **{name: value for name, value in steadying.items() if value},
    }
    tx = functools.partial(optimiser, cfg.optim)
    return adversarial(
        nets, tx, losses, settings=settings, dtype=cfg.model.compute_dtype, axis=axis
    )


def _reads(model: tuple[str, ...], *others: str) -> frozenset[str]:
    return frozenset({f"model.{name}" for name in (*model, "compute_dtype")} | {*others})


_STEADYING = ("alocc.bottleneck", "alocc.code_noise", "alocc.spectral", "alocc.ema")
_NOISE = ("train.loss", "train.noise_std", "train.noise_clip")
METHODS: Registry[Method] = Registry(
    "method",
    Method,
    {
        "dense": Method(_dense, _reads(_DENSE, *_NOISE), _span, decodes=True),
        "conv": Method(_conv, _reads(_CONV, *_NOISE), _span, decodes=True),
        "alocc": Method(
            _alocc,
            _reads((), "variant", "optim.lr_discriminator", "train.noise_std", *_STEADYING),
            lambda cfg: (0.0, 1.0),
            outputs=frozenset({"d_of_r", "d_of_x"}),
        ),
    },
)


def check(cfg: ExperimentConfig) -> None:
    """Reject what no learner could be built of, or what a learner would ignore.

    `settle`d configurations only: of what is "auto" nothing is known yet.

    Raises:
      UserError: an unknown name, or a setting that the method does not read.
    """
    checks.refuse_open(cfg)
    checks.refuse_unread(cfg, METHODS[cfg.method].reads)
    activations = [name for name in _CONV if name.endswith("activation")]
    registries: dict[str, Any] = {
        "optim.name": OPTIMISERS,
        "train.loss": LOSSES,
        "variant": ADVERSARIAL,
        "model.initializer": INITS,
        **{f"model.{name}": ACTIVATIONS for name in activations},
    }
    for name, registry in registries.items():
        registry[checks.value(cfg, name)]


def check_rows(cfg: ExperimentConfig, x: Source) -> None:
    """Reject training rows that no learner of the configuration could reconstruct.

    Raises:
      UserError: values outside the method's span.
    """
    refuse_outside(sources.span(x), METHODS[cfg.method].span(cfg), cfg)


def build(cfg: ExperimentConfig, shape: Shape, axis: str | None = AXIS) -> Learner:
    """The learner that a configuration describes, for rows of a shape; one object for one of them.

    Args:
      cfg: see `jaxae.config`.
      shape: S of one row.
      axis: the mapped axis name under `jaxae.devices.parallel`; None for a plain `jax.jit`.

    Raises:
      UserError: unknown method (the message lists them), a field that is still "auto", or rows that
        the method cannot take.
    """
    checks.refuse_open(cfg)
    return _built(METHODS[cfg.method], cfg, tuple(shape), axis)


@functools.lru_cache(maxsize=32)
def _built(method: Method, cfg: ExperimentConfig, shape: Shape, axis: str | None) -> Learner:
    learner = method.build(cfg, shape, axis)
    return learner._replace(
        step=precision.at(cfg.train.precision, learner.step),
        infer=precision.exact(learner.infer),
        loss=precision.exact(learner.loss),
        decode=learner.decode and precision.exact(learner.decode),
        tuning=tuning.from_table(cfg.method, learner.tuning),
    )


def refuse_outside(rows: sources.Span, span: tuple[float, float], cfg: ExperimentConfig) -> None:
    """Refuse rows that a method could never reconstruct.

    Args:
      rows: the smallest and the largest value of the training rows, scaled.
      span: what the method can give, see `jaxae.methods.learners.Method`.
      cfg: the configuration.

    Raises:
      UserError: the rows leave the span by more than rounding, or noisy ones would be cut off.
    """
    low, high = rows
    if not sources.within(rows, *span):
        raise UserError(
            f"the training rows span {low:g} to {high:g}, of which method {cfg.method} with "
            f"model.output_activation {cfg.model.output_activation} and train.loss "
            f"{cfg.train.loss} gives {span[0]:g} to {span[1]:g} only; use --data.scale minmax, or "
            "--model.output-activation linear with --train.loss mse"
        )
    clips = cfg.train.noise_std > 0 and cfg.train.noise_clip
    if clips and not sources.within(rows, 0.0, 1.0):
        raise UserError(
            f"the training rows span {low:g} to {high:g}, but train.noise_clip cuts noisy inputs "
            "to 0 to 1; use --train.no-noise-clip, or --data.scale minmax"
        )
