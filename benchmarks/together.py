"""Members trained in one program, and the same members one after another: epochs per second.

    python -m benchmarks.together                    # all cases, about three minutes
    python -m benchmarks.together --cases digits_dense --rounds 21

An ensemble and a grid have four members with equal rows, as `--ensemble 4` and four seeds of a
protocol; "one-vs-rest" is a grid of ten members, each with the rows of one class of digits. All
programs run on the devices that runs choose, in interleaved rounds in one process. Compilation is
not counted; a loop over single runs compiles once for each member.
"""

import argparse
import dataclasses
import importlib
import time
from collections.abc import Callable

import numpy as np

from benchmarks import throughput
from benchmarks.cases import replace
from benchmarks.records import paired
from jaxae import data
from jaxae.config import DataConfig, ExperimentConfig
from jaxae.config.grids import experiment_of
from jaxae.devices import parallel
from jaxae.methods import learners
from jaxae.training import feeds, grid, train

MEMBERS = 4
IMAGE = (28, 28, 1)
EQUAL = {  # case -> shape of a row, rows
    "fmnist_dense": (IMAGE, 6000),
    "ecg_dense": ((140, 1), 2335),
    "digits_conv": (IMAGE, 99),
    "fmnist_denoise": (IMAGE, 1280),
    "mnist_conv_latent": (IMAGE, 1280),
}
DIFFERENT = {"digits_dense": "dense", "digits_conv_rest": "conv"}  # case -> a recipe of one-vs-rest
Epochs = Callable[[int], float]  # number of epochs -> seconds


def epochs_of(cfg: ExperimentConfig, x: np.ndarray, models: list[grid.Member]) -> Epochs:
    """The epoch program of a run or an ensemble, or of a grid if there are `models`."""
    shape = x.shape[1:]
    learner = learners.build(cfg, shape, axis=None) if models else learners.build(cfg, shape)
    if models:
        layout = grid.layout_for(models, cfg.devices)
        apart = grid.members_of(models)
    else:
        layout = parallel.Layout(train.devices_for(learner, cfg, shape))
        apart = train.ensemble(learner, cfg, len(x))
    plan = apart.plan(0, layout.per_group)
    state, *fixed = layout.place(
        (train.initial_state(learner, shape, apart.init), apart.noise, apart.settings)
    )
    feed = feeds.Feed(False, learner, x, layout, (state, *fixed, apart.steps), plan)
    feed.compile()
    box = [state]

    def run(count: int) -> float:
        clock = time.perf_counter()
        for _ in range(count):
            box[0], fetch = feed(box[0], plan)
            fetch()
        return time.perf_counter() - clock

    return run


def placed(cfg: ExperimentConfig, shape: tuple, rows: list[np.ndarray]) -> list[grid.Member]:
    """A member for each selection of rows, each with its own seed."""
    settings = learners.build(cfg, shape, axis=None).settings
    return [
        grid.Member(dataclasses.replace(cfg, seed=seed), settings, train_rows, train_rows[:1])
        for seed, train_rows in enumerate(rows)
    ]


def programs(case: str) -> dict[str, Epochs]:
    """The programs of a case by name; "loop" is one epoch of each member."""
    if case in EQUAL:
        cfg = importlib.import_module(f"experiments.{case}").CONFIG
        shape, count = EQUAL[case]
        x = np.random.default_rng(0).random((count, *shape), dtype=np.float32) ** 3
        models = placed(cfg, shape, [np.arange(count)] * MEMBERS)
        single = epochs_of(cfg, x, [])
        return {
            "loop": lambda count: single(MEMBERS * count),
            "ensemble": epochs_of(dataclasses.replace(cfg, ensemble=MEMBERS), x, []),
            "grid": epochs_of(cfg, x, models),
        }
    recipes = importlib.import_module("experiments.one_vs_rest").RECIPES
    cfg = experiment_of(recipes[DIFFERENT[case]])
    raw = data.raw(DataConfig(name="digits"))
    x, y = np.asarray(raw.x_train, np.float32), np.asarray(raw.train_class_id)
    cfg = replace(replace(cfg, ["train", "batch_size"], 32), ["data", "input"], "none")
    by_class = [np.flatnonzero(y == k) for k in np.unique(y)]
    singles = [epochs_of(cfg, x[rows], []) for rows in by_class]
    return {
        "loop": lambda count: sum(single(count) for single in singles),
        "one-vs-rest": epochs_of(cfg, x, placed(cfg, x.shape[1:], by_class)),
    }


def measure(case: str, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of an epoch of all members, by program and round."""
    runs = programs(case)
    for run in runs.values():
        run(2)  # the first ones are slower
    count = max(1, round(seconds / runs["loop"](1)))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for i in range(rounds):
        for name in list(runs)[:: 1 if i % 2 else -1]:
            times[name].append(runs[name](count) / count)
    return times


def main(args: list[str] | None = None) -> None:
    """Measure and print the table."""
    cases = [*EQUAL, *DIFFERENT]
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--cases", nargs="+", choices=cases, default=cases)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seconds", type=float, default=0.2, help="of a round of the loop")
    options = parser.parse_args(args)
    parallel.initialize()
    print("| case | members | loop, ms per epoch of all | together / loop [95 %] |")
    print("| --- | --- | --- | --- |")
    for case in options.cases:
        times = measure(case, options.rounds, options.seconds)
        loop = np.array(times.pop("loop"))
        for name, seconds in times.items():
            ratio = paired(1 / np.array(seconds), 1 / loop)
            print(f"| {case} | {name} | {1e3 * np.median(loop):.1f} | {ratio} |", flush=True)
    print(throughput.machine())


if __name__ == "__main__":
    main()
