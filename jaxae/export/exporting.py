"""The command `jaxae export`: a detector as one file that runs by itself.

The archive contains a program of `jax.export` with its parameters, the detector, from which the
program can be rebuilt when it is too old, golden rows, a model card, and `jaxae.export.loader`,
which needs only JAX and NumPy.
"""

import contextlib
import datetime
import hashlib
import importlib.metadata
import io
import json
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export, lax
from jaxtyping import Array, Float

from jaxae import config, detectors, scoring
from jaxae.data import inputs
from jaxae.data.raw_data import FARTHEST
from jaxae.detectors import Detector
from jaxae.devices import parallel, tuning
from jaxae.errors import UserError, words
from jaxae.export import card, loader
from jaxae.methods import learners
from jaxae.stats.conformal import split_p_values
from jaxae.storage import archive, disk
from jaxae.types import Inferred, PyTree

PLATFORMS = ("cpu", "cuda", "tpu")
_READABLE_DAYS = 180  # days that jax.export keeps an old program readable
_GOLDEN_ROWS = 32  # number of rows
_CARD = "model_card.json"


def write(run: Path, out: Path) -> Path:
    """Export the detector of a finished run, or of an older export.

    Args:
      run: the run folder, its detector's, or an export.
      out: the archive; an existing file is replaced when the new one is complete.

    Raises:
      UserError: there is no detector, the archive cannot be written, or the exported program
        decides differently on golden rows.
    """
    if not out.parent.is_dir() or out.suffix != ".zip":
        raise UserError(f"{out} cannot be written; name a .zip or .onnx in a folder that exists")
    with opened(run) as (folder, source):
        detector = detectors.load(source)
        about = card.make(detector, folder)
        files = {f"{loader.DETECTOR}{path.name}": path.read_bytes() for path in source.glob("*.*")}
    parallel.initialize()
    rows = golden_rows(detector)
    judged = detectors.judge(detector, rows)
    golden = io.BytesIO()
    np.savez(golden, rows=rows, score=judged.score, p_value=judged.p_value)
    files |= {
        loader.PROGRAM: serialised_program(detector),
        loader.GOLDEN: golden.getvalue(),
        loader.CODE: Path(loader.__file__).read_bytes(),
    }
    texts = {
        loader.MANIFEST: json.dumps(_manifest(detector, files), indent=2),
        "MODEL_CARD.md": card.text(about),
        _CARD: json.dumps(about, indent=2),
        "__main__.py": "import sys, loader\nsys.exit(loader.main())\n",
    }
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, part in (files | texts | _flatbuffers()).items():
            zipped.writestr(name, part)
    try:
        exported_judgement = loader.load(content).judge(rows)  # as a user would
    except loader.ExportError as error:
        raise UserError(f"the export cannot be used: {error}") from None
    if (exported_judgement.is_anomaly != judged.is_anomaly).any():
        raise UserError("the exported program decides differently than the detector on golden rows")
    save(out, content.getvalue())
    return out


@contextlib.contextmanager
def opened(run: Path) -> Iterator[tuple[Path, Path]]:
    """The folders of the report and of the detector, for a run, a single detector, or an export.

    Raises:
      UserError: an export cannot be read.
    """
    if not run.is_file():
        yield run, detectors.folder_of(run)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            with zipfile.ZipFile(run) as zipped:
                files = [file for file in zipped.namelist() if file.startswith(loader.DETECTOR)]
                zipped.extractall(folder, files)
                report = json.loads(zipped.read(_CARD))["report"]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
            raise UserError(f"{run} is not a readable export ({error})") from None
        (folder / "report.json").write_text(json.dumps(report))
        yield folder, folder / loader.DETECTOR


def save(out: Path, content: bytes) -> None:
    """Write an exported file atomically.

    Raises:
      UserError: it cannot be written.
    """
    try:
        disk.write_bytes(out, content)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({words(error)})") from None


def serialised_program(detector: Detector) -> bytes:
    """The serialised program for CPUs, NVIDIA GPUs and TPUs.

    It is `(arrays, raw [k, 64, *S], alpha []) -> (score, p_value, is_anomaly)` of 64 k rows, for
    any k; the arrays are those of the detector by their names in its file, and `unit`, by which raw
    values are divided first. If alpha is NaN, the threshold rule decides.
    """
    about = detector.about
    arrays = archive.flat(detectors.tree(detector)) | {"unit": np.float32(1)}
    arrays |= loader.identity(arrays) if row_dtype(detector) == "float64" else {}
    (k,) = export.symbolic_shape("k")
    dtype = "uint8" if about.dtype == "uint8" else "float32"
    raw = jax.ShapeDtypeStruct((k, loader.CHUNK, *about.shape), dtype)
    alpha = jax.ShapeDtypeStruct((), jnp.float32)
    shapes = jax.tree.map(lambda a: jax.ShapeDtypeStruct(np.shape(a), np.asarray(a).dtype), arrays)
    program = export.export(jax.jit(_judge_fn(detector)), platforms=PLATFORMS)(shapes, raw, alpha)
    return bytes(program.serialize())


def row_dtype(detector: Detector) -> str:
    """The dtype of raw rows: uint8 for pixels, else that in which they are scaled.

    Rows in float64 are scaled before the compiled program, which computes in float32.
    """
    return "uint8" if detector.about.dtype == "uint8" else str(detector.scaling.shift.dtype)


def scoring_functions(detector: Detector) -> tuple[Callable, Callable]:
    """The two functions that make up a program over raw rows.

    Returns:
      `(scaling, unit, raw [B, *S]) -> input rows of the model`, with constants as arguments so
      that XLA divides as NumPy does; and `(variables, fitted, rows) -> scores [B]` of a member.
    """
    cfg = detector.about.config
    shape = inputs.shape_of(cfg.data.input, detector.about.shape)
    learner = learners.build(config.for_scoring(cfg), shape, axis=None)
    score = scoring.resolve(cfg.score)
    apply = inputs.INPUTS[cfg.data.input].apply

    def scaled(scaling: dict, unit: Array, raw: Array) -> Array:
        x = (raw.astype(jnp.float32) / unit - scaling["shift"][None]) / scaling["scale"][None]
        x = jnp.clip(x, -FARTHEST, FARTHEST)
        if cfg.data.input == "none":
            return x
        mapped = jax.vmap(apply)(x)
        farthest = jnp.max(jnp.abs(x), axis=tuple(range(1, x.ndim)), keepdims=True)
        return jnp.where(farthest < FARTHEST, mapped, jnp.nan)  # maps keep the rank of images

    def member_scores(variables: PyTree, fitted: PyTree, x: Array) -> Array:
        rows = Inferred(x, learner.infer(variables, x))
        return jax.vmap(score.apply, in_axes=(None, 0))(fitted, rows)

    return scaled, member_scores


def _judge_fn(detector: Detector) -> Callable:
    """The function that `serialised_program` writes."""
    rule = scoring.rule(detector.decision.rule)
    scaled, member_scores = scoring_functions(detector)

    def judge(arrays: dict, raw: Array, alpha: Array) -> tuple[Array, Array, Array]:
        tree = archive.nested(arrays)
        calibration, state = tree["decision"]["calibration"], tree["decision"]["state"]

        def chunk(rows: Array) -> Float[Array, " 64"]:
            x = scaled(tree["scaling"], tree["unit"], rows)
            all_members = (tree["variables"], tree.get("fitted", {}))
            scores = scoring.combine(lax.map(lambda one: member_scores(*one, x), all_members))
            return jnp.asarray(detectors.saturated(scores, x))

        scores = lax.map(chunk, raw).reshape(-1)
        p_value = split_p_values(calibration, scores)
        by_rule = rule.decide(state, scores)
        return scores, p_value, jnp.where(jnp.isnan(alpha), by_rule, p_value <= alpha)

    return judge


def golden_rows(detector: Detector) -> np.ndarray:
    """Rows to judge on export and on loading, for comparison: noise of growing amplitude."""
    about, generator = detector.about, np.random.default_rng(0)
    noise = generator.normal(size=(_GOLDEN_ROWS, *about.shape))
    noise *= np.linspace(0.01, 2, _GOLDEN_ROWS).reshape(-1, *(1,) * len(about.shape))
    shift, scale = detector.scaling
    if about.dtype == "uint8":
        return np.clip(128 + 64 * noise, 0, 255).astype(np.uint8)
    return (np.asarray(shift) + np.asarray(scale) * noise).astype(row_dtype(detector))


def _manifest(detector: Detector, files: dict[str, bytes]) -> dict:
    about, today = detector.about, datetime.date.today()
    return {
        "format": 1,
        "jaxae": about.version,
        "jax": jax.__version__,
        "exported": today.isoformat(),
        "expires": (today + datetime.timedelta(days=_READABLE_DAYS)).isoformat(),
        "platforms": PLATFORMS,
        "cpu_options": tuning.scoring_options(tuning.Tuning(), about.config.score_dtype, "cpu"),
        "shape": about.shape,
        "dtype": row_dtype(detector),
        "units": detectors.units(about.dtype),
        "rule": detector.decision.rule,
        "threshold": float(detector.decision.threshold),
        "n_calibration": len(detector.decision.calibration),
        "arrays": next(name for name in files if name.endswith(".npz") and "arrays" in name),
        "digests": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }


def _flatbuffers() -> dict[str, bytes]:
    """The pure Python package that jax.export needs to read programs; JAX does not depend on it."""
    files = importlib.metadata.files("flatbuffers") or []
    needed = [path for path in files if path.suffix == ".py" or "LICENSE" in path.name]
    return {str(path): path.read_binary() for path in needed if ".." not in path.parts}
