"""How speed scales with batch size, devices, ensemble members and the amount of data.

    python -m benchmarks.scaling                       # all four, about ten minutes
    python -m benchmarks.scaling --studies batch data --models fmnist_denoise

Each point is measured in a separate process, in interleaved rounds as in `benchmarks.throughput`.
Devices share one batch ("same batch": strong scaling) or have one batch each ("batch each": weak
scaling). Efficiency is the speed divided by that of one device and by the number of devices. On a
CPU the devices are host devices, at most one per core. `benchmarks.cost_model` reads the results.
"""

import argparse
import json
import statistics
from pathlib import Path

import numpy as np

from benchmarks import output
from benchmarks.cases import CASES, config
from benchmarks.records import Ratio, paired
from benchmarks.workers import Worker
from jaxae.devices import tuning

BATCHES = (1, 8, 32, 128, 512, 4096)
DEVICES = (1, 2, 4, 8, 16)
MEMBERS = (1, 2, 4, 8)
GROWTH = (1, 10, 100)
SMALLEST = 8  # steps per epoch on the smallest data set


def points(study: str, model: str, quick: bool) -> list[dict]:
    """The measurements of a study: worker specifications, each with its value `x` on the axis."""
    batch = config(model).train.batch_size
    base = {"model": model, "dtype": "float32", "batch": batch, "framework": "jaxae", "devices": 0}
    plain = {"framework": "flax", "setting": "plain Flax"}
    if study == "batch":
        sizes = BATCHES[1:4:2] if quick else BATCHES
        # The same number of rows per dispatch at every size, so that one takes about as long.
        rows = CASES[model].block * batch
        ours = [
            base | {"x": n, "batch": n, "block": max(2, rows // n), "setting": "jaxae"}
            for n in sizes
        ]
        alone = [point | {"devices": 1, "setting": "one device"} for point in ours]
        return ours + alone + [point | plain for point in ours]
    if study == "devices":
        counts = DEVICES[:2] if quick else DEVICES
        shared = [base | {"x": n, "devices": n, "setting": "same batch"} for n in counts]
        return shared + [point | {"batch": batch * point["x"], "setting": "batch each"}
                         for point in shared]  # fmt: skip
    if study == "ensemble":
        members = MEMBERS[:2] if quick else MEMBERS
        return [base | {"x": n, "ensemble": n, "setting": "jaxae"} for n in members]
    growth = GROWTH[:2] if quick else GROWTH
    return [base | {"x": n, "block": SMALLEST * n, "setting": "jaxae"} for n in growth]


def measure(specs: list[dict], rounds: int, seconds: float) -> list[dict]:
    """Measure all points: each record gets `examples_per_s`, with one value per round.

    Points that this machine cannot run are left out, with a message that says why.
    """
    workers, records = [], []
    weights = Path("build/scaling-weights.npz").resolve()
    weights.parent.mkdir(exist_ok=True)
    try:
        for spec in specs:
            worker = Worker(spec)
            workers.append(worker)
            worker.ask(do="init", out=str(weights))
            answer = worker.ask(do="prepare", weights=str(weights))
            problem = answer.get("unavailable") or _too_many(spec, answer)
            if problem:
                print(f"  left out {spec['setting']} at {spec['x']}: {problem}")
                workers.pop().close()
                continue
            worker.ask(do="warm_up", seconds=seconds, chunks=[])
            records.append(spec | {"device": answer["device"], "examples_per_s": []})
        for _ in range(rounds):
            for worker, record in zip(workers, records, strict=True):
                run = worker.ask(do="train", seconds=seconds)
                # Every member of an ensemble sees every row.
                rows = run["done"] * record["batch"] * record.get("ensemble", 1)
                record["examples_per_s"].append(rows / run["seconds"])
    finally:
        for worker in workers:
            worker.close()
        weights.unlink(missing_ok=True)
    return records


def _too_many(spec: dict, answer: dict) -> str:
    """The reason why this many host devices cannot be measured; empty if they can."""
    if answer["device"] == "cpu" and spec["devices"] > tuning.cores():
        return f"this machine has {tuning.cores()} cores"
    return ""


def efficiencies(records: list[dict]) -> dict[tuple[str, int], Ratio]:
    """Examples/s by setting and devices, divided by devices times the speed of one."""
    rates = {(r["setting"], r["x"]): r["examples_per_s"] for r in records}
    return {
        (setting, n): paired(rate, n * np.array(rates[setting, 1]))
        for (setting, n), rate in rates.items()
        if n > 1 and (setting, 1) in rates
    }


def of_devices(model: str, rounds: int, seconds: float) -> list[str]:
    """Lines on strong and weak scaling of a model over the available devices."""
    found = efficiencies(measure(points("devices", model, False), rounds, seconds))
    return [f"{setting:10} {n:5d} devices: efficiency {e}" for (setting, n), e in found.items()]


def against_flax(records: list[dict]) -> dict[int, float]:
    """Ratio of examples/s to plain Flax, by value on the axis, where Flax was measured."""
    rates = {
        (r["framework"], r["x"]): statistics.median(r["examples_per_s"])
        for r in records
        if r["setting"] != "one device"
    }
    ours = {x: rate for (framework, x), rate in rates.items() if framework == "jaxae"}
    return {x: rate / rates["flax", x] for x, rate in ours.items() if ("flax", x) in rates}


STUDIES = {
    "batch": "batch size",
    "devices": "devices",
    "ensemble": "ensemble members",
    "data": "rows, as a multiple of 8 batches",
}


def plot(records: list[dict], path: Path) -> None:
    """One panel per study: examples per second, with a line for each model and setting."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    studies = [s for s in STUDIES if any(r["study"] == s for r in records)]
    figure, axes = plt.subplots(
        1, len(studies), figsize=(4.5 * len(studies), 4), layout="constrained", squeeze=False
    )
    for ax, study in zip(axes[0], studies, strict=True):
        lines: dict = {}
        for r in records:
            if r["study"] == study:
                rates = r["examples_per_s"]
                point = (r["x"], statistics.median(rates), min(rates), max(rates))
                lines.setdefault((r["model"], r["setting"]), []).append(point)
        for (model, setting), found in sorted(lines.items()):
            x, middle, low, high = zip(*sorted(found), strict=True)
            style = "--" if setting == "plain Flax" else "-"
            (line,) = ax.plot(x, middle, style, marker="o", label=f"{model}, {setting}")
            ax.fill_between(x, low, high, alpha=0.2, color=line.get_color())
        ax.set(xscale="log", yscale="log", xlabel=STUDIES[study], ylabel="examples per second")
        places = sorted({point[0] for found in lines.values() for point in found})
        ax.set_xticks(places, [str(place) for place in places])
        ax.minorticks_off()
        low, high = ax.get_ylim()
        ax.set_ylim(low / 3, high * 3)  # keeps noise from looking like a trend
        ax.legend(fontsize=7)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(args: list[str] | None = None) -> None:
    """Measure, print, write the JSON lines and the plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--studies", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--models", nargs="+", choices=CASES, metavar="MODEL",
                        default=["fmnist_dense", "fmnist_denoise"])  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--quick", action="store_true", help="two points of each study")
    parser.add_argument("--out", type=output.to(".jsonl"), default="build/scaling.jsonl")
    parser.add_argument("--plot", type=output.to(".png"), default="benchmarks/scaling.png")
    options = parser.parse_args(args)
    records = []
    for study in options.studies:
        for model in options.models:
            print(f"{study}, {model}", flush=True)
            specs = points(study, model, options.quick)
            found = measure(specs, options.rounds, options.seconds)
            for record in found:
                records.append(record | {"study": study})
                rate = statistics.median(record["examples_per_s"])
                print(f"  {record['setting']:10} {record['x']:5d} {rate:12.0f} examples/s")
            ratios = against_flax(found)
            if ratios:
                shown = ", ".join(f"{x}: {ratio:.2f}" for x, ratio in sorted(ratios.items()))
                print(f"  speed relative to plain Flax: {shown}")
            if study == "devices":
                for (setting, n), share in efficiencies(found).items():
                    print(f"  {setting:10} {n:5d} devices: efficiency {share}")
    options.out.write_text("".join(json.dumps(r) + "\n" for r in records))
    plot(records, options.plot)


if __name__ == "__main__":
    main()
