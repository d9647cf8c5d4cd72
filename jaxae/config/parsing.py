"""Reading configurations and commands from the command line, with one-line errors."""

import argparse
import contextlib
import dataclasses
import io
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, Union

from jaxae.config.checks import validate
from jaxae.config.fields import OWN
from jaxae.config.migrations import refuse_old_flags
from jaxae.config.schema import ExperimentConfig, from_json
from jaxae.errors import UserError

Parsed = TypeVar("Parsed")


def parse_cli(
    default: ExperimentConfig, args: list[str] | None = None, **more: Any
) -> ExperimentConfig:
    """The default configuration, changed by flags such as `--train.epochs 5`.

    Args:
      default: the experiment's own configuration; `--config FILE` replaces it.
      args: the arguments; None = the process's.
      more: see `parse`.

    Raises:
      UserError: an argument is unknown, was renamed or removed, or has an invalid value.
      SystemExit: help was asked for.
    """
    import sys

    default, args = _from_file(default, sys.argv[1:] if args is None else args)
    refuse_old_flags(args)
    shown = _shown(default)
    parsed = parse(type(shown), args, default=shown, **more)
    return validate(type(default)(**vars(parsed)))


def parse(target: Callable[..., Parsed], args: list[str], **more: Any) -> Parsed:
    """Call a dataclass or function with arguments; those without a default are positional.

    Args:
      target: its docstring is the help.
      args: the arguments.
      more: arguments of `tyro.cli`: `prog`, the name of the command; `default`, an instance;
        `description`, which replaces the docstring.

    Raises:
      UserError: an argument is unknown, or its value cannot be read.
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
    """A completion script of commands and their settings for a shell: bash, zsh or tcsh.

    `commands` are functions by the names of their commands; `configured` are default configurations
    by the names of the commands that take one.
    """
    import tyro

    subcommand, script = tyro.conf.subcommand, io.StringIO()
    shown = {name: _shown(cfg) for name, cfg in configured.items()}
    members: list[Any] = [
        *(Annotated[Any, subcommand(name, constructor=f)] for name, f in commands.items()),
        *(Annotated[type(cfg), subcommand(n, default=cfg)] for n, cfg in shown.items()),
    ]
    joined: Any = Union[tuple(members)]  # noqa: UP007 - made at run time
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(script):
        tyro.cli(joined, args=["--tyro-print-completion", shell], prog="jaxae")
    return script.getvalue()


def _shown(cfg: ExperimentConfig) -> ExperimentConfig:
    """The same configuration, with flags --METHOD.FIELD for its method's own settings."""
    import tyro

    own = cfg.method_settings
    how: list[Any] = [tyro.conf.arg(name=cfg.method, help=type(own).__doc__)]
    if own is None:
        how = [tyro.conf.Fixed, tyro.conf.Suppress]
    shown = dataclasses.make_dataclass(
        type(cfg).__name__,
        [(OWN, Annotated[type(own), *how], dataclasses.field(default=None))],
        bases=(type(cfg),),
        namespace={"__doc__": type(cfg).__doc__},
        frozen=True,
    )
    return shown(**vars(cfg))


def _from_file(default: ExperimentConfig, args: list[str]) -> tuple[ExperimentConfig, list[str]]:
    """The configuration that --config names, else `default`; and the other arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", nargs="?", const="")
    parsed, rest = parser.parse_known_args(args)
    name = parsed.config
    if name is None:
        return default, args
    if type(default) is not ExperimentConfig:
        raise UserError("--config is only for single runs; give the settings as flags")
    if not name:
        raise UserError("--config needs a file, such as a run's config.json")
    try:
        return from_json(Path(name).read_text()), rest
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--config {name} cannot be read ({error})") from None
    except UserError as error:
        raise UserError(f"--config {name}: {error}") from None


def _first_words(box: str) -> str:
    """The first paragraph and the first suggestion of an error that tyro draws as a box."""
    lines = [line.strip("│╰╯|+─ ") for line in box.splitlines()[1:]]  # below the title
    groups = itertools.groupby(lines, lambda line: bool(line.strip("-")))  # rules may be in ASCII
    paragraphs = [[*group] for is_text, group in groups if is_text] or [[box.strip()]]
    suggested = [lines[1] for lines in paragraphs if lines[0] == "Perhaps you meant:" and lines[1:]]
    return " - perhaps ".join([" ".join(paragraphs[0]).rstrip("."), *suggested[:1]])
