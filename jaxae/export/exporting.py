"""The command `jaxae export`: a detector as one file that runs by itself.

The archive contains a program of `jax.export` with its parameters, another for score maps if the
score has any, the detector, from which both can be rebuilt when they are too old, golden rows, a
model card, and `jaxae.export.loader`, which needs only JAX and NumPy. Its manifest has a digest of
every file, and one of all that it says itself.
"""

import contextlib
import io
import shlex
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxae import detectors
from jaxae.devices import parallel
from jaxae.errors import Unchecked, UserError
from jaxae.export import card, checking, contents, loader
from jaxae.export.program import (
    golden_maps,
    golden_rows,
    serialised_maps,
    serialised_program,
)
from jaxae.storage import archive, disk, manifest, outputs


def write(run: Path, out: Path, key: bytes = b"", overwrite: bool = False) -> Path:
    """Export the detector of a finished run, or of an older export, after checking its source.

    Args:
      run: the run folder, its detector's, or an export.
      out: the .zip to write; it appears when it is complete.
      key: signs the archive, see `jaxae.export.signing`; empty = no signature.
      overwrite: replace `out` if it exists.

    Raises:
      UserError: there is no detector, the run or export is not as it was written, the archive
        cannot be written, or the exported program decides differently on golden rows.
    """
    outputs.check(out, (".zip",), [run], overwrite, "OUT")
    with opened(run) as (folder, source):
        detector = detectors.load(source)
        about = card.make(detector, folder)
        files = {f"detector/{name}": (source / name).read_bytes() for name in archive.names(source)}
    parallel.initialize()
    rows = golden_rows(detector)
    judged = detectors.judge(detector, rows)
    golden, maps = io.BytesIO(), golden_maps(detector, rows)
    np.savez(golden, rows=rows, **judged._asdict(), **({} if maps is None else {"maps": maps}))
    files |= {loader.PROGRAM: serialised_program(detector), loader.GOLDEN: golden.getvalue()}
    files |= {} if maps is None else {loader.MAPS: serialised_maps(detector)}
    files |= card.files(about) | contents.code()
    files[loader.MANIFEST] = loader.as_text(contents.manifest(detector, files, key))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, part in files.items():
            zipped.writestr(name, part)
    try:
        exported = loader.load(content)
        exported_judgement = exported.judge(rows)  # as a user would
        if maps is not None:
            exported.score_maps(rows)
    except loader.ExportError as error:
        raise UserError(f"the export cannot be used: {error}") from None
    if (exported_judgement.is_anomaly != judged.is_anomaly).any():
        raise UserError("the exported program decides differently than the detector on golden rows")
    with outputs.system_errors(str(out)):
        disk.write_bytes(out, content.getvalue())
    return out


@contextlib.contextmanager
def opened(run: Path) -> Iterator[tuple[Path, Path]]:
    """The folders of the report and of the detector, for a run, a single detector, or an export.

    They are checked first: an export as by `jaxae verify`, except that its program may be too old
    to run; a run by the digests on record. A note says what could not be checked.

    Raises:
      UserError: the source is not as it was written.
    """
    if not run.is_file():
        source = detectors.folder_of(run)
        if (source / archive.DESCRIPTION).is_file():
            _check_run(run, source)
        yield run, source
        return
    try:
        checking.check(run, runs=False)
    except Unchecked as why:
        print(f"note: {run}: {why}", file=sys.stderr)
    except (UserError, loader.ExportError) as error:
        where = "" if str(run) in str(error) else f"{run}: "
        raise UserError(f"{where}{error}") from None
    with checking.unpacked(loader.read(run)[1]) as folder:
        yield folder, folder


def _check_run(run: Path, source: Path) -> None:
    """Refuse a run whose detector or report is not as on record."""
    folder = source.parent if run == source else run
    if not (folder / manifest.NAME).is_file():
        print(f"note: {folder} has no {manifest.NAME}: not checked for changes", file=sys.stderr)
        return
    paths = [folder / "report.json", *(source / name for name in archive.names(source))]
    names = [path.relative_to(folder).as_posix() for path in paths]
    remedy = f"restore it. See: jaxae verify {shlex.quote(str(folder))}"
    manifest.refuse_changed(folder, names, remedy)
