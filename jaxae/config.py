"""Every setting of an experiment as frozen dataclasses: the only place with defaults.

A configuration is data: it validates itself, prints itself as JSON and reads itself back.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from jaxae.errors import UserError

ACTIVATIONS = ("relu", "leaky_relu", "elu", "tanh", "sigmoid", "linear")


@dataclass(frozen=True)
class DataConfig:
    """Which rows there are, which of them are normal, and how they are split and scaled."""

    name: str = "digits"
    """digits, mnist, fashion_mnist, ecg5000 or npz:FILE"""
    dir: str = ""
    """folder with the raw files (mnist/, ...); "" = $JAXAE_DATA_DIR, else download"""
    normal: tuple[int, ...] = ()
    """classes that count as normal; () = all of them"""
    anomaly: tuple[int, ...] = ()
    """classes that count as anomalies; () = all that are not normal"""
    corruption: str = ""
    """NAME:SEVERITY = the test set's anomalies are corrupted copies of its normal rows"""
    balance: bool = False
    """draw as many test anomalies as there are normal test rows"""
    split: Literal["official", "random"] = "official"
    """the source's own train and test rows, or both pooled and drawn again"""
    test_fraction: float = 0.2
    """share of rows in the test set where split = random"""
    split_seed: int = 21
    """seed of every draw of rows, apart from the training seed so that seeds share one split"""
    valid: Literal["holdout", "test"] = "holdout"
    """normals for calibration: held out of training, or the test set's own (as some tutorials do)"""
    valid_fraction: float = 0.1
    """share of the normal training rows that is held out"""
    scale: Literal["none", "minmax", "standard"] = "none"
    """scaling fitted on the training rows only"""
    limit: int = 0
    """use at most this many training rows; 0 = all"""


@dataclass(frozen=True)
class ModelConfig:
    """The network. Decoders mirror their encoders; see `jaxae.models`."""

    latent: int = 32
    """size of the code; 0 = the conv encoder's last feature map is the code"""
    hidden: tuple[int, ...] = ()
    """dense: widths between input and code"""
    filters: tuple[int, ...] = (32, 64)
    """conv: channels of each encoder layer"""
    kernels: tuple[int, ...] = (3, 3)
    """conv: kernel size of each layer"""
    strides: tuple[int, ...] = (2, 2)
    """conv: stride of each layer"""
    paddings: tuple[str, ...] = ("same", "same")
    """conv: same, valid or a number of pixels on each side, for each layer"""
    head_kernel: int = 0
    """conv: 0 = exact mirror; k = mirrored filters, then a k x k convolution to the image"""
    activation: str = "relu"
    """between layers"""
    encoder_activation: str = "relu"
    """conv: after the last convolution of the encoder"""
    code_activation: str = "linear"
    """on the code"""
    expand_activation: str = "relu"
    """conv: on the dense layer that widens the code to the feature map"""
    output_activation: str = "sigmoid"
    """on the reconstruction"""
    init: Literal["glorot", "torch", "lecun"] = "glorot"
    """initial weights: Keras's default, PyTorch's (biases too) or Flax's"""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """of activations; parameters, statistics and losses stay float32"""


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser; for ALOCC, of the refiner, with its own rate for the discriminator."""

    name: Literal["adam", "adamw", "rmsprop", "sgd"] = "adam"
    lr: float = 1e-3
    lr_discriminator: float = 1e-4
    """alocc only"""
    weight_decay: float = 0.0
    """added to the gradient (L2), as torch's Adam does; decoupled for adamw"""


@dataclass(frozen=True)
class TrainConfig:
    """How long, on what, and what is minimised."""

    epochs: int = 30
    batch_size: int = 128
    """global: split over the devices, which must divide it"""
    loss: Literal["mse", "mae", "bce"] = "mse"
    noise_std: float = 0.0
    """Gaussian noise on the input; the target stays clean"""
    noise_clip: bool = True
    """clip noisy inputs to [0, 1]"""
    checkpoint_every: int = 10
    """epochs between checkpoints; the last epoch is always saved"""
    keep_checkpoints: int = 1
    """how many checkpoints stay; 0 = all"""
    monitor: bool = False
    """score the test rows after each epoch too, for the curve only: nothing is chosen by it"""


@dataclass(frozen=True)
class ThresholdConfig:
    """From scores of normal rows to the line above which a row is an anomaly."""

    rule: str = "quantile:0.95"
    """mean_std:K, quantile:Q, mad:K or max"""
    on: Literal["valid", "train"] = "valid"
    """calibrate on held-out normals, or on training rows as some tutorials do"""
    rows: int = 0
    """use the first rows only; 0 = all"""


@dataclass(frozen=True)
class AloccConfig:
    """What only the adversarial method (ALOCC) has."""

    variant: Literal["default", "faithful"] = "default"
    """default: logits and squared error; faithful: the tutorial's losses to the letter"""
    recon_weight: float = 0.2
    """weight of the reconstruction loss against the adversarial one"""


@dataclass(frozen=True)
class ExperimentConfig:
    """One experiment, whole: what `config.json` in a run folder holds."""

    name: str
    method: str = "conv"
    """dense, conv or alocc"""
    seed: int = 0
    score: str = "mse"
    """name of a score, or several joined by + (standardised on calibration rows, then summed)"""
    ensemble: int = 1
    """members trained side by side; they differ in initial weights and noise"""
    run_dir: str = ""
    """"" = runs/NAME-seedSEED"""
    devices: int = 0
    """devices to train on; 0 = all accelerators, or on CPU the split that suits the model"""
    studies: tuple[str, ...] = ()
    """extra evaluations with their figures; see jaxae.studies"""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    alocc: AloccConfig = field(default_factory=AloccConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    threshold: ThresholdConfig = field(default_factory=ThresholdConfig)

    @property
    def run_path(self) -> Path:
        """The run folder."""
        return Path(self.run_dir or f"runs/{self.name}-seed{self.seed}")


def validate(cfg: ExperimentConfig) -> ExperimentConfig:
    """Check every field that can be checked without data or devices.

    Returns:
      `cfg` itself.

    Raises:
      UserError: names the field, its value and what it may be.
    """
    _check_literals(cfg, "")
    model, train, data = cfg.model, cfg.train, cfg.data
    _require(train.epochs >= 1, "train.epochs", train.epochs, "at least 1")
    _require(train.batch_size >= 1, "train.batch_size", train.batch_size, "at least 1")
    _require(train.checkpoint_every >= 1, "train.checkpoint_every", train.checkpoint_every, "at least 1")
    _require(train.keep_checkpoints >= 0, "train.keep_checkpoints", train.keep_checkpoints, "0 (all) or more")
    _require(train.noise_std >= 0, "train.noise_std", train.noise_std, "0 or more")
    _require(cfg.optim.lr > 0, "optim.lr", cfg.optim.lr, "above 0")
    _require(cfg.optim.lr_discriminator > 0, "optim.lr_discriminator", cfg.optim.lr_discriminator, "above 0")
    _require(cfg.optim.weight_decay >= 0, "optim.weight_decay", cfg.optim.weight_decay, "0 or more")
    _require(cfg.ensemble >= 1, "ensemble", cfg.ensemble, "at least 1")
    _require(cfg.devices >= 0, "devices", cfg.devices, "0 (automatic) or more")
    _require(0 <= cfg.seed < 2**32, "seed", cfg.seed, "from 0 to 2**32 - 1")
    _require(0 < data.test_fraction < 1, "data.test_fraction", data.test_fraction, "between 0 and 1")
    _require(0 < data.valid_fraction < 1, "data.valid_fraction", data.valid_fraction, "between 0 and 1")
    _require(data.limit >= 0, "data.limit", data.limit, "0 (all) or more")
    overlap = set(data.normal) & set(data.anomaly)
    _require(not overlap, "data.anomaly", data.anomaly, f"apart from data.normal; both hold {sorted(overlap)}")
    _require(model.latent >= 0, "model.latent", model.latent, "0 or more")
    _require(cfg.method == "conv" or model.latent > 0 or cfg.method == "alocc",
             "model.latent", model.latent, f"at least 1 for method {cfg.method}")
    for name in ("activation", "encoder_activation", "code_activation", "expand_activation", "output_activation"):
        value = getattr(model, name)
        _require(value in ACTIVATIONS, f"model.{name}", value, f"one of {', '.join(ACTIVATIONS)}")
    lengths = {name: len(getattr(model, name)) for name in ("filters", "kernels", "strides", "paddings")}
    _require(len(set(lengths.values())) == 1, "model.filters, kernels, strides, paddings", lengths, "equally long")
    for padding in model.paddings:
        _require(padding in ("same", "valid") or padding.isdigit(), "model.paddings", padding, "same, valid or a number")
    for name in ("hidden", "filters", "kernels", "strides"):
        value = getattr(model, name)
        _require(all(v >= 1 for v in value), f"model.{name}", value, "all at least 1")
    return cfg


def _require(ok: bool, name: str, value: Any, must_be: str) -> None:
    if not ok:
        raise UserError(f"{name} is {value!r}; it must be {must_be}")


def _check_literals(node: Any, prefix: str) -> None:
    for name, hint in get_type_hints(type(node)).items():
        value, options = getattr(node, name), get_args(hint)
        if dataclasses.is_dataclass(value):
            _check_literals(value, f"{prefix}{name}.")
        elif getattr(hint, "__origin__", None) is Literal:
            _require(value in options, prefix + name, value, f"one of {', '.join(map(str, options))}")


def to_json(cfg: ExperimentConfig) -> str:
    """The configuration as JSON text; `from_json` is its inverse."""
    return json.dumps(dataclasses.asdict(cfg), indent=2) + "\n"


def from_json(text: str) -> ExperimentConfig:
    """Read a configuration back.

    Raises:
      UserError: the text is not JSON, or holds a field that this version does not know.
    """
    try:
        return validate(_build(ExperimentConfig, json.loads(text), ""))
    except json.JSONDecodeError as error:
        raise UserError(f"the configuration is not valid JSON: {error}") from None


def _build(cls: type, values: dict, prefix: str) -> Any:
    hints = get_type_hints(cls)
    unknown = set(values) - set(hints)
    if unknown:
        raise UserError(f"the configuration has unknown fields {sorted(prefix + name for name in unknown)}")
    made = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            made[name] = _build(hints[name], value, f"{prefix}{name}.")
        else:
            made[name] = tuple(value) if isinstance(value, list) else value
    return cls(**made)


# Fields that do not change what is learned: a run folder may be entered again with other values.
_FREE = {"run_dir", "devices", "score", "studies", "threshold"}
_FREE_DATA = {"dir"}
_FREE_TRAIN = {"epochs", "checkpoint_every", "keep_checkpoints", "monitor"}


def training_identity(cfg: ExperimentConfig) -> dict:
    """The part of a configuration that fixes the course of training.

    Two configurations with the same identity share every step that both take: a run may be resumed,
    lengthened, or scored in another way, but not mixed with another identity in one folder.
    """
    values = {k: v for k, v in dataclasses.asdict(cfg).items() if k not in _FREE}
    values["data"] = {k: v for k, v in values["data"].items() if k not in _FREE_DATA}
    values["train"] = {k: v for k, v in values["train"].items() if k not in _FREE_TRAIN}
    return values


def parse_cli(default: ExperimentConfig, args: list[str] | None = None) -> ExperimentConfig:
    """The default with what the command line changes, for instance `--train.epochs 5`.

    Args:
      default: the experiment's own configuration.
      args: the arguments; None = the process's.

    Raises:
      UserError: see `validate`.
      SystemExit: help was asked for, or an argument does not exist (code 2).
    """
    import tyro

    return validate(tyro.cli(type(default), default=default, args=args, config=(tyro.conf.AvoidSubcommands,)))
