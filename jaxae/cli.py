"""The command `jaxae`: train without a script, judge new rows, compare runs, look at data."""

import dataclasses
import importlib
import json
import pkgutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from jaxae import (
    arguments,
    command,
    comparison,
    inspection,
    judging,
    learners,
    pages,
    runs,
    scoring,
)
from jaxae.checks import AUTO
from jaxae.config import DataConfig, ExperimentConfig, ModelConfig, TrainConfig
from jaxae.corruptions import CORRUPTIONS
from jaxae.data import DATASETS
from jaxae.datasets.kinds import FILES
from jaxae.errors import UserError, user_errors
from jaxae.studies import STUDIES

# What `jaxae train` starts from: all that rows can say is left to them.
OPEN = ExperimentConfig(
    name="run",
    method=AUTO,
    score=AUTO,
    data=DataConfig(scale=AUTO),
    model=ModelConfig(latent=AUTO, output_activation=AUTO),
    train=TrainConfig(epochs=AUTO, batch_size=AUTO),
)


@dataclass(frozen=True)
class Data:
    """Say what a data set holds, and what `jaxae train` would make of it.

    Examples: `jaxae data table.csv --data.label kind`, `jaxae data images/`, `jaxae data mnist`.
    """

    file: str
    """a file or folder of your own, or any other --data.name"""
    json: bool = False
    """as JSON"""
    data: DataConfig = field(default_factory=lambda: OPEN.data)


def show_data(asked: Data) -> None:
    """Print what was found; see `jaxae.inspection`."""
    cfg = dataclasses.replace(OPEN, data=dataclasses.replace(asked.data, name=asked.file))
    columns = inspection.columns(cfg.data)
    if asked.json:
        found = inspection.inspect(cfg)
        print(json.dumps(found | {"columns": columns}, indent=2))
        return
    try:
        found = inspection.inspect(cfg)
    except UserError:
        print("\n".join([asked.file, *inspection.column_lines(columns)]))
        raise
    print(inspection.text(found, columns))
    settings = ", ".join(f"{name} {value}" for name, value in found["chosen"].items())
    print(f"jaxae train --data.name {asked.file} would choose: {settings}; each can be set")


@dataclass(frozen=True)
class Score:
    """Judge raw rows by a finished run.

    Examples: `jaxae score runs/mine new.csv --out judged.csv`, `jaxae score runs/mine photos/`.
    """

    run_dir: Path
    """the run folder, or its detector alone"""
    rows: Path
    """.npy, .npz or .csv, or what the run was made of: a table, a series, a folder of images"""
    out: Path | None = None
    """.csv or .npz: row, score, p_value, threshold, is_anomaly"""
    explain: bool = False
    """also which values are reconstructed worst"""
    json: bool = False
    """a summary as JSON on the screen"""


def score(asked: Score) -> None:
    """Judge; see `jaxae.judging.score_file`."""
    judging.score_file(asked.run_dir, asked.rows, asked.out, asked.explain, asked.json)


@dataclass(frozen=True)
class Export:
    """Write a run's detector as one .zip that runs by itself, with JAX and NumPy alone.

    Examples: `jaxae export runs/mine mine.zip`, then `python mine.zip rows.npy --alpha 0.05`;
    `jaxae export old.zip new.zip` where the program of an older export has expired.
    """

    run: Path
    """the run folder, its detector alone, or an older export"""
    out: Path
    """the .zip to write"""


def export(asked: Export) -> None:
    """Export; see `jaxae.exporting`."""
    from jaxae import exporting

    path = exporting.write(asked.run, asked.out)
    print(f"{path}, {path.stat().st_size / 1e6:.1f} MB: python {path} ROWS.npy --alpha 0.05")


@dataclass(frozen=True)
class Compare:
    """Say whether one run is better than another, or by chance, on the same test rows.

    Example: `jaxae compare runs/one runs/other`.
    """

    one: Path
    """a run folder"""
    other: Path
    """a run folder"""
    json: bool = False
    """as JSON"""


def compare(asked: Compare) -> None:
    """Print each difference with its interval; see `jaxae.comparison`."""
    found = comparison.compare(asked.one, asked.other)
    print(json.dumps(found, indent=2) if asked.json else comparison.table(found))


@dataclass(frozen=True)
class Report:
    """Write a page to look at: RUN/report.html, which a browser opens without a network.

    Examples: `jaxae report runs/mine`, `jaxae report runs/one --against runs/other --out a.html`.
    """

    run: Path
    """the folder of a run, or of a grid of `one_vs_rest`"""
    against: Path | None = None
    """another run on the same test rows: the page compares them"""
    out: Path | None = None
    """where the page of a comparison goes; None = RUN/comparison.html"""


def report(asked: Report) -> None:
    """Write the page; see `jaxae.pages`."""
    if asked.out and not asked.against:
        raise UserError("--out names the page of a comparison; give --against RUN too")
    if asked.against:
        found = comparison.compare(asked.run, asked.against)
        out = asked.out or asked.run / "comparison.html"
        path = pages.write_comparison(asked.run, asked.against, found, out)
    else:
        path = pages.write(asked.run)
    print(f"{path}, {path.stat().st_size / 1e3:.0f} kB; open it in a browser")


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
    "data": Command(Data, show_data),
    "score": Command(Score, score),
    "compare": Command(Compare, compare),
    "report": Command(Report, report),
    "export": Command(Export, export),
    "list": Command(List, list_all),
}
USAGE = """usage: jaxae COMMAND ...    each has --help with examples
  train      a detector on your own data or a published set:  jaxae train --data.name FILE
  run        a published experiment:                          jaxae run digits_conv
  data       what a file holds and how it would be used:      jaxae data FILE
  score      new rows by a finished run:                      jaxae score RUN FILE --out OUT.csv
  compare    two runs on the same test rows:                  jaxae compare RUN RUN
  report     a page to look at, with a threshold slider:      jaxae report RUN
  export     a detector as one file that runs by itself:      jaxae export RUN OUT.zip
  list       finished runs; with --names all that has one:    jaxae list"""


def main(args: list[str] | None = None) -> None:
    """Entry point; exits with code 2 and one line on bad input."""
    name, *rest = (sys.argv[1:] if args is None else args) or [""]
    if name == "train":
        command.main(OPEN, rest)
    elif name == "run":
        _run(rest)
    elif name in COMMANDS:
        with user_errors():
            asked = arguments.parse(COMMANDS[name].takes, rest, prog=f"jaxae {name}")
            COMMANDS[name].does(asked)
    elif name in ("-h", "--help"):
        print(USAGE)
        sys.exit(0)
    else:
        known = ", ".join(["train", "run", *COMMANDS])
        with user_errors():
            raise UserError(f"no command {name!r}; there are {known}; see jaxae --help")
