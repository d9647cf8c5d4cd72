"""Train and export a run on a CPU, for an accelerator to verify.

`python -m benchmarks.on_device.cpu_run FOLDER EPOCHS`
"""

import dataclasses
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from benchmarks.on_device.stages import ROOT

_RUN, _EXPORT = "run", "export.zip"


def start(folder: Path, rehearsal: bool) -> subprocess.Popen:
    """Start training in a separate process that sees no accelerator."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "benchmarks.on_device.cpu_run", str(folder)]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "MPLBACKEND": "Agg"}
    return subprocess.Popen(
        [*command, "2" if rehearsal else "10"], cwd=ROOT, env=env, text=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def made(folder: Path) -> list[Path]:
    """The paths of the run and its export."""
    return [folder / _RUN, folder / _EXPORT]


def rows_name(folder: Path) -> str:
    """A data set that needs no download: scikit-learn's digits, or generated rows."""
    if find_spec("sklearn"):
        return "digits"
    path = folder / "rows.npz"
    if not path.exists():
        x, y = synthetic(60)
        test, truth = synthetic(20, seed=1)
        np.savez(path, x_train=x, y_train=y, x_test=test, y_test=truth)
    return f"npz:{path}"


def synthetic(of_each: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Blurred strokes [N, 28, 28, 1] in [0, 1] of ten classes, and their classes."""
    generator, at = np.random.default_rng(seed), np.linspace(-1, 1, 28)
    y = np.repeat(np.arange(10), of_each).astype(np.int32)
    angle = np.pi * y / 10 + generator.normal(0, 0.05, len(y))
    shift = generator.normal(0, 0.2, len(y))
    down, right = (of[:, None, None] for of in (np.cos(angle), np.sin(angle)))
    across = down * at[None, :, None] + right * at[None, None, :] - shift[:, None, None]
    return np.exp(-((across / 0.2) ** 2)).astype(np.float32)[..., None], y


def main(folder: Path, epochs: int) -> None:
    """Train and export."""
    from experiments.digits_conv import CONFIG
    from jaxae.export import exporting
    from jaxae.workflows import experiment

    cfg = dataclasses.replace(
        CONFIG,
        run_dir=str(folder / _RUN),
        studies=(),
        data=dataclasses.replace(CONFIG.data, name=rows_name(folder)),
        train=dataclasses.replace(CONFIG.train, epochs=epochs),
    )
    experiment.run(cfg)
    exporting.write(folder / _RUN, folder / _EXPORT, overwrite=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
