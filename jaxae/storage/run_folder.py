"""The run folder: locking it, what it was made from, and its metrics epoch by epoch."""

import contextlib
import fcntl
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxae import config
from jaxae.config import checks
from jaxae.config.fields import Fact
from jaxae.devices import hosts, tuning
from jaxae.errors import UserError, words
from jaxae.storage import disk, manifest
from jaxae.storage.disk import (
    append_line,
    read_json,
    read_metrics,
    write_bytes,
    write_json,
    write_text,
)
from jaxae.storage.provenance import changes, program, provenance
from jaxae.types import Learner

TUNING = "tuning.json"  # the learner's `Tuning` at the start of training: the bits depend on it
# Of finished training; all other files are written again when a run is scored again.
_OF_TRAINING = ("config.json", "data.json", TUNING, "metrics.jsonl", "provenance.jsonl")
LOCK = ".lock"
_ENTERED = "run folder entered"  # a barrier of all processes


@contextlib.contextmanager
def enter(
    cfg: config.ExperimentConfig, digest: str = "", by_caller: bool = False
) -> Iterator[Path]:
    """Create the run folder, or reopen one that holds the same experiment, and lock it.

    The folder is locked, then its contents are compared with `cfg` and with the digest of the data,
    then a line of provenance is added. The manifest of a finished run is removed, until the run has
    finished again, or was refused before it changed anything. `config.json` and `data.json` are
    written unless training has already saved a checkpoint there; see `write_about`. With
    `by_caller`, the caller has locked the folder.

    Raises:
      UserError: the folder cannot be written, now or during the run; another process is using it;
        it contains another configuration or version, see `refuse_other`; or files that record a
        finished training have changed.
    """
    folder = cfg.run_path
    with contextlib.ExitStack() as stack:
        if not hosts.first():
            yield stack.enter_context(_copy(folder))
            return
        stack.enter_context(system_errors(folder))
        _check_kinds(folder)
        (folder / "arrays").mkdir(parents=True, exist_ok=True)
        (folder / "figures").mkdir(exist_ok=True)
        if not by_caller:
            stack.enter_context(locked(folder))
        _remove_unfinished(folder)
        stored = about(cfg, digest)
        for name, part in _ABOUT.items():
            if (folder / name).exists():
                stored[part] = read_json(folder / name)
        refuse_other(stored, cfg, digest, folder)
        manifest.refuse_changed(folder, _OF_TRAINING, f"restore it. {_REMEDY}")
        stack.enter_context(_withdrawn(folder))
        # If there are checkpoints, they record what was trained, and `cfg` does not matter.
        trained = any((folder / "checkpoints").glob("*"))
        if not trained and not (folder / "config.json").exists():
            write_about(folder, cfg, digest)
        append_line(folder / "provenance.jsonl", provenance(cfg.train.precision))
        hosts.wait(_ENTERED)
        yield folder


@contextlib.contextmanager
def _copy(folder: Path) -> Iterator[Path]:
    """A temporary copy of the run folder's files, for processes other than the first."""
    hosts.wait(_ENTERED)
    with tempfile.TemporaryDirectory(prefix="jaxae-") as scratch:
        for name in ("arrays", "figures"):
            (Path(scratch) / name).mkdir()
        for path in (folder / name for name in manifest.FILES):
            if path.exists():
                shutil.copy(path, scratch)
        yield Path(scratch)


@contextlib.contextmanager
def _withdrawn(folder: Path) -> Iterator[None]:
    """Without the manifest, which comes back if a refusal or a stop left its files as they were."""
    sealed = folder / manifest.NAME
    before = sealed.read_bytes() if sealed.is_file() else b""
    manifest.withdraw(folder)
    try:
        yield
    except BaseException:
        if before and not sealed.exists():
            write_bytes(sealed, before)
            if {*manifest.changed(folder)} <= {"provenance.jsonl"}:
                manifest.add(folder, folder / "provenance.jsonl")  # the line of this start
            else:
                manifest.withdraw(folder)
        raise


def _check_kinds(folder: Path) -> None:
    """Refuse, before training, a file where a folder belongs, or a folder where a file belongs."""
    for kind, names in (("folder", manifest.FOLDERS), ("file", manifest.FILES)):
        for path in (folder / name for name in names):
            if path.exists() and path.is_dir() != (kind == "folder"):
                raise UserError(f"{path} is not a {kind}; remove it, or name another --run-dir")


def _remove_unfinished(folder: Path) -> None:
    """Remove the half-written files of a killed process; call it with the folder locked."""
    for path in (*folder.glob(".*"), *folder.glob("*/.*")):
        if disk.UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def system_errors(folder: Path) -> Iterator[None]:
    """Turn a system error, such as a full disk, into a `UserError`."""
    try:
        yield
    except OSError as error:
        hosts.refuse_loss(error)
        raise UserError(
            f"{error.filename or folder}: {words(error)}; fix that, or name another --run-dir; the "
            "same command resumes after the last checkpoint, if there is one"
        ) from error


_ABOUT = {"config.json": "config", "data.json": "data_digest"}  # file -> key of `about`


def write_about(folder: Path, cfg: config.ExperimentConfig, digest: str) -> None:
    """Write `config.json` and `data.json`, which record what the detector was made from."""
    for name, part in _ABOUT.items():
        write_json(folder / name, about(cfg, digest)[part])


def about(cfg: config.ExperimentConfig, digest: str) -> dict:
    """What a run is made from; each checkpoint also stores this, for comparison on resuming."""
    return {"config": config.to_dict(cfg), "data_digest": digest}


def agree(cfg: config.ExperimentConfig, digests: Sequence[str]) -> None:
    """Compare what is `shared` with the other processes, if there are any; see `hosts.agree`."""
    if jax.process_count() > 1:  # `shared` reads the sources of jaxae
        hosts.agree(shared(cfg, digests))


def shared(cfg: config.ExperimentConfig, digests: Sequence[str]) -> dict[str, Any]:
    """Everything that must be equal in all processes that train together, by name.

    Args:
      cfg: of a run or a protocol.
      digests: of its data sets.
    """
    described = checks.described(cfg).items()
    fields = [n for n, s in described if not s.is_section and Fact.OF_PROCESS not in s.facts]
    return {
        "kind of run": type(cfg).__name__,
        **{name: checks.value(cfg, name) for name in fields},
        "run_dir": str(cfg.run_path.absolute()),
        "data": list(digests),
        **program(),
    }


def refuse_other(stored: dict, cfg: config.ExperimentConfig, digest: str, where: Path) -> None:
    """Refuse a folder or checkpoint that was made from another configuration or other data.

    Args:
      stored: the result of `about`, read from `where`.
      cfg: the configuration of this run.
      digest: of this run's data.
      where: a folder.

    Raises:
      UserError: training would differ, or another version wrote it; the message names the fields.
    """
    try:
        old = checks.training_identity(config.from_dict(stored["config"]))
    except UserError as error:
        raise UserError(f"{where} cannot be used: {error}. {_REMEDY}") from None
    old["data_digest"] = stored["data_digest"]
    new = checks.training_identity(cfg) | {"data_digest": digest}
    differing = [f"{name} is {a!r} there and {b!r} here" for name, a, b in changes(old, new)]
    if differing:
        raise UserError(f"{where} holds another configuration: {'; '.join(differing)}. {_REMEDY}")


_REMEDY = "Name another with --run-dir, or remove it"


class InUse(UserError):
    """Another process has locked a folder."""


@contextlib.contextmanager
def locked(folder: Path, name: str = LOCK, wait: bool = False) -> Iterator[None]:
    """Lock a folder for this process; the system releases the lock however the process ends.

    The empty lock file stays: removing it would race with a process that has just opened it.

    Args:
      folder: created if it does not exist.
      name: of the lock; a folder may have several.
      wait: wait for a process that has it.

    Raises:
      InUse: another process has it.
    """
    with contextlib.ExitStack() as held:
        with system_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context((folder / name).open("a"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse(
                f"the run folder {folder} is in use by another process; wait for it, or name "
                "another with --run-dir"
            ) from None
        yield


def is_locked(folder: Path, name: str = LOCK) -> bool:
    """Whether a process has locked a folder."""
    try:
        with (folder / name).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)  # keeps out nobody who looks too
    except BlockingIOError:
        return True
    except FileNotFoundError:
        pass
    return False


def with_stored_tuning(folder: Path, learner: Learner) -> Learner:
    """The learner with the `Tuning` that was recorded when training in this folder started, if any.

    A run thus resumes with the same bits, even if this version tunes the method differently. Raises
    a `UserError` if the file is damaged, or from a version with other fields.
    """
    path = folder / TUNING
    if not path.is_file():
        return learner
    return learner._replace(tuning=tuning.merged(learner.tuning, read_json(path), str(path)))


def write_tuning(folder: Path, learner: Learner) -> None:
    """Record the `Tuning` that training starts with."""
    write_json(folder / TUNING, learner.tuning._asdict())


def start_metrics(path: Path, epochs: int) -> list[dict]:
    """Cut `metrics.jsonl` to a checkpoint's epochs and return them; all must be present."""
    kept = read_metrics(path)[:epochs]
    if [metrics["epoch"] for metrics in kept] != list(range(1, epochs + 1)):
        raise UserError(
            f"{path} does not hold the {epochs} epochs that the checkpoint was trained for; "
            "restore the file, or name another --run-dir"
        )
    write_text(path, "".join(json.dumps(metrics, allow_nan=False) + "\n" for metrics in kept))
    return kept


def append_metrics(path: Path, epoch: int, metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Append an epoch: means over the members [E] and, if E > 1, each value; return the means."""
    means = {name: float(np.mean(values)) for name, values in metrics.items()}
    several = {name: values.tolist() for name, values in metrics.items() if np.size(values) > 1}
    append_line(path, {"epoch": epoch, **means, **({"members": several} if several else {})})
    return means
