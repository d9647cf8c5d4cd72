"""The command `jaxae verify`: whether what is on record follows from what lies beside it.

`outcomes` has the result of a check; `records` reads a run's files and finds its data; `runs`,
`checkpoints`, `cross` and `grids` check them; `retraining` trains again.
"""

import functools
from pathlib import Path

from jaxae import data
from jaxae.errors import UserError
from jaxae.export import checking, loader, signing, to_onnx
from jaxae.reports import tables
from jaxae.storage import archive
from jaxae.workflows.verification import cross, grids, runs
from jaxae.workflows.verification.outcomes import Check, check
from jaxae.workflows.verification.records import Records
from jaxae.workflows.verification.retraining import of_training

__all__ = ["Check", "table", "verify"]


def verify(path: Path, retrain: bool = False, sign: Path | None = None) -> list[Check]:
    """Check a run folder, the folder of a protocol, a detector's folder or an export.

    Files are compared with the digests in the manifest and, where it can be, with what follows from
    other files, computed again; docs/scale.md lists what each must follow from. Nothing is trained
    unless `retrain` is set.

    Args:
      path: a folder or a file.
      retrain: train the run again, in a temporary folder, and compare its parameters and scores;
        if their bits differ, the check lists the differences in versions and hardware. A member of
        a protocol is trained alone, on one device.
      sign: the file with the key that an export must be signed with.

    Returns:
      The checks in order. What damages one leaves the others; what cannot be checked, because data
      are missing or a part that it needs is damaged, is "not checked".

    Raises:
      UserError: the path is none of these, or there is no run that could be trained again.
    """
    if sign and (not path.is_file() or path.suffix == ".onnx"):
        raise UserError(f"{path} is not a .zip of `jaxae export`; --sign is for these alone")
    load = functools.lru_cache(maxsize=1)(data.load)  # members of a class follow each other
    if (path / "members").is_dir():
        return grids.checked(path, retrain, load)
    is_run = (path / "config.json").is_file() and (path / "detector").is_dir()
    if retrain and not is_run:
        raise UserError(f"{path} is not a run folder: there is nothing to train again")
    if path.suffix == ".onnx" and path.is_file():
        return [check("export", to_onnx.check, path)]
    if path.is_file():
        key = signing.read_key(sign) if sign else b""
        return [check("export", checking.check, path, key), check("detector", _of_detector, path)]
    if (path / archive.DESCRIPTION).is_file():
        return [check("detector", runs.of_detector, path)]
    run, has_detector = Records(path, load), (path / "detector").is_dir()
    if not has_detector and cross.holds_p_values(path):
        return cross.checked(run)
    if has_detector or run.is_sealed:
        again = [check("trained again", of_training, run)] if retrain else []
        return [*runs.checked(run), *again]
    raise UserError(f"{path} holds no run and no detector; name a run folder or an export")


def _of_detector(path: Path) -> str:
    """Check the detector in an export."""
    with checking.unpacked(loader.read(path)[1]) as folder:
        return runs.of_detector(folder)


def table(checks: list[Check]) -> str:
    """The checks, one line each."""
    return tables.aligned([(check.outcome, check.name, check.words) for check in checks])
