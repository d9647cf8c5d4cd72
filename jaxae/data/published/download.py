"""Reading bytes of raw files from a folder or over HTTP; this module writes nothing to disk."""

import gzip
import http.client
import urllib.error
import urllib.request
import zlib
from pathlib import Path

from jaxae.errors import Missing, UserError

REMEDY = "name a folder that holds the raw files with --data.dir or JAXAE_DATA_DIR"


def find(folder: Path, name: str) -> Path:
    """The file with this name in a folder, compressed (`name.gz`) or plain.

    Raises:
      Missing: the folder has neither.
    """
    for path in (folder / f"{name}.gz", folder / name):
        if path.is_file():
            return path
    raise Missing(
        f"{folder / name} is missing, plain or as .gz: put it there, or {REMEDY}, "
        "or leave both unset to download it"
    )


def read(path: Path) -> bytes:
    """The content of a file, decompressed if its name ends in .gz.

    Raises:
      UserError: it cannot be read or decompressed.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; check its permissions") from None
    return gunzip(content, str(path)) if path.suffix == ".gz" else content


def gunzip(content: bytes, name: str) -> bytes:
    """Decompress; `name` names the content in errors.

    Raises:
      UserError: the content is truncated, damaged or not gzip.
    """
    try:
        return gzip.decompress(content)
    except gzip.BadGzipFile as error:
        problem = f"is not a valid gzip file ({error})"
    except (EOFError, zlib.error):
        problem = "is a truncated or damaged gzip file"
    raise UserError(f"{name} {problem}; fetch it again, or {REMEDY}")


def fetch(url: str, timeout: float = 30.0) -> bytes:
    """Fetch a URL into memory; the server may be silent for `timeout` seconds.

    Raises:
      Missing: there is no connection, it drops half-way, or the server returns an HTTP error.
    """
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response:
            return response.read()
    except urllib.error.HTTPError as error:
        problem = f"the server answered {error.code} {error.reason}"
        error.close()
    except (http.client.HTTPException, OSError) as error:
        problem = f"the connection failed ({getattr(error, 'reason', error)})"
    raise Missing(f"cannot download {url}: {problem}; try again later, or {REMEDY}")


def verify(digest: str, expected: str, name: str) -> None:
    """Raise a UserError if the digests differ, because `name` is then not the published data."""
    if digest != expected:
        raise UserError(
            f"{name} differs from the published data set: its SHA-256 is {digest[:16]}..., "
            f"not {expected[:16]}...; fetch it again, or {REMEDY}"
        )
