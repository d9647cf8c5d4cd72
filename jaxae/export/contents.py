"""What an archive holds beside the detector: what its manifest says, its code, its model card."""

import datetime
import hashlib
import importlib.metadata
import re
from pathlib import Path
from typing import Any

import jax

from jaxae import detectors
from jaxae.detectors import Detector, steps
from jaxae.devices import tuning
from jaxae.export import loader, signing
from jaxae.export.program import PLATFORMS, places_of, row_dtype
from jaxae.storage import provenance

MAIN = "__main__.py"  # of an archive, which runs it
_READABLE_DAYS = 180  # days that jax.export keeps an old program readable


def manifest(detector: Detector, files: dict[str, bytes], key: bytes = b"") -> dict[str, Any]:
    """The manifest: what is said of the detector, the digests of all files, its own digest.

    Args:
      detector: that of the archive.
      files: all files of the archive but the manifest.
      key: signs all that the manifest says; empty = no signature.
    """
    said = said_of(detector, datetime.date.today())
    said["arrays"] = next(name for name in files if re.match("detector/arrays-.*npz", name))
    said["digests"] = {name: hashlib.sha256(part).hexdigest() for name, part in files.items()}
    said["digest"] = loader.digest_of(said)
    return said | ({"signature": signing.signature(loader.statement(said), key)} if key else {})


def said_of(detector: Detector, exported: datetime.date) -> dict[str, Any]:
    """What a manifest says of a detector that is exported on a day."""
    about = detector.about
    by_step = steps.exported(detector)
    return {
        "format": loader.FORMAT,
        "jaxae": about.version,
        "exported_by": provenance.version("jaxae"),
        "jax": jax.__version__,
        "exported": exported.isoformat(),
        "expires": (exported + datetime.timedelta(days=_READABLE_DAYS)).isoformat(),
        "platforms": [*PLATFORMS],
        "cpu_options": tuning.scoring_options(tuning.Tuning(), about.config.score_dtype, "cpu"),
        "shape": [*about.shape],
        "dtype": row_dtype(detector),
        "units": detectors.units(about.dtype),
        "places": places_of(detector),
        "rule": detector.decision.rule,
        "threshold": float(detector.decision.threshold),
        "n_calibration": len(detector.decision.calibration),
    } | ({"steps": by_step} if by_step else {})


def code() -> dict[str, bytes]:
    """The files that run the archive, with the pure Python package that jax.export needs.

    JAX does not depend on that package, flatbuffers.
    """
    files = importlib.metadata.files("flatbuffers") or []
    needed = [path for path in files if path.suffix == ".py" or "LICENSE" in path.name]
    return {
        loader.CODE: Path(loader.__file__).read_bytes(),
        MAIN: b"import sys, loader\nsys.exit(loader.main())\n",
        **{str(path): path.read_binary() for path in needed if ".." not in path.parts},
    }
