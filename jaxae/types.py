"""The types that the modules of jaxae exchange, and the words that all of them use.

One idea carries the design: a method is a `Learner`, pure functions over a state that holds arrays
only. Parallelism, ensembles, checkpoints, scoring and benchmarks are written once for all.

One word for one thing:

  row          one example of a data set, x of shape S: [H, W, C], [T, C] or [F]
  source       of rows: anything that gives them by index, a NumPy array for one
  id           of a row: its identity in the data set, whichever split it is in
  class_id     of a row: its class as published; colours figures, is never seen in training
  y            of a row: the truth, True = anomaly
  valid        rows: normals held out of training, for validation losses, scores and thresholds
  member       one of E models that are trained side by side; every state has a leading axis [E]
  settings     the numbers of a method that may differ from member to member: lr, noise_std ...
  outputs      what a method says of rows; rows with their outputs are `Inferred`
  score        how anomalous a row is, higher = more; a scorer computes it
  calibration  scores of the normals on which a threshold rule was fitted
  decision     a fitted rule: it says of scores whether they are those of anomalies
  detector     all that judges raw rows: model, score, decision and scaling, with a description
  metrics      what a step or an epoch measures, one value for each member
"""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

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
    """Rows by index. A NumPy array is a source; so is one that lies in a file, `numpy.memmap`."""

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
    """The rows one device sees in one step."""

    x: Float[Array, " B *S"]
    slot: Int[Array, " B"]  # position in the GLOBAL batch: addresses the noise of each row


class Scaling(NamedTuple):
    """How raw rows become those that a model sees: (x - shift) / scale; both broadcast over S."""

    shift: Float[AnyArray, "*S"]
    scale: Float[AnyArray, "*S"]


class Split(NamedTuple):
    """Rows of one role: train, valid or test."""

    x: Source  # [N, *S] float32, scaled
    y: Bool[np.ndarray, " N"]
    class_id: Int[np.ndarray, " N"]
    id: Int[np.ndarray, " N"]  # splits must not share any


class Dataset(NamedTuple):
    """Train and valid hold normals only; test holds both."""

    shape: Shape  # S, of one row
    train: Split
    valid: Split
    test: Split
    scaling: Scaling  # fitted on training rows
    dtype: str  # of the raw rows: "uint8" are pixels 0 ... 255, which x / 255 takes to [0, 1]
    digest: str = ""  # of rows, classes and splits: what a run must find again to go on
    raw_shape: Shape = ()  # of one raw row, where an input map gave it another; () = `shape`
    schema: Any = None  # how raw rows are read from files: a `jaxae.data.own.schema.Schema`


class Outputs(NamedTuple):
    """What a method says of rows, in evaluation mode."""

    x_hat: Float[Array, " B *S"]  # reconstruction
    z: Float[Array, "B L"]  # latent code
    extra: dict[str, Float[Array, " B"]] = {}  # noqa: RUF012 - by name: `Method.outputs` lists them


class Inferred(NamedTuple):
    """Rows with what a method says of them; without their leading axis, one row."""

    x: Float[Array, " B *S"]
    out: Outputs


@struct.dataclass
class TrainState:
    """Everything that training carries from step to step: arrays only, no device axis, no key.

    Learners see the state of one member; all others see a leading axis [E] on every leaf.
    """

    step: Array  # int32
    params: PyTree
    model_state: PyTree  # Flax's other collections; "ema": averages of them and of the parameters
    opt_state: PyTree

    @property
    def variables(self) -> dict:
        """What `Learner.infer` takes: parameters and running statistics, or averages of both."""
        return self.model_state.get("ema") or {"params": self.params, **self.model_state}


@runtime_checkable
class Init(Protocol):
    """The state before the first step."""

    def __call__(self, key: Key, x: Float[Array, " 1 *S"]) -> TrainState:
        """From a key; of `x` only the shape counts."""


@runtime_checkable
class Step(Protocol):
    """One step of training."""

    def __call__(
        self, state: TrainState, batch: Batch, key: Key, settings: Settings
    ) -> tuple[TrainState, Metrics]:
        """The next state, and scalar metrics of the whole batch with "loss" among them.

        `state.step` is folded into the key; gradients and metrics are averaged over the mapped
        axis, if the learner was built with one. `settings` has the keys of `Learner.settings`.
        """


@runtime_checkable
class Infer(Protocol):
    """What the model says of rows, deterministically, with running statistics."""

    def __call__(self, variables: PyTree, x: Float[Array, " B *S"]) -> Outputs:
        """Row by row: no row sees another."""


@runtime_checkable
class RowLoss(Protocol):
    """What the method minimises, of one row in evaluation mode: the validation loss is its mean."""

    def __call__(self, row: Inferred, settings: Settings) -> Scalar:
        """Of one row, without leading axes; lower = better."""


@runtime_checkable
class Decode(Protocol):
    """The second half of an autoencoder."""

    def __call__(self, variables: PyTree, z: Float[Array, "B L"]) -> Float[Array, " B *S"]:
        """Codes to rows."""


def _vector_width(cpuinfo: Path = Path("/proc/cpuinfo")) -> int:
    """Bits of the vectors that XLA should make; 0 = as it does by itself, 256.

    Zen 5 (AMD's family 26) computes 512 at once: dense models train 1.02 to 1.13, S1 1.06 to 1.10,
    others 1.00 to 1.03 times as fast. No other processor was measured.
    """
    try:
        text = cpuinfo.read_text()
    except OSError:
        return 0
    family = re.search(r"^cpu family\s*: (\d+)$", text, re.MULTILINE)
    is_amd = "AuthenticAMD" in text and "avx512f" in text
    return 512 if is_amd and family and int(family[1]) >= 26 else 0


class Tuning(NamedTuple):
    """How a method is computed fastest; all but `graphs` and `unroll` are of CPUs.

    The defaults suit convolutions on a CPU. What is measured on a GPU, by
    `python -m benchmarks.accelerator_check`, stands in benchmarks/results/.

    Attributes:
      share: rows of a batch that a host device, one core's worth of work, should have. With fewer,
        splitting the batch costs more than it brings.
      parameters_per_row: every device updates every parameter: a share has at least one row for
        so many of them. 0: parameters do not matter beside the activations.
      part: rows whose gradients are taken at a time, see `jaxae.devices.means.by_parts`; 0 = all.
      ynnpack: whether XLA may hand sums and products in float32 to YNNPACK when it trains.
      in_place: whether XLA is told to look harder for parameters that it need not copy.
      width: bits of vectors in training; 0 = as XLA chooses.
      chunk: rows that are scored side by side, so few that activations stay in the cache.
      library: whether XLA may call oneDNN for the convolutions of a scorer, where it can; see
        `jaxae.ops.library`.
      graphs: whether XLA captures a whole epoch, or a scorer's loop, in one CUDA graph on an NVIDIA
        GPU, so that the host starts one thing and not every kernel of every step.
      unroll: steps of training that are one turn of the epoch's loop; it may change the last bits.
        0 = 4 where epochs are captured in graphs, else 1.
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


class Learner(NamedTuple):
    """A training method: pure functions of one member, and the numbers that it starts from.

    Learners are compared, and cached, as objects.
    """

    init: Init
    step: Step
    infer: Infer
    loss: RowLoss
    settings: Settings = {}  # noqa: RUF012 - of the configuration; never written to
    decode: Decode | None = None  # None: codes cannot be decoded
    dtype: str = "float32"  # of activations
    tuning: Tuning = Tuning()

    __eq__, __hash__ = object.__eq__, object.__hash__  # type: ignore[misc]


class Score(NamedTuple):
    """An anomaly score, and what must be known to use it.

    Attributes:
      apply: `(fitted, one row) -> []`, higher = more anomalous; map it with `jax.vmap`.
      fit: `training rows -> fitted`, a dict of arrays. The rows come in blocks that may be gone
        through more than once. None: there is nothing to fit and `fitted` is {}.
      standardise: `(fitted, valid rows) -> fitted`, for scores that put themselves on the scale of
        rows that were not trained on; None: nothing to be done.
      log_scale: how it is added to other scores: its logarithm, or as it is (log-odds).
      needs: names in `Outputs.extra`.
    """

    apply: Callable[[dict, Inferred], Scalar]
    fit: Callable[[Iterable[Inferred]], dict] | None = None
    standardise: Callable[[dict, Iterable[Inferred]], dict] | None = None
    log_scale: bool = True
    needs: frozenset[str] = frozenset()

    @property
    def is_fitted(self) -> bool:
        """Whether rows must be seen before the first one can be scored."""
        return self.fit is not None or self.standardise is not None


class Argument(NamedTuple):
    """The number that a threshold rule takes, `low < number < high`."""

    meaning: str
    example: float
    low: float = -float("inf")
    high: float = float("inf")


def above_threshold(state: dict, scores: AnyArray) -> AnyArray:
    """Whether scores [N] are strictly above `state["threshold"]`: [N] bool."""
    return scores > state["threshold"]


class Rule(NamedTuple):
    """How the scores of normals become decisions.

    Attributes:
      fit: `(calibration [N], argument) -> state`, a dict of arrays in which "threshold" [] is the
        score above which a single row is flagged; without the argument where there is none.
      argument: the number that follows the rule's name; None: it takes none.
      decide: `(state, scores [N]) -> [N] bool`, True = anomaly.
      exchangeable: its promise rests on calibration rows that could change places with new normals.
    """

    fit: Callable[..., dict]
    argument: Argument | None = None
    decide: Callable[[dict, AnyArray], AnyArray] = above_threshold
    exchangeable: bool = False


class Decision(NamedTuple):
    """A rule that was fitted; see `jaxae.scoring.decide`."""

    rule: str  # as the configuration names it, "quantile:0.95"
    state: dict[str, AnyArray]
    calibration: Float[AnyArray, " N"]

    @property
    def threshold(self) -> float:
        """The score above which a single row is flagged."""
        return float(self.state["threshold"])
