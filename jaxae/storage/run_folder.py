"""The run folder: who may write to it, what it was made with, and its metrics epoch by epoch."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from jaxae import config
from jaxae.config import identity
from jaxae.devices import hosts, tuning
from jaxae.errors import UserError, words
from jaxae.storage.disk import append_line, read_json, read_metrics, write_json, write_text
from jaxae.storage.provenance import changes, packages, provenance
from jaxae.types import Learner

TUNING = "tuning.json"  # the choices of speed that training started with: its bits depend on them
_FOLDERS = ("arrays", "checkpoints", "detector", "figures")
_FILES = (
    *("config.json", "data.json", "report.json", TUNING),
    *("metrics.jsonl", "provenance.jsonl", "scores.npz"),
)
_ENTERED = "run folder entered"  # a barrier of all processes


@contextlib.contextmanager
def enter(cfg: config.ExperimentConfig, digest: str = "") -> Iterator[Path]:
    """Make the run folder, or enter one again that holds the same experiment, and lock it.

    In this order: the folder is locked, what it holds is compared, and a line of provenance is
    added. `config.json` and `data.json`, the digest of the data, are written if nothing was trained
    there yet; see `write_about`.

    Args:
      cfg: names the folder.
      digest: of the data, see `Dataset.digest`.

    Raises:
      UserError: the folder cannot be written, now or later, another process is at work in it, or it
        holds another configuration (the message names the fields that differ) or one of another
        version.
    """
    folder = cfg.run_path
    with contextlib.ExitStack() as stack:
        if not hosts.first():
            yield stack.enter_context(_copy(folder))
            return
        _check_kinds(folder)
        try:
            (folder / "arrays").mkdir(parents=True, exist_ok=True)
            (folder / "figures").mkdir(exist_ok=True)
            stack.enter_context(_locked(folder))
            _remove_unfinished(folder)
        except OSError as error:
            raise UserError(
                f"the run folder {folder} cannot be written ({words(error)}); "
                "name another with --run-dir"
            ) from None
        stack.enter_context(_system_errors(folder))
        stored = about(cfg, digest)
        for name, part in _ABOUT.items():
            if (folder / name).exists():
                stored[part] = read_json(folder / name)
        refuse_other(stored, cfg, digest, folder)
        # Checkpoints, if there are any, know better than this request.
        trained = any((folder / "checkpoints").glob("*"))
        if not trained and not (folder / "config.json").exists():
            write_about(folder, cfg, digest)
        append_line(folder / "provenance.jsonl", provenance(cfg.train.precision))
        hosts.wait(_ENTERED)
        yield folder


@contextlib.contextmanager
def _copy(folder: Path) -> Iterator[Path]:
    """A temporary copy of the run folder's files, for the processes that keep nothing."""
    hosts.wait(_ENTERED)
    with tempfile.TemporaryDirectory(prefix="jaxae-") as scratch:
        for name in ("arrays", "figures"):
            (Path(scratch) / name).mkdir()
        for path in (folder / name for name in _FILES):
            if path.exists():
                shutil.copy(path, scratch)
        yield Path(scratch)


def _check_kinds(folder: Path) -> None:
    """Find before training what could not be written after it.

    Raises:
      UserError: a file lies where a folder belongs, or a folder where a file does.
    """
    for kind, names in (("folder", _FOLDERS), ("file", _FILES)):
        for path in (folder / name for name in names):
            if path.exists() and path.is_dir() != (kind == "folder"):
                raise UserError(f"{path} is no {kind}; remove it, or name another --run-dir")


# The temporary names of `disk.atomic`, and of figures in older versions.
_UNFINISHED = re.compile(r"\..+(\.\d+(\.npz)?|-[0-9a-f]{32}\.tmp)")


def _remove_unfinished(folder: Path) -> None:
    """Remove what a process that was killed left half-written; the folder is locked."""
    for path in (*folder.glob(".*"), *folder.glob("*/.*")):
        if _UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _system_errors(folder: Path) -> Iterator[None]:
    """Turn a system error during the run, such as a full disk, into a `UserError`."""
    try:
        yield
    except OSError as error:
        hosts.refuse_loss(error)
        raise UserError(
            f"{error.filename or folder}: {words(error)}; once that is mended, the same command "
            "goes on after the last checkpoint"
        ) from error


_ABOUT = {"config.json": "config", "data.json": "data_digest"}  # file -> key of `about`


def write_about(folder: Path, cfg: config.ExperimentConfig, digest: str) -> None:
    """Write what the folder's detector was made with."""
    for name, part in _ABOUT.items():
        write_json(folder / name, about(cfg, digest)[part])


def about(cfg: config.ExperimentConfig, digest: str) -> dict:
    """What a run is made with; its checkpoints hold it too, so that they can be told apart."""
    return {"config": config.to_dict(cfg), "data_digest": digest}


def shared(cfg: config.ExperimentConfig, digest: str) -> str:
    """What processes that train together must have alike."""
    return json.dumps([identity.training_identity(cfg), cfg.train.epochs, digest, packages()])


def refuse_other(stored: dict, cfg: config.ExperimentConfig, digest: str, where: Path) -> None:
    """Compare what a folder or checkpoint was made with to what is asked for now.

    Args:
      stored: as `about` gives it.
      cfg: what is asked for.
      digest: of the data now.
      where: `stored` was read.

    Raises:
      UserError: another course of training, other data or another version; names the fields.
    """
    try:
        old = identity.training_identity(config.from_dict(stored["config"]))
    except UserError as error:
        raise UserError(f"{where} cannot be used: {error}. {_REMEDY}") from None
    old["data_digest"] = stored["data_digest"]
    new = identity.training_identity(cfg) | {"data_digest": digest}
    differing = [f"{name} is {a!r} there and {b!r} here" for name, a, b in changes(old, new)]
    if differing:
        raise UserError(f"{where} holds another configuration: {'; '.join(differing)}. {_REMEDY}")


_REMEDY = "Name another with --run-dir, or remove it"


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Lock a folder for this process; the system releases it however the process ends."""
    path = folder / ".lock"
    with _lock_file(path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _lock_file(path: Path) -> IO:
    """The lock file, open and locked."""
    while True:
        lock = path.open("a")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise UserError(
                f"the run folder {path.parent} is in use by another process; wait for it, or name "
                "another with --run-dir"
            ) from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
        lock.close()  # its last holder has just removed it


def with_stored_tuning(folder: Path, learner: Learner) -> Learner:
    """The learner with the choices of speed that training in a folder started with, if it did.

    So a run resumes as it started, even if the choices were measured again meanwhile.

    Raises:
      UserError: the file is damaged, or of a version with other choices.
    """
    path = folder / TUNING
    if not path.is_file():
        return learner
    return learner._replace(tuning=tuning.merged(learner.tuning, read_json(path), str(path)))


def write_tuning(folder: Path, learner: Learner) -> None:
    """Record the choices of speed that training starts with."""
    write_json(folder / TUNING, learner.tuning._asdict())


def start_metrics(path: Path, epochs: int) -> list[dict]:
    """Keep the first `epochs` epochs, which the restored state has behind it, and drop the rest.

    Returns:
      The epochs that were kept.

    Raises:
      UserError: some of these are missing: the file was damaged since.
    """
    kept = read_metrics(path)[:epochs]
    if [metrics["epoch"] for metrics in kept] != list(range(1, epochs + 1)):
        raise UserError(
            f"{path} does not hold the {epochs} epochs that the checkpoint has behind it; put it "
            "back, or name another --run-dir"
        )
    write_text(path, "".join(json.dumps(metrics, allow_nan=False) + "\n" for metrics in kept))
    return kept


def append_metrics(path: Path, epoch: int, metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Add an epoch: means over the members [E] and, if there are several, each one's value.

    Returns:
      The means.
    """
    means = {name: float(np.mean(values)) for name, values in metrics.items()}
    several = {name: values.tolist() for name, values in metrics.items() if np.size(values) > 1}
    append_line(path, {"epoch": epoch, **means, **({"members": several} if several else {})})
    return means
