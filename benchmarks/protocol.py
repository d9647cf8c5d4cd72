"""Time a one-vs-rest protocol in one call, and loops over single runs of jaxae and of Keras.

    python -m benchmarks.protocol --data-dir DIR    # ten digits x 3 seeds, 20 epochs
    python -m benchmarks.protocol --data-dir DIR --models fmnist_one_class --singles 1

The call is `jaxae.workflows.protocol.run` without baselines in a new process with an empty
compilation cache, timed from the start of the interpreter to the report. The loop over single runs
starts `jaxae.workflows.experiment.run`, with its figures, in a new process for each member, as
`python -m experiments.NAME` does. The Keras loop imports Keras once; for every member, it builds
the model, fits it for as many epochs and scores as many rows. Of both loops, a few members spread
over the classes are run, and the total is extrapolated from their mean.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import output, throughput
from benchmarks.cases import config
from benchmarks.workers import Worker

MODELS = ("fmnist_one_class", "mnist_conv")  # one dense, one convolutional


def protocol_of(name: str, folder: str, data_dir: str, epochs: int, seeds: int):
    """The protocol for a published model's configuration, on MNIST."""
    from jaxae.config import DataConfig
    from jaxae.config.grids import ProtocolConfig

    cfg = config(name, **{"train.epochs": epochs, "train.batch_size": 128, "train.monitor": False})
    fields = {field.name: getattr(cfg, field.name) for field in dataclasses.fields(cfg)}
    fields |= {"studies": (), "run_dir": folder, "data": DataConfig(name="mnist", dir=data_dir)}
    return ProtocolConfig(**fields, seeds=seeds, baselines=())


def child(order: dict) -> None:
    """Run the whole protocol, or one member of it, in this process."""
    from jaxae.devices import parallel
    from jaxae.workflows import experiment, protocol
    from jaxae.workflows.protocol.expansion import expand

    cfg = protocol_of(**order["protocol"])
    if order["member"] is None:
        protocol.run(cfg)
        return
    parallel.initialize()
    raw = dataclasses.replace(cfg, classes=(order["member"],), seeds=1)
    experiment.run(expand(raw)[0][0])


def ours(order: dict) -> float:
    """Seconds of a new process."""
    with tempfile.TemporaryDirectory() as folder:
        order["protocol"]["folder"] = folder
        env = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "0"}
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "benchmarks.protocol", "--child", json.dumps(order)],
            check=True, env=env, cwd=Path(__file__).parent.parent, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        return time.perf_counter() - start


def keras(name: str, steps: list[int], scored: int) -> tuple[float, list[float]]:
    """Seconds until a process has imported Keras, and then of each member."""
    spec = {"framework": "keras", "setting": "fit", "model": name, "dtype": "float32"}
    spec |= {"block": 43, "devices": 0}
    with tempfile.TemporaryDirectory() as folder:
        weights = f"{folder}/weights.npz"
        with Worker(spec) as worker:
            worker.ask(do="init", out=weights)
        seconds = []
        clock = time.perf_counter()
        with Worker(spec) as worker:
            worker.ask(do="prepare", weights=weights)
            imported = time.perf_counter() - clock
            for count in steps:
                clock = time.perf_counter()
                worker.ask(do="prepare", weights=weights)
                worker.ask(do="whole", steps=count, scored=scored)
                seconds.append(time.perf_counter() - clock)
    return imported, seconds


def measure(name: str, data_dir: str, epochs: int, seeds: int, singles: int) -> dict:
    """Measure one model; returns its record."""
    protocol = {"name": name, "data_dir": data_dir, "epochs": epochs, "seeds": seeds}
    count = 10 * seeds
    classes = [i * 10 // singles for i in range(singles)]
    whole = ours({"protocol": protocol, "member": None})
    alone = [ours({"protocol": protocol, "member": k}) for k in classes]
    imported, fits = keras(name, [epochs * 43] * singles, 10_000 + 6_000)
    return {
        "model": name,
        "members": count,
        "one_call_s": whole,
        "single_s": alone,
        "loop_s": count * statistics.fmean(alone),
        "keras_single_s": fits,
        "keras_loop_s": imported + count * statistics.fmean(fits),
        "machine": throughput.machine(),
    }


def table(records: list[dict]) -> str:
    """The records as a Markdown table."""
    lines = [
        "| model | members | one call | loop over single runs | ratio | Keras loop | ratio |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r['model']} | {r['members']} | {r['one_call_s']:.0f} s | {r['loop_s']:.0f} s | "
        f"**{r['loop_s'] / r['one_call_s']:.2f}** | {r['keras_loop_s']:.0f} s | "
        f"**{r['keras_loop_s'] / r['one_call_s']:.2f}** |"
        for r in records
    ]
    return "\n".join(lines)


def main(args: list[str] | None = None) -> None:
    """Run, print the table, write the JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--data-dir", default="", help="as the experiments' --data.dir")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--singles", type=int, default=3, help="members to run in each loop")
    parser.add_argument("--out", type=output.to(".jsonl"), default="build/protocol.jsonl")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    if options.child:
        child(json.loads(options.child))
        return
    data_dir = str(Path(options.data_dir).resolve()) if options.data_dir else ""
    sizes = (options.epochs, options.seeds, options.singles)
    records = [measure(name, data_dir, *sizes) for name in options.models]
    options.out.write_text("".join(json.dumps(r) + "\n" for r in records))
    print(table(records))


if __name__ == "__main__":
    main()
