"""A configuration or a command from the command line, and what is wrong with it in one line."""

import contextlib
import io
import itertools
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union

from jaxae.config.checks import validate
from jaxae.config.migrations import refuse_old_flags
from jaxae.config.schema import ExperimentConfig, from_json
from jaxae.errors import UserError

Parsed = TypeVar("Parsed")


def parse_cli(
    default: ExperimentConfig, args: list[str] | None = None, **more: Any
) -> ExperimentConfig:
    """The default with what the command line changes, for instance `--train.epochs 5`.

    Args:
      default: the experiment's own configuration.
      args: the arguments; None = the process's. `--config FILE` among them takes that file's
        configuration, a run's `config.json` for one, in place of the default.
      more: see `parse`.

    Raises:
      UserError: an argument does not exist (any more), or is no such value; see `validate` too.
      SystemExit: help was asked for.
    """
    import sys

    default, args = _from_file(default, sys.argv[1:] if args is None else args)
    refuse_old_flags(args)
    return validate(parse(type(default), args, default=default, **more))


def parse(target: type[Parsed], args: list[str] | None, **more: Any) -> Parsed:
    """What a dataclass describes, from arguments; a field without a default has no flag.

    Args:
      target: its docstring is the help.
      args: the arguments; None = the process's.
      more: `prog`, the name of the command; `default`, an instance; `description`, in place of the
        docstring.

    Raises:
      UserError: an argument does not exist, or is no such value.
      SystemExit: help was asked for.
    """
    import tyro

    said = io.StringIO()
    config = (tyro.conf.PositionalRequiredArgs,)
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(target, args=args, config=config, **more)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(f"{_first_words(said.getvalue())}; --help lists all settings") from None


def completion(commands: Mapping[str, tuple[type, Any]], shell: str) -> str:
    """A script that completes commands and their settings in a shell.

    Args:
      commands: name -> what it takes, and the instance to start from or None.
      shell: bash, zsh or tcsh.
    """
    import tyro

    members = []
    for name, (takes, default) in commands.items():
        start = {} if default is None else {"default": default}
        members.append(Annotated[takes, tyro.conf.subcommand(name, **start)])
    joined: Any = Union[tuple(members)]  # noqa: UP007 - made at run time
    said = io.StringIO()
    args = ["--tyro-print-completion", shell]
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(said):
        tyro.cli(joined, args=args, prog="jaxae")
    return said.getvalue()


def _from_file(default: ExperimentConfig, args: list[str]) -> tuple[ExperimentConfig, list[str]]:
    """The configuration to start from, and the arguments without the one that named it."""
    spelled = [arg.partition("=") for arg in args]
    at = next((i for i, (name, _, _) in enumerate(spelled) if name == "--config"), None)
    if at is None:
        return default, args
    _, joined, name = spelled[at]
    rest = args[at + 1 :] if joined else args[at + 2 :]
    name = name if joined else "".join(args[at + 1 : at + 2])
    if type(default) is not ExperimentConfig:
        raise UserError("--config reads the configuration of a single run; name the settings here")
    if not name:
        raise UserError("--config names no file; give a run's config.json")
    try:
        return from_json(Path(name).read_text()), [*args[:at], *rest]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--config {name} cannot be read ({error})") from None
    except UserError as error:
        raise UserError(f"--config {name}: {error}") from None


def _first_words(box: str) -> str:
    """What tyro draws in a box, as one line: its first paragraph and its first suggestion."""
    lines = [line.strip("│╰╯|+ ") for line in box.splitlines()[1:]]  # the first holds a title
    lines = ["" if set(line) <= {"─", "-"} else line for line in lines]
    begun = itertools.dropwhile(operator.not_, lines)  # a box of ASCII signs has a rule there
    words = " ".join(itertools.takewhile(bool, begun)).rstrip(".")
    suggested = lines[lines.index(_SUGGESTS) + 1 :][:1] if _SUGGESTS in lines else []
    return " - perhaps ".join([words, *suggested])


_SUGGESTS = "Perhaps you meant:"
