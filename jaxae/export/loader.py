"""Judge raw rows with an exported detector, using only JAX and NumPy.

    python detector.zip ROWS.npy [--alpha 0.05] [--out OUT.csv]

Every export carries a copy of this file, so that the archive runs by itself. From Python, with the
archive on `sys.path` or jaxae installed: `loader.load("detector.zip").judge(rows, alpha=0.05)`.
"""

import argparse
import datetime
import hashlib
import io
import json
import os
import sys
import zipfile
import zlib
from typing import NamedTuple

import numpy as np

MANIFEST, PROGRAM, GOLDEN, CODE = "manifest.json", "program.bin", "golden.npz", "loader.py"
DETECTOR = "detector/"  # the detector, including its arrays, from which to rebuild the program
CHUNK = 64  # rows that are judged side by side, as in the run
BLOCK = 64 * CHUNK  # rows in one call
_TOLERANCE = 1e-5
_REQUIRED = ("arrays", "cpu_options", "dtype", "expires", "n_calibration", "shape", "units")


class ExportError(ValueError):
    """The export cannot be used, or it cannot judge the rows."""


class Judgement(NamedTuple):
    """Scores, p-values and decisions of rows."""

    score: np.ndarray  # [N] float32, higher = more anomalous
    p_value: np.ndarray  # [N] float64: the rank of the score among scores of normals
    is_anomaly: np.ndarray  # [N] bool


class Detector:
    """An exported detector; see `load`."""

    def __init__(self, manifest: dict, program: bytes, arrays: dict):
        import jax
        from jax import export

        self.manifest = manifest
        try:
            self._program = jax.jit(export.deserialize(bytearray(program)).call)
            self._compiled: dict = {}
        except Exception as error:  # JAX raises many types for programs of other versions
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ExportError(
                f"its program of {manifest['exported']} for JAX {manifest['jax']}, promised to be "
                f"readable until {manifest['expires']}, cannot be read ({reason}); rebuild it from "
                "its parameters: jaxae export OLD.zip NEW.zip"
            ) from None
        self._scaling = None
        if arrays["scaling/shift"].dtype == np.float64:  # devices compute in float32
            self._scaling = arrays["scaling/shift"], arrays["scaling/scale"]
            arrays = arrays | identity(arrays)
        self._arrays = jax.device_put(arrays)

    def judge(self, rows: np.ndarray, alpha: float | None = None) -> Judgement:
        """Scores, p-values and decisions.

        Args:
          rows: [N, *S] in the units that `manifest["units"]` names; a single channel may be left
            out.
          alpha: rows with a p-value of at most alpha are anomalies; None = the threshold rule of
            the run decides.

        Raises:
          ExportError: the shape or dtype of rows is wrong, or values are NaN or infinite.
        """
        if alpha is not None and not 0 < alpha < 1:
            raise ExportError(f"alpha is {alpha}; it must be between 0 and 1")
        x = self._checked(np.asarray(rows))
        parts = [self._block(x[at : at + BLOCK], alpha) for at in range(0, len(x), BLOCK)]
        score, p_value, is_anomaly = (np.concatenate(part) for part in zip(*parts, strict=True))
        if not np.isfinite(score).all():
            raise ExportError(
                f"the score of row {int(np.argmin(np.isfinite(score)))} is not finite"
            )
        n = self.manifest["n_calibration"] + 1
        return Judgement(score, np.round(p_value.astype(np.float64) * n) / n, is_anomaly)

    def _block(self, x: np.ndarray, alpha: float | None) -> tuple:
        count = -(-len(x) // CHUNK)
        padded = np.concatenate([x, np.repeat(x[:1], count * CHUNK - len(x), axis=0)])
        chunks = padded.reshape(count, CHUNK, *x.shape[1:])
        args = self._arrays, chunks, np.float32(np.nan if alpha is None else alpha)
        if count not in self._compiled:
            self._compiled[count] = _compiled(self._program.lower(*args), self.manifest)
        return tuple(np.asarray(part)[: len(x)] for part in self._compiled[count](*args))

    def _checked(self, rows: np.ndarray) -> np.ndarray:
        shape, dtype = tuple(self.manifest["shape"]), self.manifest["dtype"]
        is_uint8 = rows.dtype == np.uint8
        fits = is_uint8 == (dtype == "uint8") or (is_uint8 and len(shape) < 3)  # counts are numbers
        if rows.dtype.kind not in "fiub" or not fits:
            raise ExportError(f"the rows are {rows.dtype}; give {dtype} ({self.manifest['units']})")
        accepted = (shape, shape[:-1]) if shape[-1] == 1 else (shape,)
        if not rows.size or rows.shape[1:] not in accepted:
            raise ExportError(f"the rows are {list(rows.shape)}; give [N, *{list(shape)}]")
        rows = rows.reshape(-1, *shape)
        bad = np.flatnonzero(~np.isfinite(rows).reshape(len(rows), -1).all(axis=1))
        if bad.size:
            raise ExportError(f"{bad.size} rows hold NaN or infinite values, first row {bad[0]}")
        with np.errstate(over="ignore"):
            rows = rows.astype(dtype)
            if self._scaling:
                rows = ((rows - self._scaling[0]) / self._scaling[1]).astype(np.float32)
        return rows


def identity(arrays: dict) -> dict:
    """The scaling, in float32, of rows that are scaled already."""
    shape = arrays["scaling/shift"].shape
    return {"scaling/shift": np.zeros(shape, "f4"), "scaling/scale": np.ones(shape, "f4")}


def _compiled(lowered, manifest: dict):
    """Compile a program, on a CPU with the run's options if this version of JAX has them."""
    import jax

    if jax.default_backend() == "cpu":
        try:
            return lowered.compile(compiler_options=manifest["cpu_options"])
        except jax.errors.JaxRuntimeError:
            pass
    return lowered.compile()


def load(path, check: bool = True) -> Detector:
    """The detector in an exported archive.

    Args:
      path: the archive.
      check: judge the golden rows, and refuse the archive if their scores differ from those in it.

    Raises:
      ExportError: the archive is missing, damaged or too old, or its golden scores differ.
    """
    manifest, files = _read(path)
    arrays = {"unit": np.float32(255 if manifest["dtype"] == "uint8" else 1)}
    with np.load(io.BytesIO(files[manifest["arrays"]])) as stored:
        arrays.update(stored)
    detector = Detector(manifest, files[PROGRAM], arrays)
    if check:
        with np.load(io.BytesIO(files[GOLDEN])) as golden:
            _compare(detector.judge(golden["rows"]), golden["score"], golden["p_value"])
    return detector


def _read(path) -> tuple[dict, dict[str, bytes]]:
    """The manifest and the files that it lists, after checking their digests."""
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = json.loads(archive.read(MANIFEST))
            files = {name: archive.read(name) for name in manifest["digests"]}
    except (OSError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ExportError(f"{path} is not a readable export ({error}); export it again") from None
    missing = [name for name in _REQUIRED if name not in manifest]
    missing += [name for name in (manifest.get("arrays"), PROGRAM, GOLDEN) if name not in files]
    if missing:
        raise ExportError(
            f"{path}: the manifest lacks {', '.join(map(str, missing))}; export it again"
        )
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != manifest["digests"][name]:
            raise ExportError(f"{name} in {path} has changed since the export; export it again")
    return manifest, files


def _compare(judged: Judgement, score: np.ndarray, p_value: np.ndarray) -> None:
    error = np.abs(judged.score - score) / np.maximum(1.0, np.abs(score))
    if not error.max() <= _TOLERANCE or np.abs(judged.p_value - p_value).max() > 0.5:
        raise ExportError(
            f"scores of the golden rows differ here by {error.max():.1e}; export the run again "
            "with the version of JAX that is installed here"
        )


def main(args: list[str] | None = None) -> int:
    """`python detector.zip ROWS`; the exit code is 2 if something cannot be used."""
    parser = argparse.ArgumentParser("python DETECTOR.zip", description=__doc__.splitlines()[0])
    parser.add_argument("rows", help=".npy, or .npz with x_test or one array: raw rows")
    parser.add_argument("--alpha", type=float, help="flag p-values <= ALPHA, not by the run's rule")
    parser.add_argument("--out", help=".csv to write: row, score, p_value, is_anomaly")
    options = parser.parse_args(args)
    rows, out = options.rows, options.out
    try:
        if out and os.path.exists(out) and os.path.samefile(out, rows):
            raise ExportError(f"--out {out} holds the rows themselves; name another file")
        detector = load(sys.path[0])
        if datetime.date.today().isoformat() > detector.manifest["expires"]:
            print(f"note: the program expired on {detector.manifest['expires']}", file=sys.stderr)
        judged = detector.judge(_rows(rows), options.alpha)
        if out:
            _write(out, judged)
    except (ExportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(f"{judged.is_anomaly.sum()} of {len(judged.score)} rows are anomalies")
    return 0


def _rows(path: str) -> np.ndarray:
    try:
        stored = np.load(path)
        if isinstance(stored, np.ndarray):
            return stored
        with stored:
            names = stored.files
            if "x_test" not in names and len(names) != 1:
                raise ExportError(f"{path} holds {', '.join(names)}; name the rows x_test")
            return stored["x_test" if "x_test" in names else names[0]]
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ExportError(f"{path}: {error}") from None


def _write(path: str, judged: Judgement) -> None:
    lines = ["row,score,p_value,is_anomaly"]
    for row, (score, p_value, flag) in enumerate(zip(*judged, strict=True)):
        lines.append(f"{row},{score:.9g},{float(p_value)!r},{flag:d}")
    with open(path, "w") as file:
        file.write("\n".join(lines) + "\n")
