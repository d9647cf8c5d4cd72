"""Makes the golden files of a version: `python tests/golden/make.py VERSION`.

What a version wrote must be read by all that follow, so a folder that is here is never made again.
"""

import os
import shutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import jax  # noqa: E402

jax.config.update("jax_num_cpu_devices", 4)

import numpy as np  # noqa: E402
from probes import golden, images  # noqa: E402

from jaxae.workflows import experiment  # noqa: E402


def main(version: str) -> None:
    """Train the smallest dense detector, and keep its checkpoint, its detector and its scores."""
    folder = HERE / version
    folder.mkdir()
    os.chdir(folder)
    np.savez("own.npz", x_train=images(80), x_test=images(20, 1), y_test=np.arange(20) % 2)
    experiment.run(golden())
    for part in ("figures", "arrays"):
        shutil.rmtree(f"run/{part}")
    for name in ("provenance.jsonl", "report.json"):
        os.remove(f"run/{name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
