"""The command `jaxae`: train without a script, judge new rows, compare runs, look at data."""

import functools
import sys

from jaxae.cli import commands, train
from jaxae.cli.commands import COMMANDS
from jaxae.cli.train import OPEN
from jaxae.config import parsing
from jaxae.errors import UserError, user_errors

USAGE = """usage: jaxae COMMAND ...    each has --help with examples
  train      a detector on your own data or a published set:  jaxae train --data.name FILE
  run        a published experiment:                          jaxae run digits_conv
  data       what a file holds and how it would be used:      jaxae data FILE
  score      new rows by a finished run:                      jaxae score RUN FILE --out OUT.csv
  compare    two runs on the same test rows:                  jaxae compare RUN RUN
  report     a page to look at, with a threshold slider:      jaxae report RUN
  export     a detector as one file that runs by itself:      jaxae export RUN OUT.zip
  verify     that a run or an export still is what it was:    jaxae verify RUN
  list       finished runs; with --names all that has one:    jaxae list
  bench      how fast it trains and scores on this machine:   jaxae bench
  completion a script that makes a shell complete all this:   jaxae completion bash"""


def main(args: list[str] | None = None) -> None:
    """Entry point; exits with code 2 and one line on bad input."""
    name, *rest = (sys.argv[1:] if args is None else args) or [""]
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
        # Parsed first and called then: what a command itself writes is no error of its arguments.
        bind = functools.wraps(run)(lambda *values, **more: functools.partial(run, *values, **more))
        parsing.parse(bind, args, prog=f"jaxae {name}")()
    else:
        known = ", ".join(["train", "run", *COMMANDS])
        raise UserError(f"no command {name!r}; there are {known}; see jaxae --help")
