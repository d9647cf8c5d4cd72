"""The command `jaxae`: train without a script, judge new rows, compare runs, look at data."""

import importlib
import json
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from jaxae import scoring
from jaxae.cli import command, commands, runs
from jaxae.cli.command import OPEN
from jaxae.config import ExperimentConfig, TrainConfig, checks
from jaxae.config import parsing as arguments
from jaxae.data import DATASETS
from jaxae.data.corruptions import CORRUPTIONS
from jaxae.data.own.kinds import FILES
from jaxae.errors import UserError, user_errors
from jaxae.methods import learners
from jaxae.reports.studies import STUDIES


@dataclass(frozen=True)
class List:
    """List the finished runs below a folder, or everything that has a name.

    Examples: `jaxae list`, `jaxae list --runs elsewhere --json`, `jaxae list --names`.
    """

    runs: Path = Path("runs")
    """the folder"""
    names: bool = False
    """data sets, methods, scores, rules, corruptions, studies and experiments instead"""
    json: bool = False
    """as JSON"""


def list_all(asked: List) -> None:
    """Print runs, or every registered name."""
    if asked.names:
        names = {kind: list(of) for kind, of in _names().items()}
        lines = [f"{kind}: {', '.join(of)}" for kind, of in names.items()]
        print(json.dumps(names, indent=2) if asked.json else "\n".join(lines))
        return
    found = runs.find(asked.runs)
    print(json.dumps(found, indent=2) if asked.json else runs.table(found))


@dataclass(frozen=True)
class Bench:
    """Measure training and scoring of the methods on this machine, on random rows.

    Examples: `jaxae bench`, `jaxae bench --methods dense --batch-size 32 --json`. `benchmarks/` in
    a clone measures beside PyTorch and Keras.
    """

    methods: tuple[str, ...] = ("dense", "conv", "alocc")
    """which"""
    batch_size: int = 128
    """of a step"""
    shape: tuple[int, ...] = (28, 28, 1)
    """of a row"""
    json: bool = False
    """as JSON"""


def bench_all(asked: Bench) -> None:
    """Print medians; see `jaxae.workflows.bench`."""
    from jaxae.workflows import bench

    found = []
    for method in asked.methods:
        train = TrainConfig(batch_size=asked.batch_size)
        cfg = ExperimentConfig(name="bench", method=method, train=train)
        found.append(bench.measure(checks.validate(cfg), asked.shape))
        if not asked.json:
            print("  ".join(f"{name} {_shown(value)}" for name, value in found[-1].items()))
    if asked.json:
        print(json.dumps(found, indent=2))


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Completion:
    """Print a script by which a shell completes commands and settings.

    Example: `jaxae completion bash > ~/.local/share/bash-completion/completions/jaxae`.
    """

    shell: Literal["bash", "zsh", "tcsh"]
    """which"""


def completion(asked: Completion) -> None:
    """Print it; see `jaxae.config.parsing.completion`."""
    takes = {name: (command.takes, None) for name, command in COMMANDS.items()}
    print(arguments.completion(takes | {"train": (ExperimentConfig, OPEN)}, asked.shell))


def _names() -> dict[str, Any]:
    return {
        "data sets": [*DATASETS, *(f"{kind}:PATH" for kind in FILES)],
        "methods": learners.METHODS,
        "scores (join with +)": scoring.SCORES,
        "threshold rules": scoring.RULES,
        "corruptions": CORRUPTIONS,
        "studies": STUDIES,
        "experiments": _experiments(),
    }


def _home() -> Any:
    """The package of experiments: part of what is installed, or beside jaxae in a clone."""
    for name in ("jaxae.experiments", "experiments"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise UserError("the experiments are not installed; run from a clone")


def _experiments() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(_home().__path__))


def _run(rest: list[str]) -> None:
    """`jaxae run NAME ...` as `python -m experiments.NAME ...` in a clone."""
    import runpy

    with user_errors():
        known = _experiments()
        if rest[:1] in (["-h"], ["--help"]):
            print("usage: jaxae run NAME ...; for instance: `jaxae run digits_conv --help`")
            print(", ".join(known))
            return
        if not rest or rest[0] not in known:
            given = repr(rest[0]) if rest else "nothing"
            raise UserError(f"jaxae run was given {given}; it takes one of {', '.join(known)}")
        sys.argv = [f"jaxae run {rest[0]}", *rest[1:]]
        sys.modules.setdefault("experiments", _home())  # by which they know each other
        runpy.run_module(f"experiments.{rest[0]}", run_name="__main__")


class Command(NamedTuple):
    """What a command takes, and what it does with it."""

    takes: type
    does: Callable[[Any], None]


COMMANDS = {
    "data": Command(commands.Data, commands.show_data),
    "score": Command(commands.Score, commands.score),
    "compare": Command(commands.Compare, commands.compare),
    "report": Command(commands.Report, commands.report),
    "export": Command(commands.Export, commands.export),
    "list": Command(List, list_all),
    "verify": Command(commands.Verify, commands.verify),
    "bench": Command(Bench, bench_all),
    "completion": Command(Completion, completion),
}
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
        command.main(OPEN, rest, prog="jaxae train", description=command.TRAIN)
    elif name == "run":
        _run(rest)
    elif name in COMMANDS:
        with user_errors():
            asked: Any = arguments.parse(COMMANDS[name].takes, rest, prog=f"jaxae {name}")
            COMMANDS[name].does(asked)
    elif name in ("-h", "--help"):
        print(USAGE)
        sys.exit(0)
    else:
        known = ", ".join(["train", "run", *COMMANDS])
        with user_errors():
            raise UserError(f"no command {name!r}; there are {known}; see jaxae --help")
