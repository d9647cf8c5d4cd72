"""Reading a run folder for the figures; every error names the file and a remedy."""

import contextlib
import shlex
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxae.errors import UserError
from jaxae.reports.plots import contents
from jaxae.storage import disk

METRICS = "metrics.jsonl"
REPORT = "report.json"
SCORES = "scores.npz"
LAST = "last epoch"  # "selected_by" of runs that do not select an epoch


def arrays(path: Path, *keys: str) -> dict[str, np.ndarray]:
    """Reads all arrays of an .npz file.

    Args:
      path: the file.
      *keys: the arrays that must be in it.

    Raises:
      UserError: the file is absent or damaged, or a required array is missing.
    """
    if path.is_file() and not zipfile.is_zipfile(path):  # NumPy's error suggests unsafe loading
        raise UserError(f"{path} cannot be read (it is not an .npz file); {_REMEDY}")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            values = {key: stored[key] for key in stored.files}
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as err:
        raise UserError(f"{path} cannot be read ({err}); {_REMEDY}") from err
    return _with_keys(path, values, keys)


def scores(run_dir: Path, *keys: str) -> dict[str, np.ndarray]:
    """Reads scores.npz, whose arrays `keys` must have equal length, as must the rows' digests.

    Raises:
      UserError: see `arrays`; or the lengths differ, there are no rows, or an array holds what no
        run writes, such as NaN.
    """
    path = run_dir / SCORES
    values = arrays(path, *keys)
    for key in (*keys[1:], *({contents.ROW_DIGEST} & values.keys())):
        if values[key].shape != values[keys[0]].shape:
            raise UserError(
                f"{path} holds {keys[0]} and {key} of shapes {values[keys[0]].shape} and "
                f"{values[key].shape}; run the experiment again"
            )
    for problem in contents.of_scores(values):
        raise UserError(f"{path} holds what no run writes: {problem}; {AGAIN}")
    return values


def report(run_dir: Path, *keys: str) -> dict:
    """Reads report.json, which must contain `keys`.

    Raises:
      UserError: the file is absent or damaged, a required field is missing, or a value is one that
        no run writes, such as an AUROC of 7.
    """
    path = run_dir / REPORT
    values = _with_keys(path, disk.read_json(path, _REMEDY), keys)
    for problem in contents.of_report(values):
        raise UserError(f"{path}: {problem}; {AGAIN}")
    return values


@contextlib.contextmanager
def as_written(folder: Path) -> Iterator[None]:
    """Turn what goes wrong with files that were written otherwise into a one-line `UserError`."""
    try:
        yield
    except UserError:
        raise
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise UserError(f"{folder} holds files that no run writes ({what}); {AGAIN}") from error


def is_labelled(run_dir: Path) -> bool:
    """Whether the run was tested on labelled rows; true of reports of older versions."""
    return not (run_dir / REPORT).is_file() or report(run_dir).get("labelled", True)


def refuse_unlabelled(run_dir: Path, why: str) -> None:
    """Raise a `UserError` if a run has no labels."""
    if not is_labelled(run_dir):
        raise UserError(
            f"the run in {run_dir} has no labels; {why}: train on a file with labels, or use "
            f"jaxae evaluate {shlex.quote(str(run_dir))} FILE"
        )


def metrics(run_dir: Path) -> list[dict]:
    """Reads metrics.jsonl: one dict per epoch, in the file's order; see `disk.read_lines`.

    Raises:
      UserError: the file is absent, empty or damaged, or a line has no epoch.
    """
    rows = disk.read_metrics(run_dir / METRICS)
    if not rows:
        raise UserError(f"{run_dir / METRICS} holds no epochs; {_REMEDY}")
    return rows


def headline(run_dir: Path) -> str:
    """The second title line of every figure: name, data set and score, if the report has them.

    A detector whose epoch was selected by test labels is called an oracle.
    """
    if not (run_dir / REPORT).exists():
        return run_dir.name
    fields = report(run_dir)
    name = str(fields.get("name", run_dir.name))
    details = [("data", fields.get("dataset")), ("score", fields.get("score"))]
    if "oracle" in fields.get("selected_by", LAST):
        name += " (oracle)"
    return ", ".join([name, *(f"{label}: {value}" for label, value in details if value)])


AGAIN = "restore the file, or run the experiment again, which writes it anew"
_REMEDY = "run the experiment again, or delete the file to skip its figures"


def _with_keys(where: Path | str, values, keys: tuple[str, ...]) -> dict:
    if not isinstance(values, dict):
        raise UserError(f"{where} does not hold named values; {_REMEDY}")
    missing = [key for key in keys if key not in values]
    if missing:
        raise UserError(f"{where} lacks {', '.join(missing)}; {_REMEDY}")
    return values
