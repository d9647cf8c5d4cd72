"""The signature of an export: HMAC-SHA256 (RFC 2104) of its manifest, with a secret key.

Digests tell damage; a signature also tells an archive that somebody without the key has made anew.
Who checks it needs the key that signed it.
"""

import hmac
import shlex
from pathlib import Path

from jaxae.errors import UserError, words

_SHORTEST = 16  # bytes of a key


def read_key(path: Path) -> bytes:
    """The key in a file: all its bytes.

    Raises:
      UserError: it cannot be read, or is too short.
    """
    try:
        key = path.read_bytes()
    except OSError as error:
        raise UserError(f"--sign {path} cannot be read ({words(error)}); name a file") from None
    if len(key) < _SHORTEST:
        command = (
            f"python -c 'import secrets; print(secrets.token_hex())' > {shlex.quote(str(path))}"
        )
        raise UserError(
            f"--sign {path} holds {len(key)} bytes; a key has {_SHORTEST} or more: {command}"
        )
    return key


def signature(statement: bytes, key: bytes) -> str:
    """HMAC-SHA256 of a manifest's statement, in hexadecimal."""
    return hmac.digest(key, statement, "sha256").hex()


def check(manifest: dict, statement: bytes, key: bytes) -> None:
    """Refuse a manifest that is not signed with a key.

    Raises:
      UserError: it has another signature, or none.
    """
    if "signature" not in manifest:
        raise UserError(
            "it is not signed, so anyone may have made it; sign one with jaxae export RUN OUT.zip "
            "--sign KEY_FILE"
        )
    found = str(manifest["signature"]).encode("utf-8", "replace")
    if not hmac.compare_digest(found, signature(statement, key).encode()):
        raise UserError("it is not signed with this key: do not rely on it")
