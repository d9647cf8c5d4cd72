"""Every setting of an experiment as frozen dataclasses: the only place with defaults and ranges.

A configuration is data: it prints itself as JSON and reads itself back. `jaxae.config.fields` has
the words in which a setting is described.
"""

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxae.config.checks import validate
from jaxae.config.fields import (
    Amount,
    Count,
    Fact,
    Paddings,
    Positive,
    Rate,
    Seed,
    Share,
    ShareOrZero,
    Sizes,
    at_least,
    settings,
    zero_or,
)
from jaxae.config.migrations import migrated
from jaxae.errors import UserError

Auto = Literal["auto"]  # left to the rows: see `jaxae.workflows.auto`


@dataclass(frozen=True)
class DataConfig:
    """Which rows there are, which of them are normal, and how they are split and scaled."""

    name: str = "digits"
    """digits, mnist, fashion_mnist or ecg5000; npz:FILE; npy:FOLDER (may exceed memory);
    table:FILE (CSV, Parquet); images:FOLDER; series:FILE; or a file or folder alone, read as its
    name says"""
    dir: Annotated[str, Fact.FREE] = ""
    """folder with the raw files (mnist/, ...); "" = $JAXAE_DATA_DIR, else download"""
    rows: Literal["auto", "images", "series"] = "auto"
    """npz, npy: what arrays [N, A, B] are; auto = images where A = B or uint8, else series"""
    normal: tuple[int, ...] = ()
    """classes that count as normal; () = as the data set implies, or all that are not anomalies"""
    anomaly: tuple[int, ...] = ()
    """classes that count as anomalies; () = all that are not normal"""
    corruption: str = ""
    """NAME:SEVERITY = the test set's anomalies are corrupted copies of its normal rows"""
    balance: bool = False
    """draw as many test anomalies as there are normal test rows"""
    split: Literal["official", "random"] = "official"
    """the source's own train and test rows, or both pooled and drawn again"""
    test_fraction: Share = 0.2
    """share of rows in the test set where split = random"""
    split_seed: Seed = 21
    """seed of every draw of rows, apart from the training seed so that seeds share one split"""
    valid: Literal["holdout", "test"] = "holdout"
    """the valid rows, normals that are not trained on: held out, or the test set's own"""
    valid_fraction: Share = 0.1
    """share of the normal training rows that is held out for them"""
    scale: Annotated[Literal["none", "minmax", "standard", "auto"], Fact.FROM_ROWS] = "none"
    """scaling fitted on the training rows only; auto = as their range suggests"""
    input: Annotated[str, Fact.FROM_ROWS] = "none"
    """fixed map of each scaled row: smooth, smooth_normalised, gradients, gradient_cells; auto =
    the last for images of 16 pixels or more on each side, none for all else"""
    limit: Annotated[int, zero_or(2, "all")] = 0
    """use at most this many training rows; 0 = all"""
    label: str = "auto"
    """table, series: column of the class; auto = one called label, class, target, anomaly, ..."""
    group: str = ""
    """table, series: rows with one value of this column are trained on or tested together"""
    ignore: tuple[str, ...] = ()
    """table, series: columns that are left out"""
    one_hot: bool = False
    """table, series: text columns become one column for each of their values"""
    size: Annotated[int, zero_or(4, "their own size")] = 0
    """images: pixels on each side; 0 = their own size if it is one, at most 64, else 64"""
    window: Annotated[int, zero_or(2, "the default")] = 0
    """series: steps of a row; 0 = 64, or fewer in a short one"""
    stride: Count = 0
    """series: steps from one row to the next; 0 = a quarter of a window"""


@dataclass(frozen=True)
class ModelConfig:
    """The network. Decoders mirror their encoders; see `jaxae.methods.networks`."""

    latent: Annotated[int | Auto, at_least(0), Fact.FROM_ROWS] = 32
    """size of the code; 0 = the conv encoder's last feature map is the code; auto = a quarter of a
    row's values, at most 32"""
    hidden: Sizes = ()
    """dense: widths between input and code"""
    filters: Sizes = (32, 64)
    """conv: channels of each encoder layer"""
    kernels: Sizes = (3, 3)
    """conv: kernel size of each layer"""
    strides: Sizes = (2, 2)
    """conv: stride of each layer"""
    paddings: Paddings = ("same", "same")
    """conv: same, valid or a number of pixels on each side, for each layer"""
    head_kernel: Count = 0
    """conv: 0 = exact mirror; k = mirrored filters, then a k x k convolution to the image"""
    activation: str = "relu"
    """between layers"""
    encoder_activation: str = "relu"
    """conv: after the last convolution of the encoder"""
    code_activation: str = "linear"
    """on the code"""
    expand_activation: str = "relu"
    """conv: on the dense layer that widens the code to the feature map"""
    output_activation: Annotated[str, Fact.FROM_ROWS] = "sigmoid"
    """on the reconstruction; auto = sigmoid where rows are in [0, 1], else linear"""
    initializer: str = "glorot"
    """initial weights: glorot is Keras's default, torch PyTorch's (biases too), lecun Flax's"""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """of activations; parameters, statistics and losses stay float32"""


@dataclass(frozen=True)
class AloccConfig:
    """Ways to stabilise the training of ALOCC, all off by default; see docs/alocc.md."""

    bottleneck: Count = 0
    """size of a dense code between the refiner's halves; 0 = the last feature map is the code"""
    code_noise: Amount = 0.0
    """Gaussian noise on the code in training; a bottleneck's features have unit variance"""
    spectral: bool = False
    """discriminator: spectral normalisation of its kernels in place of batch normalisation"""
    ema: ShareOrZero = 0.0
    """what is scored are exponential moving averages of the weights with this decay; 0 = none"""


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser; for ALOCC, of the refiner, with its own rate for the discriminator."""

    name: str = "adam"
    """adam, adamw, rmsprop, sgd, or keras_adam: epsilon beside the uncorrected root, which tames
    the first steps"""
    lr: Rate = 1e-3
    lr_discriminator: Annotated[Rate, Fact.BY_METHOD] = 1e-4
    """alocc only"""
    eps: Rate = 1e-8
    """of adam, adamw and rmsprop: PyTorch's default; Keras's is 1e-7"""
    weight_decay: Amount = 0.0
    """added to the gradient (L2), as torch's Adam does; decoupled for adamw"""


@dataclass(frozen=True)
class TrainConfig:
    """How long to train, on which loss, what is saved and which epoch is kept."""

    epochs: Annotated[int | Auto, at_least(1), Fact.FREE, Fact.FROM_ROWS] = 30
    """auto = 30, or more for few rows, up to 200"""
    batch_size: Annotated[int | Auto, at_least(1), Fact.FROM_ROWS] = 128
    """global: split over the devices, which must divide it; auto = 128, or less for few rows"""
    loss: Annotated[str, Fact.BY_METHOD] = "mse"
    """mse, mae or bce"""
    precision: Literal["default", "high", "highest"] = "default"
    """of products in training on GPUs and TPUs: default = the platform's own (TF32, bfloat16),
    high, or highest = full float32, in which everything else is computed anyway"""
    noise_std: Annotated[Amount, Fact.BY_METHOD] = 0.0
    """Gaussian noise on the input; the target stays clean"""
    noise_clip: Annotated[bool, Fact.BY_METHOD] = True
    """clip noisy inputs to [0, 1]"""
    checkpoint_every: Annotated[Positive, Fact.FREE] = 10
    """epochs between checkpoints; the last epoch is always saved"""
    checkpoint_minutes: Annotated[Amount, Fact.FREE, Fact.SINGLE_RUN] = 0.0
    """also after the first epoch that ends so long after the last checkpoint; 0 = never"""
    keep_checkpoints: Annotated[Count, Fact.FREE, Fact.SINGLE_RUN] = 1
    """how many checkpoints stay; 0 = all"""
    fall_back: Annotated[bool, Fact.FREE, Fact.SINGLE_RUN] = False
    """resume from an older checkpoint if newer ones are damaged; those are moved aside"""
    feed: Annotated[Literal["auto", "resident", "streaming"], Fact.FREE, Fact.SINGLE_RUN] = "auto"
    """all training rows on every device, or the next steps' rows only, read in the background;
    auto = by their size"""
    monitor: Annotated[bool, Fact.FREE] = False
    """score test rows and pseudo-anomalies after each epoch, to compare ways to select the epoch"""
    select: Literal["last", "valid_loss", "pseudo_anomalies", "oracle"] = "last"
    """the epoch that becomes the detector: the last; that of the lowest validation loss; the one
    that best tells valid rows from pseudo-anomalies made of them; or the best on the test rows"""
    oracle: Annotated[bool, Fact.FREE] = False
    """allow train.select oracle: it looks at test labels, and the report says so"""


@dataclass(frozen=True)
class ThresholdConfig:
    """From scores of normals to decisions."""

    rule: str = "quantile:0.95"
    """mean_std:K, quantile:Q, mad:K, max, conformal:ALPHA (flags normals with a probability of at
    most ALPHA; on valid rows, a sum with an `aside`) or pot:RISK (extrapolates the tail)"""
    on: Literal["valid", "train"] = "valid"
    """fit the rule on scores of valid rows, or of training rows as some tutorials do"""
    limit: Count = 0
    """use the first so many scores only; 0 = all"""
    aside: ShareOrZero = 0.0
    """share of the valid rows that standardise a sum and do not calibrate it; 0 = all do both"""


@dataclass(frozen=True)
class HostsConfig:
    """Many processes, one for each host or accelerator, that train one model together."""

    auto: bool = False
    """take all addresses from Slurm, Kubernetes, Open MPI or a TPU pod"""
    coordinator: str = ""
    """HOST:PORT of process 0, the same for all; with count and index, instead of auto"""
    count: Count = 0
    """how many processes there are"""
    index: Annotated[int, at_least(-1)] = -1
    """which of them this is, from 0"""
    timeout: Annotated[int, at_least(5)] = 60
    """seconds of silence after which a process counts as lost, and all others stop"""

    @property
    def asked(self) -> bool:
        """Whether there are to be several processes."""
        return self.auto or bool(self.coordinator)


@dataclass(frozen=True)
class ExperimentConfig:
    """One experiment, whole: what `config.json` in a run folder holds."""

    name: str
    method: Annotated[str, Fact.FROM_ROWS] = "conv"
    """dense, conv, alocc, or auto: conv for images, dense for all else"""
    variant: Annotated[str, Fact.BY_METHOD] = "default"
    """alocc: default (logits, squared error) or faithful (the tutorial's losses to the letter)"""
    seed: Seed = 0
    score: Annotated[str, Fact.FREE, Fact.FROM_ROWS] = "mse"
    """name of a score, or several joined by + (standardised on valid rows, then summed); auto =
    mse+row_knn, or mse where training rows are many or a rule's promise forbids a sum"""
    score_dtype: Annotated[Literal["float32", "bfloat16"], Fact.FREE] = "float32"
    """of activations when rows are scored; model.compute_dtype is that of training"""
    ensemble: Annotated[Positive, Fact.SINGLE_RUN] = 1
    """members trained side by side; they differ in initial weights and noise"""
    run_dir: Annotated[str, Fact.FREE] = ""
    """"" = runs/NAME-seedSEED"""
    devices: Annotated[Count, Fact.FREE] = 0
    """devices to train on; 0 = all accelerators, or the cores of a CPU that suit the method"""
    driver: Annotated[Literal["pmap", "shard_map"], Fact.FREE] = "pmap"
    """how a program is mapped over the devices; both compute the same"""
    deterministic: Annotated[bool, Fact.FREE] = False
    """the same bits on the same devices every time, also on GPUs, where it costs speed"""
    profile: Annotated[bool, Fact.FREE, Fact.SINGLE_RUN] = False
    """write a trace of one epoch to the run folder's `profile/`, for TensorBoard or Perfetto"""
    tensorboard: Annotated[bool, Fact.FREE, Fact.SINGLE_RUN] = False
    """also write TensorBoard's event files to the run folder's `tensorboard/`"""
    studies: Annotated[tuple[str, ...], Fact.FREE, Fact.SINGLE_RUN] = ()
    """extra evaluations with their figures; see jaxae.reports.studies"""
    data: DataConfig = field(default_factory=DataConfig)
    model: Annotated[ModelConfig, Fact.BY_METHOD] = field(default_factory=ModelConfig)
    alocc: Annotated[AloccConfig, Fact.BY_METHOD] = field(default_factory=AloccConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    threshold: Annotated[ThresholdConfig, Fact.FREE] = field(default_factory=ThresholdConfig)
    hosts: Annotated[HostsConfig, Fact.FREE, Fact.SINGLE_RUN] = field(default_factory=HostsConfig)

    @property
    def run_path(self) -> Path:
        """The run folder."""
        return Path(self.run_dir or f"runs/{self.name}-seed{self.seed}")


def cache_dir() -> Path:
    """Where prepared data and compiled programs are kept: $JAXAE_CACHE_DIR, else ~/.cache/jaxae."""
    return Path(os.environ.get("JAXAE_CACHE_DIR") or Path.home() / ".cache" / "jaxae").expanduser()


def for_scoring(cfg: ExperimentConfig) -> ExperimentConfig:
    """The same experiment with the model computing as `score_dtype` says; weights fit both."""
    model = dataclasses.replace(cfg.model, compute_dtype=cfg.score_dtype)
    return dataclasses.replace(cfg, model=model)


FORMAT = 2  # of run folders, checkpoints and detectors; raised when older ones cannot be read


def to_dict(cfg: ExperimentConfig) -> dict:
    """The configuration as JSON holds it; `from_dict` is its inverse."""
    return {"format": FORMAT, **dataclasses.asdict(cfg)}


def to_json(cfg: ExperimentConfig) -> str:
    """The configuration as JSON text; `from_json` is its inverse."""
    return json.dumps(to_dict(cfg), indent=2) + "\n"


def from_json(text: str) -> ExperimentConfig:
    """Read a configuration back.

    Raises:
      UserError: the text is not JSON; see `from_dict`.
    """
    try:
        return from_dict(json.loads(text))
    except json.JSONDecodeError as error:
        raise UserError(f"the configuration is not valid JSON: {error}") from None


def from_dict(values: Any) -> ExperimentConfig:
    """A configuration from what JSON holds.

    Raises:
      UserError: it was written by another version, or holds a field that this one does not know.
    """
    if not isinstance(values, dict):
        raise UserError(f"the configuration is {values!r}; it must hold named values")
    return validate(_build(ExperimentConfig, migrated(values, FORMAT), ""))


def _build(cls: type, values: Any, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise UserError(f"{prefix.rstrip('.')} is {values!r}; it must hold named values")
    known = settings(cls)
    unknown = [f"{prefix}{name}" for name in sorted(values) if "." in name or name not in known]
    if unknown:
        raise UserError(f"the configuration has unknown fields {unknown}")
    if cls is ExperimentConfig and "name" not in values:
        raise UserError("the configuration has no name")
    arguments = {}
    for name, value in values.items():
        if known[name].is_section:
            arguments[name] = _build(known[name].type, value, f"{prefix}{name}.")
        else:
            arguments[name] = tuple(value) if isinstance(value, list) else value
    return cls(**arguments)
