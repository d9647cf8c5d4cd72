"""The benchmark table of docs/speed.md and plot from the results of `benchmarks.throughput`.

    python -m benchmarks.compare build/throughput.jsonl --plot benchmarks/throughput.png

A ratio is jaxae's median over the other's. "Best peer" is the fastest setting of PyTorch and
TensorFlow/Keras on that model; jaxae is represented by what it does by default, unless `--best`.
"""

import argparse
import json
import math
import statistics
from collections.abc import Iterable
from pathlib import Path

Record = dict
PEERS = ("torch", "keras")


def read(path: Path) -> list[Record]:
    """The last record of every competitor on every model."""
    found = {}
    for line in path.read_text().splitlines():
        record = json.loads(line)
        keys = ("model", "dtype", "batch", "framework", "setting", "threads", "environment")
        found[tuple(record.get(key) for key in keys)] = record
    return list(found.values())


def train_speed(record: Record) -> float:
    """Median training steps per second."""
    return record["train_steps_per_s"]["median"]


def score_speed(record: Record) -> float:
    """Rows scored per second at the best chunk size."""
    return max(chunk["median"] for chunk in record["score_per_s"].values())


def geometric_mean(values: Iterable[float]) -> float:
    """exp(mean(log(values))); nan for none."""
    logs = [math.log(v) for v in values]
    return math.exp(statistics.fmean(logs)) if logs else math.nan


def _fastest(records: list[Record], speed) -> Record | None:
    return max(records, key=speed, default=None)


def compare(records: list[Record], speed, best: bool = False, ours: str | None = None) -> dict:
    """One model's row: jaxae and those it is compared with, each a record or None.

    `ours` names the environment in which jaxae ran; None = its own.
    """
    by = {
        name: [r for r in records if r["framework"] == name] for name in (*PEERS, "flax", "jaxae")
    }
    own = [r for r in by["jaxae"] if r.get("environment") == ours]
    own = own if best else [r for r in own if r["setting"] == "default"]
    most = max((r["threads"] for r in by["torch"]), default=0)
    return {
        "jaxae": _fastest(own, speed),
        "peer": _fastest([r for name in PEERS for r in by[name]], speed),
        "flax": _fastest(by["flax"], speed),
        "fit": _fastest([r for r in by["keras"] if r["setting"] == "fit"], speed),
        # PyTorch as it comes: eager, with as many threads as there are cores.
        "eager": _fastest(
            [r for r in by["torch"] if r["setting"] == "eager" and r["threads"] == most], speed
        ),
    }


def ratios(row: dict, speed) -> dict[str, float]:
    """How many times as fast jaxae is as each of the others' that was measured."""
    return {
        name: speed(row["jaxae"]) / speed(other)
        for name, other in row.items()
        if name != "jaxae" and other
    }


def _groups(records: list[Record]) -> dict[tuple[str, str], list[Record]]:
    groups: dict = {}
    for record in records:
        groups.setdefault((record["model"], record["dtype"]), []).append(record)
    return groups


def _name(record: Record | None) -> str:
    if record is None:
        return ""
    threads = f", {record['threads']} thr." if "threads" in record else ""
    return f"{record['framework']} {record['setting']}{threads}"


def _cell(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.2f}"


def table(records: list[Record], best: bool = False, ours: str | None = None) -> str:
    """Markdown: training and scoring of each model, and geometric means per dtype."""
    head = (
        "| model | dtype | train steps/s [range] | best peer | ratio | / Keras fit | "
        "/ eager torch | / plain Flax | scored rows/s | best peer | ratio |"
    )
    lines, means = [head, "|" + " --- |" * 11], {}
    for (model, dtype), group in _groups(records).items():
        train, score = (compare(group, speed, best, ours) for speed in (train_speed, score_speed))
        if not (train["jaxae"] and train["peer"]):
            continue
        t, s = ratios(train, train_speed), ratios(score, score_speed)
        spread, peer = train["jaxae"]["train_steps_per_s"], train["peer"]
        lines.append(
            f"| {model} | {dtype} | {spread['median']:.4g} [{spread['min']:.4g}, "
            f"{spread['max']:.4g}] | {train_speed(peer):.4g} ({_name(peer)}) "
            f"| **{t['peer']:.2f}** | "
            f"{_cell(t.get('fit'))} | {_cell(t.get('eager'))} | {_cell(t.get('flax'))} | "
            f"{score_speed(score['jaxae']):.4g} | {score_speed(score['peer']):.4g} "
            f"({_name(score['peer'])}) | **{s['peer']:.2f}** |"
        )
        bucket = means.setdefault(dtype, {})
        for key, value in t.items():
            bucket.setdefault(key, []).append(value)
        bucket.setdefault("score", []).append(s["peer"])
    for dtype, bucket in means.items():
        mean = {key: _cell(geometric_mean(values)) for key, values in bucket.items()}
        lines.append(
            f"| geometric mean | {dtype} | | | **{mean['peer']}** | {mean.get('fit', '')} | "
            f"{mean.get('eager', '')} | {mean.get('flax', '')} | | | **{mean['score']}** |"
        )
    return "\n".join(lines) + "\n\n" + footnote(records, ours) + "\n"


def footnote(records: list[Record], ours: str | None = None) -> str:
    """What the figures hold for."""
    own = [r for r in records if r["framework"] == "jaxae" and r.get("environment") == ours]
    last, versions = (own or records)[-1]["machine"], {}
    for record in [r for r in records if r["framework"] in PEERS] + own:
        versions |= record["versions"]
    listed = ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
    rounds = len(records[-1]["train_steps_per_s"]["rounds"])
    return (
        f"{last['cpu']}, {last['cores']} cores; Python {last['python']}, {listed}; "
        f"medians of {rounds} interleaved rounds."
    )


def plot(records: list[Record], path: Path, best: bool = False) -> None:
    """Ratios as bars, training above scoring; 1 = as fast as the other."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    groups = {k: v for k, v in _groups(records).items() if compare(v, train_speed)["peer"]}
    shown = {
        "peer": "best peer",
        "fit": "Keras fit",
        "eager": "eager PyTorch",
        "flax": "plain Flax",
    }
    colours = ("#0072b2", "#e69f00", "#d55e00", "#999999")
    figure, axes = plt.subplots(2, 1, figsize=(10, 7), layout="constrained", sharex=True)
    for ax, speed, title in zip(
        axes, (train_speed, score_speed), ("training", "scoring"), strict=True
    ):
        for i, (name, label) in enumerate(shown.items()):
            if name == "fit" and speed is score_speed:
                continue  # scored by the same function as Keras's other settings
            found = [ratios(compare(g, speed, best), speed).get(name) for g in groups.values()]
            places = [n + (i - 1.5) * 0.2 for n, v in enumerate(found) if v]
            heights = [v - 1 for v in found if v]
            bars = ax.bar(places, heights, 0.2, bottom=1, label=label, color=colours[i])
            ax.bar_label(bars, [f"{v:.2g}" for v in found if v], fontsize=7)
        ax.axhline(1, color="black", linewidth=0.8)
        ax.set_yscale("log")
        low, high = ax.get_ylim()
        ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if low <= t <= high]
        ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
        ax.minorticks_off()
        ax.set_ylim(low / 1.2, high * 1.2)
        ax.set_ylabel(f"{title}: jaxae's speed / other's")
    names = [m if d == "float32" else f"{m}\n{d}" for m, d in groups]
    axes[1].set_xticks(range(len(groups)), names, rotation=20, ha="right")
    axes[0].legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.15), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(args: list[str] | None = None) -> None:
    """Print the table, draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("results", type=Path, nargs="?", default=Path("build/throughput.jsonl"))
    parser.add_argument("--plot", type=Path, default=Path("benchmarks/throughput.png"))
    parser.add_argument(
        "--best", action="store_true", help="jaxae's best device count, not default"
    )
    parser.add_argument("--ours", metavar="NAME", help="jaxae as throughput's --python NAME ran it")
    options = parser.parse_args(args)
    if not options.results.is_file():
        parser.error(f"{options.results} does not exist; make it with benchmarks.throughput")
    records = read(options.results)
    print(table(records, options.best, options.ours))
    plot(records, options.plot, options.best)


if __name__ == "__main__":
    main()
