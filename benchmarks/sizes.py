"""Training and scoring of convolutional models by the size of images, against PyTorch.

    python -m benchmarks.sizes                       # 64 to 512 pixels, batch 4 and 16: minutes
    python -m benchmarks.sizes --sizes 256 --batches 4 8 16 32 --methods fcn --rounds 15

Both frameworks run in one process, one after the other in every round, with the same rows and the
same architecture; PyTorch eagerly with channels last on all cores. A ratio above one means that
jaxae is faster: the median over rounds of seconds, and of processor time, which other programs on
the machine disturb less but which does not show how well the cores are kept busy.
"""

import argparse
import itertools
import math
import os
import statistics
import time
from collections.abc import Callable
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait take no processor time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.throughput import machine

LATENT, STEPS = 32, 2
SCORED = 1 << 21  # places of the rows of a scoring pass: 512 of 64 x 64, 8 of 512 x 512


class Timed(NamedTuple):
    """Seconds and seconds of processor time of each round."""

    wall: list[float]
    cpu: list[float]

    def add(self, call: Callable[[], None]) -> None:
        """Time a call."""
        wall, cpu = time.perf_counter(), time.process_time()
        call()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)


class _Conv(nn.Module):
    """The default of `--method conv`."""

    def __init__(self, size: int):
        super().__init__()
        self.side = size // 4
        self.encode = nn.Sequential(
            nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ReLU()
        )
        places = 64 * self.side**2
        self.code = nn.Sequential(nn.Linear(places, LATENT), nn.Linear(LATENT, places), nn.ReLU())
        self.decode = nn.Sequential(
            nn.ConvTranspose2d(64, 32, 3, 2, 1, 1), nn.ReLU(),
            nn.ConvTranspose2d(32, 3, 3, 2, 1, 1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x):
        """Reconstructions."""
        z = self.code(self.encode(x).flatten(1)).view(-1, 64, self.side, self.side)
        return self.decode(z.contiguous(memory_format=torch.channels_last))


def _fcn(size: int) -> nn.Module:
    """The default of `--method fcn`."""
    depth = int(math.log2(size // 4))
    widths = [3, *(16 * min(1 << i, 4) for i in range(depth))]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.ReLU()]
    layers += [nn.Conv2d(widths[-1], LATENT, 1), nn.Conv2d(LATENT, widths[-1], 1)]
    for inputs, outputs in itertools.pairwise(reversed(widths)):
        layers += [nn.ReLU(), nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)]
    return nn.Sequential(*layers, nn.Sigmoid())


def of_torch(
    method: str, x: np.ndarray, scored: np.ndarray, batch: int
) -> tuple[Callable, Callable]:
    """Functions that train `STEPS` steps on x, and score rows, `batch` at a time."""
    torch.set_flush_denormal(True)
    net = (_Conv if method == "conv" else _fcn)(x.shape[1]).to(memory_format=torch.channels_last)

    def images(rows: np.ndarray) -> torch.Tensor:
        rows = torch.from_numpy(rows).permute(0, 3, 1, 2)
        return rows.to(memory_format=torch.channels_last)

    rows = images(x)
    optimiser = torch.optim.Adam(net.parameters(), fused=True)

    def train() -> None:
        for some in rows.split(batch):
            optimiser.zero_grad()
            F.mse_loss(net(some), some).backward()
            optimiser.step()

    def score() -> None:
        with torch.no_grad():
            for some in images(scored).split(batch):
                ((net(some) - some) ** 2).mean((1, 2, 3)).numpy()

    return train, score


def of_jaxae(
    method: str, x: np.ndarray, scored: np.ndarray, batch: int
) -> tuple[Callable, Callable, float]:
    """The same, as runs do it, and the bytes that training takes on each device."""
    import jax

    from jaxae import scoring
    from jaxae.config import ExperimentConfig, ModelConfig, TrainConfig
    from jaxae.detectors import evaluation
    from jaxae.devices import memory, parallel
    from jaxae.methods import learners
    from jaxae.training import train as training

    parallel.initialize(0)
    setting = TrainConfig(batch_size=batch, epochs=1)
    cfg = ExperimentConfig("sizes", method, model=ModelConfig(latent=LATENT), train=setting)
    learner = learners.build(cfg, x.shape[1:])
    devices = training.devices_for(learner, cfg, x.shape[1:])
    layout, members = parallel.Layout(devices), training.ensemble(learner, cfg, len(x))
    begun = training.begin(learner, x, cfg, layout, members, quiet=True)
    training.compiled(begun)
    state = [begun.state]
    variables = jax.device_get(begun.state.variables)

    def train() -> None:
        state[0], fetch = begun.feed(state[0], begun.plan)
        fetch()

    scorer = evaluation.scorer(learner, scoring.resolve("mse"), jax.local_devices())
    needed = max(map(memory.of_program, begun.feed.programs))
    return train, lambda: scorer(variables, {}, scored), needed


def compare(method: str, size: int, batch: int, rounds: int) -> str:
    """A row of the table."""
    x = np.random.default_rng(0).random((STEPS * batch, size, size, 3), np.float32)
    scored = np.resize(x, (max(1, SCORED // size**2), size, size, 3))
    *own, needed = of_jaxae(method, x, scored, batch)
    calls = [*own, *of_torch(method, x, scored, batch)]
    timed = [Timed([], []) for _ in calls]
    for call in calls:
        call()
    for _ in range(rounds):
        for call, times in zip(calls, timed, strict=True):
            times.add(call)
    ours, peer = ([statistics.median(times.wall) for times in half] for half in halves(timed))
    trained, rows = (ratios(*pair) for pair in zip(*halves(timed), strict=True))
    return (
        f"| {method} | {size} | {batch} | {STEPS / ours[0]:.3g} | {STEPS / peer[0]:.3g} | "
        f"{trained} | {len(scored) / ours[1]:.3g} | {len(scored) / peer[1]:.3g} | {rows} | "
        f"{needed / 1e6:.0f} |"
    )


def halves(timed: list[Timed]) -> tuple[list[Timed], list[Timed]]:
    """Training and scoring of jaxae, and of PyTorch."""
    return timed[:2], timed[2:]


def ratios(ours: Timed, peer: Timed) -> str:
    """How many times as fast ours is, by the clock and by processor time."""
    wall, cpu = (
        statistics.median(b / a for a, b in zip(*pair, strict=True))
        for pair in zip(ours, peer, strict=True)
    )
    return f"**{wall:.2f}** ({cpu:.2f})"


def main(args: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--methods", nargs="+", default=["fcn", "conv"], choices=["fcn", "conv"])
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 128, 256, 512])
    parser.add_argument("--batches", nargs="+", type=int, default=[4, 16])
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args(args)
    names = ("method", "pixels", "batch", "steps/s", "PyTorch", "ratio (processor time)")
    names += ("scored rows/s", "PyTorch", "ratio (processor time)", "training takes, MB")
    print("|", " | ".join(names), "|")
    print("|---" * 10 + "|")
    for of in itertools.product(asked.methods, asked.sizes, asked.batches):
        print(compare(*of, asked.rounds), flush=True)
    print(f"\n{machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
