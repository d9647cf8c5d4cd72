"""The command `jaxae`: its usage, and running a command by its name."""

import functools
import io
import sys

from jaxae.cli import commands, train
from jaxae.cli.commands import COMMANDS
from jaxae.cli.train import OPEN
from jaxae.config import parsing
from jaxae.errors import UserError, user_errors

USAGE = """usage: jaxae COMMAND ...    each command has --help with examples
  train      train a detector on your data or a published set:  jaxae train --data.name FILE
  run        run a published experiment:                        jaxae run digits_conv
  data       show a file's content and how it would be used:    jaxae data FILE
  score      score new rows with a finished run:                jaxae score RUN FILE --out OUT.csv
  evaluate   metrics of a finished run on labelled rows:        jaxae evaluate RUN FILE
  compare    compare two runs on the same test rows:            jaxae compare RUN RUN
  report     write an HTML report with a threshold slider:      jaxae report RUN
  export     write a detector to one file that runs alone:      jaxae export RUN OUT.zip
  verify     check that a run or an export is unchanged:        jaxae verify RUN
  list       list finished runs, or with --names all names:     jaxae list
  bench      measure how fast this machine trains and scores:   jaxae bench
  completion print a script for completion in a shell:          jaxae completion bash"""


def main(args: list[str] | None = None) -> None:
    """Entry point; exits with code 2 and one line on bad input."""
    name, *rest = (sys.argv[1:] if args is None else args) or [""]
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name may hold what the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    if name == "train":
        train.main(OPEN, rest, prog="jaxae train", description=train.TRAIN)
    elif name in ("-h", "--help"):
        print(USAGE)
        sys.exit(0)
    else:
        with user_errors():
            _execute(name, rest)


def _execute(name: str, args: list[str]) -> None:
    if name == "run":
        commands.run(args)
    elif name in COMMANDS:
        run = COMMANDS[name]
        # Parsing and calling are separate steps, because `parse` captures stderr.
        bind = functools.wraps(run)(lambda *values, **more: functools.partial(run, *values, **more))
        parsing.parse(bind, args, prog=f"jaxae {name}")()
    else:
        names = ", ".join(["train", "run", *COMMANDS])
        raise UserError(f"unknown command {name!r}; choose one of {names}; see jaxae --help")
