"""Configurations and commands read from the command line; what is wrong with it is one line."""

import argparse
import contextlib
import io
import itertools
import operator
from collections.abc import Callable, Mapping
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
    """The default configuration, changed by flags such as `--train.epochs 5`.

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


def parse(target: Callable[..., Parsed], args: list[str], **more: Any) -> Parsed:
    """Call a dataclass or function with arguments; what has no default has no flag.

    Args:
      target: its docstring is the help.
      args: the arguments.
      more: `prog`, the name of the command; `default`, an instance; `description`, in place of the
        docstring.

    Raises:
      UserError: an argument does not exist, or is no such value.
      SystemExit: help was asked for.
    """
    import tyro

    messages = io.StringIO()
    config = (tyro.conf.PositionalRequiredArgs,)
    try:
        with contextlib.redirect_stderr(messages):
            return tyro.cli(target, args=args, config=config, **more)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UserError(f"{_first_words(messages.getvalue())}; --help lists all settings") from None


def completion(
    commands: Mapping[str, Callable[..., Any]],
    configured: Mapping[str, ExperimentConfig],
    shell: str,
) -> str:
    """A script that completes commands and their settings in a shell.

    Args:
      commands: by name; the signature of each says what it takes.
      configured: commands that take a configuration, and the one that they start from.
      shell: bash, zsh or tcsh.
    """
    import tyro

    subcommand, script = tyro.conf.subcommand, io.StringIO()
    members: list[Any] = [
        *(Annotated[Any, subcommand(name, constructor=f)] for name, f in commands.items()),
        *(Annotated[type(cfg), subcommand(n, default=cfg)] for n, cfg in configured.items()),
    ]
    joined: Any = Union[tuple(members)]  # noqa: UP007 - made at run time
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(script):
        tyro.cli(joined, args=["--tyro-print-completion", shell], prog="jaxae")
    return script.getvalue()


def _from_file(default: ExperimentConfig, args: list[str]) -> tuple[ExperimentConfig, list[str]]:
    """The configuration to start from, and the arguments without the one that named it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?", const="")
    parsed, rest = parser.parse_known_args(args)
    name = parsed.config
    if name is None:
        return default, args
    if type(default) is not ExperimentConfig:
        raise UserError("--config reads the configuration of a single run; name the settings here")
    if not name:
        raise UserError("--config names no file; give a run's config.json")
    try:
        return from_json(Path(name).read_text()), rest
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--config {name} cannot be read ({error})") from None
    except UserError as error:
        raise UserError(f"--config {name}: {error}") from None


def _first_words(box: str) -> str:
    """One line of an error that tyro draws as a box: its first paragraph and first suggestion."""
    lines = [line.strip("│╰╯|+ ") for line in box.splitlines()[1:]]  # below the title
    lines = ["" if set(line) <= {"─", "-"} else line for line in lines]
    lines_below = itertools.dropwhile(operator.not_, lines)  # below a rule of ASCII signs, if any
    words = " ".join(itertools.takewhile(bool, lines_below)).rstrip(".")
    suggested = lines[lines.index(_SUGGESTS) + 1 :][:1] if _SUGGESTS in lines else []
    return " - perhaps ".join([words, *suggested])


_SUGGESTS = "Perhaps you meant:"
