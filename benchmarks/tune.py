"""Measure the choices of `jaxae.devices.tuning` on this machine: what would another choice gain?

    python -m benchmarks.tune                               # all methods, a quarter of an hour
    python -m benchmarks.tune --models fmnist_dense --out tuning.json
    JAXAE_TUNING=tuning.json python -m experiments.fmnist_dense --run-dir runs/tuned

Choices are changed one at a time, then those that were faster together, in interleaved rounds
against jaxae's defaults. A choice is adopted for a method if it is faster on one of its models (the
whole 95 % interval is above one) and slower on none. A run keeps the choices that it started with
in `tuning.json`.
"""

import argparse
import contextlib
import json
import tempfile
from pathlib import Path

from benchmarks import output, throughput
from benchmarks.cases import CASES, config
from benchmarks.records import Ratio, paired
from benchmarks.workers import Worker

CHOICES: dict[str, tuple] = {
    "width": (0, 128, 256, 512),
    "ynnpack": (False, True),
    "in_place": (False, True),
    "part": (0, 16, 32, 64),
    "share": (1, 16, 256, 1 << 20),  # rows for each host device: from all devices to one
    "chunk": (16, 32, 64, 128, 256),
    "library": (False, True),
}
ON_ACCELERATORS: dict[str, tuple] = {
    "graphs": (False, True),
    "unroll": (1, 2, 4, 8),
}
SCORING = frozenset({"chunk", "library"})  # choices for scoring; the others are for training
_METHODS = {
    "part": ("conv",),
    "library": ("conv", "alocc"),
}  # of choices that do not concern all
_WORTH = 1.02  # a choice that gains less is not adopted


def variants(method: str, platform: str = "cpu") -> list[dict]:
    """Variants that change one choice of a method each, among those relevant to a platform."""
    own, choices = _own(method), CHOICES if platform == "cpu" else ON_ACCELERATORS
    names = [name for name in choices if method in _METHODS.get(name, (method,))]
    return [{name: v} for name in names for v in choices[name] if v != getattr(own, name)]


def _own(method: str):
    from jaxae.devices import tuning

    return {"dense": tuning.DENSE, "conv": tuning.CONV, "alocc": tuning.ALOCC}[method]


def measure(model: str, tried: list[dict], rounds: int, seconds: float) -> dict[str, Ratio]:
    """Speed of each variant (as JSON) in training or scoring, relative to the method's defaults.

    A variant concerns training or scoring. One that this version of XLA cannot compile, which may
    crash its process, is left out.
    """
    own = _own(config(model).method)
    # The baselines for variants of training and of scoring.
    beside: dict[bool, dict] = {False: {}, True: {"chunk": own.chunk}}
    every = [*(beside[scores] for scores in sorted({*map(_scores, tried)})), *tried]
    spec = {"framework": "jaxae", "model": model, "dtype": "float32", "devices": 0}
    speeds: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        weights = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "weights.npz"
        workers: dict[str, Worker] = {}
        for tuned in dict.fromkeys(map(_of_process, every)):
            of_it = [variant for variant in every if _of_process(variant) == tuned]
            chunks = [variant.get("chunk", own.chunk) for variant in of_it if _scores(variant)]
            worker = stack.enter_context(Worker(spec | {"tuning": json.loads(tuned)}))
            try:
                worker.ask(do="init", out=str(weights))
                worker.ask(do="prepare", weights=str(weights))
                worker.ask(do="warm_up", seconds=seconds, chunks=chunks)
            except RuntimeError:
                print(f"  left out {tuned}: it cannot be compiled here")
                continue
            workers[tuned] = worker
            speeds |= {json.dumps(variant): [] for variant in of_it}
        for _ in range(rounds):
            for name, found in speeds.items():
                variant = json.loads(name)
                do = {"do": "train"}
                if _scores(variant):
                    do = {"do": "score", "chunk": variant.get("chunk", own.chunk)}
                run = workers[_of_process(variant)].ask(**do, seconds=seconds)
                found.append(run["done"] / run["seconds"])
    known = [variant for variant in tried if json.dumps(variant) in speeds]
    against = {json.dumps(v): speeds[json.dumps(beside[_scores(v)])] for v in known}
    return {name: paired(speeds[name], base) for name, base in against.items()}


def _scores(variant: dict) -> bool:
    """Whether a variant concerns scoring."""
    return not SCORING.isdisjoint(variant)


def _of_process(variant: dict) -> str:
    """The settings that a process starts with; the chunk size is set with each request."""
    return json.dumps({name: value for name, value in variant.items() if name != "chunk"})


def taken(found: dict[str, dict[str, Ratio]]) -> dict:
    """The choices to adopt, from model -> variant -> ratio: the best value of each choice."""
    best: dict[str, tuple[float, object]] = {}
    for name in set.intersection(*(set(ratios) for ratios in found.values())):
        ratios = [of[name] for of in found.values()]
        gain = max(ratio.middle for ratio in ratios)
        gains = any(r.low > 1 and r.middle >= _WORTH for r in ratios)
        if gains and all(r.high >= 1 for r in ratios):
            ((choice, value),) = json.loads(name).items()
            best[choice] = max(best.get(choice, (0.0, None)), (gain, value), key=lambda b: b[0])
    return {choice: value for choice, (_, value) in sorted(best.items())}


def main(args: list[str] | None = None) -> None:
    """Measure, print, and write the table if requested."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", choices=CASES, metavar="MODEL",
                        default=[name for name in CASES if name != "mnist_alocc"])  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--out", type=output.to(".json"), help="write a table for JAXAE_TUNING")
    options = parser.parse_args(args)
    platform = throughput.devices({})["jaxae"]["platform"]
    models: dict[str, list[str]] = {}
    for model in options.models:
        models.setdefault(config(model).method, []).append(model)
    methods = {}
    for method, names in models.items():
        found = {}
        for model in names:
            print(f"{model} ({method}), speed relative to jaxae's defaults", flush=True)
            found[model] = measure(
                model, variants(method, platform), options.rounds, options.seconds
            )
            for name, ratio in sorted(found[model].items(), key=lambda r: -r[1].middle):
                print(f"  {name:24} {ratio}")
        chosen = taken(found)
        if chosen:
            parts = [{n: v for n, v in chosen.items() if (n in SCORING) == s} for s in (0, 1)]
            parts = [part for part in parts if part]
            together = {m: measure(m, parts, options.rounds, options.seconds) for m in names}
            ratios = [ratio for of in together.values() for ratio in of.values()]
            kept = bool(ratios) and all(r.high >= 1 for r in ratios)
            shown = ", ".join(f"{m} {r}" for m, of in together.items() for r in of.values())
            print(f"{method}: faster with {chosen}: {shown}{'' if kept else '; not adopted'}")
            methods |= {method: chosen} if kept else {}
        else:
            print(f"{method}: no choice is faster than the defaults")
    if options.out:
        table = {"machine": throughput.machine(), "methods": methods}
        options.out.write_text(json.dumps(table, indent=2) + "\n")
        print(f"set JAXAE_TUNING={options.out} to use it in runs")


if __name__ == "__main__":
    main()
