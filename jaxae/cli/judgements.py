"""The file that says what a detector said of rows: written block by block, whole or not at all."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxae import detectors
from jaxae.detectors import explanation
from jaxae.errors import UserError, words
from jaxae.storage import runfiles


class Sink:
    """Takes judgements in the order of their rows."""

    def __init__(self, out: Path | None, file: IO[str] | None, threshold: float, features: list):
        self.rows = self.anomalies = 0
        self._out, self._file, self._features = out, file, features
        self._threshold = threshold
        self._kept: list[dict[str, Any]] = []  # what an .npz is made of in the end

    def add(
        self,
        found: detectors.Judgement,
        why: explanation.Explanation | None = None,
        names: list[str] | None = None,
    ) -> None:
        """Take a block of rows.

        Args:
          found: of the rows.
          why: which values are reconstructed worst: a .csv has the worst, an .npz all.
          names: of rows that have some keep them, in a column `source`.
        """
        count = len(found.score)
        columns = {
            "row": np.arange(self.rows, self.rows + count),
            "score": found.score,
            "p_value": found.p_value,
            "threshold": np.full(count, self._threshold, np.float32),
            "is_anomaly": found.is_anomaly,
        }
        self.rows += count
        self.anomalies += int(found.is_anomaly.sum())
        if self._file:
            header, lines = _lines(columns, why, names, self._features)
            self._file.write("\n".join([*([header] if count == self.rows else []), *lines]) + "\n")
        elif self._out:
            named = {"source": np.array(names)} if names else {}
            self._kept.append(columns | named | ({"residual": why.residual} if why else {}))

    def arrays(self) -> dict[str, np.ndarray]:
        """All that was taken, by column."""
        return {name: np.concatenate([part[name] for part in self._kept]) for name in self._kept[0]}


@contextlib.contextmanager
def opened(out: Path | None, threshold: float, features: list[str]) -> Iterator[Sink]:
    """Where judgements go; the file appears when all are there.

    Args:
      out: a .csv or .npz; None = they are only counted.
      threshold: the detector's, a column.
      features: the names of a row's values, if they have some.

    Raises:
      UserError: it cannot be written.
    """
    if out is None:
        yield Sink(out, None, threshold, features)
        return
    try:
        if out.suffix == ".npz":
            sink = Sink(out, None, threshold, features)
            yield sink
            runfiles.write_arrays(out, sink.arrays())
        else:
            with runfiles.writing(out) as file:
                yield Sink(out, file, threshold, features)
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({words(error)})") from None


def _lines(
    columns: dict[str, np.ndarray],
    why: explanation.Explanation | None,
    names: list[str] | None,
    features: list[str],
) -> tuple[str, list[str]]:
    """A table's header, and a line for each row, the decision as 0 or 1."""
    lines = [
        f"{row},{score:.9g},{float(p)!r},{limit:.9g},{flag:d}"
        for row, score, p, limit, flag in zip(*columns.values(), strict=True)
    ]
    header = [*columns]
    if why:
        worst, shape = explanation.leading(why.residual), why.x.shape[1:]
        pairs = range(worst.share.shape[1])
        header += [f"{of}_{k + 1}" for k in pairs for of in ("worst", "share")]
        for i, (index, share) in enumerate(zip(*worst, strict=True)):
            lines[i] += "".join(
                f",{_quoted(explanation.place(a, shape, features))},{s:.4g}"
                for a, s in zip(index, share, strict=True)
            )
    if names:
        header.append("source")
        lines = [f"{line},{_quoted(name)}" for line, name in zip(lines, names, strict=True)]
    return ",".join(header), lines


def _quoted(text: str) -> str:
    """A text as a field of a CSV (RFC 4180)."""
    return f'"{text.replace(chr(34), 2 * chr(34))}"' if set(text) & set(',"\r\n') else text
