"""One competitor in a separate process, which reads requests from stdin and answers on stdout.

Competitors therefore share no threads, caches or allocator; while one works, the others wait for
input. `Worker` starts the child with `python -m benchmarks.workers '{"framework": ...}'`.
"""

import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

# Waiting competitors must not hold an accelerator's memory.
SHARING = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
CALIBRATION = 0.25  # share of a timed block that one uninterrupted call should take


class Worker:
    """The parent's end: `ask(do=..., ...)` sends a request and waits for the answer."""

    def __init__(self, spec: dict, env: dict[str, str] | None = None):
        self.spec = spec
        python = shlex.split(spec.get("python", "")) or [sys.executable]
        self._process = subprocess.Popen(
            [*python, "-m", "benchmarks.workers", json.dumps(spec)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | SHARING | (env or {}),
            cwd=Path(__file__).parent.parent,
        )

    def ask(self, **order) -> dict:
        """The child's answer; `{"unavailable": reason}` if it cannot do what was requested.

        Raises:
          RuntimeError: the child died; its own message is on stderr.
        """
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RuntimeError(f"the worker {self.spec} ended with {self._process.wait()}")
        return json.loads(line)

    def __enter__(self) -> "Worker":
        """Return itself; leaving the context ends the child."""
        return self

    def __exit__(self, *_) -> None:
        """End the child."""
        self.close()

    def close(self) -> None:
        """End the child."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class _Child:
    """The competitor's end; each public method handles one request."""

    def __init__(self, spec: dict):
        self.spec, self.program, self.calibrated = spec, None, 0
        self.born = time.perf_counter()

    def init(self, out: str) -> dict:
        from benchmarks import programs

        _prepare_jax(self.spec)
        np.savez(out, **programs.initial_weights(self.spec))
        return {}

    def devices(self) -> dict:
        """The devices that the framework finds on this machine, see `programs.found`."""
        from benchmarks import programs

        if self.spec["framework"] == "jaxae":
            _prepare_jax(self.spec)
        return programs.found(self.spec["framework"])

    def prepare(self, weights: str) -> dict:
        from benchmarks import programs

        if self.spec["framework"] in ("jaxae", "flax"):
            _prepare_jax(self.spec)
        try:
            make = programs.FRAMEWORKS[self.spec["framework"]]
            with np.load(weights) as stored:
                self.program = make(self.spec, dict(stored))
        except programs.Unavailable as error:
            return {"unavailable": str(error)}
        p = self.program
        setup = time.perf_counter() - self.born
        return {
            "setup_s": setup, "devices": p.devices, "device": p.device, "versions": p.versions,
            "transfer_s": p.transfer_s, "precision": p.precision,
        }  # fmt: skip

    def cost(self) -> dict:
        """FLOPs and bytes of a step, if the framework reports them."""
        return self.program.cost() if self.program.cost else {}

    def peaks(self) -> dict:
        from benchmarks import programs

        _prepare_jax(self.spec)
        return programs.peaks()

    def gate(self, rows: str, out: str) -> dict:
        losses, gradients = self.program.gradients(np.load(rows))
        np.savez(out, **gradients)
        return {"losses": losses}

    def warm_up(self, seconds: float, chunks: list[int]) -> dict:
        """Compile everything; report the time of the first block of steps and of a second one."""
        from benchmarks.programs import timed

        steps = self.program.steps or 1
        first = timed(lambda: self.program.train(steps))
        second = timed(lambda: self.program.train(steps))
        self.calibrated = steps * max(1, int(CALIBRATION * seconds / second))
        for chunk in chunks:
            self.program.score(chunk)
        return {"first_call_s": first, "second_call_s": second, "first_call_steps": steps}

    def train(self, seconds: float) -> dict:
        return self._repeat(lambda: self.program.train(self.calibrated), self.calibrated, seconds)

    def score(self, seconds: float, chunk: int) -> dict:
        return self._repeat(lambda: self.program.score(chunk), self.program.scored, seconds)

    def whole(self, steps: int, scored: int, embedded: Sequence[int] = ()) -> dict:
        """A whole run: `steps` of training, about `scored` rows scored, t-SNE of codes [N, L]."""
        self.program.train(steps)
        for _ in range(max(1, round(scored / self.program.scored))):
            self.program.score(512)
        if embedded:
            from sklearn.manifold import TSNE

            codes = np.random.default_rng(0).normal(size=embedded).astype(np.float32)
            TSNE(random_state=0).fit_transform(codes)
        return {}

    def memory(self) -> dict:
        import resource

        # Linux counts kilobytes, macOS bytes.
        unit = 1 if sys.platform == "darwin" else 1024
        return {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20}

    @staticmethod
    def _repeat(call, amount: int, seconds: float) -> dict:
        start, done = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - start) < seconds:
            call()
            done += amount
        return {"done": done, "seconds": elapsed}


def _prepare_jax(spec: dict) -> None:
    """Divide the cores as the library does; must be called before JAX starts."""
    from jaxae.devices import parallel

    if spec["framework"] != "flax":
        parallel.initialize(spec["devices"])


def main() -> None:
    """Handle requests until stdin closes."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what frameworks print must not mix with answers
    child = _Child(json.loads(sys.argv[1]))
    for line in sys.stdin:
        order = json.loads(line)
        answer = getattr(child, order.pop("do"))(**order)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
