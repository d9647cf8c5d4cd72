"""The command `jaxae verify`: whether a run, a protocol or an export is unchanged."""

import contextlib
import dataclasses
import functools
import io
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from jaxae import config, data, detectors
from jaxae.config import DataConfig, ExperimentConfig, HostsConfig
from jaxae.data import sources
from jaxae.data.arrayfiles import read_npz
from jaxae.detectors import evaluation
from jaxae.devices import parallel
from jaxae.errors import Unchecked, UserError
from jaxae.export import loader
from jaxae.reports import protocols, tables
from jaxae.storage import checkpoint, disk, manifest, provenance, run_folder
from jaxae.types import Dataset
from jaxae.workflows import experiment

_RETRAINED = 1e-2  # relative to the largest: rounding grows with steps, other training differs more
_ROUNDING = 1e-5  # of a score, relative to itself or to 1: another machine rounds differently
_STORED = ("test", "test_is_anomaly")
_ROWS = ("test_y", "test_id", "test_class_id")  # without labels, the second alone
_AGAIN = "run the same command again, which writes what is missing"

Load = Callable[[DataConfig], Dataset]


class Check(NamedTuple):
    """One thing that was checked, and the result."""

    name: str
    outcome: Literal["ok", "FAILED", "not checked"]
    words: str

    @property
    def ok(self) -> bool:
        """Whether it was checked and is as recorded."""
        return self.outcome == "ok"


def verify(path: Path, retrain: bool = False) -> list[Check]:
    """Check a run folder, the folder of a protocol, a detector's folder or an export.

    For a run: its files can be read; detector, checkpoints and data match their digests; the
    parameters have the digest in the report; and the detector gives every test row the recorded
    score. For a protocol: all this of every member, and the AUROCs in its report follow from the
    members. For cross-conformal p-values, which keep no detector: the data match their digest, and
    decisions and metrics follow from the p-values and scores.

    Args:
      path: a folder or a file.
      retrain: train the run again, in a temporary folder, and compare its parameters and scores;
        if their bits differ, the check lists the differences in versions and hardware. A member of
        a protocol is trained alone, on one device.

    Raises:
      UserError: the path is none of these, or there is no run that could be trained again.
    """
    load = functools.lru_cache(maxsize=1)(data.load)  # members of a class follow each other
    if (path / "members").is_dir():
        return _of_protocol(path, retrain, load)
    folder = detectors.folder_of(path)
    if retrain and not ((path / "config.json").is_file() and folder.is_dir()):
        raise UserError(f"{path} is not a run folder: there is nothing to train again")
    if path.is_file():
        return [_check("export", _of_export, path)]
    scores = path / "scores.npz"
    if not folder.is_dir() and scores.is_file() and "p_value" in read_npz(scores, ["p_value"]):
        return [
            _check("files", _of_files, path),
            _check("configuration", _of_config, path),
            *_checkpoints(path),
            _check("data", _of_data, path, load),
            _check("scores", _of_p_values, path, load),
        ]
    if not folder.is_dir():
        raise UserError(f"{path} holds no run and no detector; name a run folder or an export")
    return _of_run(path, folder, retrain, load)


def _of_run(path: Path, folder: Path, retrain: bool, load: Load) -> list[Check]:
    """The checks of a run with its detector in `folder`, or of a detector alone."""
    checks = [_check("detector", _of_detector, folder)]
    if folder == path or not checks[0].ok:
        return checks
    checks.append(_check("files", _of_files, path))
    checks.append(_check("configuration", _of_config, path))
    checks.append(_check("parameters", _of_parameters, path))
    checks += _checkpoints(path)
    checks.append(_check("data", _of_data, path, load))
    if checks[-1].ok:
        checks.append(_check("scores", _of_scores, path, load))
        if retrain:
            checks.append(_check("trained again", _of_training, path))
    return checks


def _check(name: str, look: Callable[..., str], *args: Any) -> Check:
    try:
        return Check(name, "ok", look(*args))
    except Unchecked as why:
        return Check(name, "not checked", str(why))
    except (UserError, loader.ExportError) as error:
        return Check(name, "FAILED", str(error))


def _of_files(folder: Path) -> str:
    """Compare the digests of files with the manifest."""
    if not (folder / manifest.NAME).is_file():
        raise Unchecked(
            f"there is no {manifest.NAME}, which is written last: the run has not finished, an "
            "earlier version wrote it, or the file was removed; the same command writes it again"
        )
    changed = manifest.changed(folder)
    if changed:
        raise UserError("; ".join(f"{name} {how}" for name, how in changed.items()))
    return f"{len(manifest.read(folder).files)} files have the digests on record"


def _of_protocol(path: Path, retrain: bool, load: Load) -> list[Check]:
    """A check of every member, and one of the report."""
    folders = sorted(member for member in (path / "members").iterdir() if member.is_dir())
    if not folders:
        raise UserError(f"{path / 'members'} holds no member; {_AGAIN}")
    checks = [_check(member.name, _of_member, member, retrain, load) for member in folders]
    checks.append(_check("files", _of_files, path))
    return [*checks, _check("report", _of_protocol_report, path, folders)]


def _of_member(folder: Path, retrain: bool, load: Load) -> str:
    if not (folder / "report.json").is_file():
        raise UserError(f"unfinished; {_AGAIN}")
    checks = _of_run(folder, folder / "detector", retrain, load)
    failed = [f"{c.name}: {c.words}" for c in checks if c.outcome == "FAILED"]
    if failed:
        raise UserError("; ".join(failed))
    unchecked = [f"{c.name}: {c.words}" for c in checks if not c.ok]
    if unchecked:
        raise Unchecked("; ".join(unchecked))
    words = {check.name: check.words for check in checks}
    return "; trained again: ".join(words[c] for c in ("scores", "trained again") if c in words)


def _of_protocol_report(path: Path, folders: list[Path]) -> str:
    file = path / "report.json"
    report = disk.read_json(file, _AGAIN)
    try:
        names = [f"class{k}-seed{seed}" for k in report["classes"] for seed in report["seeds"]]
        missing = [n for n in names if not any(f"{f.name}-".startswith(f"{n}-") for f in folders)]
        # The folder may hold members of an earlier call with more classes or seeds.
        folders = [f for f in folders if any(f"{f.name}-".startswith(f"{n}-") for n in names)]
        if missing or len(folders) != report["members"]:
            lost = f"; {', '.join(missing)} missing" if missing else ""
            raise UserError(f"it has {report['members']} members, the folder {len(folders)}{lost}")
        members = [dataclasses.replace(_config(f), run_dir=str(f)) for f in folders]
        differing = protocols.differing(report, members)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _unlike(file, error) from None
    if differing:
        raise UserError("; ".join(differing))
    return f"AUROC {report['auroc']:.4f} follows from the {len(members)} members"


def _of_p_values(folder: Path, load: Load) -> str:
    """Compare the rows with the data, and decisions and metrics with the report."""
    needed = (*_STORED, *_ROWS, "p_value")
    stored = read_npz(folder / "scores.npz", needed, needed)
    _check_rows(stored, load(_config(folder).data))
    file = folder / "report.json"
    report = disk.read_json(file, _AGAIN)
    p, flagged = stored["p_value"], stored["test_is_anomaly"]
    try:
        least, alpha = 1 / (1 + report["n_calibration"]), np.float32(report["alpha"])
        if not ((least - 1e-6 <= p) & (p <= 1)).all():
            raise UserError(f"p-values are not all between {least:.2g} and 1")
        flipped = int(np.sum(flagged != (p <= alpha)))
        if flipped:
            raise UserError(f"{flipped} decisions do not follow from p-values up to {alpha:g}")
        computed = evaluation.evaluate(stored["test"], stored["test_y"], flagged)
        wrong = [n for n, value in computed.items() if not protocols.agree(report[n], value)]
    except (KeyError, TypeError, ValueError) as error:
        raise _unlike(file, error) from None
    if wrong:
        raise UserError(f"the report differs from its scores in {', '.join(wrong)}")
    return f"decisions and metrics of {len(p)} test rows follow from their p-values and scores"


def _unlike(file: Path, error: Exception) -> UserError:
    """The error for a report that cannot be compared with the files beside it."""
    if isinstance(error, UserError):
        return error
    return UserError(f"{file} is not as it was written ({type(error).__name__}: {error}); {_AGAIN}")


def _check_rows(stored: dict[str, np.ndarray], dataset: Dataset) -> None:
    """Refuse scores whose rows are not those of the data."""
    for name in _ROWS if dataset.is_labelled else ("test_id",):
        recorded = getattr(dataset.test, name.removeprefix("test_"))
        if not np.array_equal(stored.get(name, ()), recorded):
            raise UserError(f"{name} in scores.npz is not that of the data")


def _of_export(path: Path) -> str:
    manifest = loader.load(path).manifest
    return f"golden rows judged as recorded; readable until {manifest['expires']} at least"


def _of_detector(folder: Path) -> str:
    about = detectors.load(folder).about
    return f"intact; {about.config.method}, score {about.config.score}"


def _of_config(folder: Path) -> str:
    return f"read; {_config(folder).name}"


def _config(folder: Path) -> ExperimentConfig:
    return config.from_dict(disk.read_json(folder / "config.json"))


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
    cfg, tuning = _config(folder), folder / run_folder.TUNING
    if folder.resolve().parent.name == "members":  # trained as if it were alone
        cfg = dataclasses.replace(cfg, devices=1)
        tuning = folder.resolve().parents[1] / run_folder.TUNING
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


def _checkpoints(folder: Path) -> list[Check]:
    return [
        _check(f"checkpoint {epoch.name}", _of_checkpoint, epoch)
        for epoch in sorted((folder / "checkpoints").glob("*"), key=lambda p: p.name.zfill(9))
        if epoch.name.isdecimal()
    ]


def _of_checkpoint(path: Path) -> str:
    checkpoint.check_whole(path)
    return "whole"


def _of_data(folder: Path, load: Load) -> str:
    detector = folder / "detector"
    cfg = detectors.load(detector).about.config if detector.is_dir() else _config(folder)
    recorded = disk.read_json(folder / "data.json")
    digest = load(cfg.data).digest
    if digest != recorded:
        raise UserError(f"{cfg.data.name} has the digest {digest[:16]}, not {str(recorded)[:16]}")
    return f"the same, {digest[:16]}"


def _of_scores(folder: Path, load: Load) -> str:
    detector = detectors.load(folder / "detector")
    stored = read_npz(folder / "scores.npz", (*_STORED, *_ROWS))
    parallel.initialize()
    about = detector.about
    dataset = load(about.config.data)
    # Scores depend on none of these; without them all members of a protocol share one program.
    cfg = dataclasses.replace(about.config, seed=0, run_dir="", data=DataConfig())
    detector = detector._replace(about=dataclasses.replace(about, config=cfg))
    judged = detectors.judge_prepared(detector, sources.read(dataset.test.x))
    shapes = [stored[name].shape if name in stored else () for name in _STORED]
    if shapes != [judged.score.shape] * len(_STORED):
        raise UserError(f"{len(judged.score)} test rows now, but {shapes} recorded")
    off = np.abs(judged.score - stored["test"]) / np.maximum(1, np.abs(stored["test"]))
    flipped = int(np.sum(judged.is_anomaly != stored["test_is_anomaly"]))
    if not off.max() <= _ROUNDING:  # true for a recorded NaN too
        raise UserError(f"scores differ by up to {off.max():.1e}, and so do {flipped} decisions")
    _check_rows(stored, dataset)
    exact = "bit for bit" if not off.any() else f"to within {off.max():.0e}"
    kind = "test" if dataset.is_labelled else "held-out"
    return f"{len(off)} {kind} rows scored as recorded, {exact}; {flipped} decisions differ"


def table(checks: list[Check]) -> str:
    """The checks, one line each."""
    return tables.aligned([(check.outcome, check.name, check.words) for check in checks])
