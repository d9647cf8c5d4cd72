"""The commands of `jaxae` except `train`: functions whose signature and docstring are the help.

A parameter without a default is a positional argument; all others are flags.
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
from jaxae.cli import evaluate, inspection, score, train
from jaxae.config import DataConfig, ExperimentConfig, TrainConfig, checks, parsing
from jaxae.data import DATASETS, FILES
from jaxae.data.augmentations import AUGMENTATIONS
from jaxae.data.corruptions import CORRUPTIONS
from jaxae.errors import Unchecked, UserError
from jaxae.methods import learners
from jaxae.methods.wrappers import SCHEDULES
from jaxae.reports import comparison, listing, pages, tables
from jaxae.reports.studies import STUDIES
from jaxae.scoring.pooling import POOLINGS
from jaxae.storage import outputs


def _print(results: Any, json: bool, as_text: Callable[[Any], str]) -> None:
    print(dumps(results, indent=2) if json else as_text(results))


def data(file: str, json: bool = False, data: DataConfig = train.OPEN.data) -> None:
    """Show what a data set contains and which settings `jaxae train` would choose for it.

    Examples: `jaxae data table.csv --data.label kind`, `jaxae data images/`, `jaxae data mnist`.

    Args:
      file: your own file or folder, or any other --data.name
      json: print the result as JSON
      data: how the data are read
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
    """Test whether one run is better than another on the same test rows, or only by chance.

    Example: `jaxae compare runs/one runs/other`.

    Args:
      one: a run folder
      other: another run folder
      json: print the result as JSON
    """
    found = comparison.compare(one, other)
    _print(found, json, comparison.table)
    if unchecked := comparison.unchecked(one, other):
        print(f"not checked: {unchecked}", file=sys.stderr)


def report(
    run: Path, against: Path | None = None, out: Path | None = None, overwrite: bool = False
) -> None:
    """Write an HTML report of a run, RUN/report.html, that a browser can show offline.

    Examples: `jaxae report runs/mine`, `jaxae report runs/one --against runs/other --out a.html`.

    Args:
      run: the folder of a run, or of a grid such as that of `jaxae run one_vs_rest`
      against: compare with this run on the same test rows
      out: the .html for a comparison; None = RUN/comparison.html, which is replaced
      overwrite: replace the file that --out names, if it exists
    """
    if out and not against:
        raise UserError("--out is the file of a comparison; use it with --against RUN")
    if out:
        outputs.check(out, (".html",), overwrite=overwrite)
    if against:
        compared = comparison.compare(run, against)
        path = pages.write_comparison(run, against, compared, out or run / pages.COMPARISON)
    else:
        path = pages.write(run)
    print(f"{path}, {path.stat().st_size / 1e3:.0f} kB; open it in a browser")


def export(run: Path, out: Path, sign: Path | None = None, overwrite: bool = False) -> None:
    """Write a run's detector to one .zip that runs without jaxae, with only JAX and NumPy.

    A .onnx file is for runtimes without JAX; it needs the extra "jaxae[onnx]".

    Examples: `jaxae export runs/mine mine.zip`, then `python mine.zip rows.npy --alpha 0.05`;
    `jaxae export old.zip new.zip` to renew an older export that this JAX can no longer run.

    Args:
      run: the run folder, a detector's folder, or an older export
      out: the .zip or .onnx to write
      sign: a file with a secret key, 16 bytes or more, that signs the .zip; `jaxae verify OUT.zip
        --sign KEY_FILE` checks that it was signed with this key
      overwrite: replace OUT if it exists
    """
    from jaxae.export import exporting, signing, to_onnx

    if out.suffix == ".onnx":
        if sign:
            raise UserError("--sign signs a .zip; an .onnx holds no signature")
        print(f"{out}: {to_onnx.write(run, out, overwrite)}")
        return
    path = exporting.write(run, out, signing.read_key(sign) if sign else b"", overwrite)
    print(f"{path}, {path.stat().st_size / 1e6:.1f} MB: python {path} ROWS.npy --alpha 0.05")


def verify(path: Path, retrain: bool = False, sign: Path | None = None, json: bool = False) -> None:
    """Check that a run folder or an export is what was computed.

    Compares every file with its digest in manifest.json, and computes again what follows from other
    files, such as all scores from detector and data, decisions and report from the scores, and a
    protocol's report from its members. A relative path of the data is also tried from the folders
    around the run. The exit code is 2 if anything differs, and 3 if nothing differs but something
    could not be checked, such as scores without the data.

    Examples: `jaxae verify runs/mine --retrain`, `jaxae verify mine.zip`.

    Args:
      path: a run folder, the folder of a protocol or of a detector, or an export
      retrain: also train the run, or each member alone, again; compare parameters and scores
      sign: the file with the key that an export must be signed with
      json: print the results as JSON
    """
    from jaxae.workflows import verification

    results = verification.verify(path, retrain, sign)
    as_json = [result._asdict() for result in results]
    _print(as_json, json, lambda _: verification.table(results))
    if failed := [result.name for result in results if result.outcome == "FAILED"]:
        raise UserError(f"{path} failed the checks: {', '.join(failed)}")
    if unchecked := [result.name for result in results if not result.ok]:
        raise Unchecked(f"{path}: not checked: {', '.join(unchecked)}")


def list_all(runs: Path = Path("runs"), names: bool = False, json: bool = False) -> None:
    """List the finished runs in a folder, or every name that a setting can have.

    A protocol is one line, which counts its finished members. Examples: `jaxae list`, `jaxae list
    --runs elsewhere --json`, `jaxae list --runs runs/PROTOCOL/members`, `jaxae list --names`.

    Args:
      runs: the folder that is searched for runs, with its subfolders
      names: list data sets, methods, scores, rules, corruptions, studies and experiments instead
      json: print the list as JSON
    """
    if not names:
        _print(listing.finished(runs), json, listing.table)
        return
    registered = {
        "data sets": [*DATASETS, *(f"{kind}:PATH" for kind in FILES)],
        "methods": [*learners.METHODS],
        "scores (join with +, ^ or *)": [*scoring.SCORES],
        "poolings of a score's map (SCORE:POOLING)": [*POOLINGS],
        "threshold rules": [*scoring.RULES],
        "corruptions": [*CORRUPTIONS],
        "augmentations": [*AUGMENTATIONS],
        "schedules of the learning rate": [*SCHEDULES],
        "studies": [*STUDIES],
        "experiments": _experiments(),
    }
    lines = [f"{kind}: {', '.join(members)}" for kind, members in registered.items()]
    _print(registered, json, lambda _: "\n".join(lines))


def bench(
    methods: tuple[str, ...] = ("dense", "conv", "alocc"),
    batch_size: int = 0,
    shape: tuple[int, ...] = (28, 28, 1),
    json: bool = False,
) -> None:
    """Measure how fast this machine trains and scores with random rows.

    Examples: `jaxae bench`, `jaxae bench --shape 256 256 3`, `jaxae bench --methods dense
    --batch-size 32 --json`. step_mb is what a step reads and writes, memory_mb what training takes
    on each device. The scripts in `benchmarks/` of a clone compare with PyTorch and Keras.

    Args:
      methods: the methods to measure
      batch_size: rows in a training step; 0 = 128, or fewer if rows are large
      shape: the shape of a row
      json: print the results as JSON
    """
    from jaxae.workflows import bench

    measured = []
    for method in methods:
        train = TrainConfig(batch_size=batch_size or bench.batch_for(shape))
        cfg = ExperimentConfig(name="bench", method=method, train=train)
        measured.append(bench.measure(checks.validate(cfg), shape))
        if not json:
            print("  ".join(f"{name} {tables.text(value)}" for name, value in measured[-1].items()))
    if json:
        print(dumps(measured, indent=2))


def completion(shell: Literal["bash", "zsh", "tcsh"]) -> None:
    """Print a script that makes a shell complete commands and settings.

    Example: `jaxae completion bash > ~/.local/share/bash-completion/completions/jaxae`.

    Args:
      shell: the shell
    """
    print(parsing.completion(COMMANDS, {"train": train.OPEN}, shell))


def run(args: list[str]) -> None:
    """Run `jaxae run NAME ...` like `python -m experiments.NAME ...` in a clone."""
    import runpy

    names = _experiments()
    if args[:1] in (["-h"], ["--help"]):
        print("usage: jaxae run NAME ...; for example `jaxae run digits_conv --help`")
        print(f"NAME is one of {', '.join(names)}")
        return
    if not args or args[0] not in names:
        problem = f"there is no experiment {args[0]!r}" if args else "jaxae run needs a name"
        raise UserError(f"{problem}; choose one of {', '.join(names)}")
    sys.argv = [f"jaxae run {args[0]}", *args[1:]]
    sys.modules.setdefault("experiments", _package())  # they import each other by this name
    runpy.run_module(f"experiments.{args[0]}", run_name="__main__")


def _experiments() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(_package().__path__))


def _package() -> Any:
    """The package of experiments: installed with jaxae, or next to it in a clone."""
    for name in ("jaxae.experiments", "experiments"):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError:
            continue
    raise UserError("the experiments are not installed; run from a clone")


COMMANDS: dict[str, Callable[..., Any]] = {
    "data": data,
    "score": score.score_file,
    "evaluate": evaluate.evaluate,
    "compare": compare,
    "report": report,
    "export": export,
    "list": list_all,
    "verify": verify,
    "bench": bench,
    "completion": completion,
}
