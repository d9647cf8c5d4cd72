"""The commands of `jaxae` that look at files and runs: what each takes, and what it does."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from jaxae.cli import command, inspection, judging
from jaxae.config import DataConfig
from jaxae.errors import UserError
from jaxae.reports import comparison, pages


@dataclass(frozen=True)
class Data:
    """Say what a data set holds, and what `jaxae train` would make of it.

    Examples: `jaxae data table.csv --data.label kind`, `jaxae data images/`, `jaxae data mnist`.
    """

    file: str
    """a file or folder of your own, or any other --data.name"""
    json: bool = False
    """as JSON"""
    data: DataConfig = field(default_factory=lambda: command.OPEN.data)


def show_data(asked: Data) -> None:
    """Print what was found; see `jaxae.cli.inspection`."""
    cfg = dataclasses.replace(command.OPEN, data=dataclasses.replace(asked.data, name=asked.file))
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
    """Judge; see `jaxae.cli.judging.score_file`."""
    judging.score_file(asked.run_dir, asked.rows, asked.out, asked.explain, asked.json)


@dataclass(frozen=True)
class Export:
    """Write a run's detector as one .zip that runs by itself, with JAX and NumPy alone.

    As .onnx for runtimes without JAX, with the extra "jaxae[onnx]".

    Examples: `jaxae export runs/mine mine.zip`, then `python mine.zip rows.npy --alpha 0.05`;
    `jaxae export old.zip new.zip` where the program of an older export has expired.
    """

    run: Path
    """the run folder, its detector alone, or an older export"""
    out: Path
    """the .zip or .onnx to write"""


def export(asked: Export) -> None:
    """Export; see `jaxae.export.exporting`."""
    from jaxae.export import exporting, to_onnx

    if asked.out.suffix == ".onnx":
        print(f"{asked.out}: {to_onnx.write(asked.run, asked.out)}")
        return
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
    """Print each difference with its interval; see `jaxae.reports.comparison`."""
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
    """Write the page; see `jaxae.reports.pages`."""
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
class Verify:
    """Say whether a run folder or an export still is what it was; exit code 2 if it is not.

    Detector, parameters and checkpoints by their digests, the data by theirs, and the score of
    every test row as it is on record. Examples: `jaxae verify runs/mine --retrain`, `jaxae verify
    mine.zip`.
    """

    path: Path
    """a run folder, a detector alone, or an export"""
    retrain: bool = False
    """train the run again, too, and compare parameters and scores"""
    json: bool = False
    """as JSON"""


def verify(asked: Verify) -> None:
    """Print each check; see `jaxae.workflows.verification`."""
    from jaxae.workflows import verification

    checks = verification.verify(asked.path, asked.retrain)
    as_json = [check._asdict() for check in checks]
    print(json.dumps(as_json, indent=2) if asked.json else verification.table(checks))
    failed = [check.name for check in checks if not check.ok]
    if failed:
        raise UserError(f"{asked.path} is not what it was: {', '.join(failed)}")
