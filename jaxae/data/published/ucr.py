"""The text format of the UCR time-series archive: one series a line, class first."""

import hashlib

import numpy as np

from jaxae.errors import UserError


def parse(content: bytes, length: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Read UCR text.

    Args:
      content: the file; each line is a class and `length` values, separated by blanks.
      length: values per series.
      name: what errors call the file.

    Returns:
      series [N, length, 1] float64, all digits kept for `content_digest`, and classes [N] int32.

    Raises:
      UserError: a line of another length, a value that is not a finite number, a class that is
        not a whole number, or no lines at all; it names the line.
    """
    rows = []
    for number, line in enumerate(content.decode("ascii", errors="replace").splitlines(), 1):
        fields = line.replace(",", " ").split()
        if not fields:
            continue
        if len(fields) != length + 1:
            raise _broken(name, number, f"has {len(fields)} fields instead of {length + 1}")
        try:
            row = np.array(fields, np.float64)
        except ValueError:
            raise _broken(name, number, "has a field that is not a number") from None
        if not np.isfinite(row).all():
            raise _broken(name, number, "has a value that is NaN or infinite")
        if row[0] != int(row[0]):
            raise _broken(name, number, f"has the class {row[0]}, which is not a whole number")
        rows.append(row)
    if not rows:
        raise UserError(f"{name} holds no series; replace it by the published file")
    table = np.stack(rows)
    return table[:, 1:, None], table[:, 0].astype(np.int32)


def _broken(name: str, number: int, problem: str) -> UserError:
    return UserError(f"line {number} of {name} {problem}; replace it by the published file")


def content_digest(x: np.ndarray, class_id: np.ndarray) -> str:
    """SHA-256 of the rows as a set, whatever their order.

    Each row is written as its class and its values rounded to seven significant digits; the rows
    are sorted and joined. Copies of ECG5000 differ in the order of rows and in trailing digits, so
    a digest of the file would reject good copies.

    Args:
      x: series [N, T, 1] float64 as parsed; float32 would round some values twice.
      class_id: classes [N].
    """
    rows = (" ".join(f"{value + 0.0:.6e}" for value in row) for row in x[:, :, 0].tolist())
    lines = sorted(f"{int(k)} {row}" for k, row in zip(class_id, rows, strict=True))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
