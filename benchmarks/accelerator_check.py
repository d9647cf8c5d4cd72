"""What jaxae is worth on an accelerator: one command, prepared for a few minutes on a device.

    python -m benchmarks.accelerator_check --out build/check              # about eight minutes
    python -m benchmarks.accelerator_check --out build/check --stages speed members --budget 300
    python -m benchmarks.accelerator_check --out build/rehearsal --rehearse   # on any CPU

Four stages: `equality` (the device against the CPU, itself and the tests marked for a device),
`speed` (jaxae, plain Flax and PyTorch on seven models), `members` (many models in one program) and
`whole` (a protocol from the start of Python to its report). Each has a deadline and leaves what it
has: every finding is a line of OUT/results.jsonl as soon as it is known, and OUT/*.log is what the
parts said. At the end there is one table. `benchmarks.accelerator_report` makes the section of
docs/speed.md of it. The exit code is 0 where every stage ran to its end, 1 where one did not.

Needed, all from a clone and without a network: jax with the device's plugin, flax, optax,
orbax-checkpoint, numpy, jaxtyping and tqdm; and pure Python wheels: tyro, docstring_parser and
typeguard. Runs that write a report (the one that is verified, and `whole`) draw it: matplotlib and
scipy. Used where they are, and said where they are not: torch; scikit-learn (its digits and
baselines; else rows are made); pytest with beartype (the tests); nvidia's or AMD's device itself.
Not needed: tensorflow-datasets, array_record, pyarrow, Pillow.
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

# The telling ones first: what launches dominate, convolutions, two networks.
MODELS = ("fmnist_dense", "mnist_conv", "mnist_alocc", "fmnist_one_class", "fmnist_denoise",
          "ecg_dense", "mnist_conv_latent")  # fmt: skip
REHEARSED = ("ecg_dense", "fmnist_denoise")  # speed is measured of the first, which is quick
_PACKAGES = ("jaxae", "jax", "jaxlib", "jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu", "flax",
             "optax", "orbax-checkpoint", "numpy", "torch")  # fmt: skip
_FULL_S, _REHEARSAL_S = 470.0, 285.0  # seconds
_PROBE_S = 90.0  # a device that has not answered by then is none


def parse(args: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR",
                        help="results.jsonl there is appended to")  # fmt: skip
    defaults = f"{_FULL_S:.0f}, of a rehearsal {_REHEARSAL_S:.0f}"
    parser.add_argument("--budget", type=float, metavar="SECONDS",
                        help=f"of all stages; default {defaults}")  # fmt: skip
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--models", nargs="+", choices=MODELS, metavar="MODEL",
                        help=f"of {', '.join(MODELS)}; default all, in this order")  # fmt: skip
    parser.add_argument("--rehearse", action="store_true",
                        help="on a CPU, small: does everything still work?")  # fmt: skip
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
    """What JAX finds in an environment, or why it finds nothing."""
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
    """What all findings share."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    about = {name: found[name] for name in ("platform", "kind", "count")}
    return {"schema": SCHEMA, "device": about, "versions": versions, "revision": _revision()}


def _revision() -> str | None:
    """Of the clone, with a + where files are changed; None where nobody knows."""
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
    """A signal asks for the end."""

    def __init__(self, number: int):
        self.code = 128 + number


def _stop(number: int, _: object) -> None:
    for each in (signal.SIGINT, signal.SIGTERM):  # whoever presses on adds nothing
        signal.signal(each, signal.SIG_IGN)
    raise _Stopped(number)


def main(args: list[str] | None = None) -> int:
    """Run the stages, print the table; the exit code."""
    given = parse(args)
    before = {each: signal.signal(each, _stop) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        return _run(given)
    except _Stopped as stopped:
        words = "interrupted" if stopped.code == 130 else "terminated"
        print(f"{words}; what is known so far is in {given.out}", file=sys.stderr)
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
