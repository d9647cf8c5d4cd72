"""Print the benchmark tables of docs/speed.md from results of `benchmarks.throughput`; plot ratios.

    python -m benchmarks.compare build/throughput.jsonl --plot benchmarks/throughput.png
    python -m benchmarks.compare theirs.jsonl ours.jsonl       # two machines, or two versions

A ratio is the median over rounds of jaxae's speed divided by the other's, with a 95 % bootstrap
interval over the rounds. "Best peer" is the fastest setting of PyTorch and TensorFlow/Keras for
that model; jaxae runs with its default setting, or with its fastest if `--best`. "A/A" compares
jaxae with itself: its deviation from one is the measurement noise.
"""

import argparse
import math
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from benchmarks import output
from benchmarks.records import Ratio, Record, apart, paired, read

PEERS = ("torch", "keras")
Speed = Callable[[Record], dict]  # a record -> its summary of a speed over rounds


def training(record: Record) -> dict:
    """Training steps per second."""
    return record["train_steps_per_s"]


def scoring(record: Record) -> dict:
    """Rows scored per second at the best chunk size."""
    return max(record["score_per_s"].values(), key=lambda chunk: chunk["median"])


def geometric_mean(values: Iterable[float]) -> float:
    """exp(mean(log(values))); nan for none."""
    logs = [math.log(v) for v in values]
    return math.exp(statistics.fmean(logs)) if logs else math.nan


def _fastest(records: list[Record], speed: Speed) -> Record | None:
    return max(records, key=lambda record: speed(record)["median"], default=None)


def compare(
    records: list[Record], speed: Speed, best: bool = False, ours: str | None = None
) -> dict[str, Record | None]:
    """The record of jaxae for one model and those it is compared with; None if not measured.

    `ours` names the environment in which jaxae ran; None = the default one.
    """
    by = {
        name: [r for r in records if r["framework"] == name] for name in (*PEERS, "flax", "jaxae")
    }
    own = [r for r in by["jaxae"] if r.get("environment") == ours]
    again = [r for r in own if r["setting"] == "again"]
    own = own if best else [r for r in own if r["setting"] == "default"]
    most = max((r["threads"] for r in by["torch"]), default=0)
    return {
        "jaxae": _fastest(own, speed),
        "peer": _fastest([r for name in PEERS for r in by[name]], speed),
        "flax": _fastest(by["flax"], speed),
        "fit": _fastest([r for r in by["keras"] if r["setting"] == "fit"], speed),
        # PyTorch's default: eager, with as many threads as cores.
        "eager": _fastest(
            [r for r in by["torch"] if r["setting"] == "eager" and r["threads"] == most], speed
        ),
        "again": _fastest(again, speed),
    }


def ratios(row: dict[str, Record | None], speed: Speed) -> dict[str, Ratio]:
    """Ratios of jaxae's speed to that of each competitor measured."""
    own = speed(row["jaxae"])["rounds"]
    return {
        name: paired(own, speed(other)["rounds"])
        for name, other in row.items()
        if name != "jaxae" and other
    }


def groups(records: list[Record]) -> dict[tuple[str, str], list[Record]]:
    """The records of each (model, dtype)."""
    found: dict = {}
    for record in records:
        found.setdefault((record["model"], record["dtype"]), []).append(record)
    return found


def name(record: Record | None) -> str:
    """Framework, setting and number of threads."""
    if record is None:
        return ""
    threads = f", {record['threads']} thr." if "threads" in record else ""
    return f"{record['framework']} {record['setting']}{threads}"


def _cell(value: Ratio | float | None) -> str:
    value = value.middle if isinstance(value, Ratio) else value
    return "" if value is None or math.isnan(value) else f"{value:.2f}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


_HEAD = (
    *("model", "dtype", "train steps/s [range]", "best peer", "ratio [95 %]", "/ Keras fit"),
    *("/ eager torch", "/ plain Flax", "A/A", "scored rows/s", "best peer", "ratio [95 %]", "A/A"),
)


def table(records: list[Record], best: bool = False, ours: str | None = None) -> str:
    """Markdown table of training and scoring speed by model, with geometric means per dtype."""
    lines, means = [_row(*_HEAD), _row(*["---"] * len(_HEAD))], {}
    for (model, dtype), group in groups(records).items():
        train, score = (compare(group, speed, best, ours) for speed in (training, scoring))
        if not (train["jaxae"] and train["peer"]):
            continue
        t, s = ratios(train, training), ratios(score, scoring)
        spread = training(train["jaxae"])
        lines.append(
            _row(
                model,
                dtype,
                f"{spread['median']:.4g} [{spread['min']:.4g}, {spread['max']:.4g}]",
                f"{training(train['peer'])['median']:.4g} ({name(train['peer'])})",
                f"**{t['peer'].middle:.2f}** [{t['peer'].low:.2f}, {t['peer'].high:.2f}]",
                *(_cell(t.get(other)) for other in ("fit", "eager", "flax", "again")),
                f"{scoring(score['jaxae'])['median']:.4g}",
                f"{scoring(score['peer'])['median']:.4g} ({name(score['peer'])})",
                f"**{s['peer'].middle:.2f}** [{s['peer'].low:.2f}, {s['peer'].high:.2f}]",
                _cell(s.get("again")),
            )
        )
        bucket = means.setdefault(dtype, {})
        for key, ratio in [*t.items(), ("score", s["peer"])]:
            bucket.setdefault(key, []).append(ratio.middle)
    for dtype, bucket in means.items():
        mean = {key: _cell(geometric_mean(values)) for key, values in bucket.items()}
        others = (mean.get(other, "") for other in ("fit", "eager", "flax", "again"))
        lines.append(
            _row("geometric mean", dtype, "", "", f"**{mean['peer']}**", *others, "", "",
                 f"**{mean['score']}**", "")
        )  # fmt: skip
    return "\n".join(lines) + "\n\n" + footnote(records, ours) + "\n"


def roofline(records: list[Record]) -> str:
    """Markdown table of each model's work per step, relative to the machine's peaks, and times."""
    head = ("model", "dtype", "MFLOP/step", "MB/step", "of the peak of products (MFU)",
            "of the roofline", "compile, s", "transfer, ms", "steady step, ms", "peak memory, MB",
            "precision")  # fmt: skip
    lines = [_row(*head), _row(*["---"] * len(head))]
    for (model, dtype), group in groups(records).items():
        own = compare(group, training)["jaxae"]
        if own is None or "flops_per_step" not in own:
            continue
        peaks, steady = own["machine"]["peaks"], training(own)["median"]
        peak = peaks["flops_per_s"]
        if own["precision"] == "highest":  # a CPU has a single peak
            peak = peaks.get("highest_flops_per_s", peak)
        of_peak = own["flops_per_step"] * steady / peak
        least = max(own["flops_per_step"] / peak, own["bytes_per_step"] / peaks["bytes_per_s"])
        lines.append(
            _row(
                model,
                dtype,
                f"{own['flops_per_step'] / 1e6:,.0f}",
                f"{own['bytes_per_step'] / 1e6:,.1f}",
                f"{of_peak:.2f}",
                f"{least * steady:.2f}",
                f"{own['compile_s']:.1f}",
                f"{1e3 * own['transfer_s']:.1f}",
                f"{1e3 / steady:.2f}",
                f"{own['peak_mb']:.0f}",
                own["precision"],
            )
        )
    return "\n".join(lines) if len(lines) > 2 else ""


def between(first: list[Record], second: list[Record]) -> str:
    """Markdown table of jaxae's speed in two files (machines or versions), and the ratio."""
    head = ("model", "dtype", "training, first", "second", "second / first [95 %]",
            "scoring, first", "second", "second / first [95 %]")  # fmt: skip
    lines, other = [_row(*head), _row(*["---"] * len(head))], groups(second)
    for key, group in groups(first).items():
        cells = list(key)
        for speed in (training, scoring):
            a, b = (compare(g, speed)["jaxae"] for g in (group, other.get(key, [])))
            if not (a and b):
                break
            ratio = apart(speed(b)["rounds"], speed(a)["rounds"])
            cells += [f"{speed(a)['median']:.4g}", f"{speed(b)['median']:.4g}", str(ratio)]
        else:
            lines.append(_row(*cells))
    return "\n".join([*lines, "", f"first: {footnote(first)}", f"second: {footnote(second)}"])


def footnote(records: list[Record], ours: str | None = None) -> str:
    """The machine and the versions on which the numbers were measured."""
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
    """Bar plot of ratios, training above scoring; 1 = equally fast."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    shown_groups = {k: v for k, v in groups(records).items() if compare(v, training)["peer"]}
    shown = {
        "peer": "best peer",
        "fit": "Keras fit",
        "eager": "eager PyTorch",
        "flax": "plain Flax",
    }
    colours = ("#0072b2", "#e69f00", "#d55e00", "#999999")
    figure, axes = plt.subplots(2, 1, figsize=(10, 7), layout="constrained", sharex=True)
    for ax, speed, title in zip(axes, (training, scoring), ("training", "scoring"), strict=True):
        for i, (other, label) in enumerate(shown.items()):
            if other == "fit" and speed is scoring:
                continue  # scored by the same function as Keras's other settings
            each = shown_groups.values()
            ratio = [ratios(compare(g, speed, best), speed).get(other) for g in each]
            found = {n + (i - 1.5) * 0.2: r for n, r in enumerate(ratio) if r}
            bars = ax.bar(
                list(found), [r.middle - 1 for r in found.values()], 0.2, bottom=1, label=label,
                color=colours[i],
                yerr=np.transpose([(r.middle - r.low, r.high - r.middle) for r in found.values()]),
                error_kw={"elinewidth": 0.8},
            )  # fmt: skip
            ax.bar_label(bars, [f"{r.middle:.2g}" for r in found.values()], fontsize=7)
        ax.axhline(1, color="black", linewidth=0.8)
        ax.set_yscale("log")
        low, high = ax.get_ylim()
        ticks = [t for t in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if low <= t <= high]
        ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
        ax.minorticks_off()
        ax.set_ylim(low / 1.2, high * 1.2)
        ax.set_ylabel(f"{title}: jaxae's speed / other's")
    names = [m if d == "float32" else f"{m}\n{d}" for m, d in shown_groups]
    axes[1].set_xticks(range(len(names)), names, rotation=20, ha="right")
    axes[0].legend(ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.15), frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(args: list[str] | None = None) -> None:
    """Print the table and draw the plot."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("results", type=Path, nargs="*", default=[Path("build/throughput.jsonl")],
                        help="one file, or two to compare")  # fmt: skip
    parser.add_argument("--plot", type=output.to(".png"), default="benchmarks/throughput.png")
    parser.add_argument(
        "--best",
        action="store_true",
        help="use jaxae's fastest device count",
    )
    parser.add_argument(
        "--ours", metavar="NAME", help="jaxae as run with throughput's --python NAME"
    )
    options = parser.parse_args(args)
    for path in options.results:
        if not path.is_file():
            parser.error(f"{path} does not exist; make it with benchmarks.throughput")
    if len(options.results) > 2:
        parser.error("name one file, or two to compare")
    try:
        records, *others = map(read, options.results)
    except ValueError as error:
        parser.error(str(error))
    if others:
        print(between(records, *others))
        return
    print(table(records, options.best, options.ours))
    print(roofline(records))
    plot(records, options.plot, options.best)


if __name__ == "__main__":
    main()
