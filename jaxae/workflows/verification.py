"""The command `jaxae verify`: whether a run folder or an export is unchanged."""

import contextlib
import dataclasses
import io
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from jaxae import config, data, detectors
from jaxae.config import HostsConfig
from jaxae.data.arrayfiles import read_npz
from jaxae.devices import parallel
from jaxae.errors import UserError
from jaxae.export import loader
from jaxae.reports import tables
from jaxae.storage import checkpoint, disk, provenance, run_folder
from jaxae.workflows import experiment

_RETRAINED = 1e-2  # relative to the largest: rounding grows with steps, other training differs more
_ROUNDING = 1e-5  # of a score, relative to itself or to 1: another machine rounds differently
_STORED = ("test", "test_is_anomaly")


class Check(NamedTuple):
    """One thing that was checked, and the result."""

    name: str
    ok: bool
    words: str


def verify(path: Path, retrain: bool = False) -> list[Check]:
    """Check a run folder, a detector's folder or an export.

    For a run: its files can be read; detector, checkpoints and data match their digests; the
    parameters have the digest in the report; and the detector gives every test row the recorded
    score.

    Args:
      path: a run folder, a detector's folder or a file.
      retrain: train the run again, in a temporary folder, and compare its parameters and scores;
        if their bits differ, the check lists the differences in versions and hardware.

    Raises:
      UserError: the path is none of these, or there is no run that could be trained again.
    """
    if retrain and not (path / "config.json").is_file():
        raise UserError(f"{path} is not a run folder: there is nothing to train again")
    if path.is_file():
        return [_check("export", _of_export, path)]
    folder = detectors.folder_of(path)
    if not folder.is_dir():
        raise UserError(f"{path} holds no run and no detector; name a run folder or an export")
    checks = [_check("detector", _of_detector, folder)]
    if folder == path or not checks[0].ok:
        return checks
    checks.append(_check("configuration", _of_config, path))
    checks.append(_check("parameters", _of_parameters, path))
    checks += [
        _check(f"checkpoint {epoch.name}", _of_checkpoint, epoch)
        for epoch in sorted((path / "checkpoints").glob("*"), key=lambda p: p.name.zfill(9))
        if epoch.name.isdecimal()
    ]
    checks.append(_check("data", _of_data, path))
    if checks[-1].ok:
        checks.append(_check("scores", _of_scores, path))
        if retrain:
            checks.append(_check("trained again", _of_training, path))
    return checks


def _check(name: str, look: Callable[[Path], str], path: Path) -> Check:
    try:
        return Check(name, True, look(path))
    except (UserError, loader.ExportError) as error:
        return Check(name, False, str(error))


def _of_export(path: Path) -> str:
    manifest = loader.load(path).manifest
    return f"golden rows judged as recorded; readable until {manifest['expires']} at least"


def _of_detector(folder: Path) -> str:
    about = detectors.load(folder).about
    return f"intact; {about.config.method}, score {about.config.score}"


def _of_config(folder: Path) -> str:
    return f"read; {config.from_dict(disk.read_json(folder / 'config.json')).name}"


def _of_parameters(folder: Path) -> str:
    path = folder / "report.json"
    report = disk.read_json(path) if path.is_file() else {}
    digests = report.get("digest", {}) if isinstance(report, dict) else None
    if digests == {}:
        return "no digest recorded"
    recorded = digests.get("parameters") if isinstance(digests, dict) else None
    digest = provenance.digest(detectors.load(folder / "detector").variables)
    if digest != recorded:
        raise UserError(f"they have the digest {digest[:16]}, not {str(recorded)[:16]}")
    return f"as in the report, {digest[:16]}"


def _of_training(folder: Path) -> str:
    """Train the run again, and compare."""
    cfg = config.from_dict(disk.read_json(folder / "config.json"))
    with tempfile.TemporaryDirectory(prefix="jaxae-") as scratch:
        again = dataclasses.replace(cfg, run_dir=f"{scratch}/run", studies=(), hosts=HostsConfig())
        if (folder / run_folder.TUNING).is_file():
            again.run_path.mkdir()
            shutil.copy(folder / run_folder.TUNING, again.run_path)
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
    words = (
        f"no digest agrees: parameters differ by up to {off:.1e}, scores by {off_scores:.1e}, "
        f"relative to the largest; {'; '.join(differences) or 'nothing else differs'}"
    )
    if max(off, off_scores) > _RETRAINED or not differences:
        raise UserError(words)
    return f"{words}; within {_RETRAINED:g}"


def _difference(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if one.shape != other.shape:
        return float("inf")
    return float(np.abs(one - other).max(initial=0) / max(np.abs(one).max(initial=0), 1e-30))


def _of_checkpoint(path: Path) -> str:
    checkpoint.check_whole(path)
    return "whole"


def _of_data(folder: Path) -> str:
    cfg = detectors.load(folder / "detector").about.config
    recorded = disk.read_json(folder / "data.json")
    digest = data.load(cfg.data).digest
    if digest != recorded:
        raise UserError(f"{cfg.data.name} has the digest {digest[:16]}, not {str(recorded)[:16]}")
    return f"the same, {digest[:16]}"


def _of_scores(folder: Path) -> str:
    detector = detectors.load(folder / "detector")
    stored = read_npz(folder / "scores.npz", _STORED)
    parallel.initialize()
    x = np.asarray(data.load(detector.about.config.data).test.x)
    judged = detectors.judge_prepared(detector, x)
    shapes = [stored[name].shape if name in stored else () for name in _STORED]
    if shapes != [judged.score.shape] * len(_STORED):
        raise UserError(f"{len(judged.score)} test rows now, but {shapes} recorded")
    off = np.abs(judged.score - stored["test"]) / np.maximum(1, np.abs(stored["test"]))
    flipped = int(np.sum(judged.is_anomaly != stored["test_is_anomaly"]))
    if not off.max() <= _ROUNDING:  # true for a recorded NaN too
        raise UserError(f"scores differ by up to {off.max():.1e}, and so do {flipped} decisions")
    exact = "bit for bit" if not off.any() else f"to within {off.max():.0e}"
    return f"{len(off)} test rows scored as recorded, {exact}; {flipped} decisions differ"


def table(checks: list[Check]) -> str:
    """The checks, one line each."""
    return tables.aligned(
        [("ok" if check.ok else "FAILED", check.name, check.words) for check in checks]
    )
