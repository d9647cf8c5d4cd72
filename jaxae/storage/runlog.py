"""The run folder: what is written into it, and the guarantee that nothing half-written stays."""

import contextlib
import fcntl
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxae import config
from jaxae.config import identity
from jaxae.devices import hosts
from jaxae.errors import UserError, naming, words
from jaxae.storage.provenance import packages, provenance


@contextlib.contextmanager
def enter(cfg: config.ExperimentConfig, digest: str = "") -> Iterator[Path]:
    """Make the run folder, or enter one again that holds the same experiment, and hold it.

    In this order: the folder is locked, what it holds is compared, and a line of provenance is
    added. `config.json` and `data.json`, the digest of the data, are written where nothing was
    trained yet; see `write_about`.

    Args:
      cfg: names the folder.
      digest: of the data, see `Dataset.digest`.

    Raises:
      UserError: the folder cannot be written, now or later, another process is at work in it, or it
        holds another configuration (the message names the fields that differ) or one of another
        version.
    """
    folder = cfg.run_path
    with contextlib.ExitStack() as held:
        if not hosts.first():
            yield held.enter_context(_copy(folder))
            return
        _check_kinds(folder)
        try:
            (folder / "arrays").mkdir(parents=True, exist_ok=True)
            (folder / "figures").mkdir(exist_ok=True)
            held.enter_context(_held(folder))
            _sweep(folder)
        except OSError as error:
            raise UserError(
                f"the run folder {folder} cannot be written ({words(error)}); "
                "name another with --run-dir"
            ) from None
        held.enter_context(_mendable(folder))
        made_with = about(cfg, digest)
        for name, part in _MADE_WITH.items():
            if (folder / name).exists():
                made_with[part] = read_json(folder / name)
        refuse_other(made_with, cfg, digest, folder)
        # Checkpoints, where there are some, know better than this request.
        trained = any((folder / "checkpoints").glob("*"))
        if not trained and not (folder / "config.json").exists():
            write_about(folder, cfg, digest)
        _append(folder / "provenance.jsonl", provenance(cfg.train.precision))
        hosts.wait(_ENTERED)
        yield folder


@contextlib.contextmanager
def _copy(folder: Path) -> Iterator[Path]:
    """What a process reads and writes that does as the first one does and keeps nothing."""
    hosts.wait(_ENTERED)
    with tempfile.TemporaryDirectory(prefix="jaxae-") as scratch:
        for name in ("arrays", "figures"):
            (Path(scratch) / name).mkdir()
        for path in (folder / name for name in _FILES):
            if path.exists():
                shutil.copy(path, scratch)
        yield Path(scratch)


_ENTERED = "run folder entered"
_FOLDERS = ("arrays", "checkpoints", "detector", "figures")
_FILES = (
    *("config.json", "data.json", "report.json", "tuning.json"),
    *("metrics.jsonl", "provenance.jsonl", "scores.npz"),
)


def _check_kinds(folder: Path) -> None:
    """Find now what could not be written after training.

    Raises:
      UserError: a file lies where a folder belongs, or a folder where a file does.
    """
    for kind, names in (("folder", _FOLDERS), ("file", _FILES)):
        for path in (folder / name for name in names):
            if path.exists() and path.is_dir() != (kind == "folder"):
                raise UserError(f"{path} is no {kind}; remove it, or name another --run-dir")


# What is written under another name until it is whole, by `write_text` and others.
_UNFINISHED = re.compile(r"\..+(\.\d+(\.npz)?|-[0-9a-f]{32}\.tmp)")


def _sweep(folder: Path) -> None:
    """Remove what a process that was killed left half-written; none is at work here now."""
    for path in (*folder.glob(".*"), *folder.glob("*/.*")):
        if _UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _mendable(folder: Path) -> Iterator[None]:
    """What the system refuses meanwhile, a full disk for instance, costs the last epochs only."""
    try:
        yield
    except OSError as error:
        hosts.refuse_loss(error)
        raise UserError(
            f"{error.filename or folder}: {words(error)}; once that is mended, the same command "
            "goes on after the last checkpoint"
        ) from error


_MADE_WITH = {"config.json": "config", "data.json": "data_digest"}


def write_about(folder: Path, cfg: config.ExperimentConfig, digest: str) -> None:
    """Say what the folder holds: of a finished run, what its detector was made with."""
    for name, part in _MADE_WITH.items():
        write_json(folder / name, about(cfg, digest)[part])


def about(cfg: config.ExperimentConfig, digest: str) -> dict:
    """What a run is made with: its checkpoints say so too, and are known again by it."""
    return {"config": config.to_dict(cfg), "data_digest": digest}


def shared(cfg: config.ExperimentConfig, digest: str) -> str:
    """What processes that train together must have alike."""
    return json.dumps([identity.training_identity(cfg), cfg.train.epochs, digest, packages()])


def refuse_other(held: dict, cfg: config.ExperimentConfig, digest: str, where: Path) -> None:
    """Compare what something was made with, as `about` has it, with what is asked for.

    Raises:
      UserError: another course of training, other data or another version; it names what differs.
    """
    try:
        old = identity.training_identity(config.from_dict(held["config"]))
    except UserError as error:
        raise UserError(f"{where} cannot be used: {error}. {_REMEDY}") from None
    old["data_digest"] = held["data_digest"]
    new = identity.training_identity(cfg) | {"data_digest": digest}
    differing = _differences(old, new)
    if differing:
        raise UserError(f"{where} holds another configuration: {'; '.join(differing)}. {_REMEDY}")


_REMEDY = "Name another with --run-dir, or remove it"


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold a folder for this process alone; the lock goes with the process, however it ends."""
    path = folder / ".lock"
    with _locked(path):
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _locked(path: Path) -> IO:
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


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in old.keys() | new.keys()
            for line in _differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if old == new else [f"{name} is {old!r} there and {new!r} here"]


@contextlib.contextmanager
def _whole(path: Path, end: str = "") -> Iterator[Path]:
    """Where to write what becomes a file when all of it is there; the name given ends in `end`."""
    temporary = path.with_name(f".{path.name.removesuffix(end)}.{os.getpid()}{end}")
    try:
        with naming(path):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with _whole(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[str]]:
    """A text file that is written piece by piece, whole or not at all."""
    with _whole(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all; NaN is an error, since it is not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz whole or not at all."""
    with _whole(path, ".npz") as temporary:  # whose name `savez` would change
        np.savez(temporary, **arrays)


def read_json(path: Path) -> Any:
    """What a file of JSON holds; a `UserError` where it cannot be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not valid JSON ({error}). {_REMEDY}") from None


def read_metrics(path: Path) -> list[dict]:
    """The epochs of a metrics.jsonl up to a line that is torn; [] where there is no file."""
    return list(itertools.takewhile(lambda line: "epoch" in line, read_lines(path)))


def read_lines(path: Path) -> list[dict]:
    """The objects of a file of JSON lines up to a line that is torn; [] where there is no file."""
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().splitlines():
        try:
            values = json.loads(line)
        except ValueError:
            break
        if not isinstance(values, dict):
            break
        found.append(values)
    return found


def start_metrics(path: Path, epochs: int) -> None:
    """Keep the first `epochs` epochs, which the restored state has behind it, and drop the rest.

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


def append_metrics(path: Path, epoch: int, metrics: Mapping[str, np.ndarray]) -> None:
    """Add an epoch: means over the members [E] and, where there are several, each one's value."""
    line = {name: float(np.mean(values)) for name, values in metrics.items()}
    several = {name: values.tolist() for name, values in metrics.items() if np.size(values) > 1}
    _append(path, {"epoch": epoch, **line, **({"members": several} if several else {})})


def _append(path: Path, values: dict) -> None:
    """Add a line of JSON, whole or not at all."""
    line = json.dumps(values, allow_nan=False)
    before = path.stat().st_size if path.exists() else 0
    try:
        with naming(path), path.open("a") as file:
            file.write(line + "\n")
    except OSError:
        with contextlib.suppress(OSError):  # a disk has room for less
            os.truncate(path, before)
        raise
