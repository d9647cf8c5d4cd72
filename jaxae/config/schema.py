"""All settings of an experiment, in frozen dataclasses: the only place for defaults and ranges.

`jaxae.config.fields` defines how to describe a setting; the string below each is its --help.
"""

import dataclasses
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxae.config.checks import validate
from jaxae.config.fields import (
    METHOD_SETTINGS,
    OWN,
    Amount,
    Count,
    Fact,
    Minority,
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

Auto = Literal["auto"]  # chosen from the training rows: see `jaxae.workflows.auto`


@dataclass(frozen=True)
class DataConfig:
    """The data set, which of its classes are normal, and how rows are split and scaled."""

    name: str = "digits"
    """digits, mnist, fashion_mnist or ecg5000; defects (or defects_grid, defects_stone,
    defects_wood): generated; npz:FILE; npy:FOLDER (may be larger than memory); table:FILE (CSV,
    Parquet, ARFF or .ts); images:FOLDER; series:FILE; or just a file or folder, whose name then
    decides its kind"""
    dir: Annotated[str, Fact.FREE, Fact.OF_PROCESS] = ""
    """folder with the raw files (mnist/, ...); "" = $JAXAE_DATA_DIR if set, else download"""
    rows: Literal["auto", "images", "series"] = "auto"
    """npz, npy: how to read arrays [N, A, B]; auto = images if A = B or uint8, else series"""
    normal: tuple[int | str, ...] = ()
    """names or numbers of the classes that count as normal; () = the data set's default, or all not
    listed as anomalies"""
    anomaly: tuple[int | str, ...] = ()
    """names or numbers of the classes that count as anomalies; () = all that are not normal"""
    corruption: str = ""
    """NAME:SEVERITY = as test anomalies, use corrupted copies of the normal test rows"""
    balance: bool = False
    """draw as many test anomalies as there are normal test rows"""
    split: Literal["official", "random"] = "official"
    """official = the source's own train and test rows; random = pool both and draw them again"""
    test_fraction: Share = 0.2
    """share of rows drawn as test rows, if split = random or your own files do not define them"""
    split_seed: Seed = 21
    """seed of every draw of rows; runs that differ only in --seed share one split"""
    valid: Literal["holdout", "test"] = "holdout"
    """validation rows (normals that are not trained on): holdout = a share of the training rows;
    test = the normal rows of the test set"""
    valid_fraction: Share = 0.1
    """share of the normal training rows that is held out for validation"""
    contamination: Minority = 0.0
    """share of the rows taken as normal that are in fact anomalies; the same share of rows, those
    that the others explain worst, is left out of training and validation (docs/own_data.md)"""
    scale: Annotated[Literal["none", "minmax", "standard", "auto"], Fact.FROM_ROWS] = "none"
    """scaling, fitted on the training rows only; auto = chosen by their range"""
    input: Annotated[str, Fact.FROM_ROWS] = "none"
    """fixed feature map of each scaled row: none, smooth, smooth_normalised, gradients or
    gradient_cells; auto = gradient_cells for images with sides of 16 pixels or more, else none"""
    limit: Annotated[int, zero_or(2, "all")] = 0
    """use at most this many training rows; 0 = all"""
    label: str = "auto"
    """table, series: the column of the classes; auto = recognised by its name (label, anomaly,
    class, ...); none = there is none"""
    header: Literal["auto", "yes", "no"] = "auto"
    """CSV: whether the first line names the columns; auto = by comparing it with the rows below"""
    missing: Literal["refuse", "median", "drop"] = "refuse"
    """table, series: what to do with missing values: refuse the file; median = fill them with the
    medians of the training rows; drop (table) = leave their rows out of training and test"""
    group: str = ""
    """table, series: column of groups, each trained on, held out or tested as a whole (a column
    `split` decides which rows are test rows)"""
    time: str = "auto"
    """series: the time column, which is not a feature; "" = none; auto = a column of dates, or of
    rising numbers called time, timestamp, date, ..."""
    ignore: tuple[str, ...] = ()
    """table, series: columns to leave out"""
    one_hot: bool = False
    """table, series: replace each text column by one column for each of its values"""
    size: Annotated[int, zero_or(4, "their own size")] = 0
    """images: pixels on each side; 0 = their own size if all have the same, reduced to 256 on the
    longer side; images of several sizes get 64, 128 or 256 on each side"""
    window: Annotated[int, zero_or(2, "the default")] = 0
    """series: time steps in a row; 0 = 128, or fewer if the series is short"""
    stride: Count = 0
    """series: time steps from one row to the next; 0 = 1, or more if that gives over 4,096 rows to
    train on, at most a quarter of the window"""


@dataclass(frozen=True)
class ModelConfig:
    """The network. Decoders mirror their encoders; see `jaxae.methods.networks`."""

    latent: Annotated[int | Auto, at_least(0), Fact.FROM_ROWS] = 32
    """size of the latent code (fcn: at each place of its last map); 0 = use the last feature map of
    the conv encoder as the code; auto = a quarter of the number of values in a row, at most 32
    (fcn: for all places together, and at most 8 at each)"""
    hidden: Sizes = ()
    """dense: widths of the layers between input and code"""
    filters: Sizes = (32, 64)
    """conv: number of channels of each encoder layer"""
    kernels: Sizes = (3, 3)
    """conv: kernel size of each encoder layer"""
    strides: Sizes = (2, 2)
    """conv: stride of each encoder layer"""
    paddings: Paddings = ("same", "same")
    """conv: padding of each encoder layer: same, valid, or the number of pixels on each side"""
    head_kernel: Count = 0
    """conv: 0 = the decoder mirrors the encoder exactly; k = it mirrors the filters, and a k x k
    convolution gives the image"""
    activation: str = "relu"
    """activation between layers"""
    encoder_activation: str = "relu"
    """conv: activation after the last convolution of the encoder"""
    code_activation: str = "linear"
    """activation on the code"""
    expand_activation: str = "relu"
    """conv: activation of the dense layer that expands the code to the feature map"""
    output_activation: Annotated[str, Fact.FROM_ROWS] = "sigmoid"
    """activation on the reconstruction; auto = sigmoid if rows are in [0, 1], else linear"""
    initializer: str = "glorot"
    """initial weights: glorot (Keras's default), torch (PyTorch's, biases too) or lecun (Flax's)"""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """dtype of activations in training; parameters, statistics and losses stay float32"""


@dataclass(frozen=True)
class AloccConfig:
    """Ways to stabilise the training of ALOCC, all off by default; see docs/alocc.md."""

    bottleneck: Count = 0
    """size of a dense latent code of the refiner; 0 = its last feature map is the code"""
    code_noise: Amount = 0.0
    """standard deviation of the Gaussian noise on the code in training; the features of a
    bottleneck have unit variance"""
    spectral: bool = False
    """discriminator: spectral normalisation of the kernels instead of batch normalisation"""
    ema: ShareOrZero = 0.0
    """score with an exponential moving average of the weights with this decay; 0 = no averaging"""


@dataclass(frozen=True)
class FcnConfig:
    """The fully convolutional autoencoder; see `jaxae.methods.networks.fcn`."""

    depth: Count = 0
    """layers that halve the map; 0 = until a side of a row, or of a crop, is shorter than 8"""
    width: Positive = 16
    """channels of the first layer; the next layers have 2, and all others 4 times as many"""
    pooled: bool = False
    """halve by maximum pooling, and enlarge by repetition, instead of strided convolutions"""
    spatial: bool = True
    """model.latent channels of code at each place of the last map; False = one dense code of
    model.latent numbers for the whole row"""


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser; for ALOCC that of the refiner, and the discriminator's learning rate."""

    name: str = "adam"
    """adam, adamw, rmsprop, sgd or keras_adam, which adds epsilon to the root before the bias
    correction, so that the first steps are smaller"""
    lr: Rate = 1e-3
    """learning rate"""
    lr_discriminator: Annotated[Rate, Fact.BY_METHOD] = 1e-4
    """alocc: learning rate of the discriminator"""
    eps: Rate = 1e-8
    """adam, adamw, rmsprop: epsilon; 1e-8 is PyTorch's default, 1e-7 is Keras's"""
    weight_decay: Amount = 0.0
    """L2 penalty added to the gradient, as in PyTorch's Adam; decoupled for adamw"""
    schedule: str = "constant"
    """schedule of the learning rates after the warm-up: constant, or cosine, which falls to 0"""
    warmup: ShareOrZero = 0.0
    """share of all steps in which the learning rates rise linearly from 0"""

    @property
    def is_scheduled(self) -> bool:
        """Whether the learning rates depend on the step, and so on the total number of steps."""
        return (self.schedule, self.warmup) != ("constant", 0)


@dataclass(frozen=True)
class TrainConfig:
    """How long to train, with which loss, what is saved and which epoch is kept."""

    epochs: Annotated[int | Auto, at_least(1), Fact.FREE, Fact.FROM_ROWS] = 30
    """number of epochs; auto = 30, or up to 200 if there are few rows, or fewer: see budget"""
    budget: Annotated[float | Auto, at_least(0), Fact.FREE, Fact.FROM_ROWS, Fact.SINGLE_RUN] = 0.0
    """with epochs auto: train at most about so many seconds on this machine, at its speed in the
    first steps; the number of epochs is recorded; 0 = no limit; auto = 60"""
    batch_size: Annotated[int | Auto, at_least(1), Fact.FROM_ROWS] = 128
    """rows in a step on all devices together, a multiple of the number of devices; auto = 128, or
    fewer if there are few rows"""
    loss: Annotated[str, Fact.BY_METHOD] = "mse"
    """reconstruction loss: mse, mae or bce"""
    precision: Literal["default", "high", "highest"] = "default"
    """precision of matrix products in training on GPUs and TPUs: default = the platform's own (TF32
    or bfloat16), high, or highest = full float32; all else is always computed in full float32"""
    noise_std: Annotated[Amount, Fact.BY_METHOD] = 0.0
    """standard deviation of the Gaussian noise on the input; the target stays clean"""
    noise_clip: Annotated[bool, Fact.BY_METHOD] = True
    """clip noisy inputs to [0, 1]"""
    augment: tuple[str, ...] = ()
    """NAME:MOST ...: train on random variants of the rows, up to MOST each, new at every step,
    as in rotation:10 shift:2 flip:0.5 noise:0.05 mask:0.2; `jaxae list --names` lists all"""
    crop: Annotated[int | Auto, at_least(0), Fact.BY_METHOD, Fact.FROM_ROWS] = 0
    """fcn: train on random crops of this many pixels on each side, or of this many steps, new at
    every step; 0 = whole rows; auto = 32 for images with sides above 64 pixels, else 0"""
    crops: Annotated[int | Auto, at_least(1), Fact.BY_METHOD, Fact.FROM_ROWS] = 1
    """fcn: crops of each row in a step; auto = 16 if there are crops"""
    checkpoint_every: Annotated[Positive, Fact.FREE] = 10
    """epochs between checkpoints; the last epoch is always saved"""
    checkpoint_minutes: Annotated[Amount, Fact.FREE] = 0.0
    """also save after an epoch if the last checkpoint is at least this many minutes old; 0 = no"""
    keep_checkpoints: Annotated[Count, Fact.FREE] = 1
    """how many of the newest checkpoints to keep; 0 = all; a finished protocol keeps none"""
    fall_back: Annotated[bool, Fact.FREE] = False
    """if the newest checkpoints are damaged, move them away and resume from an older one"""
    feed: Annotated[Literal["auto", "resident", "streaming"], Fact.FREE] = "auto"
    """resident = hold all training rows on every device; streaming = only those of the next steps,
    read in the background; auto = by their size"""
    monitor: Annotated[bool, Fact.FREE] = False
    """score test rows and pseudo-anomalies after each epoch, to compare ways to select the epoch"""
    select: Literal["last", "valid_loss", "pseudo_anomalies", "oracle"] = "last"
    """which epoch becomes the detector: the last; the one with the lowest validation loss; the one
    that best separates validation rows from pseudo-anomalies made of them; or (oracle) the best on
    the test rows"""
    oracle: Annotated[bool, Fact.FREE] = False
    """allow --train.select oracle, which looks at test labels; the report says so"""


@dataclass(frozen=True)
class ThresholdConfig:
    """How the scores of normal rows become a threshold."""

    rule: str = "quantile:0.95"
    """mean_std:K, quantile:Q, mad:K, max, conformal:ALPHA (flags a normal row with probability at
    most ALPHA; fit it on validation rows, and for a sum of scores set
    --threshold.standardise-fraction) or pot:RISK (extrapolates the tail)"""
    on: Literal["valid", "train"] = "valid"
    """fit the rule on the scores of validation rows, or of training rows as some tutorials do"""
    limit: Count = 0
    """fit the rule on only the first N scores; 0 = all"""
    standardise_fraction: ShareOrZero = 0.0
    """share of the validation rows that only standardise a sum of scores; 0 = all calibrate too"""


@dataclass(frozen=True)
class HostsConfig:
    """Several processes, one for each host or accelerator, that train one model together."""

    auto: bool = False
    """get all addresses from Slurm, Kubernetes, Open MPI or a TPU pod"""
    coordinator: str = ""
    """HOST:PORT of process 0, the same for all; use it with count and index instead of auto"""
    count: Count = 0
    """number of processes"""
    index: Annotated[int, at_least(-1)] = -1
    """number of this process, counted from 0"""
    timeout: Annotated[int, at_least(5)] = 60
    """seconds after which a process counts as lost and all others stop, if it has not come at the
    start, or has sent no heartbeat since"""

    @property
    def asked(self) -> bool:
        """Whether the settings name several processes."""
        return self.auto or bool(self.coordinator)


@dataclass(frozen=True)
class ExperimentConfig:
    """All settings of one experiment: the content of `config.json` in a run folder."""

    name: str
    """name of the experiment, used in titles and in the default --run-dir"""
    method: Annotated[str, Fact.FROM_ROWS] = "conv"
    """dense, conv, fcn, alocc, or auto = fcn for images with sides above 64 pixels, conv for other
    images, else dense"""
    variant: Annotated[str, Fact.BY_METHOD] = "default"
    """alocc: default (logits, squared error) or faithful (exactly the tutorial's losses)"""
    seed: Seed = 0
    """seed of initial weights, row order and noise"""
    score: Annotated[str, Fact.FREE, Fact.FROM_ROWS] = "mse"
    """name of a score, or several joined by * for their geometric mean, + for the sum or ^ for the
    largest (for + and ^ each is standardised on validation rows first); auto =
    local_ranks+robust_knn+local_compressed for up to 10,000 vectors, row_nearest for more,
    mse+row_nearest for repeated ones, mse*shape_nearest for windows of a series,
    mse^row_nearest^row_pca for other series, patches for images with sides above 64 pixels,
    mse+row_pca or mse+row_knn for other images, or mse for many rows or if the rule needs one
    score"""
    score_dtype: Annotated[Literal["float32", "bfloat16"], Fact.FREE] = "float32"
    """dtype of activations in scoring; in training it is --model.compute-dtype"""
    ensemble: Positive = 1
    """number of members trained side by side, which differ in initial weights and noise"""
    run_dir: Annotated[str, Fact.FREE] = ""
    """the run folder; "" = runs/NAME-seedSEED"""
    devices: Annotated[Count, Fact.FREE] = 0
    """number of devices; 0 = all accelerators, or as many CPU cores as suit the method"""
    driver: Annotated[Literal["pmap", "shard_map"], Fact.FREE] = "pmap"
    """how programs are mapped over devices; both give the same results"""
    deterministic: Annotated[bool, Fact.FREE] = False
    """give the same bits on the same devices every time; slower on GPUs"""
    profile: Annotated[bool, Fact.FREE, Fact.SINGLE_RUN] = False
    """write a trace of one epoch to `profile/` in the run folder, for TensorBoard or Perfetto"""
    tensorboard: Annotated[bool, Fact.FREE] = False
    """also write TensorBoard event files to `tensorboard/` in the run folder"""
    studies: Annotated[tuple[str, ...], Fact.FREE, Fact.SINGLE_RUN] = ()
    """extra evaluations with figures; `jaxae list --names` lists them"""
    data: DataConfig = field(default_factory=DataConfig)
    model: Annotated[ModelConfig, Fact.BY_METHOD] = field(default_factory=ModelConfig)
    alocc: Annotated[AloccConfig, Fact.BY_METHOD] = field(default_factory=AloccConfig)
    fcn: Annotated[FcnConfig, Fact.BY_METHOD] = field(default_factory=FcnConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    threshold: Annotated[ThresholdConfig, Fact.FREE] = field(default_factory=ThresholdConfig)
    hosts: Annotated[HostsConfig, Fact.FREE, Fact.OF_PROCESS] = field(default_factory=HostsConfig)
    method_settings: Any = None
    """own settings of a method from outside the package, see `jaxae.Method`; None = its defaults"""

    def __post_init__(self) -> None:
        """Set the method's own settings to their defaults, unless they were given."""
        own, expected = self.method_settings, METHOD_SETTINGS.get(str(self.method))
        is_default = type(own) in METHOD_SETTINGS.values() and own == type(own)()
        if type(own) is not expected and (own is None or is_default):
            object.__setattr__(self, OWN, expected and expected())

    @property
    def run_path(self) -> Path:
        """The run folder."""
        return Path(self.run_dir or f"runs/{self.name}-seed{self.seed}")


def cache_dir() -> Path:
    """The folder for prepared data and compiled programs: $JAXAE_CACHE_DIR or ~/.cache/jaxae."""
    return Path(os.environ.get("JAXAE_CACHE_DIR") or Path.home() / ".cache" / "jaxae").expanduser()


def for_scoring(cfg: ExperimentConfig) -> ExperimentConfig:
    """The same experiment with the model in `score_dtype`; the weights are the same for both."""
    model = dataclasses.replace(cfg.model, compute_dtype=cfg.score_dtype)
    return dataclasses.replace(cfg, model=model)


FORMAT = 2  # of run folders, checkpoints and detectors; raised if older ones can no longer be read


def to_dict(cfg: ExperimentConfig) -> dict:
    """The configuration as a JSON-able dict; `from_dict` is the inverse."""
    values = {"format": FORMAT, **dataclasses.asdict(cfg)}
    own = values.pop(OWN)
    return values if own is None else values | {cfg.method: own}


def to_json(cfg: ExperimentConfig) -> str:
    """The configuration as JSON text; `from_json` is the inverse."""
    return json.dumps(to_dict(cfg), indent=2) + "\n"


def from_json(text: str) -> ExperimentConfig:
    """The configuration in a JSON text; raises a `UserError`, like `from_dict`."""
    try:
        return from_dict(json.loads(text))
    except json.JSONDecodeError as error:
        raise UserError(f"the configuration is not valid JSON: {error}") from None


def from_dict(values: Any) -> ExperimentConfig:
    """The configuration in a JSON object; raises a `UserError` if this version cannot read it."""
    if not isinstance(values, dict):
        raise UserError(f"the configuration is {values!r}; it must be a JSON object")
    values = migrated(values, FORMAT)
    method = str(values.get("method"))
    if method not in METHOD_SETTINGS or method not in values:
        return validate(_build(ExperimentConfig, values, ""))
    own = _build(METHOD_SETTINGS[method], values.pop(method), f"{method}.")
    return validate(dataclasses.replace(_build(ExperimentConfig, values, ""), method_settings=own))


def _build(cls: type, values: Any, prefix: str) -> Any:
    if not isinstance(values, dict):
        raise UserError(f"{prefix.rstrip('.')} is {values!r}; it must be a JSON object")
    fields = settings(cls)
    unknown = [f"{prefix}{name}" for name in sorted(values) if "." in name or name not in fields]
    if not prefix and values.get("method") in unknown:
        raise UserError(
            f"method {values['method']!r} is not known here; import the module that adds it"
        )
    if unknown:
        raise UserError(f"the configuration has unknown fields {unknown}")
    if cls is ExperimentConfig and "name" not in values:
        raise UserError("the configuration has no name")
    arguments = {}
    for name, value in values.items():
        if fields[name].is_section:
            arguments[name] = _build(fields[name].type, value, f"{prefix}{name}.")
        else:
            arguments[name] = tuple(value) if isinstance(value, list) else value
    return cls(**arguments)
