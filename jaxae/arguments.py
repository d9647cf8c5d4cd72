"""A configuration from the command line, and what is wrong with it in one line."""

import contextlib
import io
import itertools
import operator

from jaxae.checks import validate
from jaxae.config import ExperimentConfig
from jaxae.errors import UserError


def parse_cli(default: ExperimentConfig, args: list[str] | None = None) -> ExperimentConfig:
    """The default with what the command line changes, for instance `--train.epochs 5`.

    Args:
      default: the experiment's own configuration.
      args: the arguments; None = the process's.

    Raises:
      UserError: an argument does not exist, or is no such value; see `validate` too.
      SystemExit: help was asked for.
    """
    import tyro

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            found = tyro.cli(type(default), default=default, args=args)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(f"{_first_words(said.getvalue())}; --help lists all settings") from None
    return validate(found)


def _first_words(box: str) -> str:
    """What tyro draws in a box, as one line: its first paragraph and its first suggestion."""
    lines = [line.strip("│╰╯|+ ") for line in box.splitlines()[1:]]  # the first holds a title
    lines = ["" if set(line) <= {"─", "-"} else line for line in lines]
    begun = itertools.dropwhile(operator.not_, lines)  # a box of ASCII signs has a rule there
    words = " ".join(itertools.takewhile(bool, begun)).rstrip(".")
    suggested = lines[lines.index(_SUGGESTS) + 1 :][:1] if _SUGGESTS in lines else []
    return " - perhaps ".join([words, *suggested])


_SUGGESTS = "Perhaps you meant:"
