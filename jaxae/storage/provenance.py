"""Where a result comes from."""

import hashlib
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxae.devices import precision

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
# What compiles and runs programs on an accelerator, where one of them is installed.
_PLUGINS = (
    *("jax-cuda12-plugin", "jax-cuda12-pjrt", "jax-cuda13-plugin", "jax-cuda13-pjrt"),
    *("jax-rocm7-plugin", "jax-rocm7-pjrt", "libtpu"),
)


# What changes how XLA computes.
_FLAGS = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "JAX_DEFAULT_MATMUL_PRECISION", "JAX_ENABLE_X64")


def provenance(training: str = "default") -> dict:
    """Where a result comes from: revision, versions, devices, precision, flags and command.

    Args:
      training: the precision of training, `train.precision`.
    """
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


def digest(tree: Any) -> str:
    """SHA-256 of arrays, with their types, shapes and places in a tree."""
    found = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(tree)):
        array = np.ascontiguousarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        found.update(array.data if array.size else b"")
    return found.hexdigest()


def differences(made: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two places where a result comes from, and may change its bits."""
    flat = [_flat({name: of.get(name) for name in _BITS}) for of in (made, now)]
    return [
        f"{name} was {flat[0].get(name)}, is {flat[1].get(name)}"
        for name in sorted(flat[0].keys() | flat[1].keys())
        if flat[0].get(name) != flat[1].get(name)
    ]


_BITS = (
    *("git_revision", "python", "platform", "cpu_count", "devices", "device_kind", "processes"),
    *("processor", "precision", "flags", "versions"),
)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= (
            _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
        )
    return found


def _processor() -> str:
    """The name of the processor, as the system has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    known = dict(line.split(":", 1) for line in lines if ":" in line)
    parts = ("model name", "cpu family", "model")
    names = {name.strip(): value.strip() for name, value in known.items()}
    return ", ".join(names[part] for part in parts if part in names) or platform.processor()


def packages() -> dict[str, str | None]:
    """The versions that a result depends on, those of accelerators' plugins where there are any."""
    plugins = {name: found for name in _PLUGINS if (found := version(name))}
    return {name: version(name) for name in _PACKAGES} | plugins


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
