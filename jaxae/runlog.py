"""The run folder: what is written into it, and the guarantee that nothing half-written stays."""

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np

from jaxae import config
from jaxae.errors import UserError

_PACKAGES = (
    "jaxae",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "tensorflow-datasets",
    "numpy",
    "scikit-learn",
)


@contextlib.contextmanager
def enter(cfg: config.ExperimentConfig) -> Iterator[Path]:
    """Make the run folder, or enter one again that holds the same experiment, and hold it.

    In this order: the folder is locked, what it holds is compared, and a line of provenance is
    added. `config.json` is written into a new folder only; see `write_config`.

    Raises:
      UserError: the folder cannot be written, another process is at work in it, or it holds another
        configuration (the message names the fields that differ) or one of another version.
    """
    folder = cfg.run_path
    with contextlib.ExitStack() as held:
        try:
            (folder / "arrays").mkdir(parents=True, exist_ok=True)
            (folder / "figures").mkdir(exist_ok=True)
            held.enter_context(_held(folder))
        except OSError as error:
            raise UserError(
                f"the run folder {folder} cannot be written ({error.strerror}); "
                "name another with --run-dir"
            ) from None
        if (folder / "config.json").exists():
            _compare(folder, cfg)
        else:
            write_config(folder, cfg)
        _append(folder / "provenance.jsonl", provenance())
        yield folder


def write_config(folder: Path, cfg: config.ExperimentConfig) -> None:
    """Say what the folder holds: of a finished run, the configuration of its detector."""
    write_text(folder / "config.json", config.to_json(cfg))


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
        except OSError:
            lock.close()
            raise UserError(
                f"the run folder {path.parent} is in use by another process; wait for it, or name "
                "another with --run-dir"
            ) from None
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
        lock.close()  # its last holder has just removed it


def _compare(folder: Path, cfg: config.ExperimentConfig) -> None:
    remedy = "Name another with --run-dir, or remove it"
    try:
        held = config.from_json((folder / "config.json").read_text())
    except UserError as error:
        message = f"the config.json of the run folder {folder} cannot be used: {error}. {remedy}"
        raise UserError(message) from None
    differing = _differences(config.training_identity(held), config.training_identity(cfg))
    if differing:
        raise UserError(
            f"the run folder {folder} holds another configuration: {'; '.join(differing)}. {remedy}"
        )


def _differences(old: Any, new: Any, name: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for key in old.keys() | new.keys()
            for line in _differences(old.get(key), new.get(key), f"{name}.{key}".lstrip("."))
        ]
    return [] if old == new else [f"{name} is {old!r} there and {new!r} here"]


def provenance() -> dict:
    """Where a result comes from: revision, versions, devices and command."""
    return {
        "git_revision": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain")),
        "argv": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "devices": [str(device) for device in jax.devices()],
        "device_kind": jax.devices()[0].device_kind,
        "versions": {name: version(name) for name in _PACKAGES},
    }


def version(package: str) -> str | None:
    """Of an installed package; None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*args: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *args]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    _replace(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole or not at all; NaN is an error, since it is not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz whole or not at all."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.npz")
    try:
        np.savez(temporary, **arrays)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_metrics(path: Path) -> list[dict]:
    """The epochs of a metrics.jsonl; [] where there is none. A torn last line is dropped."""
    if not path.exists():
        return []
    epochs = []
    for line in path.read_text().splitlines():
        try:
            epochs.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return epochs


def start_metrics(path: Path, epochs: int) -> None:
    """Keep the first `epochs` epochs, which the restored state has behind it, and drop the rest."""
    kept = [metrics for metrics in read_metrics(path) if metrics["epoch"] <= epochs]
    write_text(path, "".join(json.dumps(metrics, allow_nan=False) + "\n" for metrics in kept))


def append_metrics(path: Path, metrics: dict) -> None:
    """Add one epoch."""
    _append(path, metrics)


def _append(path: Path, values: dict) -> None:
    """Add a line of JSON."""
    line = json.dumps(values, allow_nan=False)
    with path.open("a") as file:
        file.write(line + "\n")
