"""Training methods by name, with the configuration fields that each reads.

To add a method, enter a `Method` in `METHODS`, or call `METHODS.add` from outside the package.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from jaxae.config import AloccConfig, ExperimentConfig, FcnConfig, ModelConfig, checks
from jaxae.config.fields import add_method_settings
from jaxae.data import augmentations, sources
from jaxae.devices import precision, tuning
from jaxae.errors import UserError
from jaxae.methods import wrappers
from jaxae.methods.adversarial import ADVERSARIAL, Pair, adversarial
from jaxae.methods.networks.alocc import Discriminator, Refiner
from jaxae.methods.networks.conv import ConvAutoencoder
from jaxae.methods.networks.dense import Autoencoder, DenseAutoencoder
from jaxae.methods.networks.fcn import FullyConvolutional, code_places, depth_of
from jaxae.methods.networks.init import ACTIVATIONS, INITS
from jaxae.methods.optimisers import OPTIMISERS, optimiser
from jaxae.methods.reconstruction import reconstruction
from jaxae.registry import Registry
from jaxae.scoring import LOSSES
from jaxae.types import AXIS, Learner, Outputs, PyTree, Shape, Source

_PLACES = 64 * 64  # of a row; of rows with more, fewer are taken at a time
_SIDES = 512  # the sides of larger rows that are scored at a time: 4 of 128 x 128, 2 of 256 x 256


class Method(NamedTuple):
    """A training method and the facts needed to use it.

    Attributes:
      build: `(configuration, shape of a row, mapped axis or None) -> Learner`.
      reads: the method-specific configuration fields that it reads, by their dotted names; a value
        set for any other such field is refused (see `jaxae.config.checks.refuse_unread`).
      span: `configuration -> (low, high)`, the range of values that it can reconstruct.
      decodes: whether its learner has `decode`.
      outputs: the keys of `Outputs.extra` that its learner infers.
      settings: a frozen dataclass of settings of its own, described as in `jaxae.config.schema`, or
        None. `build` finds them in `cfg.method_settings`; in files, flags and messages they are a
        section with the method's name.
    """

    build: Callable[[ExperimentConfig, Shape, str | None], Learner]
    reads: frozenset[str]
    span: Callable[[ExperimentConfig], tuple[float, float]] = lambda cfg: (-math.inf, math.inf)
    decodes: bool = False
    outputs: frozenset[str] = frozenset()
    settings: type | None = None


class _Methods(Registry[Method]):
    """Methods by name; `add` also registers a method's own settings with the configuration."""

    def add(self, name: str, entry: Any) -> Method:
        super().add(name, entry)
        if entry.settings:
            try:
                add_method_settings(name, entry.settings, ExperimentConfig)
            except UserError:
                del self[name]
                raise
        return entry


def _span(cfg: ExperimentConfig) -> tuple[float, float]:
    """The span of the output activation; cross-entropy needs values in [0, 1]."""
    unit = cfg.train.loss == "bce"
    return (0.0, 1.0) if unit else ACTIVATIONS[cfg.model.output_activation].span


def _dense(cfg: ExperimentConfig, shape: Shape, axis: str | None) -> Learner:
    if cfg.model.latent < 1:
        raise UserError(f"model.latent is {cfg.model.latent}; method dense needs at least 1")
    return _autoencoder(cfg, DenseAutoencoder, shape, tuning.DENSE, axis)


def _conv(cfg: ExperimentConfig, shape: Shape, axis: str | None) -> Learner:
    if len(shape) not in (2, 3):
        raise UserError(
            f"method conv needs rows of shape [H, W, C] or [T, C], not {list(shape)}; "
            "use --method dense"
        )
    tuned = _tuned(shape, shape, is_shared=not cfg.model.latent)
    return _autoencoder(cfg, ConvAutoencoder, shape, tuned, axis)


def _fcn(cfg: ExperimentConfig, shape: Shape, axis: str | None) -> Learner:
    if len(shape) not in (2, 3):
        raise UserError(
            f"method fcn needs rows of shape [H, W, C] or [T, C], not {list(shape)}; "
            "use --method dense"
        )
    if cfg.model.latent < 1:
        raise UserError(f"model.latent is {cfg.model.latent}; method fcn needs at least 1")
    if cfg.train.crop and not cfg.fcn.spatial:
        raise UserError(
            f"train.crop is {cfg.train.crop}, but a code of whole rows (fcn.spatial False) cannot "
            "be trained on crops; use --train.crop 0, or --fcn.spatial"
        )
    trained = trained_shape(cfg, shape)
    own = vars(cfg.fcn) | {"depth": cfg.fcn.depth or depth_of(trained)}
    tuned = _tuned(shape, trained, is_shared=cfg.fcn.spatial)
    learner = _autoencoder(cfg, FullyConvolutional, shape, tuned, axis, **own)
    code = (*code_places(shape, own["depth"], cfg.fcn.spatial), cfg.model.latent)

    def infer(variables: PyTree, x: Array) -> Outputs:
        out = learner.infer(variables, x)
        return out._replace(extra={"code": out.z.reshape(-1, *code)})

    return learner._replace(infer=infer)


def trained_shape(cfg: ExperimentConfig, shape: Shape) -> Shape:
    """The shape of what a step trains on: of rows of a shape, or of their crops."""
    return wrappers.crop_shape(shape, cfg.train.crop) if cfg.train.crop else shape


def _tuned(shape: Shape, trained: Shape, *, is_shared: bool) -> tuning.Tuning:
    """`tuning.CONV`, with fewer rows at a time if they are large; see "Large images" in speed.md.

    `shape` is that of rows that are scored, `trained` of those, or crops, that are trained on.
    `is_shared`: whether all weights are shared between places, so that they are few.
    """

    def fewer(rows: int, shape: Shape, places: int = _PLACES) -> int:
        size = math.prod(shape[:-1])
        return max(1, rows * places // size) if size > _PLACES else rows

    conv, size = tuning.CONV, math.prod(shape[:-1])
    if size > _PLACES:
        conv = conv._replace(chunk=1 << (max(1, _SIDES // math.isqrt(size)).bit_length() - 1))
    if math.prod(trained[:-1]) <= _PLACES:
        return conv
    part = fewer(conv.part, trained, _PLACES // 2 if is_shared else _PLACES)
    # Weights that grow with the rows are updated by one device.
    share = fewer(conv.share, trained) if is_shared else tuning.ALONE
    return conv._replace(part=part, share=share)


def _autoencoder(
    cfg: ExperimentConfig,
    network: type[Autoencoder],
    shape: Shape,
    tuned: tuning.Tuning,
    axis: str | None,
    **own: Any,
) -> Learner:
    """A reconstruction learner for a network, whose fields come from `cfg.model` and `own`."""
    fields = own | {name: getattr(cfg.model, name) for name in _model_fields(network)}
    noise = {"noise_std": cfg.train.noise_std} if cfg.train.noise_std else {}
    return reconstruction(
        network(shape, dtype=jnp.dtype(cfg.model.compute_dtype), **fields),
        functools.partial(optimiser, cfg.optim),
        LOSSES[cfg.train.loss],
        settings={"lr": cfg.optim.lr, **noise},
        noise_clip=cfg.train.noise_clip,
        tuned=tuned,
        axis=axis,
    )


def _model_fields(network: type[Autoencoder]) -> list[str]:
    """The fields of `cfg.model` that the network also has."""
    return [name for name in vars(ModelConfig()) if name in network.__dataclass_fields__]


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
    optional = {"code_noise": cfg.alocc.code_noise, "ema": cfg.alocc.ema}
    settings = {
        "lr": cfg.optim.lr,
        "lr_discriminator": cfg.optim.lr_discriminator,
        "noise_std": cfg.train.noise_std,
        "recon_weight": losses.recon_weight,
        **{name: value for name, value in optional.items() if value},
    }
    tx = functools.partial(optimiser, cfg.optim)
    return adversarial(nets, tx, losses, settings=settings, axis=axis)


def _reads(network: type[Autoencoder]) -> frozenset[str]:
    """The fields that configure a network and its training, by dotted names."""
    model = {f"model.{name}" for name in (*_model_fields(network), "compute_dtype")}
    return frozenset(model | {"train.loss", "train.noise_std", "train.noise_clip"})


METHODS = _Methods(
    "method",
    Method,
    {
        "dense": Method(_dense, _reads(DenseAutoencoder), _span, decodes=True),
        "conv": Method(_conv, _reads(ConvAutoencoder), _span, decodes=True),
        "fcn": Method(
            _fcn,
            _reads(FullyConvolutional)
            | {f"fcn.{name}" for name in vars(FcnConfig())}
            | {"train.crop", "train.crops"},
            _span,
            decodes=True,
            outputs=frozenset({"code"}),
        ),
        "alocc": Method(
            _alocc,
            frozenset({f"alocc.{name}" for name in vars(AloccConfig())})
            | {"model.compute_dtype", "optim.lr_discriminator", "train.noise_std", "variant"},
            lambda cfg: (0.0, 1.0),
            outputs=frozenset({"d_of_r", "d_of_x"}),
        ),
    },
)


def check(cfg: ExperimentConfig) -> None:
    """Reject a configuration from which no learner can be built, or fields that it would ignore.

    Every "auto" must already be settled.

    Raises:
      UserError: a name is unknown, or the method does not read a setting.
    """
    checks.refuse_open(cfg)
    checks.refuse_unread(cfg, METHODS[cfg.method].reads)
    if not cfg.train.crop:
        checks.refuse_set(cfg, ["train.crops"], "train.crop is 0")
    activations = [name for name in vars(cfg.model) if name.endswith("activation")]
    registries: dict[str, Any] = {
        "optim.name": OPTIMISERS,
        "optim.schedule": wrappers.SCHEDULES,
        "train.loss": LOSSES,
        "variant": ADVERSARIAL,
        "model.initializer": INITS,
        **{f"model.{name}": ACTIVATIONS for name in activations},
    }
    for name, registry in registries.items():
        registry[checks.value(cfg, name)]
    augmentations.resolve(cfg.train.augment)


def check_rows(cfg: ExperimentConfig, x: Source) -> None:
    """Reject training rows that the configured learner cannot reconstruct.

    Raises:
      UserError: values are outside the method's span by more than rounding, noisy values would be
        clipped, or an augmentation does not work on such rows.
    """
    augmentations.check_rows(cfg.train.augment, x)
    values, span = sources.span(x), METHODS[cfg.method].span(cfg)
    low, high = values
    if not sources.within(values, *span):
        raise UserError(
            f"the training rows span {low:g} to {high:g}, but method {cfg.method} with "
            f"model.output_activation {cfg.model.output_activation} and train.loss "
            f"{cfg.train.loss} covers only {span[0]:g} to {span[1]:g}; use --data.scale minmax, or "
            "--model.output-activation linear with --train.loss mse"
        )
    clips = cfg.train.noise_std > 0 and cfg.train.noise_clip
    if clips and not sources.within(values, 0.0, 1.0):
        raise UserError(
            f"the training rows span {low:g} to {high:g}, but train.noise_clip clips noisy inputs "
            "to [0, 1]; use --train.no-noise-clip, or --data.scale minmax"
        )


def build(cfg: ExperimentConfig, shape: Shape, axis: str | None = AXIS) -> Learner:
    """The learner of a configuration, for rows of a shape.

    Equal arguments give the same object, so that its programs are compiled once.

    Args:
      cfg: see `jaxae.config`.
      shape: S of one row.
      axis: the mapped axis name under `jaxae.devices.parallel`; None for a plain `jax.jit`.

    Raises:
      UserError: the method is unknown (the message lists all), a field is still "auto", or the
        method cannot take rows of this shape.
    """
    checks.refuse_open(cfg)
    return _built(METHODS[cfg.method], cfg, tuple(shape), axis)


@functools.lru_cache(maxsize=32)
def _built(method: Method, cfg: ExperimentConfig, shape: Shape, axis: str | None) -> Learner:
    learner = method.build(cfg, shape, axis)
    if cfg.train.augment:
        variants = augmentations.resolve(cfg.train.augment).values()
        learner = wrappers.augmented(learner, variants)
    if cfg.train.crop and "train.crop" in method.reads:
        wrappers.crop_shape(shape, cfg.train.crop)  # raises if a crop would be a whole row
        learner = wrappers.cropped(learner, cfg.train.crop, cfg.train.crops)
    if cfg.optim.is_scheduled:
        schedule = wrappers.SCHEDULES[cfg.optim.schedule]
        learner = wrappers.scheduled(learner, schedule, cfg.optim.warmup)
    return learner._replace(
        step=precision.at(cfg.train.precision, learner.step),
        infer=precision.exact(learner.infer),
        loss=precision.exact(learner.loss),
        decode=learner.decode and precision.exact(learner.decode),
        tuning=tuning.from_table(cfg.method, learner.tuning),
    )
