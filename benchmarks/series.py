"""Scores of the steps of real series, at the defaults of `jaxae train`, beside simple baselines.

    python -m benchmarks.series --data nab          # about five minutes on two cores
    python -m benchmarks.series --data nab --score mse --out scores.jsonl

FOLDER holds the series of the Numenta Anomaly Benchmark: CSV files of `timestamp,value`, and
`windows.json`, which lists by file the windows that hold anomalies. The first 15 % of a series
trains, without labels; every later step is scored and compared with the windows. Series are
skipped that have an anomaly in their first 15 %, none at all, or fewer than 192 steps to train on.

Baselines score windows of 64 steps, and a step by the mean over the windows that hold it: the
distance to the nearest training window, and the squared error of principal components that hold
95 % of the variance. The autoencoder of the package TSB-AD joins them where it can be imported:
in an environment of its own, `pip install --no-deps TSB-AD` and beside the packages of `jaxae`
torch, numba, pandas, hurst, statsmodels and "scikit-learn<1.7".
"""

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from jaxae.cli import main as cli
from jaxae.cli.score import score_file
from jaxae.stats import metrics, steps

TRAIN, FEWEST, WINDOW = 0.15, 192, 64  # share and fewest steps to train on; steps of a window

Step = Float[np.ndarray, " T"]
Windows = Float[np.ndarray, "N W"]


class Series(NamedTuple):
    """A series, its truth, and how many of its first steps train."""

    path: Path
    value: Step
    y: Bool[np.ndarray, " T"]
    train: int


def read(folder: Path) -> list[Series]:
    """The series that the protocol uses, in the order of `windows.json`."""
    found = []
    for name, spans in json.loads((folder / "windows.json").read_text()).items():
        with (folder / name).open() as file:
            rows = list(csv.reader(file))[1:]
        when = np.array([row[0] for row in rows], "datetime64[us]")
        y = np.zeros(len(rows), bool)
        for begin, end in np.array(spans, "datetime64[us]").reshape(-1, 2):
            y |= (when >= begin) & (when <= end)
        train = int(TRAIN * len(rows))
        if train >= FEWEST and y.any() and not y[:train].any():
            value = np.array([float(row[1]) for row in rows])
            found.append(Series(folder / name, value, y, train))
    return found


def by_step(of_windows: Float[np.ndarray, " N"], steps: int) -> Step:
    """The mean over the windows of `WINDOW` steps that hold a step; one begins at each step."""
    total = np.convolve(of_windows, np.ones(WINDOW))
    count = np.convolve(np.ones(len(of_windows)), np.ones(WINDOW))
    assert len(total) == steps
    return total / count


def neighbour(train: Windows, x: Windows) -> Float[np.ndarray, " N"]:
    """The distance to the nearest training window."""
    nearest = [np.sqrt(np.square(train - row).sum(axis=1).min()) for row in x]
    return np.array(nearest)


def components(train: Windows, x: Windows) -> Float[np.ndarray, " N"]:
    """The mean squared error of the fewest principal components with 95 % of the variance."""
    mean = train.mean(axis=0)
    _, size, axes = np.linalg.svd(train - mean, full_matrices=False)
    share = np.cumsum(size**2) / np.sum(size**2)
    axes = axes[: 1 + np.searchsorted(share, 0.95)]
    centred = x - mean
    return np.square(centred - centred @ axes.T @ axes).mean(axis=1)


def baseline(judge: Callable[[Windows, Windows], np.ndarray], series: Series) -> Step:
    """Scores of steps by a baseline that judges windows."""
    x = np.lib.stride_tricks.sliding_window_view(series.value, WINDOW)
    return by_step(judge(x[: series.train - WINDOW + 1], x), len(series.value))


def tsb_ad(series: Series) -> Step:
    """Scores of steps by the autoencoder of TSB-AD, with its settings for series of one value."""
    import torch
    from TSB_AD.HP_list import Optimal_Uni_algo_HP_dict
    from TSB_AD.model_wrapper import run_AutoEncoder

    torch.manual_seed(0)
    x = series.value[:, None]
    return run_AutoEncoder(x[: series.train], x, **Optimal_Uni_algo_HP_dict["AutoEncoder"])


def jaxae(series: Series, settings: list[str], folder: Path) -> Step:
    """Scores of steps by `jaxae train` on the first steps; the least where no window fits."""
    train, run = folder / "train.csv", folder / series.path.stem
    lines = series.path.read_text().splitlines(keepends=True)
    train.write_text("".join(lines[: series.train + 1]))
    cli.main(["train", "--data.name", f"series:{train}", "--run-dir", str(run), *settings])
    out = folder / "steps.csv"
    score_file(run, series.path, out, overwrite=True)
    with out.open() as file:
        score = np.array([float(row["score"] or "nan") for row in csv.DictReader(file)])
    return np.where(np.isnan(score), np.nanmin(score), score)


def detectors(settings: list[str], score: str, folder: Path) -> dict[str, Callable[[Series], Step]]:
    """What is compared, by name."""
    more = ["--score", score] if score else []
    found = {
        f"jaxae {score}".strip(): lambda series: jaxae(series, [*settings, *more], folder),
        "nearest neighbour": lambda series: baseline(neighbour, series),
        "PCA": lambda series: baseline(components, series),
    }
    try:
        import TSB_AD.model_wrapper
        import TSB_AD.models.AE  # noqa: F401
    except ImportError as error:
        print(f"left out: the autoencoder of TSB-AD, which cannot be imported ({error})")
        return found
    return found | {"TSB-AD AutoEncoder": tsb_ad}


def measured(score: Step, series: Series) -> tuple[float, float]:
    """AUC-PR and VUS-PR of the steps after those that train."""
    score, y = score[series.train :], series.y[series.train :]
    return float(metrics.average_precision(score, y)), steps.volumes(score, y).pr


def main() -> None:
    """Print a table of AUC-PR and VUS-PR, and append each line of it to a file if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--score", default="", help="of jaxae, instead of its default")
    parser.add_argument("--settings", default="", help="of `jaxae train`, in quotes")
    parser.add_argument("--out", type=Path, help="a file of JSON lines to append to")
    args = parser.parse_args()
    begin, lines = time.perf_counter(), []
    with tempfile.TemporaryDirectory() as folder:
        compared = detectors(args.settings.split(), args.score, Path(folder))
        for series in read(args.data):
            line = {name: measured(judge(series), series) for name, judge in compared.items()}
            lines.append({"series": f"{series.path.parent.name}/{series.path.stem}", **line})
    mean = {name: tuple(np.mean([line[name] for line in lines], axis=0)) for name in compared}
    lines.append({"series": f"mean of {len(lines)}", **mean})
    print(f"{'AUC-PR VUS-PR of steps':58}" + "".join(f"{name:>22}" for name in compared))
    for line in lines:
        cells = (f"{'{:.3f} {:.3f}'.format(*line[name]):>22}" for name in compared)
        print(f"{line['series']:58}" + "".join(cells))
    print(f"{time.perf_counter() - begin:.0f} s")
    if args.out:
        with args.out.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)


if __name__ == "__main__":
    main()
