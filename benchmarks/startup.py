"""Time what users wait for at the start: import, and the first epoch with and without cache.

    python -m benchmarks.startup                  # every model
    python -m benchmarks.startup --models mnist_conv

Each measurement is a new process. "Cold" starts with an empty persistent compilation cache
(`jax_compilation_cache_dir`), "warm" with the cache that the cold run filled.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import output
from benchmarks.cases import CASES
from benchmarks.workers import Worker

IMPORTS = ("jax", "jaxae", "jaxae.ops", "jaxae.workflows.experiment")


def import_seconds(module: str, repeats: int = 3) -> float:
    """Median time of `import MODULE` in new interpreters, without interpreter startup."""
    code = (
        "import time; start = time.perf_counter(); "
        f"import {module}; print(time.perf_counter() - start)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(repeats)
    ]
    return statistics.median(float(run.stdout.split()[-1]) for run in runs)


def first_call(model: str, cache: Path) -> dict[str, float]:
    """Seconds from the start of a process to the end of its first block of steps.

    Returns:
      `to_first_steps_s`, the total; `first_call_s`, tracing, compiling and running the first block;
      `second_call_s`, running it again.
    """
    env = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    spec = {"framework": "jaxae", "model": model, "dtype": "float32", "devices": 0}
    with tempfile.TemporaryDirectory() as folder:
        weights = f"{folder}/weights.npz"
        with Worker(spec) as worker:
            worker.ask(do="init", out=weights)
        start = time.perf_counter()
        with Worker(spec, env) as worker:
            worker.ask(do="prepare", weights=weights)
            times = worker.ask(do="warm_up", seconds=1.0, chunks=[])
            elapsed = time.perf_counter() - start - times["second_call_s"]
    return {
        "to_first_steps_s": elapsed,
        "first_call_s": times["first_call_s"],
        "second_call_s": times["second_call_s"],
    }


def main(args: list[str] | None = None) -> None:
    """Measure, print, write the JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", nargs="+", choices=CASES, metavar="MODEL", default=list(CASES))
    parser.add_argument("--out", type=output.to(".jsonl"), default="build/startup.jsonl")
    options = parser.parse_args(args)
    results = [{"import": name, "seconds": import_seconds(name)} for name in IMPORTS]
    for result in results:
        print(f"import {result['import']:16} {result['seconds']:6.2f} s", flush=True)
    for model in options.models:
        with tempfile.TemporaryDirectory() as cache:
            for state in ("cold", "warm"):
                result = {"model": model, "cache": state} | first_call(model, Path(cache))
                results.append(result)
                print(
                    f"{model:18} {state}: first steps after {result['to_first_steps_s']:6.2f} s, "
                    f"of which tracing, compiling and running {result['first_call_s']:6.2f} s",
                    flush=True,
                )
            if not os.listdir(cache):
                raise SystemExit("the persistent compilation cache stayed empty")
    options.out.write_text("".join(json.dumps(r) + "\n" for r in results))


if __name__ == "__main__":
    main()
