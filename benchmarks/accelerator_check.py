"""Measure jaxae on an accelerator with one command, in a few minutes.

    python -m benchmarks.accelerator_check --out build/check              # about eight minutes
    python -m benchmarks.accelerator_check --out build/check --stages speed members --budget 300
    python -m benchmarks.accelerator_check --out build/rehearsal --rehearse   # on any CPU

There are four stages: `equality` compares the device with the CPU and with itself, and runs the
tests marked for a device; `speed` times jaxae, plain Flax and PyTorch on seven models; `members`
trains many models in one program; `whole` runs a protocol from the start of Python to its report.
Each stage has a deadline. Each result is appended to OUT/results.jsonl as soon as it is known, so
a stage that is cut off keeps what it has; OUT/*.log has the output of the processes. At the end a
table is printed. `benchmarks.accelerator_report` writes the section of docs/speed.md from it. The
exit code is 0 if every stage finished, else 1.

It runs from a clone and needs no network. Required packages: jax with the device's plugin, flax,
optax, orbax-checkpoint, numpy, jaxtyping and tqdm, and the pure Python wheels tyro,
docstring_parser and typeguard. Parts that write a report (the verified run and `whole`) also need
matplotlib and scipy. Used if installed, and reported if not: torch; scikit-learn (for its digits
and baselines; otherwise rows are generated); pytest with beartype (for the tests). Not needed:
tensorflow-datasets, array_record, pyarrow, Pillow.
"""

import argparse
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.on_device import table
from benchmarks.on_device.results import SCHEMA, Journal, Record, read
from benchmarks.on_device.stages import ROOT, STAGES, run_all

# The most informative first: dominated by launches, by convolutions, two networks.
MODELS = ("fmnist_dense", "mnist_conv", "mnist_alocc", "fmnist_one_class", "fmnist_denoise",
          "ecg_dense", "mnist_conv_latent")  # fmt: skip
REHEARSED = ("ecg_dense", "fmnist_denoise")  # speed is measured of the first, which is quick
_PACKAGES = ("jaxae", "jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu", "flax",
             "optax", "orbax-checkpoint", "numpy", "torch")  # fmt: skip
_FULL_S, _REHEARSAL_S = 470.0, 285.0  # seconds
_PROBE_S = 90.0  # time limit for finding a device


def parse(args: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR",
                        help="folder of results; results.jsonl in it is appended to")  # fmt: skip
    defaults = f"{_FULL_S:.0f}, for a rehearsal {_REHEARSAL_S:.0f}"
    parser.add_argument("--budget", type=float, metavar="SECONDS",
                        help=f"time for all stages; default {defaults}")  # fmt: skip
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--models", nargs="+", choices=MODELS, metavar="MODEL",
                        help=f"default: {', '.join(MODELS)}")  # fmt: skip
    parser.add_argument("--rehearse", action="store_true",
                        help="a small run on a CPU, to test that everything works")  # fmt: skip
    given = parser.parse_args(args)
    if given.budget is None:
        given.budget = _REHEARSAL_S if given.rehearse else _FULL_S
    if not 0 < given.budget < 1e6:
        parser.error(f"--budget is {given.budget:g}; it must be above 0")
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        Journal(given.out, {}, 0.0)
    except OSError as error:
        parser.exit(2, f"error: --out {given.out} cannot be written ({error.strerror or error})\n")
    return given


def device(environment: dict[str, str]) -> dict | str:
    """The device that JAX finds in an environment, or a message why it finds none."""
    command = [sys.executable, "-m", "benchmarks.on_device.probe"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True,
            timeout=_PROBE_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"JAX has not found a device in {_PROBE_S:.0f} s"
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["without a word"]
        return f"JAX does not start ({lines[-1][:200]})"
    return json.loads(done.stdout.splitlines()[-1])


def common(found: dict) -> Record:
    """The fields that all results share."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    about = {name: found[name] for name in ("platform", "kind", "count")}
    return {"schema": SCHEMA, "device": about, "versions": versions, "revision": _revision()}


def _revision() -> str | None:
    """The git revision of the clone, with a + if files are changed; None if it is unknown."""
    answers = []
    for asked in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no")):
        try:
            done = subprocess.run(["git", *asked], cwd=ROOT, capture_output=True, text=True,
                                  timeout=10, check=False)  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode:
            return None
        answers.append(done.stdout.strip())
    return answers[0] + ("+" if answers[1] else "")


class _Stopped(BaseException):
    """SIGINT or SIGTERM was received."""

    def __init__(self, number: int):
        self.code = 128 + number


def _stop(number: int, _: object) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):  # ignore further signals
        signal.signal(each, signal.SIG_IGN)
    raise _Stopped(number)


def main(args: list[str] | None = None) -> int:
    """Run the stages and print the table; returns the exit code."""
    given = parse(args)
    before = {each: signal.signal(each, _stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        return _run(given)
    except _Stopped as stopped:
        words = "interrupted" if stopped.code == 130 else "terminated"
        print(f"{words}; the results so far are in {given.out}", file=sys.stderr)
        return stopped.code
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _run(given: argparse.Namespace) -> int:
    began = time.time()
    hidden = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}  # for PyTorch too
    environment = hidden if given.rehearse else {}
    found = device(environment)
    if isinstance(found, str) or (found["platform"] == "cpu" and not given.rehearse):
        why = found if isinstance(found, str) else "JAX sees no accelerator here"
        print(f"error: {why}; --rehearse runs everything on a CPU", file=sys.stderr)
        return 2
    environment |= {"JAX_PLATFORMS": found["platforms"]}
    shared = common(found)
    print(
        f"{found['kind']} ({found['platform']}), {given.budget:.0f} s, to {given.out}", flush=True
    )
    models = given.models or (REHEARSED if given.rehearse else MODELS)
    out = given.out.resolve()
    order = {"out": str(out), "common": shared, "began": began, "rehearsal": given.rehearse,
             "models": list(models), "environment": environment}  # fmt: skip
    journal = Journal(out, shared | {"rehearsal": given.rehearse}, began)
    stages = [stage for name, stage in STAGES.items() if name in given.stages]
    ran = run_all(stages, order, given.budget - (time.time() - began), journal)
    print(table.text([record for record in read(out) if _is_here(record, found)]))
    return 0 if ran else 1


def _is_here(record: Record, found: dict) -> bool:
    return record["device"].get("kind") == found["kind"]


if __name__ == "__main__":
    sys.exit(main())
