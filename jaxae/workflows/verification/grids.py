"""The checks of a protocol's members, and of its report, which is made again from them."""

import dataclasses
from pathlib import Path
from typing import Any

from jaxae.config import DataConfig, ExperimentConfig
from jaxae.config.grids import ProtocolConfig
from jaxae.errors import Unchecked, UserError
from jaxae.reports import protocols
from jaxae.reports.plots import files
from jaxae.types import Dataset
from jaxae.workflows import baselines
from jaxae.workflows.protocol import expansion
from jaxae.workflows.verification import runs
from jaxae.workflows.verification.outcomes import AGAIN, Check, check, refuse_differences
from jaxae.workflows.verification.records import Load, Records, of_files
from jaxae.workflows.verification.retraining import of_training


def checked(path: Path, retrain: bool, load: Load) -> list[Check]:
    """A check of every member, one of the grid's own files, and one of its report."""
    folders = sorted(member for member in (path / "members").iterdir() if member.is_dir())
    if not folders:
        raise UserError(f"{path / 'members'} holds no member; {AGAIN}")
    return [
        *(check(member.name, _of_member, member, retrain, load) for member in folders),
        check("files", of_files, path),
        check("report", _of_report, path, folders, load),
    ]


def _of_member(folder: Path, retrain: bool, load: Load) -> str:
    if not (folder / "report.json").is_file():
        raise UserError(f"unfinished; {AGAIN}")
    run = Records(folder, load)
    checks = runs.checked(run)
    if retrain:
        checks.append(check("trained again", of_training, run))
    for outcome, error in (("FAILED", UserError), ("not checked", Unchecked)):
        found = [f"{c.name}: {c.words}" for c in checks if c.outcome == outcome]
        if found:
            raise error("; ".join(found))
    name = expansion.name_of(run.config, ())
    if not f"{folder.name}-".startswith(f"{name}-"):
        raise UserError(f"it holds the member {name}")
    words = {check.name: check.words for check in checks}
    return "; trained again: ".join(words[c] for c in ("scores", "trained again") if c in words)


def _of_report(path: Path, folders: list[Path], load: Load) -> str:
    """Make the report again from the members, and compare it."""
    report = Records(path, load).report
    names = [f"class{k}-seed{seed}" for k in report["classes"] for seed in report["seeds"]]
    missing = [n for n in names if not any(f"{f.name}-".startswith(f"{n}-") for f in folders)]
    # The folder may hold members of an earlier call with more classes or seeds.
    folders = [f for f in folders if any(f"{f.name}-".startswith(f"{n}-") for n in names)]
    if missing or len(folders) != report["members"]:
        lost = f"; {', '.join(missing)} missing" if missing else ""
        raise UserError(f"it has {report['members']} members, the folder {len(folders)}{lost}")
    runs_of = [Records(folder, load) for folder in folders]
    members = [dataclasses.replace(run.config, run_dir=str(run.folder)) for run in runs_of]
    datasets: dict[DataConfig, Dataset] = {
        run.config.data: runs.rows_of(run.arrays) for run in runs_of
    }

    def baseline(name: str, data: DataConfig, dataset: Dataset) -> Any:
        return files.arrays(baselines.path_of(path, name, data), "scores")["scores"]

    cfg = _protocol(members[0], report, path)
    swept = [spec.partition("=")[0] for spec in cfg.sweep]
    for folder, member in zip(folders, members, strict=True):
        name = expansion.name_of(member, swept)
        if swept and name != folder.name:  # a sweep of one value is not in the report
            raise UserError(f"{folder.name} holds the member {name}")
    made = protocols.make(cfg, members, datasets, baseline)
    is_other = runs_of[0].is_other_version
    refuse_differences(report, made, "the report", is_other, ("wall_s",))
    return f"AUROC {report['auroc']:.4f} and all else follow from the {len(members)} members"


def _protocol(member: ExperimentConfig, report: dict[str, Any], path: Path) -> ProtocolConfig:
    """The settings of the protocol that a report says it is of."""
    shared = {field.name: getattr(member, field.name) for field in dataclasses.fields(member)}
    first = next(iter(report.get("points", ())), "")
    return ProtocolConfig(
        **shared | {"seed": report["seeds"][0], "run_dir": str(path)},
        seeds=len(report["seeds"]),
        sweep=tuple(part.rpartition(" ")[0] + "=" for part in first.split(", ") if part),
        baselines=tuple(report["baselines"]),
    )
