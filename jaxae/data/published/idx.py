"""The IDX format of MNIST: a big-endian header, then unsigned bytes."""

import math
import struct

import numpy as np

from jaxae.errors import UserError

_UBYTE = 0x08


def parse(content: bytes, ndim: int, name: str) -> np.ndarray:
    """Read an IDX file of unsigned bytes.

    The header is the magic number 0x0000TTDD (TT = type, 08 for unsigned bytes; DD = number of
    dimensions) and one big-endian 32-bit size per dimension (LeCun, Cortes and Burges, "The MNIST
    database of handwritten digits").

    Args:
      content: the decompressed file.
      ndim: dimensions it must have: 3 for images, 1 for labels.
      name: what errors call the file.

    Returns:
      uint8 array of `ndim` dimensions.

    Raises:
      UserError: another magic number, or a length that the header does not announce.
    """
    start = 4 + 4 * ndim
    magic, expected = content[:4].hex(), f"0000{_UBYTE:02x}{ndim:02x}"
    if magic != expected:
        raise UserError(
            f"{name} starts with magic number {magic or 'nothing'}, not {expected}: it is not an "
            f"IDX file of {ndim}-dimensional bytes; replace it by the published file"
        )
    if len(content) < start:
        raise UserError(f"{name} ends within its header; replace it by the published file")
    shape = struct.unpack(f">{ndim}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise UserError(
            f"{name} holds {len(content) - start} bytes after its header, which announces "
            f"{math.prod(shape)} (shape {shape}); replace it by the published file"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
