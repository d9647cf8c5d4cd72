"""The reference systems, written as an experienced PyTorch user would.

Layers use PyTorch's native padding; `torch_weights` converts weights so that the comparison is
exact. On a GPU, a model can also run with CUDA graphs, which launch many kernels at once, and in
TF32.
"""

import contextlib
import functools
import itertools
import math
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.cases import Case, Weights, recon_weight
from benchmarks.torch_weights import MIRRORED, load, weights

torch.set_flush_denormal(True)  # without it, long runs become several times slower
torch.backends.cudnn.benchmark = True  # XLA also selects the fastest
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PRECISIONS = ("default", "highest")  # of products of float32
UNROLLED = 16  # steps of one replay of a CUDA graph
WARM_UP = 3  # runs before a capture, which compile, select kernels and allocate memory
# Whether compiled settings also compile what surrounds the network: gathering of rows, noise,
# errors, RMSprop. Each of their kernels costs a launch, which matters only on a GPU.
COMPILE_ALL = DEVICE.type == "cuda"


def _down(n_in: int, n_out: int, kernel: int = 3) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, kernel, stride=2, padding=kernel // 2)


def _up(n_in: int, n_out: int, kernel: int = 3, extra: int = 1) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(
        n_in, n_out, kernel, stride=2, padding=kernel // 2, output_padding=extra
    )


def _mlp(*widths: int) -> nn.Sequential:
    layers = []
    for n_in, n_out in itertools.pairwise(widths):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1], nn.Sigmoid())


def _mnist_conv() -> nn.Sequential:
    return nn.Sequential(
        _down(1, 32), nn.ReLU(), _down(32, 64), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 49, 32),
        nn.Linear(32, 64 * 49), nn.ReLU(), nn.Unflatten(1, (64, 7, 7)),
        _up(64, 32), nn.ReLU(), _up(32, 1), nn.Sigmoid(),
    )  # fmt: skip


def _mnist_conv_latent() -> nn.Sequential:
    return nn.Sequential(
        _down(1, 16), nn.ReLU(), _down(16, 32), nn.ReLU(), nn.Conv2d(32, 64, 7), nn.Flatten(),
        nn.Linear(64, 20), nn.Linear(20, 64), nn.Unflatten(1, (64, 1, 1)),
        nn.ConvTranspose2d(64, 32, 7), nn.ReLU(), _up(32, 16), nn.ReLU(), _up(16, 1), nn.Sigmoid(),
    )  # fmt: skip


def _fmnist_denoise() -> nn.Sequential:
    return nn.Sequential(
        _down(1, 16), nn.ReLU(), _down(16, 8), nn.ReLU(), _up(8, 8), nn.ReLU(), _up(8, 16),
        nn.ReLU(), nn.Conv2d(16, 1, 3, padding=1), nn.Sigmoid(),
    )  # fmt: skip


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class Alocc(nn.Module):
    """Refiner and discriminator; the discriminator outputs logits."""

    def __init__(self):
        super().__init__()
        leaky = lambda: nn.LeakyReLU(0.2)  # noqa: E731
        self.refiner = nn.Sequential(
            _down(1, 32, 5), _norm(32), leaky(), _down(32, 64, 5), _norm(64), leaky(),
            _down(64, 128, 5), _norm(128), leaky(), _up(128, 32, 5, 0), _norm(32), nn.ReLU(),
            _up(32, 16, 5), _norm(16), nn.ReLU(), _up(16, 1, 5), nn.Tanh(),
        )  # fmt: skip
        self.discriminator = nn.Sequential(
            _down(1, 16, 5), _norm(16), leaky(), _down(16, 32, 5), _norm(32), leaky(),
            _down(32, 64, 5), _norm(64), leaky(), _down(64, 128, 5), leaky(), nn.Flatten(),
            nn.Linear(128 * 4, 1), nn.Flatten(0),
        )  # fmt: skip

    def forward(self, x):
        """The refined images."""
        return self.refiner(x)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mnist_conv": _mnist_conv,
    "mnist_conv_latent": _mnist_conv_latent,
    "fmnist_dense": lambda: _mlp(784, 64, 784),
    "fmnist_denoise": _fmnist_denoise,
    "ecg_dense": lambda: _mlp(140, 32, 16, 8, 16, 32, 140),
    "fmnist_one_class": lambda: _mlp(784, 800, 400, 100, 400, 800, 784),
    "mnist_alocc": Alocc,
}
LOSSES = {"mse": F.mse_loss, "mae": F.l1_loss, "bce": F.binary_cross_entropy}


class Way(NamedTuple):
    """How a setting runs a model.

    Attributes:
      mode: mode of `torch.compile`; empty = not compiled.
      graph: whether many steps, and a whole scoring pass, are one CUDA graph each.
      channels_last: whether images have their channels innermost in memory.
    """

    mode: str = ""
    graph: bool = False
    channels_last: bool = False

    def compile(self, function: Callable, mode: str = "") -> Callable:
        """A function compiled in `mode`, by default the setting's; unchanged if that is empty."""
        if not self.mode:
            return function
        # PyTorch counts the programs compiled from the same code, over all models, and by default
        # runs the ninth and later ones uncompiled.
        known = torch._dynamo.config
        known.cache_size_limit, known.accumulated_cache_size_limit = 256, 1024
        known.fail_on_cache_limit_hit = True
        # One program for each batch size.
        return torch.compile(function, dynamic=False, mode=mode or self.mode)


WAYS = {
    "eager": Way(),
    "compile": Way("default"),
    "reduce_overhead": Way("reduce-overhead"),  # the compiler captures CUDA graphs
    "graph": Way(graph=True),
    "graph_compile": Way("default", graph=True),
}


def way(setting: str) -> Way:
    """The meaning of a setting's name: "graph", "graph_channels_last", "channels_last" ...

    Raises:
      KeyError: there is no such setting.
    """
    name = "eager" if setting == "channels_last" else setting.removesuffix("_channels_last")
    return WAYS[name]._replace(channels_last=setting.endswith("channels_last"))


def settings(case: Case) -> list[str]:
    """The settings in which a PyTorch user could run a model on this machine.

    On a CPU: eager, channels last, and compiled if there is a C++ compiler. On a GPU: all of
    `WAYS`, for convolutional models also with channels last; compiled settings need Triton and a C
    compiler.
    """
    if DEVICE.type == "cpu":
        compiled = any(shutil.which(name) for name in ("c++", "g++", "clang++", "cl"))
        names = ["eager"] + ([] if case.dense else ["channels_last"])
        return names + (["compile"] if compiled else [])
    compiled = find_spec("triton") and any(map(shutil.which, ("cc", "gcc", "clang")))
    names = [name for name, known in WAYS.items() if compiled or not known.mode]
    last = ["channels_last" if name == "eager" else f"{name}_channels_last" for name in names]
    return names + ([] if case.dense else last)


@contextlib.contextmanager
def computing(precision: str) -> Iterator[None]:
    """Set the precision of float32 products and convolutions on a GPU: TF32 as in JAX, or exact.

    PyTorch's own default is TF32 for convolutions and exact products. This uses the older switches,
    which also set the newer `fp32_precision`; after setting only the newer ones, `torch.compile` of
    PyTorch 2.9 fails.

    Args:
      precision: "default" = TF32, or "highest" = exact; on a CPU both are exact.

    Raises:
      ValueError: any other precision.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}")
    switches = (torch.backends.cuda.matmul, torch.backends.cudnn) if DEVICE.type == "cuda" else ()
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = precision == "default"
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def captured(work: Callable[[], Any], rehearsal: Callable[[], Any]) -> Callable[[], Any]:
    """Capture work in a CUDA graph, which every call replays.

    A CPU has no CUDA graphs: there, every call does the work itself, with the same results from the
    same tensors.

    Args:
      work: takes no arguments, does not synchronise, and reads and writes tensors that stay where
        they are.
      rehearsal: run `WARM_UP` times before the capture, on the same stream. It compiles, selects
        kernels, and allocates what must outlive the capture, such as optimiser states.

    Returns:
      A function that returns what `work` returned; each call overwrites those tensors.
    """
    if DEVICE.type == "cpu":
        for _ in range(WARM_UP):
            rehearsal()
        return work
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            rehearsal()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        found = work()

    def replay() -> Any:
        graph.replay()
        return found

    return replay


@contextlib.contextmanager
def undone(net: nn.Module, optimisers: list[torch.optim.Optimizer]) -> Iterator[None]:
    """Restore weights, running statistics and optimiser states in place afterwards."""

    def states() -> list[torch.Tensor]:
        known = [state for optimiser in optimisers for state in optimiser.state.values()]
        return [value for state in known for value in state.values()]

    kept = {name: value.clone() for name, value in net.state_dict().items()}
    before = {value: value.clone() for value in states()}
    yield
    net.load_state_dict(kept)
    for value in states():
        # State that did not exist yet starts from zero in Adam and RMSprop.
        value.copy_(before[value]) if value in before else value.zero_()


class Program:
    """One model in PyTorch, for rows made by `prepare`.

    Losses and gradients from `gradients`, `outputs` and scores are computed in exact float32,
    training in the requested precision.

    Attributes:
      steps: trainers make multiples of this number of steps; 0 = any number.
      precision: precision of float32 products in training: "tf32", or PyTorch's name for it.
    """

    def __init__(self, case: Case, cfg, setting: str, precision: str):
        self._case, self._cfg, self._way, self._precision = case, cfg, way(setting), precision
        self.steps = UNROLLED if self._way.graph else 0
        with computing(precision):
            known = torch.get_float32_matmul_precision()
            self.precision = "tf32" if known == "high" else known
        net = NETWORKS[case.name]().to(DEVICE).train()
        last = torch.channels_last if self._way.channels_last else torch.preserve_format
        self._net = net.to(memory_format=last)
        autocast = torch.autocast(
            DEVICE.type, torch.bfloat16, enabled=cfg.model.compute_dtype == "bfloat16"
        )
        around = functools.partial(self._way.compile, mode="default") if COMPILE_ALL else _as_it_is
        make = _adversarial if cfg.method == "alocc" else _reconstruction
        self._losses, self._optimisers = make(self._net, cfg, self._way, autocast)
        self._updates = [
            # Adam's fused step is already a single kernel.
            around(known.step) if isinstance(known, torch.optim.RMSprop) else known.step
            for known in self._optimisers
        ]
        self._draw = around(_draw(cfg))
        compile_ = self._way.compile
        self._errors = (
            compile_(_errors(self._net, cfg, autocast)) if COMPILE_ALL
            else _errors(compile_(self._net), cfg, autocast)
        )  # fmt: skip
        self._outputs = _outputs(self._net, autocast)

    def prepare(self, x: np.ndarray) -> torch.Tensor:
        """Rows [N, *S] in [0, 1] -> the tensor that the other functions take."""
        out = _images(torch.from_numpy(x), self._case).to(DEVICE)
        out = 2 * out - 1 if self._cfg.method == "alocc" else out
        return out.to(memory_format=torch.channels_last) if self._way.channels_last else out

    def load(self, new: Weights) -> None:
        """Set the weights and reset running statistics; optimiser states stay as they are."""
        load(self._net, self._case, new)

    def parameters(self) -> Weights:
        """The current weights."""
        return weights(self._net, self._case)

    def outputs(self, x: torch.Tensor) -> np.ndarray:
        """Reconstructions [B, *S] in evaluation mode, pixels in [0, 1]."""
        with computing("highest"), self._evaluating():
            return _rows(self._outputs(x), self._case, self._cfg.method == "alocc")

    def gradients(self, x: torch.Tensor) -> tuple[dict[str, float], Weights]:
        """`({name: loss}, gradients)` without input noise, computed as in training steps."""

        def work() -> dict[str, torch.Tensor]:
            self._net.zero_grad()
            values = self._losses(x, x)
            _fill_gradients(self._net, values)
            return values

        with computing("highest"):
            run = captured(work, work) if self._way.graph else work  # kept until results are read
            found = {f"loss{k}": v.item() for k, v in run().items()}
            return found, weights(self._net, self._case, of=lambda p: p.grad)

    def step(self, x: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """One update from the rows of x [N, ...] selected by `index` [B]; returns the loss."""
        self._net.zero_grad()
        values = self._losses(*self._draw(x, index))
        _fill_gradients(self._net, values)
        for update in self._updates:
            update()
        return values[""].detach()

    def trainer(self, x: torch.Tensor, order: torch.Tensor) -> Callable[[int], None]:
        """`train(steps)`: so many updates from rows x [N, ...], with batches order [T, B] in turn.

        The first call compiles and captures what it needs, without changing the weights.

        Returns:
          A function that starts with the first batch at every call. It raises ValueError if `steps`
          is not a multiple of the steps of one replay.
        """
        made: list[Callable[[int], None]] = []

        def train(steps: int) -> None:
            if self.steps and steps % self.steps:
                raise ValueError(f"{steps} steps are not a multiple of {self.steps}")
            with computing(self._precision):
                if not made:
                    made.append(self._replayed(x, order) if self.steps else self._each(x, order))
                made[0](steps)

        return train

    def _each(self, x: torch.Tensor, order: torch.Tensor) -> Callable[[int], None]:
        """Steps launched one by one."""
        if self._way.mode == "reduce-overhead":
            with undone(self._net, self._optimisers):
                for _ in range(WARM_UP):  # the compiler captures at the second call
                    self.step(x, order[0])

        def run(steps: int) -> None:
            for i in range(steps):
                self.step(x, order[i % len(order)])

        return run

    def _replayed(self, x: torch.Tensor, order: torch.Tensor) -> Callable[[int], None]:
        """Steps launched `UNROLLED` at a time."""
        blocks = in_blocks(order, UNROLLED)
        at = blocks[0].clone()
        with undone(self._net, self._optimisers):
            replay = captured(
                lambda: [self.step(x, index) for index in at], lambda: self.step(x, at[0])
            )

        def run(steps: int) -> None:
            for i in range(steps // UNROLLED):
                at.copy_(blocks[i % len(blocks)])
                replay()

        return run

    def score(self, x: torch.Tensor) -> torch.Tensor:
        """Mean squared reconstruction error [B], pixels in [0, 1], in evaluation mode."""
        with computing("highest"), self._evaluating():
            return self._errors(x)

    def scorer(self, x: torch.Tensor) -> Callable[[int], np.ndarray]:
        """`score(chunk)`: scores [N] of all of x [N, ...], `chunk` rows at a time."""
        recorded: dict[int, Callable[[], torch.Tensor]] = {}
        # Graphs captured by the compiler overwrite their results at the next call.
        keep = torch.clone if self._way.mode == "reduce-overhead" else _as_it_is

        def work(chunk: int) -> torch.Tensor:
            parts = [keep(self._errors(x[i : i + chunk])) for i in range(0, len(x), chunk)]
            return torch.cat(parts)

        def score(chunk: int) -> np.ndarray:
            once = functools.partial(work, chunk)
            with computing("highest"), self._evaluating():
                if chunk not in recorded:
                    for _ in range(WARM_UP if self._way.mode == "reduce-overhead" else 0):
                        once()
                    recorded[chunk] = captured(once, once) if self._way.graph else once
                return recorded[chunk]().cpu().numpy()

        return score

    @contextlib.contextmanager
    def _evaluating(self) -> Iterator[None]:
        self._net.eval()
        try:
            with torch.inference_mode():
                yield
        finally:
            self._net.train()


def build(case: Case, cfg, setting: str = "eager", precision: str = "default") -> Program:
    """A case as a PyTorch model.

    Args:
      case: see `benchmarks.cases`.
      cfg: the experiment's configuration; its optimiser, loss, noise and compute dtype are used.
      setting: see `way`; `settings` lists those of this machine.
      precision: precision of training, see `computing`.
    """
    return Program(case, cfg, setting, precision)


def in_blocks(order: torch.Tensor, size: int) -> torch.Tensor:
    """Batches [T, B] as blocks [K, size, B], repeated from the start to fill the last one."""
    times = size // math.gcd(len(order), size)
    return order.repeat(times, 1).reshape(-1, size, order.shape[1])


def _as_it_is(value: Any) -> Any:
    return value


def _draw(cfg) -> Callable:
    """(rows [N, ...], index [B]) -> the selected rows [B, ...], and the same with noise."""
    std, clip = cfg.train.noise_std, cfg.train.noise_clip and cfg.method != "alocc"

    def draw(x: torch.Tensor, index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows = x[index]
        noisy = rows + std * torch.randn_like(rows) if std else rows
        return rows, noisy.clamp(0, 1) if std and clip else noisy

    return draw


def _outputs(apply: Callable, autocast) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network's outputs, as float32."""

    def outputs(x: torch.Tensor) -> torch.Tensor:
        with autocast:
            x_hat = apply(x)
        return x_hat.float()

    return outputs


def _errors(apply: Callable, cfg, autocast) -> Callable[[torch.Tensor], torch.Tensor]:
    """Mean squared errors [B] of rows, pixels in [0, 1]."""
    outputs = _outputs(apply, autocast)

    def errors(x: torch.Tensor) -> torch.Tensor:
        error = (outputs(x) - x).square().flatten(1).mean(1)
        return error / 4 if cfg.method == "alocc" else error  # pixels are in [-1, 1]

    return errors


def optimiser_options(name: str, device: str, graph: bool) -> dict[str, bool]:
    """Options for PyTorch's fastest implementation of an optimiser on a device.

    Args:
      name: "adam", or "rmsprop", which has no fused implementation.
      device: "cpu" or "cuda".
      graph: whether its steps are captured in a CUDA graph.
    """
    form = {"foreach": device == "cuda"} if name == "rmsprop" else {"fused": True}
    return form | {"capturable": graph and device == "cuda"}


def _optimiser(cfg, params, lr: float, graph: bool) -> torch.optim.Optimizer:
    options = optimiser_options(cfg.optim.name, DEVICE.type, graph)
    if cfg.optim.name == "rmsprop":
        return torch.optim.RMSprop(params, lr, alpha=0.9, eps=1e-7, **options)
    return torch.optim.Adam(params, lr, weight_decay=cfg.optim.weight_decay, **options)


def _reconstruction(net, cfg, way: Way, autocast):
    """(losses of (x, noisy x), optimisers)."""
    loss = LOSSES[cfg.train.loss]

    def losses(x, noisy):
        with autocast:
            x_hat = net(noisy)
        return {"": loss(x_hat.float(), x)}

    return way.compile(losses), [_optimiser(cfg, net.parameters(), cfg.optim.lr, way.graph)]


def _adversarial(net: Alocc, cfg, way: Way, autocast):
    """The same for ALOCC: both networks' losses from one pass, and two optimisers."""
    opt_r = _optimiser(cfg, net.refiner.parameters(), cfg.optim.lr, way.graph)
    rate = cfg.optim.lr_discriminator
    opt_d = _optimiser(cfg, net.discriminator.parameters(), rate, way.graph)
    refiner, discriminator = way.compile(net.refiner), way.compile(net.discriminator)
    faithful = cfg.variant == "faithful"

    def losses(x, noisy):
        with autocast:
            refined = refiner(noisy)
            fake, real = discriminator(refined).float(), discriminator(x).float()
        refined = refined.float()
        if faithful:  # treats sigmoid outputs and tanh pixels as logits
            fake, real = fake.sigmoid(), real.sigmoid()
            recon = F.binary_cross_entropy_with_logits(refined, x)
        else:
            recon = F.mse_loss(refined, x)
        return {
            "": F.softplus(-fake).mean() + recon_weight(cfg) * recon,
            "_discriminator": F.softplus(-real).mean() + F.softplus(fake).mean(),
        }

    return losses, [opt_r, opt_d]


def _fill_gradients(net: nn.Module, losses: dict[str, torch.Tensor]) -> None:
    """Set each network's gradients from its own loss; both losses share one graph."""
    if len(losses) == 1:
        losses[""].backward()
        return
    parts = (net.refiner, losses[""], True), (net.discriminator, losses["_discriminator"], False)
    for part, loss, retain in parts:
        params = list(part.parameters())
        grads = torch.autograd.grad(loss, params, retain_graph=retain)
        for p, g in zip(params, grads, strict=True):
            p.grad = g


def _images(x: torch.Tensor, case: Case) -> torch.Tensor:
    """[N, *S] -> the network's input: (C, H, W) for convolutions, otherwise flat."""
    if case.dense:
        return x.flatten(1)
    x = x.permute(0, 3, 1, 2).contiguous()
    return x.flip(2, 3) if case.name in MIRRORED else x


def _rows(x: torch.Tensor, case: Case, tanh: bool) -> np.ndarray:
    """The inverse of `prepare`, for outputs."""
    x = (x + 1) / 2 if tanh else x
    if x.ndim == 4:
        x = (x.flip(2, 3) if case.name in MIRRORED else x).permute(0, 2, 3, 1)
    return x.cpu().numpy().reshape(-1, *case.shape)
