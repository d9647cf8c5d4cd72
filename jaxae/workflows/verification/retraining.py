"""A run trained again, in a temporary folder, and compared with the one on record."""

import contextlib
import dataclasses
import io
import shutil
import tempfile

import jax
import numpy as np

from jaxae import detectors
from jaxae.config import HostsConfig
from jaxae.data.arrayfiles import read_npz
from jaxae.devices import precision
from jaxae.errors import UserError
from jaxae.storage import disk, provenance, run_folder
from jaxae.workflows import experiment
from jaxae.workflows.verification.outcomes import needing
from jaxae.workflows.verification.records import Records

_RETRAINED = 1e-2  # relative to the largest: rounding grows with steps, other training differs more
_ROUNDED = 5e-5  # the same, of scores, if only the rows that are computed together differ


def of_training(run: Records) -> str:
    """Train the run again, and compare."""
    with needing("data"):
        cfg = dataclasses.replace(run.config, data=run.found_at)
    folder = run.folder
    tuning = folder / run_folder.TUNING
    is_member = False
    for path in (folder.absolute(), folder.resolve()):
        if path.parent.name == "members":  # trained as if it were alone
            is_member = True
            cfg = dataclasses.replace(cfg, devices=1)
            tuning = path.parents[1] / run_folder.TUNING
    with tempfile.TemporaryDirectory(prefix="jaxae-") as scratch:
        plain = {"studies": (), "hosts": HostsConfig(), "tensorboard": False}
        again = dataclasses.replace(cfg, run_dir=f"{scratch}/run", **plain)
        if tuning.is_file():
            again.run_path.mkdir()
            shutil.copy(tuning, again.run_path)
        unseen = io.StringIO()
        with contextlib.redirect_stdout(unseen), contextlib.redirect_stderr(unseen):
            experiment.run(again)
        runs = folder, again.run_path
        leaves = [jax.tree.leaves(detectors.load(run / "detector").variables) for run in runs]
        old, new = (read_npz(run / "scores.npz") for run in runs)
    off = max(_difference(a, b) for a, b in zip(*leaves, strict=True))
    off_scores = max(_difference(old[name], new[name]) for name in ("train", "valid", "test"))
    if not off and not off_scores:
        return "the digests of parameters and scores agree, bit for bit"
    lines = disk.read_lines(folder / "provenance.jsonl")
    here = provenance.provenance(cfg.train.precision)
    differences = provenance.differences(lines[-1] if lines else {}, here)
    if len(lines) > 1:
        differences.append(f"the run was started {len(lines)} times")
    is_rounded = is_member and not differences and precision.rounds_by_place()
    if is_rounded:
        differences.append("it was trained beside other members, which rounds some sums otherwise")
    words = (
        f"no digest agrees: parameters differ by up to {off:.1e}, scores by {off_scores:.1e}, "
        f"relative to the largest; {'; '.join(differences) or 'nothing else differs'}"
    )
    most = _ROUNDED if is_rounded else _RETRAINED
    if off > _RETRAINED or off_scores > most or not differences:
        raise UserError(words)
    return f"{words}; within {most:g}"


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if one.shape != other.shape:
        return float("inf")
    return float(np.abs(one - other).max(initial=0) / max(np.abs(one).max(initial=0), 1e-30))
