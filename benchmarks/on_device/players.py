"""A process per framework that holds many programs and times them in turn.

`benchmarks.workers` uses a process for each competitor. On an accelerator, where starting one takes
ten seconds and only minutes are available, all settings of a framework share one process. Each
`Player` handles one request at a time. The child is started by
`python -m benchmarks.on_device.players FRAMEWORK`.
"""

import contextlib
import gc
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from benchmarks.on_device.results import words
from benchmarks.on_device.stages import ROOT

CALIBRATION = 0.25  # share of a timed block that one uninterrupted call should take


class Player:
    """The parent's end of the connection."""

    def __init__(self, framework: str):
        self.framework = framework
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.on_device.players", framework],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip

    def ask(self, **order: Any) -> dict:
        """The answer: `{"error": ...}` or `{"unavailable": ...}` if there is no result."""
        line = ""
        with contextlib.suppress(BrokenPipeError, OSError):
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            return {"error": f"the process of {self.framework} ended with {self._process.wait()}"}
        return json.loads(line)

    def __enter__(self) -> "Player":
        """Return itself; leaving the context ends the child."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the child."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


class _Child:
    """The framework's end of the connection; each public method handles one request."""

    def __init__(self) -> None:
        self.programs: dict[str, Any] = {}
        self.steps: dict[str, int] = {}

    def weights(self, spec: dict, out: str) -> dict:
        """Write the library's initial weights of a model, from which all competitors start."""
        from benchmarks import programs

        np.savez(out, **programs.initial_weights(spec))
        return {}

    def settings(self, model: str) -> dict:
        """The settings in which PyTorch can run a model here."""
        from benchmarks import reference_torch
        from benchmarks.cases import CASES

        return {"settings": reference_torch.settings(CASES[model])}

    def prepare(self, name: str, spec: dict, weights: str) -> dict:
        """Build a program under a name; the spec contains its framework."""
        from benchmarks import programs

        if spec["framework"] == "jaxae":
            from jaxae.devices import parallel

            parallel.initialize(spec["devices"])
        with np.load(weights) as stored:
            made = programs.FRAMEWORKS[spec["framework"]](spec, dict(stored))
        self.programs[name] = made
        return {"precision": made.precision, "versions": made.versions, "steps": made.steps,
                "kind": made.device}  # fmt: skip

    def gate(self, name: str, rows: str, out: str) -> dict:
        """Losses, with gradients written to `out`; both with exact float32 products."""
        losses, gradients = self.programs[name].gradients(np.load(rows))
        np.savez(out, **gradients)
        return {"losses": losses}

    def warm_up(self, name: str, chunks: list[int]) -> dict:
        """Compile everything."""
        from benchmarks.programs import timed

        program = self.programs[name]
        unit = program.steps or 1
        first = timed(lambda: program.train(unit))
        for chunk in chunks:
            program.score(chunk)
        return {"first_call_s": first, "first_call_steps": unit}

    def make_all(self, orders: list[list[dict]]) -> dict:
        """Handle a list of requests for each of several programs, which are compiled concurrently.

        Compiling and tracing use different cores. For a framework where they do not, the requests
        are handled one by one.
        """

        def one(of_program: list[dict]) -> dict:
            known: dict = {}
            began = time.perf_counter()
            for order in of_program:
                found = answer(self, dict(order))
                known |= found
                if "error" in found or "unavailable" in found:
                    return found
            return known | {"seconds": time.perf_counter() - began}

        with ThreadPoolExecutor(len(orders)) as pool:
            return {"answers": list(pool.map(one, orders))}

    def train(self, name: str, seconds: float) -> dict:
        """Steps per second; the first call also finds how many steps to make per dispatch."""
        from benchmarks.programs import timed

        program = self.programs[name]
        if name not in self.steps:
            unit = program.steps or 1
            took = timed(lambda: program.train(unit))
            self.steps[name] = unit * max(1, int(CALIBRATION * seconds / took))
        steps = self.steps[name]
        return self._repeat(lambda: program.train(steps), steps, seconds)

    def score(self, name: str, seconds: float, chunk: int) -> dict:
        """Rows per second."""
        program = self.programs[name]
        return self._repeat(lambda: program.score(chunk), program.scored, seconds)

    def forget(self) -> dict:
        """Free all programs and the device memory that they hold."""
        self.programs.clear()
        self.steps.clear()
        if "jax" in sys.modules:
            sys.modules["jax"].clear_caches()
        if "torch" in sys.modules:
            torch = sys.modules["torch"]
            getattr(getattr(torch, "_dynamo", None), "reset", lambda: None)()
        gc.collect()
        return {}

    @staticmethod
    def _repeat(call: Any, amount: int, seconds: float) -> dict:
        start, done = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < seconds:
            call()
            done += amount
        return {"per_s": done / elapsed}


def answer(child: _Child, order: dict) -> dict:
    """Handle a request; an exception becomes part of the answer, and the process continues."""
    try:
        return getattr(child, order.pop("do"))(**order)
    except Exception as error:
        name = "unavailable" if type(error).__name__ == "Unavailable" else "error"
        return {name: str(error)[:300] if name == "unavailable" else words(error)}


def main() -> None:
    """Handle requests until stdin closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what frameworks print must not mix with answers
    child = _Child()
    for line in sys.stdin:
        answers.write(json.dumps(answer(child, json.loads(line)), default=float) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
