"""Time the cost of checkpoints in training: none, asynchronous (as in runs), and synchronous.

    python -m benchmarks.saving                        # a checkpoint after every epoch of a second
    python -m benchmarks.saving --models fmnist_one_class --seconds 0.2

All three train the same epochs in one process, in interleaved rounds. "Critical path" is the time
by which saving delays the next epoch.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.cases import CASES, config, rows

MODELS = ("fmnist_dense", "fmnist_one_class", "mnist_conv")
KINDS = ("none", "asynchronous", "waited for")


class Cost(NamedTuple):
    """Seconds of an epoch, and the seconds by which saving after it delays the next one."""

    epoch: float
    critical: float


def run(learner, x, cfg, devices, kind: str, folder: Path) -> list[Cost]:
    """Train and save after each epoch; the first and the last epoch are not counted."""
    from jaxae.storage import checkpoint
    from jaxae.training import train

    ends, critical = [], []

    def on_epoch(epoch: int, state, found: dict) -> dict:
        clock = time.perf_counter()
        if kind != "none":
            checkpoint.save(manager, epoch, state, {})
        if kind == "waited for":
            manager.wait_until_finished()
        ends.append(time.perf_counter())
        critical.append(ends[-1] - clock)
        return found

    with checkpoint.open_manager(folder, 2) as manager:
        train.fit(learner, x, cfg, devices, on_epoch=on_epoch, quiet=True)
        manager.wait_until_finished()
    return [Cost(*pair) for pair in zip(np.diff(ends), critical[1:], strict=True)]


def measure(model: str, epochs: int, rounds: int, seconds: float) -> dict[str, list[Cost]]:
    """The costs of every kind of saving; an epoch takes about `seconds`."""
    from jaxae.methods import learners
    from jaxae.training import train

    case, cfg = CASES[model], config(model)
    found: dict[str, list[Cost]] = {kind: [] for kind in KINDS}
    steps = case.block  # about a second on a small CPU
    learner = learners.build(cfg, case.shape)
    devices = train.devices_for(learner, cfg, case.shape)
    x = rows(case, max(2, int(steps * seconds)) * cfg.train.batch_size)
    cfg = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, epochs=epochs))
    for _ in range(rounds):
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as folder:
                found[kind] += run(learner, x, cfg, devices, kind, Path(folder))
    return found


def main(args: list[str] | None = None) -> None:
    """Measure and print."""
    from jaxae.devices import parallel

    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", choices=CASES, metavar="MODEL", default=MODELS)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="approximate length of an epoch")
    options = parser.parse_args(args)
    parallel.initialize()
    print("| model | checkpoint | epoch, s | longer by | critical path, ms |")
    print("| --- | --- | --- | --- | --- |")
    for model in options.models:
        found = measure(model, options.epochs, options.rounds, options.seconds)
        middle = {kind: statistics.median(c.epoch for c in costs) for kind, costs in found.items()}
        for kind, costs in found.items():
            critical = statistics.median(c.critical for c in costs)
            print(
                f"| {model} | {kind} | {middle[kind]:.3f} | "
                f"{middle[kind] / middle['none'] - 1:.1%} | {1e3 * critical:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
