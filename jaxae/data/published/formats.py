"""Parsing published files to arrays; any other content is refused."""

import hashlib

import numpy as np
from jaxtyping import Float, Int

from jaxae.data.published import download
from jaxae.errors import UserError


def idx(content: bytes, expected: str, name: str) -> tuple[np.ndarray]:
    """Images uint8 [N, H, W, 1], or labels int32 [N], in an IDX file of unsigned bytes (MNIST).

    The magic number 0x000008DD (DD = number of dimensions) and one big-endian 32-bit size per
    dimension come before the values (LeCun, Cortes and Burges, "The MNIST database of handwritten
    digits").

    Args:
      content: the decompressed file.
      expected: its SHA-256.
      name: the name of the file in errors.

    Raises:
      UserError: it is not the published file.
    """
    download.verify(hashlib.sha256(content).hexdigest(), expected, name)
    shape = np.frombuffer(content, ">u4", count=content[3], offset=4)
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)
    return (values.astype(np.int32) if values.ndim == 1 else values[..., None],)


def ucr(
    content: bytes, expected: str, name: str
) -> tuple[Float[np.ndarray, "N T 1"], Int[np.ndarray, " N"]]:
    """Series and their classes from a UCR archive text file: each line is a class, then values.

    The arguments are those of `idx`, but `expected` is the `ucr_digest` of the rows.

    Raises:
      UserError: a line cannot be read, or the file contains other rows.
    """
    text = content.decode("ascii", errors="replace").replace(",", " ").strip()
    try:
        table = np.loadtxt(text.splitlines(), ndmin=2, comments=None) if text else np.empty((0, 1))
    except ValueError as error:
        problem = str(error).rstrip(".")
        raise UserError(f"{name}: {problem}; replace it with the published file") from None
    download.verify(ucr_digest(table), expected, name)
    return table[:, 1:, None].astype(np.float32), table[:, 0].astype(np.int32)


def ucr_digest(table: Float[np.ndarray, "N F"]) -> str:
    """SHA-256 of rows as a set, independent of their order.

    Each row [class, values] is written with its values rounded to seven significant digits, in
    float64 because float32 would round some values twice; the rows are sorted and joined. Copies of
    ECG5000 differ in row order and trailing digits, so a digest of the file would reject good ones.
    """
    lines = (
        " ".join([f"{row[0]:g}", *(f"{value + 0.0:.6e}" for value in row[1:])])
        for row in table.tolist()
    )
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
