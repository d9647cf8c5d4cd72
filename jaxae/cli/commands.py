"""The commands of `jaxae` but `train`: a function each, whose signature and docstring are its help.

A parameter without a default is a position on the command line, any other one a flag.
"""

import dataclasses
import importlib
import pkgutil
import sys
from collections.abc import Callable
from json import dumps
from pathlib import Path
from typing import Any, Literal

from jaxae import scoring
from jaxae.cli import inspection, score, train
from jaxae.cli import listing as finished
from jaxae.config import DataConfig, ExperimentConfig, TrainConfig, checks, parsing
from jaxae.data import DATASETS, FILES
from jaxae.data.corruptions import CORRUPTIONS
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.reports import comparison, pages, tables
from jaxae.reports.studies import STUDIES


def _print(found: Any, json: bool, as_text: Callable[[Any], str]) -> None:
    print(dumps(found, indent=2) if json else as_text(found))


def data(file: str, json: bool = False, data: DataConfig = train.OPEN.data) -> None:
    """Say what a data set holds, and what `jaxae train` would make of it.

    Examples: `jaxae data table.csv --data.label kind`, `jaxae data images/`, `jaxae data mnist`.

    Args:
      file: a file or folder of your own, or any other --data.name
      json: as JSON
      data: how it is read
    """
    cfg = dataclasses.replace(train.OPEN, data=dataclasses.replace(data, name=file))
    columns = inspection.columns(cfg.data)
    try:
        summary = inspection.inspect(cfg)
    except UserError:
        if not json:
            print("\n".join([file, *inspection.column_lines(columns)]))
        raise
    _print(summary | {"columns": columns}, json, inspection.text)


def compare(one: Path, other: Path, json: bool = False) -> None:
    """Say whether one run is better than another, or by chance, on the same test rows.

    Example: `jaxae compare runs/one runs/other`.

    Args:
      one: a run folder
      other: a run folder
      json: as JSON
    """
    _print(comparison.compare(one, other), json, comparison.table)


def report(run: Path, against: Path | None = None, out: Path | None = None) -> None:
    """Write a page to look at: RUN/report.html, which a browser opens without a network.

    Examples: `jaxae report runs/mine`, `jaxae report runs/one --against runs/other --out a.html`.

    Args:
      run: the folder of a run, or of a grid of `one_vs_rest`
      against: another run on the same test rows: the page compares them
      out: where the page of a comparison goes; None = RUN/comparison.html
    """
    if out and not against:
        raise UserError("--out names the page of a comparison; give --against RUN too")
    if against:
        compared = comparison.compare(run, against)
        path = pages.write_comparison(run, against, compared, out or run / "comparison.html")
    else:
        path = pages.write(run)
    print(f"{path}, {path.stat().st_size / 1e3:.0f} kB; open it in a browser")


def export(run: Path, out: Path) -> None:
    """Write a run's detector as one .zip that runs by itself, with JAX and NumPy alone.

    As .onnx for runtimes without JAX, with the extra "jaxae[onnx]".

    Examples: `jaxae export runs/mine mine.zip`, then `python mine.zip rows.npy --alpha 0.05`;
    `jaxae export old.zip new.zip` where the program of an older export has expired.

    Args:
      run: the run folder, its detector alone, or an older export
      out: the .zip or .onnx to write
    """
    from jaxae.export import exporting, to_onnx

    if out.suffix == ".onnx":
        print(f"{out}: {to_onnx.write(run, out)}")
        return
    path = exporting.write(run, out)
    print(f"{path}, {path.stat().st_size / 1e6:.1f} MB: python {path} ROWS.npy --alpha 0.05")


def verify(path: Path, retrain: bool = False, json: bool = False) -> None:
    """Say whether a run folder or an export still is what it was; exit code 2 if it is not.

    Detector, parameters and checkpoints by their digests, the data by theirs, and the score of
    every test row as it is on record. Examples: `jaxae verify runs/mine --retrain`, `jaxae verify
    mine.zip`.

    Args:
      path: a run folder, a detector alone, or an export
      retrain: train the run again, too, and compare parameters and scores
      json: as JSON
    """
    from jaxae.workflows import verification

    results = verification.verify(path, retrain)
    as_json = [result._asdict() for result in results]
    _print(as_json, json, lambda _: verification.table(results))
    failed = [result.name for result in results if not result.ok]
    if failed:
        raise UserError(f"{path} is not what it was: {', '.join(failed)}")


def list_all(runs: Path = Path("runs"), names: bool = False, json: bool = False) -> None:
    """List the finished runs below a folder, or everything that has a name.

    Examples: `jaxae list`, `jaxae list --runs elsewhere --json`, `jaxae list --names`.

    Args:
      runs: the folder
      names: data sets, methods, scores, rules, corruptions, studies and experiments instead
      json: as JSON
    """
    if names:
        registered = {kind: list(members) for kind, members in _registered().items()}
        lines = [f"{kind}: {', '.join(members)}" for kind, members in registered.items()]
        _print(registered, json, lambda _: "\n".join(lines))
    else:
        _print(finished.find(runs), json, finished.table)


def _registered() -> dict[str, Any]:
    return {
        "data sets": [*DATASETS, *(f"{kind}:PATH" for kind in FILES)],
        "methods": learners.METHODS,
        "scores (join with +)": scoring.SCORES,
        "threshold rules": scoring.RULES,
        "corruptions": CORRUPTIONS,
        "studies": STUDIES,
        "experiments": _experiments(),
    }


def bench(
    methods: tuple[str, ...] = ("dense", "conv", "alocc"),
    batch_size: int = 128,
    shape: tuple[int, ...] = (28, 28, 1),
    json: bool = False,
) -> None:
    """Measure training and scoring of the methods on this machine, on random rows.

    Examples: `jaxae bench`, `jaxae bench --methods dense --batch-size 32 --json`. `benchmarks/` in
    a clone measures beside PyTorch and Keras.

    Args:
      methods: which
      batch_size: of a step
      shape: of a row
      json: as JSON
    """
    from jaxae.workflows import bench

    measured = []
    for method in methods:
        train = TrainConfig(batch_size=batch_size)
        cfg = ExperimentConfig(name="bench", method=method, train=train)
        measured.append(bench.measure(checks.validate(cfg), shape))
        if not json:
            print("  ".join(f"{name} {tables.text(value)}" for name, value in measured[-1].items()))
    if json:
        print(dumps(measured, indent=2))


def completion(shell: Literal["bash", "zsh", "tcsh"]) -> None:
    """Print a script by which a shell completes commands and settings.

    Example: `jaxae completion bash > ~/.local/share/bash-completion/completions/jaxae`.

    Args:
      shell: which
    """
    print(parsing.completion(COMMANDS, {"train": train.OPEN}, shell))


def run(args: list[str]) -> None:
    """`jaxae run NAME ...` as `python -m experiments.NAME ...` in a clone."""
    import runpy

    names = _experiments()
    if args[:1] in (["-h"], ["--help"]):
        print("usage: jaxae run NAME ...; for instance: `jaxae run digits_conv --help`")
        print(", ".join(names))
        return
    if not args or args[0] not in names:
        name = repr(args[0]) if args else "nothing"
        raise UserError(f"jaxae run was given {name}; it takes one of {', '.join(names)}")
    sys.argv = [f"jaxae run {args[0]}", *args[1:]]
    sys.modules.setdefault("experiments", _package())  # by which they know each other
    runpy.run_module(f"experiments.{args[0]}", run_name="__main__")


def _experiments() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(_package().__path__))


def _package() -> Any:
    """The package of experiments: part of what is installed, or beside jaxae in a clone."""
    for name in ("jaxae.experiments", "experiments"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise UserError("the experiments are not installed; run from a clone")


COMMANDS: dict[str, Callable[..., Any]] = {
    "data": data,
    "score": score.score_file,
    "compare": compare,
    "report": report,
    "export": export,
    "list": list_all,
    "verify": verify,
    "bench": bench,
    "completion": completion,
}
