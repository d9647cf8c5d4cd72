"""Time whole runs from import to report, and the same training in the original's framework.

    python -m benchmarks.whole_runs --data-dir DIR        # all seven, about a quarter of an hour
    python -m benchmarks.whole_runs --models ecg_dense fmnist_dense

The time of jaxae is that of `python -m experiments.NAME`, from the start of the interpreter to the
last figure, with an empty compilation cache. The time of the other framework is that of a process
that imports it, trains as many steps with the same batch size in the way of the original (`fit`, or
a Python loop), scores as many rows, including the original's validation after each epoch, and
computes t-SNE if the original does. It uses generated rows, and omits thresholds, figures and all
other studies.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import output, throughput
from benchmarks.cases import CASES, config, replace
from benchmarks.compare import geometric_mean
from benchmarks.workers import Worker

_FIT = {"framework": "keras", "setting": "fit"}
ORIGINALS = {
    "mnist_conv": _FIT,
    "mnist_conv_latent": {"framework": "torch", "setting": "eager", "threads": os.cpu_count()},
    "fmnist_dense": _FIT,
    "fmnist_denoise": _FIT,
    "ecg_dense": _FIT,
    "fmnist_one_class": _FIT,
    "mnist_alocc": {"framework": "keras", "setting": "function"},  # FastEstimator's own loop
}
VALIDATED = {  # rows that the original validates on after each epoch
    "mnist_conv_latent": 10_000,
    "fmnist_dense": 10_000,
    "fmnist_denoise": 10_000,
    "ecg_dense": 1_000,
    "mnist_alocc": 2_270,
}
EMBEDDED = {"mnist_conv_latent": (10_000, 20)}  # codes that the original embeds by t-SNE
PUBLISHED = {  # run times printed by the originals
    "mnist_conv_latent": "4 min 17 s on a GPU",
    "mnist_alocc": "62 s, device not stated",
}


def ours(name: str, data_dir: str) -> dict[str, float]:
    """Seconds of one experiment in a new process, and facts from its report."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", f"experiments.{name}", "--run-dir", folder]
        command += ["--data.dir", data_dir] if data_dir else []
        env = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "0"}
        root = Path(__file__).parent.parent
        start = time.perf_counter()
        subprocess.run(command, check=True, cwd=root, env=env, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        report = json.loads((Path(folder) / "report.json").read_text())
        lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
        speeds = [json.loads(line)["steps_per_s"] for line in lines]
    return {"jaxae_s": seconds, "compile_s": report["compile_s"], "steps_per_s": speeds}


def size(name: str, data_dir: str) -> tuple[int, int, int]:
    """Steps per epoch, epochs, and number of scored rows of an experiment."""
    from jaxae import data
    from jaxae.ops import ceil_div

    cfg = config(name)
    if data_dir:
        cfg = replace(cfg, ["data", "dir"], data_dir)
    rows = data.load(cfg.data)
    steps = ceil_div(len(rows.train.x), cfg.train.batch_size)
    return steps, cfg.train.epochs, len(rows.test.x)


def theirs(name: str, steps: int, epochs: int, scored: int) -> float:
    """Seconds of the same training and scoring in the original's framework."""
    spec = ORIGINALS[name] | {"model": name, "dtype": "float32", "block": steps, "devices": 0}
    with tempfile.TemporaryDirectory() as folder:
        weights = f"{folder}/weights.npz"
        with Worker(spec) as worker:
            worker.ask(do="init", out=weights)
        start = time.perf_counter()
        with Worker(spec) as worker:
            answer = worker.ask(do="prepare", weights=weights)
            if "unavailable" in answer:
                raise RuntimeError(f"{name}: {answer['unavailable']}")
            scored += epochs * VALIDATED.get(name, 0)
            embedded = EMBEDDED.get(name, ())
            worker.ask(do="whole", steps=steps * epochs, scored=scored, embedded=embedded)
        return time.perf_counter() - start


def table(records: list[dict]) -> str:
    """The records as a Markdown table."""
    lines = [
        "| system | jaxae, import to report | of which training | original framework, "
        "import to scores | ratio | time reported by the original |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for r in records:
        train_s = sum(r["steps"] / speed for speed in r["steps_per_s"])
        way = f"{r['framework']} {r['setting']}"
        lines.append(
            f"| {r['model']} | {r['jaxae_s']:.0f} s | {r['compile_s'] + train_s:.0f} s | "
            f"{r['original_s']:.0f} s ({way}) | **{r['original_s'] / r['jaxae_s']:.2f}** | "
            f"{PUBLISHED.get(r['model'], '-')} |"
        )
    mean = geometric_mean(r["original_s"] / r["jaxae_s"] for r in records)
    lines.append(f"| geometric mean | | | | **{mean:.2f}** | |")
    return "\n".join(lines)


def main(args: list[str] | None = None) -> None:
    """Run, print the table, write the JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", choices=CASES, metavar="MODEL", default=list(CASES))
    parser.add_argument("--data-dir", default="", help="the experiments' --data.dir")
    parser.add_argument("--out", type=output.to(".jsonl"), default="build/whole_runs.jsonl")
    options = parser.parse_args(args)
    data_dir = str(Path(options.data_dir).resolve()) if options.data_dir else ""
    records = []
    for name in options.models:
        steps, epochs, scored = size(name, data_dir)
        record = {"model": name, "steps": steps, "epochs": epochs} | ORIGINALS[name]
        print(f"{name}: {epochs} epochs of {steps} steps", flush=True)
        record |= ours(name, data_dir)
        print(f"  jaxae {record['jaxae_s']:.1f} s", flush=True)
        record["original_s"] = theirs(name, steps, epochs, scored)
        print(f"  {record['framework']} {record['original_s']:.1f} s", flush=True)
        records.append(record | {"machine": throughput.machine()})
    options.out.write_text("".join(json.dumps(r) + "\n" for r in records))
    print(table(records))


if __name__ == "__main__":
    main()
