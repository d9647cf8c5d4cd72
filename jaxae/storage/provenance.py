"""Provenance: the code, versions and hardware that produced a result."""

import hashlib
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, cast

import jax
import numpy as np

from jaxae.devices import precision
from jaxae.storage import disk

_PACKAGES = (
    *("jaxae", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint"),
    *("tensorflow-datasets", "numpy", "scikit-learn"),
)
# Packages that compile and run programs on accelerators.
_PLUGINS = (
    *("jax-cuda12-plugin", "jax-cuda12-pjrt", "jax-cuda13-plugin", "jax-cuda13-pjrt"),
    *("jax-rocm7-plugin", "jax-rocm7-pjrt", "libtpu"),
)
# Environment variables that change how XLA computes.
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_ENABLE_X64")


def provenance(training: str = "default") -> dict:
    """Revision, versions, devices, precision, flags and command; `training`: `train.precision`."""
    device = jax.local_devices()[0]
    return {
        "git_revision": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain")),
        "argv": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "cpu_count": os.cpu_count(),
        "devices": [str(device) for device in jax.devices()],
        "device_kind": device.device_kind,
        "precision": {"training": precision.in_words(training, device), "all else": "float32"},
        "processes": jax.process_count(),
        "flags": {name: os.environ[name] for name in _FLAGS if name in os.environ},
        "versions": packages(),
    }


def program() -> dict[str, Any]:
    """What decides, besides settings, data and devices, what this process computes; by name."""
    options, table = cast(Any, jax.config), os.environ.get("JAXAE_TUNING", "")
    flags = {name: os.environ.get(name, "") for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS")}
    return {
        "python": platform.python_version(),
        **{f"version of {name}": installed for name, installed in packages().items()},
        "source of jaxae": _source_digest(),
        **flags,
        "jax_enable_x64": options.jax_enable_x64,
        "jax_default_matmul_precision": options.jax_default_matmul_precision,
        "content of JAXAE_TUNING": disk.digest_of(Path(table)) if Path(table).is_file() else "",
    }


def _source_digest() -> str:
    """SHA-256 of the package's modules and their names."""
    digest, package = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package).as_posix()} {path.stat().st_size} ".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()


def digest(tree: Any) -> str:
    """SHA-256 of the arrays in a tree, with their dtypes, shapes and paths."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(tree)):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(array.data if array.size else b"")
    return digest.hexdigest()


def differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """The differences between two records of provenance that may change a result's bits."""
    old, new = ({name: record.get(name) for name in _BITS} for record in (before, now))
    return [f"{name} was {was}, is {value}" for name, was, value in changes(old, new)]


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(dotted name, old value, new value) of every difference between nested dicts, sorted."""
    changed: list[tuple[str, Any, Any]] = []
    for name in sorted(old.keys() | new.keys()):
        pair = old.get(name), new.get(name)
        if any(isinstance(value, dict) for value in pair):
            nested = changes(*(value if isinstance(value, dict) else {} for value in pair))
            changed += [(f"{name}.{inner}", was, value) for inner, was, value in nested]
        elif pair[0] != pair[1]:
            changed.append((name, *pair))
    return changed


_BITS = (
    *("git_revision", "python", "platform", "cpu_count", "devices", "device_kind", "processes"),
    *("processor", "precision", "flags", "versions"),
)


def _processor() -> str:
    """The processor's name according to the operating system."""
    try:
        cpuinfo = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    parts = ("model name", "cpu family", "model")
    values = dict(re.findall(rf"^({'|'.join(parts)})[ \t]*:[ \t]*(.*\S)", cpuinfo, re.MULTILINE))
    return ", ".join(values[part] for part in parts if part in values) or platform.processor()


def packages() -> dict[str, str | None]:
    """Package versions that a result depends on, including installed accelerator plugins."""
    plugins = {name: installed for name in _PLUGINS if (installed := version(name))}
    return {name: version(name) for name in _PACKAGES} | plugins


def version(package: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git(*args: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *args]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
