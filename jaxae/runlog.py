"""The run folder: what is written into it, and the guarantee that nothing half-written stays."""

import contextlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

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


def open_run(cfg: config.ExperimentConfig) -> Path:
    """Make the run folder, or enter one again that holds the same experiment.

    Raises:
      UserError: the folder cannot be written, or holds another configuration (the message names the
        fields that differ).
    """
    folder = cfg.run_path
    try:
        (folder / "arrays").mkdir(parents=True, exist_ok=True)
        (folder / "figures").mkdir(exist_ok=True)
        _replace(folder / ".writable", b"")
        (folder / ".writable").unlink()
    except OSError as error:
        raise UserError(
            f"the run folder {folder} cannot be written ({error.strerror}); "
            "name another with --run-dir"
        ) from None
    path = folder / "config.json"
    if path.exists():
        differing = _differences(
            config.training_identity(config.from_json(path.read_text())),
            config.training_identity(cfg),
        )
        if differing:
            raise UserError(
                f"the run folder {folder} holds another configuration: {'; '.join(differing)}. "
                "Name another with --run-dir, or remove it"
            )
    else:
        write_text(path, config.to_json(cfg))
    write_json(folder / "provenance.json", provenance())
    return folder


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold a run folder for this process alone; a lock that a killed process left is taken over.

    Raises:
      UserError: another process is at work in it.
    """
    lock = folder / ".lock"
    if lock.exists() and _alive(owner := int(lock.read_text() or 0)):
        raise UserError(
            f"the run folder {folder} is in use by process {owner}; wait for it, or name another "
            "with --run-dir"
        )
    write_text(lock, str(os.getpid()))
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _alive(process: int) -> bool:
    if process <= 0:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it exists, but is somebody else's
        return True
    return True


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
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
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
        "versions": versions,
    }


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
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def start_metrics(path: Path, epochs: int) -> None:
    """Keep the first `epochs` epochs, which the restored state has behind it, and drop the rest."""
    rows = [row for row in read_metrics(path) if row["epoch"] <= epochs]
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def append_metrics(path: Path, row: dict) -> None:
    """Add one epoch."""
    with path.open("a") as file:
        file.write(json.dumps(row, allow_nan=False) + "\n")
