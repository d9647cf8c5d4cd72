"""Writing files atomically, that is completely or not at all, and reading JSON; without JAX."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxae.errors import UserError, naming, words

_REMEDY = "restore the file, or name another folder with --run-dir"
_ESCAPE = "backslashreplace"
# The temporary names of `atomic`, and of figures in older versions.
UNFINISHED = re.compile(r"\..+(\.\d+(\.npz)?|-[0-9a-f]{32}\.tmp)")


@contextlib.contextmanager
def atomic(path: Path, suffix: str = "") -> Iterator[Path]:
    """A temporary path next to `path`, renamed to it if the block ends without an error.

    The temporary name ends in `suffix`. System errors in the block report the name of `path`.
    """
    temporary = _temporary(path, suffix)
    try:
        with naming(path):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def probe(path: Path) -> None:
    """Raise the `OSError` that writing a file would raise, without touching it.

    The folder may be read-only, or the name too long, for instance.
    """
    temporary = _temporary(path)
    with naming(path):
        temporary.touch()
        temporary.unlink()


def _temporary(path: Path, suffix: str = "") -> Path:
    return path.with_name(f".{path.name.removesuffix(suffix)}.{os.getpid()}{suffix}")


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[IO[str]]:
    r"""Write a text file in pieces; it is renamed into place only when it is complete.

    What is not UTF-8, such as some names of files, is escaped: `\udcff`.
    """
    options: dict[str, Any] = {"encoding": "utf-8", "errors": _ESCAPE, "newline": ""}
    with atomic(path) as temporary, temporary.open("w", **options) as file:
        yield file


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, escaped as by `writing`."""
    write_bytes(path, text.encode("utf-8", _ESCAPE))


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; NaN is an error, since it is not JSON."""
    write_bytes(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """What `write_json` writes."""
    return (json.dumps(value, indent=2, allow_nan=False) + "\n").encode()


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz atomically."""
    with atomic(path, ".npz") as temporary:  # `savez` would append the suffix
        np.savez(temporary, **arrays)


@contextlib.contextmanager
def writing_array(path: Path, shape: tuple[int, ...]) -> Iterator[Callable[[np.ndarray], None]]:
    """Write a .npy of float32 [N, *S] in blocks of rows; renamed into place when it is complete."""

    def write(block: np.ndarray) -> None:
        file.write(np.ascontiguousarray(block, "<f4").data)

    with atomic(path) as temporary, temporary.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        yield write


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with naming(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path, remedy: str = _REMEDY) -> Any:
    """The content of a JSON file; a `UserError` with the remedy if it cannot be read."""
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({words(error)}); {remedy}") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error}); {remedy}") from None


def read_metrics(path: Path) -> list[dict]:
    """The epochs in a metrics.jsonl, see `read_lines`."""
    epochs = read_lines(path)
    for number, metrics in enumerate(epochs, start=1):
        if "epoch" not in metrics:
            raise UserError(f"{path}, line {number}, has no epoch; {_REMEDY}")
    return epochs


def read_lines(path: Path, remedy: str = _REMEDY) -> list[dict]:
    """The objects in a JSON Lines file; [] if there is no file.

    `remedy` ends the message of an error. A last line without a line break is skipped, because
    writing it was interrupted.

    Raises:
      UserError: the file cannot be read, or a line is not a JSON object; names the line.
    """
    if not path.exists():
        return []
    rows: list[dict] = []
    try:
        for line in path.read_bytes().split(b"\n")[:-1]:
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"but {line.decode()[:20]}")
            rows.append(row)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({words(error)}); {remedy}") from None
    except ValueError as error:
        where = f"{path}, line {len(rows) + 1},"
        raise UserError(f"{where} is not a JSON object ({error}); {remedy}") from None
    return rows


def append_line(path: Path, values: dict) -> None:
    """Append a line of JSON; if this fails, truncate the file to its previous length."""
    line = json.dumps(values, allow_nan=False)
    size = path.stat().st_size if path.exists() else 0
    try:
        with naming(path), path.open("a") as file:
            file.write(line + "\n")
    except OSError:
        with contextlib.suppress(OSError):  # truncating works on a full disk
            os.truncate(path, size)
        raise
