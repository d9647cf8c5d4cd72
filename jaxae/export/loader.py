"""Judge raw rows with an exported detector, using only JAX and NumPy.

    python detector.zip ROWS.npy [--alpha 0.05] [--out OUT.csv] [--maps MAPS.npy] [--series]

Every export carries a copy of this file, so that the archive runs by itself. From Python, with the
archive on `sys.path` or jaxae installed: `loader.load("detector.zip").judge(rows, alpha=0.05)`, and
`.score_maps(rows)` says how anomalous each place of a row is, if the detector's score does;
`.score_steps(series)` judges every step of a series, if the detector was fitted on one.

An archive is read with suspicion: what does not match its digests is refused, nothing is unpickled,
and its program may not call out of itself. Its code cannot vouch for itself, however: where an
archive comes from hands that you do not trust, run `jaxae verify` first.
"""

import argparse
import contextlib
import datetime
import hashlib
import io
import json
import math
import os
import re
import sys
import zipfile
from typing import NamedTuple

import numpy as np

MANIFEST, PROGRAM, GOLDEN, CODE = "manifest.json", "program.bin", "golden.npz", "loader.py"
MAPS = "maps.bin"  # the program of score maps, if the score has any
DETECTOR = "detector/"  # the detector, including its arrays, from which to rebuild the program
FORMAT = 3  # of the archive; 1 had digests of fewer files, and none of the manifest, 2 no maps
CHUNK = 64  # rows that are judged side by side, as in the run
BLOCK = 64 * CHUNK  # rows in one call
TOLERANCE = 1e-5  # of a score, relative to itself or to 1
MAP_TOLERANCE = 1e-4  # of a score map, relative to its largest value
EVERY = 8  # one in so many golden rows has a golden map
_BLOCK_BYTES = 2**28  # of rows as float32 in one call, if they are many
# What a manifest must say, and its type; a flag is no integer.
_FIELDS = {
    **dict.fromkeys(("jax", "exported", "expires", "dtype", "units", "rule", "arrays"), str),
    **{"format": int, "n_calibration": int, "threshold": float},
    **{"shape": list, "cpu_options": dict, "digests": dict},
}
_NEEDED = ("scaling/shift", "scaling/scale", "decision/calibration", "decision/state/threshold")
_CALLBACK = re.compile(r'custom_call @"?\S*callback')  # of a program: code outside of it
_LARGE, _RATIO = 2**24, 100  # more bytes than the first, packed by the second, are no export
_HEADER = "row,score,p_value,is_anomaly"


class ExportError(ValueError):
    """The export cannot be used, or it cannot judge the rows; the message is one line."""

    def __init__(self, message: str):
        line = " ".join(message.split())  # names in an archive may hold anything
        super().__init__("".join(c if c.isprintable() else "?" for c in line))


class ExpiredError(ExportError):
    """The program cannot be read by this version of JAX."""


class Judgement(NamedTuple):
    """Scores, p-values and decisions of rows."""

    score: np.ndarray  # [N] float32, higher = more anomalous
    p_value: np.ndarray  # [N] float64: the rank of the score among scores of normals
    is_anomaly: np.ndarray  # [N] bool


class _Program:
    """An exported program over chunks of rows, compiled for each number of them."""

    def __init__(self, content: bytes, manifest: dict):
        import jax
        from jax import export

        try:
            exported = export.deserialize(bytearray(content))
            calls_out = _CALLBACK.search(exported.mlir_module())
            (inputs, *_), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
            self._counts = "chunks" in inputs  # before format 3, it judged all chunks
        except Exception as error:  # JAX raises many types for programs of other versions
            raise ExpiredError(
                f"its program of {manifest['exported']} for JAX {manifest['jax']}, promised to be "
                f"readable until {manifest['expires']}, cannot be read ({_reason(error)}); rebuild "
                "it from its parameters: jaxae export OLD.zip NEW.zip"
            ) from None
        if calls_out:
            raise ExportError("its program calls code outside of it, as no export does; refuse it")
        self._call, self._manifest = jax.jit(exported.call), manifest
        self._compiled: dict = {}

    def __call__(self, arrays: dict, x: np.ndarray, *more: np.float32) -> list[np.ndarray]:
        """What the program says of rows x [N, *S], block by block."""
        per_chunk = 4 * CHUNK * math.prod(x.shape[1:])
        size = max(1, min(BLOCK // CHUNK, _BLOCK_BYTES // per_chunk)) * CHUNK
        parts = [self._block(arrays, x[at : at + size], more) for at in range(0, len(x), size)]
        return [np.concatenate(part) for part in zip(*parts, strict=True)]

    def _block(self, arrays: dict, x: np.ndarray, more: tuple) -> tuple:
        count = filled = -(-len(x) // CHUNK)
        if self._counts:  # room for two, of which it may judge one
            count, arrays = max(2, count), arrays | {"chunks": np.int32(filled)}
        padded = np.concatenate([x, np.repeat(x[:1], count * CHUNK - len(x), axis=0)])
        args = arrays, padded.reshape(count, CHUNK, *x.shape[1:]), *more
        if count not in self._compiled:
            self._compiled[count] = _compiled(self._call.lower(*args), self._manifest)
        found = self._compiled[count](*args)
        parts = found if isinstance(found, list | tuple) else (found,)
        return tuple(np.asarray(part)[: len(x)] for part in parts)


class Detector:
    """An exported detector; see `load`."""

    def __init__(self, manifest: dict, program: bytes, arrays: dict, maps: bytes = b""):
        import jax

        self.manifest = manifest
        self.golden_maps: tuple = ()  # rows and their maps, to compare once; () = nothing
        self._program = _Program(program, manifest)
        self._maps: bytes | _Program = maps  # read when it is first needed
        self._scaling = None
        self._highest = _highest(arrays) if manifest.get("steps") else np.zeros(0, np.float32)
        if arrays["scaling/shift"].dtype == np.float64:  # devices compute in float32
            self._scaling = arrays["scaling/shift"], arrays["scaling/scale"]
            arrays = arrays | identity(arrays)
        self._arrays = jax.device_put(arrays)

    def judge(self, rows: np.ndarray, alpha: float | None = None) -> Judgement:
        """Scores, p-values and decisions.

        Args:
          rows: [N, *S] in the units that `manifest["units"]` names; a single channel may be left
            out.
          alpha: rows with a p-value of at most alpha are anomalies, compared in float64 as they are
            returned; None = the threshold rule of the run decides.

        Raises:
          ExportError: the shape or dtype of rows is wrong, values are masked, NaN or infinite, or
            alpha is not between 0 and 1, or smaller than every p-value.
        """
        n = self.manifest["n_calibration"]
        if alpha is not None:
            _check_alpha(alpha, n)
        x = self._checked(rows)
        with _refusing("its program cannot judge the rows"):
            no_alpha = np.float32(np.nan)  # the rule decides
            score, p_value, is_anomaly = self._program(self._arrays, x, no_alpha)
        if not np.isfinite(score).all():
            raise ExportError(
                f"the score of row {int(np.argmin(np.isfinite(score)))} is not finite"
            )
        p_value = np.round(p_value.astype(np.float64) * (n + 1)) / (n + 1)
        return Judgement(score, p_value, is_anomaly if alpha is None else p_value <= alpha)

    def score_maps(self, rows: np.ndarray) -> np.ndarray:
        """How anomalous each place of rows is: pixels [N, H, W], steps [N, T] or features [N, F].

        Args:
          rows: see `judge`.

        Returns:
          [N, *manifest["places"]] float32, at least 0, higher = more anomalous.

        Raises:
          ExportError: the rows cannot be judged, see `judge`; the archive has no score maps, or
            golden rows have others here, which is checked once.
        """
        if not self._maps:
            raise ExportError(
                "its score says nothing of single places"
                if self.manifest["format"] > 2
                else "it was written before exports had score maps; where its score has any, this "
                "adds them: jaxae export OLD.zip NEW.zip"
            )
        if self.golden_maps:
            compare_maps(self._map(self.golden_maps[0]), self.golden_maps[1])
            self.golden_maps = ()
        return self._map(rows)

    def _map(self, rows: np.ndarray) -> np.ndarray:
        x = self._checked(rows)
        if isinstance(self._maps, bytes):
            self._maps = _Program(self._maps, self.manifest)
        with _refusing("its program cannot judge the rows"):
            (maps,) = self._maps(self._arrays, x)
        shape = (len(x), *self.manifest["places"])
        if maps.shape != shape or not np.isfinite(maps).all():
            raise ExportError(f"its maps are not all finite values {list(shape)}; export it again")
        return maps

    def score_steps(self, series: np.ndarray, alpha: float | None = None) -> Judgement:
        """Scores, p-values and decisions of every step of a series, as `jaxae score` gives them.

        Windows lie as far apart as in the run, and the last one ends with the series. The score of
        a step is the mean over the windows that hold it; its p-value ranks it among the highest
        scores of held-out blocks of steps.

        Args:
          series: [T] or [T, C], in the units that `manifest["units"]` names, without gaps.
          alpha: see `judge`.

        Raises:
          ExportError: the detector was not fitted on a series, the series is shorter than a window
            or cannot be judged, see `judge`, or alpha is too small.
        """
        by_step = self.manifest.get("steps")
        if not by_step:
            raise ExportError(
                "its detector does not decide about steps; give windows to judge, or export a "
                "detector that this version fitted on a series"
            )
        if alpha is not None:
            _check_alpha(alpha, len(self._highest))
        series, window = np.asarray(series), self.manifest["shape"][0]
        if series.ndim not in (1, 2) or len(series) < window:
            raise ExportError(
                f"the series is {list(series.shape)}; give [T] or [T, C], with {window} steps or "
                "more"
            )
        last = len(series) - window
        start = np.union1d(np.arange(0, last + 1, by_step["stride"]), last)
        score = self._averaged(series, start, self.score_maps if by_step["by_map"] else None)
        ordered, n = self._highest, len(self._highest)
        p_value = (n + 1 - np.searchsorted(ordered, score)) / (n + 1)
        p_value[np.isnan(score)] = np.nan
        flagged = score > np.float32(by_step["above"]) if alpha is None else p_value <= alpha
        return Judgement(score, p_value, flagged)

    def _averaged(self, series: np.ndarray, start: np.ndarray, maps) -> np.ndarray:
        """The mean over the windows that hold a step, in their order; NaN where none does."""
        window = self.manifest["shape"][0]
        total, count = np.zeros(len(series)), np.zeros(len(series), np.int64)
        for at in range(0, len(start), BLOCK):
            first = start[at : at + BLOCK]
            rows = series[first[:, None] + np.arange(window)]
            values = maps(rows) if maps else np.repeat(self.judge(rows).score[:, None], window, 1)
            for place in reversed(range(window)):  # so that the first windows are added first
                total[first + place] += values[:, place]
                count[first + place] += 1
        score = np.full(len(series), np.nan, np.float32)
        score[count > 0] = total[count > 0] / count[count > 0]
        return score

    def _checked(self, rows: np.ndarray) -> np.ndarray:
        shape, dtype = tuple(self.manifest["shape"]), self.manifest["dtype"]
        if np.ma.is_masked(rows):
            raise ExportError("the rows hold masked values; fill them, or leave their rows out")
        with _refusing("the rows are not an array", "give [N, ...]"):
            rows = np.asarray(rows)
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


def _highest(arrays: dict) -> np.ndarray:
    """The highest score of each held-out block of steps, in order; -1 is no block."""
    score, block = arrays["places/steps/score"], arrays["places/steps/block"]
    highest = [score[block == number].max() for number in range(int(block.max()) + 1)]
    return np.sort(np.array(highest, np.float32))


def identity(arrays: dict) -> dict:
    """The scaling, in float32, of rows that are scaled already."""
    shape = arrays["scaling/shift"].shape
    return {"scaling/shift": np.zeros(shape, "f4"), "scaling/scale": np.ones(shape, "f4")}


def _check_alpha(alpha: float, n: int) -> None:
    if not 0 < alpha < 1:
        raise ExportError(f"alpha is {alpha:g}; a false-positive rate lies between 0 and 1")
    if alpha < 1 / (n + 1):
        raise ExportError(
            f"alpha {alpha:g} is too low for {n} calibration rows, whose smallest p-value is "
            f"1/{n + 1}: give an alpha of at least {-(-(10**6) // (n + 1)) / 10**6:g}, or a "
            f"detector with {math.ceil(1 / alpha) - 1} held-out normals or more"
        )


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
      check: judge the golden rows, and refuse the archive if their scores, p-values or decisions
        are not those in it; with the first score maps, which need another program, also theirs.

    Raises:
      ExportError: the archive is missing, damaged or too old, or golden rows are judged otherwise.
    """
    manifest, files = read(path)
    arrays = stored_arrays(manifest, files)
    unit = np.float32(255 if manifest["dtype"] == "uint8" else 1)
    with _refusing(f"{path} is not a readable export"):
        maps = files[MAPS] if has_maps(manifest) else b""
        detector = Detector(manifest, files[PROGRAM], arrays | {"unit": unit}, maps)
    if check:
        golden = golden_rows(manifest, files)
        compare(detector.judge(golden.pop("rows")), Judgement(**golden), arrays)
    if check and maps:
        detector.golden_maps = golden_maps(manifest, files)
    return detector


def read(path) -> tuple[dict, dict[str, bytes]]:
    """The manifest and all other files of an archive, after checking their digests.

    In format 1, only the detector, the program and the golden rows have digests.

    Raises:
      ExportError: the archive cannot be read, the manifest is not as it was written, or a file has
        changed, is missing or is not on record.
    """
    with _refusing(f"{path} is not a readable export"):
        files = _unpacked(path)
        text = files.pop(MANIFEST)
    with _refusing(f"{path} is not a readable export by its {MANIFEST}"):
        manifest = json.loads(text)
        _check_manifest(manifest)
    again, digests = "export it again", manifest["digests"]
    if manifest["format"] > 1 and (text, manifest.get("digest")) != (
        as_text(manifest),
        digest_of(manifest),
    ):
        raise ExportError(f"{MANIFEST} in {path} has changed since the export; {again}")
    needed = {manifest["arrays"], PROGRAM, GOLDEN, *([MAPS] if has_maps(manifest) else [])}
    lost = ({*digests} | needed) - {*files}
    more = (needed if manifest["format"] == 1 else {*files}) - {*digests}
    if lost or more:
        how = "lacks" if lost else "holds, without a digest,"
        raise ExportError(f"{path} {how} {', '.join(sorted(lost or more))}; {again}")
    for name, digest in digests.items():
        if hashlib.sha256(files[name]).hexdigest() != digest:
            raise ExportError(f"{name} in {path} has changed since the export; {again}")
    return manifest, files


def has_maps(manifest: dict) -> bool:
    """Whether an archive holds a program of score maps; before format 3 none did."""
    return manifest["format"] > 2 and bool(manifest["places"])


def statement(manifest: dict) -> bytes:
    """All that a manifest says, for its digest and its signature, which are left out."""
    return as_text({k: v for k, v in manifest.items() if k not in ("digest", "signature")})


def digest_of(manifest: dict) -> str:
    """SHA-256 of all that a manifest says, in hexadecimal."""
    return hashlib.sha256(statement(manifest)).hexdigest()


def as_text(manifest: dict) -> bytes:
    """A manifest as it is written, so that no byte of it can differ."""
    return json.dumps(manifest, indent=2).encode()


def _unpacked(file) -> dict[str, bytes]:
    """The content of a zip file by name, after checking names and sizes."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        names = [entry.filename for entry in entries]
        odd = [name for i, name in enumerate(names) if name in names[:i] or ".." in name]
        if odd:
            raise ValueError(f"{odd[0]} is in it twice, or leads out of it")
        size = sum(entry.file_size for entry in entries)
        if size > _LARGE and size > _RATIO * sum(entry.compress_size for entry in entries):
            raise ValueError(f"it would unpack to {size / 1e6:.0f} MB")
        return {entry.filename: archive.read(entry) for entry in entries}


def _check_manifest(manifest: dict) -> None:
    """Refuse a manifest that does not say what it must, in the right types."""
    if type(manifest) is not dict:
        raise ValueError(f"{MANIFEST} holds no object")
    wrong = [name for name, kind in _FIELDS.items() if type(manifest.get(name)) is not kind]
    if wrong:
        raise ValueError(f"the manifest lacks {', '.join(wrong)}, or has another type there")
    if not 1 <= manifest["format"] <= FORMAT:
        raise ValueError(f"its format, {manifest['format']}, is that of another version")
    shape, options = manifest["shape"], manifest["cpu_options"]
    places = manifest.get("places") if manifest["format"] > 2 else []
    ok = {
        "shape": shape and all(type(size) is int and 0 < size < 2**31 for size in shape),
        "places": type(places) is list
        and all(type(size) is int and 0 < size < 2**31 for size in places),
        "dtype": manifest["dtype"] in ("uint8", "float32", "float64"),
        "n_calibration": 0 < manifest["n_calibration"] < 2**24,
        "cpu_options": all(
            re.match("xla_(cpu|backend)_", name) and type(value) in (bool, int, float, str)
            for name, value in options.items()
        ),
        "steps": _are_steps(manifest.get("steps")),
        "digests": all(type(digest) is str for digest in manifest["digests"].values()),
    }
    for name in ("exported", "expires"):
        ok[name] = datetime.date.fromisoformat(manifest[name]).year < 9000
    wrong = [name for name in ok if not ok[name]]
    if wrong:
        raise ValueError(f"the manifest says what no export does in {', '.join(wrong)}")


def _are_steps(said) -> bool:
    """Whether a manifest says what an export may say of steps; None of a detector of no series."""
    kinds = {"stride": int, "by_map": bool, "above": float}
    return said is None or (
        type(said) is dict
        and {name: type(value) for name, value in said.items()} == kinds
        and 0 < said["stride"] < 2**31
    )


def _arrays(content: bytes, needed: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The arrays of an .npz; nothing is unpickled."""
    arrays = {}
    for name, part in _unpacked(io.BytesIO(content)).items():
        array = np.lib.format.read_array(io.BytesIO(part), allow_pickle=False)
        arrays[name.removesuffix(".npy")] = array
    lost = [name for name in needed if name not in arrays]
    if lost:
        raise ValueError(f"it lacks {', '.join(lost)}")
    return arrays


def stored_arrays(manifest: dict, files: dict[str, bytes]) -> dict[str, np.ndarray]:
    """The arrays of the detector by name; threshold and calibration are those of the manifest.

    Raises:
      ExportError: they are not, or the arrays cannot be read.
    """
    name = manifest["arrays"]
    with _refusing(f"{name} cannot be read"):
        arrays = _arrays(files[name], _NEEDED)
        calibration = arrays["decision/calibration"]
        threshold = float(arrays["decision/state/threshold"])
        if calibration.ndim != 1 or calibration.dtype.kind != "f":
            raise ValueError("its calibration scores are no row of numbers")
    for field, value in (("n_calibration", calibration.size), ("threshold", threshold)):
        if manifest[field] != value:
            raise ExportError(
                f"{field} is {manifest[field]:g} in {MANIFEST}, but {value:g} in {name}; export "
                "the run again"
            )
    return arrays


def golden_rows(manifest: dict, files: dict[str, bytes]) -> dict[str, np.ndarray]:
    """The golden rows [k, *S], their score, p_value and is_anomaly [k]; in format 1 that is None.

    Raises:
      ExportError: they cannot be read, or do not belong together.
    """
    names = ("rows", *Judgement._fields)
    with _refusing(f"{GOLDEN} cannot be read"):
        golden = _arrays(files[GOLDEN], names if manifest["format"] > 1 else names[:3])
        golden.setdefault("is_anomaly", None)
        judged = [golden[name] for name in names[1:] if golden[name] is not None]
        count = len(golden["rows"])
        if not count or any(part.shape != (count,) for part in judged):
            raise ValueError("its arrays do not have one value for every row")
        if any(part.dtype.kind not in "fb" or not np.isfinite(part).all() for part in judged):
            raise ValueError("its values are not all finite numbers")
    return {name: golden[name] for name in names}


def golden_maps(manifest: dict, files: dict[str, bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Those of the golden rows that have golden score maps, and these [k, *P].

    Raises:
      ExportError: they cannot be read, or do not belong together.
    """
    with _refusing(f"{GOLDEN} cannot be read"):
        golden = _arrays(files[GOLDEN], ("rows", "maps"))
        rows, maps = golden["rows"][::EVERY], golden["maps"]
        shape = (len(rows), *manifest["places"])
        if maps.shape != shape or maps.dtype.kind != "f" or not np.isfinite(maps).all():
            raise ValueError(f"its maps are not all finite values {list(shape)}")
    return rows, maps


def compare_maps(maps: np.ndarray, golden: np.ndarray) -> None:
    """Refuse score maps of golden rows that are not the recorded ones.

    Values may differ by `MAP_TOLERANCE` of the largest in the map.

    Raises:
      ExportError: they differ.
    """
    error = map_error(maps, golden)
    if not error <= MAP_TOLERANCE:
        raise ExportError(
            f"score maps of the golden rows differ here by {error:.1e}; export the run again with "
            "the version of JAX that is installed here"
        )


def map_error(maps: np.ndarray, golden: np.ndarray) -> float:
    """The largest difference between maps [N, *P], relative to the largest value of the map."""
    axes = tuple(range(1, golden.ndim))
    size = np.maximum(np.abs(golden).max(axis=axes), np.finfo(np.float32).tiny)
    return float((np.abs(maps - golden).max(axis=axes) / size).max())


def compare(judged: Judgement, golden: Judgement, arrays: dict) -> None:
    """Refuse a judgement of golden rows that is not the recorded one.

    Scores may differ by `TOLERANCE`. P-values are exactly the ranks of their scores; decisions
    differ only where the score lies that close to the threshold. Without recorded decisions, these
    are not compared.

    Raises:
      ExportError: they differ.
    """
    again = "export the run again with the version of JAX that is installed here"
    error = np.abs(judged.score - golden.score) / np.maximum(1.0, np.abs(golden.score))
    if not error.max() <= TOLERANCE:
        raise ExportError(f"scores of the golden rows differ here by {error.max():.1e}; {again}")
    ordered, n = np.sort(arrays["decision/calibration"]), arrays["decision/calibration"].size
    for part in (judged, golden):
        p_value = (n + 1 - np.searchsorted(ordered, part.score.astype(ordered.dtype))) / (n + 1)
        wrong = int(np.sum(~(np.abs(part.p_value - p_value) < 0.01 / (n + 1))))
        if wrong:
            raise ExportError(f"{wrong} golden p-values are no rank of their score; {again}")
    if golden.is_anomaly is not None:
        threshold = float(arrays["decision/state/threshold"])
        rounding = TOLERANCE * max(1.0, abs(threshold))
        near = np.isclose(golden.score, threshold, rtol=0, atol=rounding)
        flipped = int(np.sum((judged.is_anomaly != golden.is_anomaly) & ~near))
        if flipped:
            raise ExportError(f"{flipped} decisions on golden rows differ here; {again}")


@contextlib.contextmanager
def _refusing(problem: str, remedy: str = "export it again"):
    """Make any error one line: zip, JSON, NumPy and JAX raise many types."""
    try:
        yield
    except ExportError:
        raise
    except Exception as error:
        raise ExportError(f"{problem} ({_reason(error)}); {remedy}") from None


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def main(args: list[str] | None = None) -> int:
    """`python detector.zip ROWS`; the exit code is 2 if something cannot be used."""
    parser = argparse.ArgumentParser("python DETECTOR.zip", description=__doc__.splitlines()[0])
    parser.add_argument("rows", help=".npy, or .npz with x_test or one array: raw rows")
    parser.add_argument("--alpha", type=float, help="flag p-values <= ALPHA, not by the run's rule")
    parser.add_argument("--out", help=f".csv to write: {_HEADER}")
    parser.add_argument("--maps", help=".npy to write: how anomalous each place of a row is")
    parser.add_argument("--series", action="store_true", help="judge every step of [T] or [T, C]")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are named")
    options = parser.parse_args(args)
    rows, out, maps = options.rows, options.out, options.maps
    try:
        for path, name, suffix in ((out, "--out", ".csv"), (maps, "--maps", ".npy")):
            if path:
                _check_out(f"{name} {path}", path, suffix, rows, options.overwrite)
        detector = load(sys.path[0])
        if datetime.date.today().isoformat() > detector.manifest["expires"]:
            print(f"note: the program expired on {detector.manifest['expires']}", file=sys.stderr)
        x = _rows(rows)
        found = detector.score_maps(x) if maps else None  # first: it may have none
        judge = detector.score_steps if options.series else detector.judge
        judged = judge(x, options.alpha)
        if out:
            _write(out, _table(judged).encode())
        if maps:
            content = io.BytesIO()
            np.lib.format.write_array(content, found)
            _write(maps, content.getbuffer())
    except (ExportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    print(f"{judged.is_anomaly.sum()} of {len(judged.score)} rows are anomalies")
    return 0


def _check_out(name: str, out: str, suffix: str, rows: str, overwrite: bool) -> None:
    """Refuse, before rows are judged, what cannot be written or must not be replaced."""
    if os.path.splitext(out)[1] != suffix or not os.path.isdir(os.path.dirname(out) or "."):
        raise ExportError(f"{name} cannot be written; name a {suffix} in a folder that exists")
    if not os.path.lexists(out):
        return
    for kept, what in ((rows, "the rows themselves"), (sys.path[0], "this export")):
        if os.path.exists(kept) and os.path.exists(out) and os.path.samefile(out, kept):
            raise ExportError(f"{name} holds {what}; name another file")
    if _is_on_record(out):
        raise ExportError(f"{name} is part of a run; name another file")
    if os.path.isdir(out) or not overwrite:
        raise ExportError(f"{name} exists; add --overwrite to replace it, or name another")


def _is_on_record(path: str) -> bool:
    """Whether a folder above lists this file in its manifest, as runs of jaxae do."""
    path = folder = os.path.realpath(path)
    while folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
        recorded = os.path.join(folder, MANIFEST)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError), open(recorded) as file:
            if os.path.relpath(path, folder) in json.load(file)["files"]:
                return True
    return False


def _rows(path: str) -> np.ndarray:
    if not os.path.isfile(path):
        raise ExportError(f"{path} is no file; give the rows as a .npy or .npz")
    with open(path, "rb") as file:
        if not file.read(6).startswith((b"\x93NUMPY", b"PK")):
            raise ExportError(f"{path} is no .npy or .npz; save the rows as one of these")
    with _refusing(f"{path} is no readable .npy or .npz", "write it again"):
        stored = np.load(path, allow_pickle=False)
        if isinstance(stored, np.ndarray):
            return stored
        with stored:
            names = stored.files
            if "x_test" not in names and len(names) != 1:
                raise ExportError(
                    f"{path} holds {', '.join(names[:9]) or 'nothing'}; name the rows x_test"
                )
            return stored["x_test" if "x_test" in names else names[0]]


def _table(judged: Judgement) -> str:
    lines = [_HEADER]
    for row, (score, p_value, flag) in enumerate(zip(*judged, strict=True)):
        lines.append(f"{row},{score:.9g},{float(p_value)!r},{flag:d}")
    return "\n".join([*lines, ""])


def _write(path: str, content) -> None:
    unfinished = f"{path}.{os.getpid()}"
    try:
        with open(unfinished, "wb") as file:
            file.write(content)
        os.replace(unfinished, path)
    finally:
        with contextlib.suppress(OSError):
            os.remove(unfinished)
