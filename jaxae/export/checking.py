"""Whether an export is what it says: `jaxae verify`, and the source of `jaxae export OLD NEW`.

Nothing in an archive is executed but its compiled program: its code is compared, never imported.
"""

import contextlib
import datetime
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxae import detectors
from jaxae.detectors import Detector
from jaxae.devices import parallel
from jaxae.errors import Unchecked, UserError
from jaxae.export import card, contents, loader, signing
from jaxae.export.program import golden_rows, serialised_maps, serialised_program
from jaxae.storage import archive, disk, provenance

# What versions of jaxae say alike of a detector, in the manifest and on the card.
_SAID = ("shape", "dtype", "rule", "threshold", "n_calibration")
_ON_CARD = ("method", "score", "threshold")
_FILES = (loader.PROGRAM, loader.GOLDEN, loader.CODE, contents.MAIN, card.TEXT, card.JSON)
_IS_ANOTHER = "its program is another than these versions make, though golden rows agree"
_FLATBUFFERS = "flatbuffers"  # the package in the archive, and its licence


def check(path: Path, key: bytes = b"", runs: bool = True) -> str:
    """Check all that can be checked of an archive.

    All files and the manifest have their digests, and with a key the signature. What the manifest
    and the model card say follows from the detector. Code, card and program are those that this
    version of jaxae writes, if it wrote them. Detector and program judge the golden rows as
    recorded.

    Args:
      path: the archive.
      key: checks the signature; empty = it is not checked.
      runs: whether the program must run here; else the detector alone judges the golden rows.

    Returns:
      What was checked, for the user.

    Raises:
      jaxae.export.loader.ExportError: something is not as it was written.
      Unchecked: nothing is wrong, but something could not be checked.
    """
    manifest, files = loader.read(path)
    if key:
        signing.check(manifest, loader.statement(manifest), key)
    parallel.initialize()
    by = manifest.get("exported_by")
    is_own = manifest["format"] == loader.FORMAT and by == provenance.version("jaxae")
    with unpacked(files) as folder:
        try:
            detector = detectors.load(folder)
        except UserError as error:
            raise loader.ExportError(str(error).replace(str(folder), str(path))) from None
        _check_names(manifest, files, folder)
        _check_said(manifest, detector, is_own)
        _check_card(files, card.make(detector, folder), is_own)
        _check_report(disk.read_json(folder / "report.json"), detector, is_own)
    doubts = _check_code(files) if is_own else []
    arrays, golden = loader.stored_arrays(manifest, files), loader.golden_rows(manifest, files)
    judged = detectors.judge(detector, golden.pop("rows"))
    loader.compare(loader.Judgement(*judged), loader.Judgement(**golden), arrays)
    if loader.has_maps(manifest):
        rows, maps = loader.golden_maps(manifest, files)
        loader.compare_maps(detectors.score_maps(detector, rows), maps)
    if runs:
        doubts += _of_programs(path, manifest, files, detector, is_own)
    if manifest["format"] == 1:
        doubts = [
            "its manifest, card and code have no digest; jaxae export OLD.zip NEW.zip adds it"
        ]
    words = f"golden rows judged as recorded; readable until {manifest['expires']} at least"
    if "signature" in manifest:
        words += "; signed with this key" if key else "; signed: --sign KEY_FILE checks the key"
    if doubts and not key:  # what is signed was checked by who signed it
        raise Unchecked("; ".join([words, *doubts]))
    return words


@contextlib.contextmanager
def unpacked(files: dict[str, bytes]) -> Iterator[Path]:
    """The detector of an archive in a temporary folder, with the report on its model card.

    Raises:
      jaxae.export.loader.ExportError: the model card is damaged.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, part in files.items():
            inner = file.removeprefix(loader.DETECTOR)
            if inner != file and Path(inner).name == inner:
                (folder / inner).write_bytes(part)
        try:
            about = json.loads(files[card.JSON])
            card.text(about)
        except Exception as error:  # a card that anyone may have written
            raise loader.ExportError(
                f"its {card.JSON} is not as it was written ({error!r})"
            ) from None
        (folder / "report.json").write_text(json.dumps(about["report"]))
        yield folder


def _check_names(manifest: dict, files: dict[str, bytes], folder: Path) -> None:
    """Refuse files that no export holds: Python would import a module in the archive first."""
    description, arrays = (f"{loader.DETECTOR}{name}" for name in archive.names(folder))
    names = {description, arrays, *_FILES} | ({loader.MAPS} if loader.has_maps(manifest) else set())
    odd = {name for name in {*files} - names if not name.startswith(_FLATBUFFERS)}
    if odd:
        raise loader.ExportError(
            f"it holds {', '.join(sorted(odd))}, which no export does: do not run it"
        )
    lost = names - {*files}
    if lost or manifest["arrays"] != arrays:
        raise loader.ExportError(f"it lacks {', '.join(sorted(lost) or [manifest['arrays']])}")


def _check_said(manifest: dict, detector: Detector, is_own: bool) -> None:
    """Compare what the manifest says with the detector."""
    said = contents.said_of(detector, datetime.date.fromisoformat(manifest["exported"]))
    names = [name for name in said if name != "jax"] if is_own else _SAID
    _compare(manifest, said, names, loader.MANIFEST)
    odd = {*manifest} - {*said, "arrays", "digests", "digest", "signature"}
    if odd and is_own:
        raise loader.ExportError(f"{loader.MANIFEST} says {min(odd)}, which no export does")


def _check_card(files: dict[str, bytes], about: dict[str, Any], is_own: bool) -> None:
    """Compare the model card with the detector, and its text with its JSON."""
    made = card.files(about)
    _compare(json.loads(files[card.JSON]), json.loads(made[card.JSON]), _ON_CARD, card.JSON)
    for name in made if is_own else ():
        if files[name] != made[name]:
            raise loader.ExportError(f"{name} does not follow from the detector and its report")


def _check_report(report: dict[str, Any], detector: Detector, is_own: bool) -> None:
    """Compare the report on the model card with the detector; its metrics follow from the run."""
    cfg = detector.about.config
    follows = {
        "name": cfg.name,
        "seed": cfg.seed,
        "dataset": cfg.data.name,
        "method": cfg.method,
        "score": cfg.score,
        "threshold": detector.decision.threshold,
    }
    digest = report.get("digest", {})  # earlier versions wrote fewer values
    parameters = {"parameters": provenance.digest(detector.variables)}
    for said, made in ((report, follows), (digest, parameters)) if is_own else ():
        _compare(said, made, said.keys() & made, f"the report in {card.JSON}")


def _check_code(files: dict[str, bytes]) -> list[str]:
    """Compare the code with that of this version, which wrote it; returns what is not compared."""
    own, version = contents.code(), f"{_FLATBUFFERS}/_version.py"
    of_package = {name for name in {*own, *files} if name.startswith(_FLATBUFFERS)}
    is_other = own.get(version) != files.get(version)
    for name in {*own, *of_package} - (of_package if is_other else set()):
        if files.get(name) != own.get(name):
            raise loader.ExportError(
                f"{name} is not what this version of jaxae writes: do not run it"
            )
    return [f"its {_FLATBUFFERS} is another version than is installed here"] if is_other else []


def _compare(stored: dict, made: dict, names: Iterable[str], file: str) -> None:
    """Refuse a file that says something else than what follows from the detector."""
    for name in names:
        if stored.get(name) != made[name]:
            raise loader.ExportError(
                f"{file} says {name} {stored.get(name)!r}, but by its detector it is {made[name]!r}"
            )


def _of_programs(
    path: Path, manifest: dict, files: dict[str, bytes], detector: Detector, is_own: bool
) -> list[str]:
    """Judge golden rows with the programs; returns why another JAX cannot, or what is unknown.

    The program of maps is read only if nothing says that it is another: reading one that was
    damaged on purpose may end the process.
    """
    try:
        exported = loader.load(path)
        doubts = _doubts(manifest, files, detector, is_own)
        if exported.golden_maps and _IS_ANOTHER not in doubts:
            exported.score_maps(exported.golden_maps[0])
    except loader.ExpiredError as error:
        if manifest["jax"] == jax.__version__:
            raise
        return [str(error)]
    return doubts


def _doubts(manifest: dict, files: dict[str, bytes], detector: Detector, is_own: bool) -> list[str]:
    """What of code and program could not be compared."""
    if not is_own:
        return [f"its code is of another jaxae, {manifest.get('exported_by')}, and not compared"]
    if manifest["jax"] != jax.__version__:
        return [f"its program is of JAX {manifest['jax']}, not the one here, and not compared"]
    made = serialised_program(detector), serialised_maps(detector)
    if (files[loader.PROGRAM], files.get(loader.MAPS, b"")) != made:
        return [_IS_ANOTHER]
    rows, made_rows = loader.golden_rows(manifest, files)["rows"], golden_rows(detector)
    is_same = rows.shape == made_rows.shape and np.allclose(rows, made_rows, rtol=1e-6, atol=1e-9)
    if not is_same:
        return ["its golden rows are others than these versions make"]
    return []
