"""The files that a benchmark writes, checked before it measures for minutes."""

import argparse
from collections.abc import Callable
from pathlib import Path

from jaxae.storage import outputs


def to(suffix: str) -> Callable[[str], Path]:
    """A type of `argparse`: a file that can be written, see `jaxae.storage.outputs.check`.

    Its folder is made, and results of an earlier call are replaced; no file with another suffix is,
    and no record of a run.
    """

    def checked(text: str) -> Path:
        path = Path(text)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            outputs.check(path, (suffix,), overwrite=True, name="the file")
        except (OSError, ValueError) as error:  # a `UserError` is a `ValueError`
            raise argparse.ArgumentTypeError(str(error)) from None
        return path

    return checked
