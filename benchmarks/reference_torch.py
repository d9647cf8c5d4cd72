"""The reference systems as a competent PyTorch user writes them.

Layers are padded the native way, and `torch_weights` makes the comparison exact nevertheless.
"""

import functools
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.cases import Case, Weights, recon_weight
from benchmarks.torch_weights import MIRRORED, load, weights

torch.set_flush_denormal(True)  # measured: without it long runs slow down several times
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


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
    """Refiner and discriminator; the discriminator's outputs stay logits."""

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


def settings(case: Case) -> list[str]:
    """The ways in which a PyTorch user may run a model."""
    return ["eager", "compile"] + ([] if case.dense else ["channels_last"])


class Program(NamedTuple):
    """One model in PyTorch, for rows made by `prepare`.

    Attributes:
      prepare: rows [N, *S] -> the tensor that the other functions take.
      load: set the weights; running statistics and the optimiser stay.
      outputs: reconstructions [B, *S] in evaluation mode, pixels in [0, 1], as NumPy.
      gradients: `x -> ({name: loss}, gradients)` without input noise, as floats and NumPy.
      step: one update; returns the loss.
      score: mean squared reconstruction error [B], pixels in [0, 1], in evaluation mode.
    """

    prepare: Callable[[np.ndarray], torch.Tensor]
    load: Callable[[Weights], None]
    outputs: Callable[[torch.Tensor], np.ndarray]
    gradients: Callable[[torch.Tensor], tuple[dict[str, float], Weights]]
    step: Callable[[torch.Tensor], torch.Tensor]
    score: Callable[[torch.Tensor], torch.Tensor]


def build(case: Case, cfg, setting: str = "eager") -> Program:
    """The model of a case in PyTorch.

    Args:
      case: see `benchmarks.cases`.
      cfg: the experiment's configuration; its optimiser, loss, noise and compute dtype are used.
      setting: one of `settings(case)`.
    """
    net = NETWORKS[case.name]().to(DEVICE).train()
    if setting == "channels_last":
        net = net.to(memory_format=torch.channels_last)
    static = functools.partial(torch.compile, dynamic=False)  # one program for each batch size
    compile_ = static if setting == "compile" else lambda f: f
    autocast = torch.autocast(
        DEVICE.type, torch.bfloat16, enabled=cfg.model.compute_dtype == "bfloat16"
    )
    losses, update = (_adversarial if cfg.method == "alocc" else _reconstruction)(
        net, cfg, compile_, autocast
    )
    apply = compile_(net)

    def prepare(x: np.ndarray) -> torch.Tensor:
        out = _images(torch.from_numpy(x), case).to(DEVICE)
        out = 2 * out - 1 if cfg.method == "alocc" else out
        return out.to(memory_format=torch.channels_last) if setting == "channels_last" else out

    def noisy(x: torch.Tensor) -> torch.Tensor:
        std = cfg.train.noise_std
        out = x + std * torch.randn_like(x) if std else x
        return out.clamp(0, 1) if std and cfg.train.noise_clip and cfg.method != "alocc" else out

    def outputs(x: torch.Tensor) -> np.ndarray:
        net.eval()
        with torch.inference_mode(), autocast:
            x_hat = net(x).float()
        net.train()
        return _rows(x_hat, case, cfg.method == "alocc")

    def gradients(x: torch.Tensor) -> tuple[dict[str, float], Weights]:
        values = losses(x, x)
        found = {f"loss{k}": v.item() for k, v in values.items()}
        _fill_gradients(net, values)
        return found, weights(net, case, of=lambda p: p.grad)

    def step(x: torch.Tensor) -> torch.Tensor:
        values = losses(x, noisy(x))
        _fill_gradients(net, values)
        update()
        return values[""].detach()

    def score(x: torch.Tensor) -> torch.Tensor:
        net.eval()
        with torch.inference_mode(), autocast:
            error = (apply(x).float() - x).square().flatten(1).mean(1)
        net.train()
        return error / 4 if cfg.method == "alocc" else error  # a range of [-1, 1] is twice as wide

    return Program(prepare, lambda w: load(net, case, w), outputs, gradients, step, score)


def _optimiser(cfg, params, lr: float) -> torch.optim.Optimizer:
    if cfg.optim.name == "rmsprop":
        return torch.optim.RMSprop(params, lr, alpha=0.9, eps=1e-7)
    return torch.optim.Adam(params, lr, weight_decay=cfg.optim.weight_decay, fused=True)


def _reconstruction(net, cfg, compile_, autocast):
    """(losses of (x, noisy x), update from the gradients in place)."""
    loss, optimiser = LOSSES[cfg.train.loss], _optimiser(cfg, net.parameters(), cfg.optim.lr)

    def losses(x, noisy):
        with autocast:
            x_hat = net(noisy)
        return {"": loss(x_hat.float(), x)}

    return compile_(losses), optimiser.step


def _adversarial(net: Alocc, cfg, compile_, autocast):
    """The same for ALOCC: both networks' losses from one pass, two optimisers."""
    opt_r = _optimiser(cfg, net.refiner.parameters(), cfg.optim.lr)
    opt_d = _optimiser(cfg, net.discriminator.parameters(), cfg.optim.lr_discriminator)
    refiner, discriminator = compile_(net.refiner), compile_(net.discriminator)
    faithful = cfg.variant == "faithful"

    def losses(x, noisy):
        with autocast:
            refined = refiner(noisy)
            fake, real = discriminator(refined).float(), discriminator(x).float()
        refined = refined.float()
        if faithful:  # sigmoid outputs, and tanh pixels, taken for logits
            fake, real = fake.sigmoid(), real.sigmoid()
            recon = F.binary_cross_entropy_with_logits(refined, x)
        else:
            recon = F.mse_loss(refined, x)
        return {
            "": F.softplus(-fake).mean() + recon_weight(cfg) * recon,
            "_discriminator": F.softplus(-real).mean() + F.softplus(fake).mean(),
        }

    def update():
        opt_r.step()
        opt_d.step()

    return losses, update


def _fill_gradients(net: nn.Module, losses: dict[str, torch.Tensor]) -> None:
    """Set `.grad` of each network's parameters from its own loss; both losses share one graph."""
    if len(losses) == 1:
        net.zero_grad()
        losses[""].backward()
        return
    parts = (net.refiner, losses[""], True), (net.discriminator, losses["_discriminator"], False)
    for part, loss, retain in parts:
        params = list(part.parameters())
        grads = torch.autograd.grad(loss, params, retain_graph=retain)
        for p, g in zip(params, grads, strict=True):
            p.grad = g


def _images(x: torch.Tensor, case: Case) -> torch.Tensor:
    """[N, *S] -> what the network takes: (C, H, W) where it convolves, flat otherwise."""
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
