"""The types that the packages of jaxae exchange, and the terms that all of them use.

A method is a `Learner`: pure functions over a state that holds only arrays. So parallelism,
ensembles, checkpoints, scoring and benchmarks are written once, for every method.

  row            one example of a data set, x of shape S: [H, W, C], [T, C] or [F]
  source         rows by index: a NumPy array, a memory-mapped file, or anything that acts like one
  id             a row's identity in the data set, the same in every split
  class_id       a row's class as published; decides what is normal; no model sees it
  y              a row's ground truth, True = anomaly
  held-out rows  normals kept out of training (`valid`): for validation loss, scores, thresholds
  feed           brings rows to the devices in training: resident (all at once) or streaming
  learner        a training method as pure functions of one member
  member         one of E models trained side by side; every state has a leading axis [E]
  settings       a method's numbers that may differ between members: lr, noise_std ...
  outputs        what a model computes for rows; rows with their outputs are `Inferred`
  metrics        measurements of a step or an epoch, one value for each member
  score          how anomalous a row is, higher = more
  place          a step of a series, a pixel of an image or a feature of a vector
  score map      how anomalous each place of a row is, [*P]: of the row's shape, or coarser
  mask           the truth of each pixel of an image
  heatmap        a picture of an image and its score map
  stretch        adjacent steps of a series, whose ends no window crosses
  alarm          flagged steps of a series that windows hold together; a row of `--intervals`
  calibration scores  scores of normals, on which rules are fitted and p-values are based
  rule           turns calibration scores into a decision: "quantile:0.95", "conformal:0.05"
  threshold      the score above which a decision flags a single row
  decision       a fitted rule; decides which scores are anomalies
  detector       model, score, decision and scaling: everything needed to judge raw rows
  run            one experiment from configuration to report, kept in one run folder
  grid           many different members trained in one program
  protocol       classes x seeds x settings, each a member of a grid and a run, with one report
  export         a detector as one file that runs without jaxae
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, UInt64

AnyArray = Array | np.ndarray  # on a device or on the host
PyTree = Any
Key = jax.Array  # a typed key, jax.random.key
Shape = tuple[int, ...]
Scalar = Float[Array, ""]
Metrics = dict[str, Array]
Settings = dict[str, Any]  # name -> number, or one for each member [E]
LossFn = Callable[[Array, Array], Array]  # (x [*S], x_hat [*S]) -> []
Initializer = Callable[..., Array]  # (key, shape, dtype) -> array

AXIS = "data"  # the mapped axis over which a batch is split


@runtime_checkable
class Source(Protocol):
    """Rows by index, such as a NumPy array or a `numpy.memmap`."""

    @property
    def shape(self) -> Shape:
        """[N, *S]."""

    @property
    def dtype(self) -> np.dtype:
        """Of the rows."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, index: Any) -> np.ndarray:
        """The rows under a slice, an array of positions or a mask [N]."""


class Batch(NamedTuple):
    """The rows that one device processes in one step."""

    x: Float[Array, " B *S"]
    slot: Int[Array, " B"]  # position in the GLOBAL batch: addresses the noise of each row


class Scaling(NamedTuple):
    """Scales raw rows for the model: (x - shift) / scale, both broadcast over S.

    Computed in the precision of shift and scale, float32 or float64.
    """

    shift: Float[AnyArray, "*S"]
    scale: Float[AnyArray, "*S"]


class Split(NamedTuple):
    """Rows of one role: train, valid or test."""

    x: Source  # [N, *S] float32, scaled
    y: Bool[np.ndarray, " N"]
    class_id: Int[np.ndarray, " N"]
    id: Int[np.ndarray, " N"]  # splits must not share any


class Steps(NamedTuple):
    """Where the windows of a long series lie. Steps are in the order of their series."""

    start: Int[np.ndarray, " N"]  # the first step of each window, by the window's id
    row: Int[np.ndarray, " T"]  # the position of each step in its file
    stretch: Int[np.ndarray, " T"]  # rises where no window crosses


class Dataset(NamedTuple):
    """Training, validation and test rows; the first two are normals only."""

    shape: Shape  # S, of one row
    train: Split
    valid: Split
    test: Split
    scaling: Scaling  # fitted on training rows
    dtype: str  # of the raw rows: "uint8" are pixels 0 ... 255, scaled to [0, 1] by x / 255
    digest: str = ""  # of rows, classes and splits; a run resumes only if it is unchanged
    raw_shape: Shape = ()  # of one raw row, if an input map changed the shape; () = `shape`
    schema: Any = None  # how raw rows are read from files: a `jaxae.data.own.schema.Schema`
    left_out: int = 0  # rows taken as normal that `data.contamination` left out
    is_labelled: bool = True  # False: all rows are taken as normal, and test repeats valid
    names: tuple[str, ...] = ()  # of rows, by id: a file, or the first step of a window; () = none
    # Digests of the test rows before scaling, by which two runs pair their rows; None = not known.
    test_digests: Callable[[], UInt64[np.ndarray, " N"]] | None = None
    # The truth of each place of the test rows, P = (H, W) or (T,) of raw rows, True = anomalous:
    # none of a normal row. None = unknown, as that of corrupted copies.
    test_place_y: Bool[np.ndarray, " N *P"] | None = None
    steps: Steps | None = None  # where rows lie that are windows of a long series


class Outputs(NamedTuple):
    """What a model computes for rows, in evaluation mode."""

    x_hat: Float[Array, " B *S"]  # reconstruction
    z: Float[Array, "B L"]  # latent code
    extra: dict[str, Float[Array, "B ..."]] = {}  # noqa: RUF012 - `Method.outputs` lists them


class Inferred(NamedTuple):
    """Rows with their outputs; without the leading axis, one row."""

    x: Float[Array, " B *S"]
    out: Outputs


@struct.dataclass
class TrainState:
    """Everything that training passes from step to step: only arrays, no device axis, no key.

    Learners get the state of one member; elsewhere every leaf has a leading axis [E].
    """

    step: Array  # int32
    params: PyTree
    model_state: PyTree  # Flax's other collections; "ema": averages of these and the parameters
    opt_state: PyTree

    @property
    def variables(self) -> dict:
        """The input of `Learner.infer`: parameters and running statistics, or averages of both."""
        return self.model_state.get("ema") or {"params": self.params, **self.model_state}


def _vector_width(cpuinfo: Path = Path("/proc/cpuinfo")) -> int:
    """Bits of the vectors that XLA should use; 0 = its own choice, 256.

    Zen 5 (AMD's family 26) has 512-bit units: dense models train 1.02 to 1.13 times as fast, S1
    1.06 to 1.10, others 1.00 to 1.03. No other processor was measured.
    """
    try:
        text = cpuinfo.read_text()
    except OSError:
        return 0
    family = re.search(r"^cpu family\s*: (\d+)$", text, re.MULTILINE)
    is_amd = "AuthenticAMD" in text and "avx512f" in text
    return 512 if is_amd and family and int(family[1]) >= 26 else 0


class Tuning(NamedTuple):
    """The fastest options for a method; all fields except `graphs` and `unroll` are for CPUs.

    The defaults suit convolutions on a CPU. GPU measurements, by
    `python -m benchmarks.accelerator_check`, are in benchmarks/results/.

    Attributes:
      share: the fewest rows of a batch for a host device (one core); with fewer, splitting the
        batch costs more than it gains.
      parameters_per_row: a device's share has at least one row for this many parameters, because
        every device updates all of them; 0 = activations dominate.
      part: rows whose gradients are computed at a time, see `jaxae.devices.reductions.by_parts`;
        0 = all.
      ynnpack: whether XLA may use YNNPACK for float32 sums and products in training.
      in_place: whether XLA searches harder for parameters that need no copy.
      width: bits of vectors in training; 0 = XLA's choice.
      chunk: rows scored at a time, few enough for activations to stay in the cache.
      library: whether XLA may call oneDNN for convolutions in scoring; see `jaxae.ops.convolution`.
      graphs: whether XLA captures a whole epoch, or a scorer's loop, in one CUDA graph on an NVIDIA
        GPU, so that the host launches one graph instead of every kernel of every step.
      unroll: training steps in one iteration of the epoch's loop; may change the last bits. 0 = 4
        if the epochs of one model are captured in graphs, else 1.
    """

    share: int = 16
    parameters_per_row: int = 0
    part: int = 0
    ynnpack: bool = True
    in_place: bool = False
    width: int = _vector_width()
    chunk: int = 64
    library: bool = False
    graphs: bool = False
    unroll: int = 0


Init = Callable[[Key, Array], TrainState]
Step = Callable[[TrainState, Batch, Key, Settings], tuple[TrainState, Metrics]]
Infer = Callable[[PyTree, Array], Outputs]
RowLoss = Callable[[Inferred, Settings], Scalar]
Decode = Callable[[PyTree, Array], Array]


class Learner(NamedTuple):
    """A training method: pure functions of one member, with its settings. Compared by identity.

    Attributes:
      init: `(key, x [1, *S]) -> state` before the first step; only the shape of `x` matters.
      step: `(state, batch, key, settings) -> (next state, metrics)`: scalar metrics of the whole
        batch, "loss" among them. `state.step` is folded into the key; gradients and metrics are
        averaged over the mapped axis, if the learner was built with one.
      infer: `(variables, x [B, *S]) -> outputs`, deterministic, with running statistics; no row
        affects another.
      loss: `(one row with its outputs, settings) -> []`, the objective in evaluation mode; its mean
        is the validation loss.
      settings: the configured values; `step` and `loss` get the same keys. If one of them is
        "steps", training sets it to the number of steps of all epochs.
      decode: `(variables, z [B, L]) -> x [B, *S]`; None: codes cannot be decoded.
      dtype: of activations.
      tuning: the fastest options for it.
    """

    init: Init
    step: Step
    infer: Infer
    loss: RowLoss
    settings: Settings = {}  # noqa: RUF012 - never written to
    decode: Decode | None = None
    dtype: str = "float32"
    tuning: Tuning = Tuning()

    __eq__, __hash__ = object.__eq__, object.__hash__  # type: ignore[misc]


class Score(NamedTuple):
    """An anomaly score and the facts needed to use it.

    Attributes:
      apply: `(fitted, one row) -> []`, higher = more anomalous; map it with `jax.vmap`.
      fit: `training rows -> fitted`, a dict of arrays. The rows come in blocks that can be iterated
        more than once. None: nothing is fitted, and `fitted` is {}.
      standardise: `([fitted of each model], [its held-out rows]) -> [fitted]`, for scores that are
        scaled with rows that were not trained on: all models, mostly one, get the scale of all
        these rows together. None: not needed.
      log_scale: whether a sum adds the score's logarithm; False for log-odds.
      needs: the names in `Outputs.extra` that it reads.
      places: `(fitted, one row) -> [*P]`, the score map, at least 0 everywhere: how anomalous each
        place of the row is. P is the row's shape S, or that shape without channels, or coarser
        along the axes of places. Unless the score pools it otherwise, its mean is the score. None:
        the score says nothing of places.
      side: smallest height and width of the images [H, W, C] that it takes; 0 = rows of any shape.
    """

    apply: Callable[[dict, Inferred], Scalar]
    fit: Callable[[Iterable[Inferred]], dict] | None = None
    standardise: Callable[[Sequence[dict], Sequence[Iterable[Inferred]]], list[dict]] | None = None
    log_scale: bool = True
    needs: frozenset[str] = frozenset()
    places: Callable[[dict, Inferred], Array] | None = None
    side: int = 0

    @property
    def is_fitted(self) -> bool:
        """Whether the score must be fitted on rows before it can score any."""
        return self.fit is not None or self.standardise is not None


class Argument(NamedTuple):
    """The number that a threshold rule takes: `low < number < high`."""

    meaning: str
    example: float
    low: float = -float("inf")
    high: float = float("inf")


def above_threshold(state: dict, scores: AnyArray) -> AnyArray:
    """Whether scores [N] are strictly above `state["threshold"]`: [N] bool."""
    return scores > state["threshold"]


class Rule(NamedTuple):
    """A threshold rule: how the scores of normals become decisions.

    Attributes:
      fit: `(calibration scores [N], argument) -> state`, a dict of arrays in which "threshold" []
        is the score above which a single row is flagged; without `argument` if the rule takes none.
      argument: the number that follows the rule's name; None: it takes none.
      decide: `(state, scores [N]) -> [N] bool`, True = anomaly.
      exchangeable: whether its guarantee needs calibration rows and new normals exchangeable.
      rank: `(N, argument) -> rank` of the threshold among N calibration scores, 1 = the largest,
        with a fraction if it lies between two; None: it is not set by ranks.
    """

    fit: Callable[..., dict]
    argument: Argument | None = None
    decide: Callable[[dict, AnyArray], AnyArray] = above_threshold
    exchangeable: bool = False
    rank: Callable[..., int | float] | None = None


class Decision(NamedTuple):
    """A fitted rule with its calibration scores; see `jaxae.scoring.decide`."""

    rule: str  # as the configuration names it, "quantile:0.95"
    state: dict[str, AnyArray]
    calibration: Float[AnyArray, " N"]

    @property
    def threshold(self) -> float:
        """The score above which a single row is flagged."""
        return float(self.state["threshold"])
