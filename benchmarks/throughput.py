"""Training and scoring speed of jaxae, plain Flax, PyTorch and TensorFlow/Keras on this machine.

    python -m benchmarks.throughput            # every model, about 40 minutes
    python -m benchmarks.throughput --quick    # two models, a minute: does it still work?
    python -m benchmarks.throughput --dtype bfloat16
    python -m benchmarks.throughput --python newer=/elsewhere/bin/python torch=/there/bin/python

Every competitor runs in a separate process. Before anything is timed, each must give the same loss
and gradients as jaxae from the same weights and rows. In each round, every competitor trains for
`--seconds` and then scores for as long, in random order, so that other load on the machine affects
all alike. jaxae competes twice by default, to show the measurement noise. The results are medians
over the rounds with their range. The reference frameworks run in every setting that an experienced
user would try; the fastest one is the peer. Results are JSON lines, documented in
docs/benchmark.md; `benchmarks.compare` turns them into tables and a plot.
"""

import argparse
import json
import math
import os
import platform
import random
import shlex
import shutil
import statistics
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks import output, records, scaling
from benchmarks.cases import CASES, rows
from benchmarks.workers import Worker

CHUNKS = (32, 64, 128, 512)  # rows to score at a time on a CPU
ACCELERATOR_CHUNKS = (512, 1024, 4096)
BFLOAT16 = ("mnist_conv", "fmnist_one_class", "mnist_alocc")
GATE_ROWS = 32
# Tolerated relative error of the losses, and of each gradient by norm. In bfloat16, with 8
# significant bits, frameworks differ by up to 0.18 on ALOCC: the check then only catches a
# different computation.
TOLERANCE = {"float32": (1e-5, 1e-4), "bfloat16": (2e-2, 3e-1)}
# The error of a gradient is relative to at least this share of its network's gradient: a gradient
# that is zero, such as that of a bias before batch normalisation, is only rounding error.
SMALL = 0.01


def devices(pythons: dict[str, str]) -> dict[str, dict]:
    """The devices that jaxae and, if installed, torch find on this machine, see `programs.found`.

    Args:
      pythons: framework -> the command of the Python that runs it.
    """
    asked = ["jaxae"] + (["torch"] if find_spec("torch") or "torch" in pythons else [])
    found = {}
    for name in asked:
        own = {"python": pythons[name]} if name in pythons else {}
        with Worker({"framework": name, "devices": 0} | own) as worker:
            found[name] = worker.ask(do="devices")
    return found


def chunks_for(found: dict[str, dict]) -> tuple[int, ...]:
    """Chunk sizes for scoring, given the result of `devices`."""
    return CHUNKS if found["jaxae"]["platform"] == "cpu" else ACCELERATOR_CHUNKS


def competitors(
    model: str,
    dtype: str,
    batch: int,
    quick: bool,
    pythons: dict[str, str] | None = None,
    found: dict[str, dict] | None = None,
) -> list[dict]:
    """The competitors on a model, the first being jaxae on its default number of devices.

    Args:
      model: a key of `CASES`.
      dtype: dtype of the computation.
      batch: global batch size.
      quick: use few settings.
      pythons: framework -> the command of the Python that runs it; under any other name, jaxae
        competes once more.
      found: result of `devices`; None = call it.
    """
    pythons = pythons or {}
    found = found or devices(pythons)
    specs = [{"framework": "jaxae", "setting": "default", "devices": 0}]
    specs += [] if quick else [
        {"framework": "jaxae", "setting": f"{n} devices", "devices": n}
        for n in _device_counts(found["jaxae"])
    ]  # fmt: skip
    specs += [{"framework": "flax", "setting": "jitted step"}]
    if "torch" in found:
        specs += _of_torch(model, quick, found["torch"])
    if find_spec("tensorflow") or "keras" in pythons:
        ways = ("function",) if quick else ("function", "xla", "loop", "fit")
        specs += [{"framework": "keras", "setting": way} for way in ways]
    specs.insert(1, specs[0] | {"setting": "again"})
    for spec in specs:
        if spec["framework"] in pythons:
            spec["python"] = pythons[spec["framework"]]
    others = pythons.keys() - {spec["framework"] for spec in specs}
    specs += [
        {"framework": "jaxae", "setting": "default", "devices": 0, "environment": name,
         "python": pythons[name]}
        for name in sorted(others)
    ]  # fmt: skip
    return [{"model": model, "dtype": dtype, "batch": batch} | spec for spec in specs]


def _device_counts(found: dict) -> tuple[int, ...]:
    """Further device counts for jaxae: host devices as requested, or accelerators."""
    if found["platform"] == "cpu":
        return (1, 2)
    return tuple(n for n in (1, 2) if n <= found["count"]) if found["count"] > 1 else ()


def _of_torch(model: str, quick: bool, found: dict) -> list[dict]:
    """Every setting with one thread and, on a CPU, with all cores."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = sorted({1, cores}) if found["platform"] == "cpu" and not quick else [1]
    ways = found["settings"][model]
    return [
        {"framework": "torch", "setting": way, "threads": n}
        for way in (ways[:1] if quick else ways)
        for n in threads
    ]


def measure(specs: list[dict], rounds: int, seconds: float, chunks=CHUNKS) -> list[dict]:
    """Check and time competitors on one model.

    Returns:
      One record each, with its specification, speeds in every round, setup times and peak memory.

    Raises:
      RuntimeError: a competitor's results differ from jaxae's, or its process died.
    """
    workers = [Worker(spec) for spec in specs]
    try:
        with tempfile.TemporaryDirectory() as folder:
            found, workers = _ready(workers, Path(folder), seconds, chunks)
        both = list(zip(workers, found, strict=True))
        order = random.Random(0)
        for _ in range(rounds):
            for place, (worker, record) in enumerate(order.sample(both, len(both))):
                _round(worker, record, seconds, chunks)
                record["places"].append(place)
        for worker, record in both:
            record.update(worker.ask(do="memory"))  # before anything more is compiled
            record.update(worker.ask(do="cost"))
    finally:
        for worker in workers:
            worker.close()
    return found


def _ready(workers: list[Worker], folder: Path, seconds: float, chunks) -> tuple[list, list]:
    """Start, check and warm up one competitor after another; drop those that cannot run here."""
    weights, sample = str(folder / "weights.npz"), str(folder / "rows.npy")
    np.save(sample, rows(CASES[workers[0].spec["model"]], GATE_ROWS, seed=3))
    workers[0].ask(do="init", out=weights)
    ready, kept, ours, used = [], [], None, set()
    for worker in workers:
        record = worker.spec | worker.ask(do="prepare", weights=weights)
        # One of the requested device counts is jaxae's default: do not measure it twice.
        place = record.get("environment"), record.get("devices")
        again = worker.spec["setting"] == "again"
        twin = worker.spec["framework"] == "jaxae" and place in used and not again
        if "unavailable" in record or twin:
            if not twin:
                print(f"  skipped {_label(record)}: {record['unavailable']}")
            worker.close()
            continue
        # Compiled first, so that the check covers what will run, and compilation is timed alone.
        record |= worker.ask(do="warm_up", seconds=seconds, chunks=chunks)
        found = worker.ask(do="gate", rows=sample, out=str(folder / "gradients.npz"))["losses"]
        with np.load(folder / "gradients.npz") as stored:
            gradients = dict(stored)
        if worker.spec["framework"] == "jaxae":
            used.add(place)
        ours = ours or (found, gradients)
        record |= {"gate": check(ours, (found, gradients), record)}
        record |= {"train_steps_per_s": [], "score_per_s": {str(c): [] for c in chunks}}
        record |= {"places": []}
        print(f"  ready {_label(record)}: first call {record['first_call_s']:.1f} s", flush=True)
        ready.append(record)
        kept.append(worker)
    return ready, kept


def check(ours: tuple[dict, dict], theirs: tuple[dict, dict], record: dict) -> dict[str, float]:
    """The equality check: the deviation of losses and gradients from jaxae's.

    Raises:
      RuntimeError: the deviation exceeds `TOLERANCE` for the dtype.
    """
    allowed_loss, allowed_gradient = TOLERANCE[record["dtype"]]
    loss = np.max([abs(theirs[0][k] / ours[0][k] - 1) for k in theirs[0]])  # keeps a NaN
    apart = {}
    for key, gradient in ours[1].items():
        # The gradients of ALOCC's two networks differ in size.
        network = [g for k, g in ours[1].items() if k.split("/")[-3:-2] == key.split("/")[-3:-2]]
        whole = math.sqrt(sum(np.square(g).sum() for g in network))
        scale = max(np.linalg.norm(gradient), SMALL * whole)
        error = np.linalg.norm(theirs[1][key] - gradient) / scale
        apart[key] = float(error) if np.isfinite(error) else math.inf
    if record["dtype"] != "float32":
        # Some frameworks sum a bias's gradient in bfloat16, which saturates: no two agree.
        apart = {key: error for key, error in apart.items() if key.endswith("kernel")}
    worst = max(apart, key=apart.get)
    if not (loss <= allowed_loss and apart[worst] <= allowed_gradient):
        raise RuntimeError(
            f"{_label(record)} differs from jaxae on {record['model']}: loss by {loss:.1e}"
            f" (allowed {allowed_loss:.0e}), gradient of {worst} by {apart[worst]:.1e}"
            f" (allowed {allowed_gradient:.0e})"
        )
    return {"loss": float(loss), "gradients": apart[worst]}


def _round(worker: Worker, record: dict, seconds: float, chunks) -> None:
    run = worker.ask(do="train", seconds=seconds)
    record["train_steps_per_s"].append(run["done"] / run["seconds"])
    for chunk in chunks:
        run = worker.ask(do="score", seconds=seconds / len(chunks), chunk=chunk)
        record["score_per_s"][str(chunk)].append(run["done"] / run["seconds"])


def summary(values: list[float]) -> dict:
    """Median and range of the rounds."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values),
            "rounds": values}  # fmt: skip


def finish(record: dict, batch: int, peaks: dict | None = None) -> dict:
    """Summarise the rounds of a record, and separate compile time from the first steps."""
    steady = statistics.median(record["train_steps_per_s"])
    return record | {
        "schema": records.SCHEMA,
        "batch": batch,
        "train_steps_per_s": summary(record["train_steps_per_s"]),
        "train_examples_per_s": steady * batch,
        "score_per_s": {k: summary(v) for k, v in record["score_per_s"].items()},
        "compile_s": max(0.0, record["first_call_s"] - record["first_call_steps"] / steady),
        "machine": machine() | ({"peaks": peaks} if peaks else {}),
    }


def machine() -> dict:
    """A description of the machine."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if "model name" in line), cpu)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"cpu": cpu, "cores": os.cpu_count(), "python": platform.python_version(), "load": load}


def _label(record: dict) -> str:
    threads = f", {record['threads']} threads" if "threads" in record else ""
    devices = f" ({record['devices']})" if record.get("devices") else ""
    where = f", {record['environment']}" if "environment" in record else ""
    return f"{record['framework']} {record['setting']}{devices}{threads}{where}"


def batch_size(model: str) -> int:
    """The experiment's global batch size."""
    from benchmarks.cases import config

    return config(model).train.batch_size


def parse(args: list[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", choices=CASES, metavar="MODEL",
                        help=f"default: {', '.join(CASES)}")  # fmt: skip
    parser.add_argument("--dtype", choices=TOLERANCE, default="float32")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.2, help="length of a timed block")
    parser.add_argument("--out", type=output.to(".jsonl"), default="build/throughput.jsonl",
                        help="results are appended to this file")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="two models, few settings, a minute")
    parser.add_argument(
        "--device-scaling",
        action="store_true",
        help="instead, measure strong and weak scaling over all devices",
    )
    parser.add_argument("--python", nargs="+", type=_environment, metavar="NAME=COMMAND",
                        default=[], help="another Python for torch, keras, flax or jaxae; with "
                        "any other name, jaxae competes once more under it")  # fmt: skip
    return parser.parse_args(args)


def _environment(text: str) -> tuple[str, str]:
    name, _, command = text.partition("=")
    if not (name and command.strip()):
        raise argparse.ArgumentTypeError(f"{text} is not NAME=COMMAND")
    program = shlex.split(command)[0]
    if not shutil.which(program):
        raise argparse.ArgumentTypeError(f"{name}: the program {program} was not found")
    return name, command


def main(args: list[str] | None = None) -> None:
    """Measure, print a line for each competitor, append to the results file."""
    options = parse(args)
    models = options.models or (BFLOAT16 if options.dtype == "bfloat16" else list(CASES))
    rounds, seconds = options.rounds, options.seconds
    if options.quick:
        models, rounds, seconds = options.models or ["fmnist_dense", "fmnist_denoise"], 2, 0.3
    if options.device_scaling:
        for model in models:
            print(model, *scaling.of_devices(model, rounds, seconds), sep="\n  ", flush=True)
        return
    pythons = dict(options.python)
    found = devices(pythons)
    chunks = chunks_for(found)[-1:] if options.quick else chunks_for(found)
    with Worker({"framework": "jaxae", "devices": 1}) as worker:
        peaks = worker.ask(do="peaks")
    for model in models:
        print(model, flush=True)
        batch = batch_size(model)
        specs = competitors(model, options.dtype, batch, options.quick, pythons, found)
        measured = [finish(r, batch, peaks) for r in measure(specs, rounds, seconds, chunks)]
        with options.out.open("a") as file:
            file.writelines(json.dumps(record) + "\n" for record in measured)
        for record in measured:
            train = record["train_steps_per_s"]
            score = max(v["median"] for v in record["score_per_s"].values())
            print(f"  {_label(record):38} {train['median']:8.1f} steps/s [{train['min']:.1f}, "
                  f"{train['max']:.1f}]  {score:9.0f} scored/s  {record['peak_mb']:6.0f} MB"
                  )  # fmt: skip
    print(f"results in {options.out}", file=sys.stderr)


if __name__ == "__main__":
    main()
