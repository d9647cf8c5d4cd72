"""Whether a run folder, or an export, still is what it was: the command `jaxae verify`."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxae import checkpoint, config, data, detectors, loader, parallel, runlog
from jaxae.arrayfiles import read_npz
from jaxae.errors import UserError

_ROUNDING = 1e-5  # of a score, relative to itself or to 1: another machine rounds otherwise


_STORED = ("test", "test_is_anomaly")


class Check(NamedTuple):
    """What was looked at, and what was found."""

    name: str
    ok: bool
    words: str


def verify(path: Path) -> list[Check]:
    """Look at a run folder, its detector alone, or an export.

    Of a run: its files can be read, detector and checkpoints are whole by their digests, the data
    are the same by theirs, and the detector gives every test row the score that is on record.

    Raises:
      UserError: there is nothing of the kind.
    """
    if path.is_file():
        return [_check("export", lambda: _of_export(path))]
    own = detectors.folder_of(path)
    if not own.is_dir():
        raise UserError(f"{path} holds no run and no detector; name a run folder or an export")
    checks = [_check("detector", lambda: _of_detector(own))]
    if own == path or not checks[0].ok:
        return checks
    checks.append(_check("configuration", lambda: _of_config(path)))
    checks += [
        _check(f"checkpoint {epoch.name}", functools.partial(_of_checkpoint, epoch))
        for epoch in sorted((path / "checkpoints").glob("*"), key=lambda p: p.name.zfill(9))
        if epoch.name.isdecimal()
    ]
    checks.append(_check("data", lambda: _of_data(path)))
    if checks[-1].ok:
        checks.append(_check("scores", lambda: _of_scores(path)))
    return checks


def _check(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, True, look())
    except (UserError, loader.ExportError) as error:
        return Check(name, False, str(error))


def _of_export(path: Path) -> str:
    manifest = loader.load(path).manifest
    return f"golden rows judged alike; readable until {manifest['expires']} at least"


def _of_detector(folder: Path) -> str:
    about = detectors.load(folder).about
    return f"whole; {about.config.method}, score {about.config.score}"


def _of_config(folder: Path) -> str:
    return f"read; {config.from_dict(runlog.read_json(folder / 'config.json')).name}"


def _of_checkpoint(path: Path) -> str:
    checkpoint.check_whole(path)
    return "whole"


def _of_data(folder: Path) -> str:
    cfg = detectors.load(folder / "detector").about.config
    known = runlog.read_json(folder / "data.json")
    digest = data.load(cfg.data).digest
    if digest != known:
        raise UserError(f"{cfg.data.name} has the digest {digest[:16]}, not {str(known)[:16]}")
    return f"the same, {digest[:16]}"


def _of_scores(folder: Path) -> str:
    detector = detectors.load(folder / "detector")
    stored = read_npz(folder / "scores.npz", _STORED)
    parallel.initialize()
    x = np.asarray(data.load(detector.about.config.data).test.x)
    found = detectors.judge_prepared(detector, x)
    shapes = [stored[name].shape if name in stored else () for name in _STORED]
    if shapes != [found.score.shape] * len(_STORED):
        raise UserError(f"{len(found.score)} test rows now, and {shapes} on record")
    off = np.abs(found.score - stored["test"]) / np.maximum(1, np.abs(stored["test"]))
    flipped = int(np.sum(found.is_anomaly != stored["test_is_anomaly"]))
    if not off.max() <= _ROUNDING:  # a NaN on record is no score
        raise UserError(f"scores differ by up to {off.max():.1e}, {flipped} decisions with them")
    exact = "bit for bit" if not off.any() else f"but for {off.max():.0e}"
    return f"{len(off)} test rows scored as on record, {exact}; {flipped} decisions differ"


def table(checks: list[Check]) -> str:
    """The checks, a line each."""
    width = max(len(check.name) for check in checks)
    return "\n".join(
        f"{'ok    ' if check.ok else 'FAILED'}  {check.name:<{width}}  {check.words}"
        for check in checks
    )
