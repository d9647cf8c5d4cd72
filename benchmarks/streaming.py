"""Compare rows streamed from disk with resident rows: steps per second and memory.

    python -m benchmarks.streaming --folder DIR              # 20 GB of rows, written to DIR first
    python -m benchmarks.streaming --folder DIR --gb 1 --models fmnist_dense

Each round trains on resident rows, then makes the same number of steps on streamed rows, each in a
new process. Rows are read in random order, as in every epoch. A file too large for the system's
cache is therefore read at the speed of the disk, which is measured too.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from benchmarks.cases import CASES, config

MODELS = ("fmnist_dense", "fmnist_denoise")
_BLOCK = 20_000  # rows that are written or read at a time
_RESIDENT = 50_000  # rows of the resident feed


def write(folder: Path, shape: tuple[int, ...], gigabytes: float) -> int:
    """Write random rows to DIR/x_train.npy, unless it already has as many; returns the number."""
    path = folder / f"rows-{'x'.join(map(str, shape))}.npy"
    count = int(gigabytes * 1e9 / (4 * np.prod(shape)))
    if not path.exists() or len(np.load(path, mmap_mode="r")) != count:
        generator = np.random.default_rng(0)
        folder.mkdir(parents=True, exist_ok=True)
        block = generator.random((_BLOCK, *shape), np.float32)
        with path.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (count, *shape)}
            np.lib.format.write_array_header_1_0(file, header)
            for first in range(0, count, _BLOCK):
                file.write(np.roll(block, first // _BLOCK, axis=1)[: count - first].tobytes())
    return count


def disk(path: Path, rows: int = 100_000) -> float:
    """Rows per second read from the source in random order, with or without the cache."""
    from jaxae.data import arrayfiles

    source = arrayfiles.on_disk([path])
    index = np.random.default_rng(time.time_ns()).permutation(len(source))[:rows]
    clock = time.perf_counter()
    for first in range(0, rows, 10_000):
        source[index[first : min(first + 10_000, rows)]]
    return rows / (time.perf_counter() - clock)


def child(order: dict) -> None:
    """Train in this process; print steps per second and peak memory."""
    import jax

    from jaxae import data
    from jaxae.data import arrayfiles
    from jaxae.devices import parallel
    from jaxae.methods import learners
    from jaxae.training import train

    cfg = config(order["model"])
    cfg = dataclasses.replace(
        cfg, train=dataclasses.replace(cfg.train, epochs=2, feed=order["feed"])
    )
    parallel.initialize()
    shape = CASES[order["model"]].shape
    source = arrayfiles.on_disk([Path(order["path"])])
    resident = order["feed"] == "resident"
    x = source[np.arange(_RESIDENT)] if resident else source
    learner = learners.build(cfg, shape)
    devices = train.devices_for(learner, cfg, shape)
    steps, batch, seed = order["steps"], cfg.train.batch_size, order["round"]
    epochs = 1 + max(1, round(steps * batch / len(x))) if resident else 2

    def plan(epoch: int, devices: int) -> np.ndarray:
        """Some steps of an epoch: the first ones warm up; of streamed rows, always new ones."""
        whole = data.index_plan(seed, epoch, len(x), batch, devices)
        return whole if resident else whole[:, :steps]

    cfg = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, epochs=epochs))
    speeds = []

    def on_epoch(epoch: int, state, metrics: dict) -> dict:
        speeds.append(float(metrics["steps_per_s"]))
        return metrics

    apart = train.ensemble(learner, cfg, len(x))._replace(plan=plan)
    train.fit(learner, x, cfg, devices, members=apart, on_epoch=on_epoch, quiet=True)
    with Path("/proc/self/status").open() as lines:
        peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1e6
    found = {"steps_per_s": statistics.median(speeds[1:]), "peak_gb": peak}
    print(json.dumps(found | {"devices": [str(d) for d in devices], "jax": jax.__version__}))


def measured(order: dict) -> dict:
    """The result of a new process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.streaming", "--child", json.dumps(order)],
        check=True, capture_output=True, text=True, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def main(args: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--folder", type=Path, default=Path("build/streaming"))
    parser.add_argument("--gb", type=float, default=20.0)
    parser.add_argument("--steps", type=int, default=20_000, help="streamed steps per epoch")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=CASES, metavar="MODEL", default=MODELS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    if options.child:
        child(json.loads(options.child))
        return
    for model in options.models:
        shape = CASES[model].shape
        count = write(options.folder, shape, options.gb)
        path = options.folder / f"rows-{'x'.join(map(str, shape))}.npy"
        batch = config(model).train.batch_size
        steps = min(options.steps, count // batch)
        base = {"model": model, "path": str(path.resolve()), "steps": steps}
        found: dict[str, list[dict]] = {"resident": [], "streaming": []}
        rates = []
        for number in range(options.rounds):
            for feed, results in found.items():
                results.append(measured(base | {"feed": feed, "round": number}))
            rates.append(disk(path))
        speed = {
            feed: statistics.median(r["steps_per_s"] for r in results)
            for feed, results in found.items()
        }
        ratios = [b["steps_per_s"] / a["steps_per_s"] for a, b in zip(*found.values(), strict=True)]
        peak = max(r["peak_gb"] for r in found["streaming"])
        print(
            f"{model}: {count:,} rows, {path.stat().st_size / 1e9:.1f} GB; resident "
            f"{speed['resident']:.0f} steps/s, streamed {speed['streaming']:.0f}; ratio "
            f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]; peak memory "
            f"{peak:.2f} GB; training takes {speed['resident'] * batch:,.0f} rows/s, the file "
            f"can be read at {statistics.median(rates):,.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
