"""The checks of cross-conformal p-values, whose models are kept in the last checkpoint alone."""

import contextlib
import re
from pathlib import Path

import numpy as np

from jaxae.config import CrossConfig, for_scoring
from jaxae.data.arrayfiles import npz_names, read_npz
from jaxae.devices import parallel
from jaxae.errors import Unchecked, UserError
from jaxae.methods import learners
from jaxae.storage import checkpoint, disk
from jaxae.training import train
from jaxae.types import PyTree
from jaxae.workflows.protocol import cross
from jaxae.workflows.verification.checkpoints import empty, of_checkpoints
from jaxae.workflows.verification.outcomes import (
    AGAIN,
    Check,
    check,
    needing,
    off,
    refuse_differences,
)
from jaxae.workflows.verification.records import Records, of_files
from jaxae.workflows.verification.runs import of_data, refuse_more

_ARRAYS = ("test", "test_y", "test_is_anomaly", "test_id", "test_class_id", "p_value")


def holds_p_values(folder: Path) -> bool:
    """Whether a folder holds a cross-conformal run, by its scores or its report."""
    with contextlib.suppress(UserError):
        if "p_value" in npz_names(folder / "scores.npz"):
            return True
    with contextlib.suppress(UserError, TypeError):
        return "p_values" in disk.read_json(folder / "report.json")
    return False


def checked(run: Records) -> list[Check]:
    """The checks of a cross-conformal run."""
    return [
        check("files", of_files, run.folder),
        check("configuration", lambda: f"read; {run.config.name}"),
        *of_checkpoints(run),
        check("data", of_data, run),
        check("decisions", _of_decisions, run),
        check("scores", _of_scores, run),
        check("report", _of_report, run),
    ]


def _settings(run: Records) -> CrossConfig:
    """The settings of the run, by its configuration and report."""
    parts = re.fullmatch(r"\D+(\d+) (folds|bootstrap samples)", run.report["p_values"])
    if not parts:
        raise UserError(f"report.json says p_values {run.report['p_values']!r}; {AGAIN}")
    count = {"folds": "folds", "bootstrap samples": "bags"}[parts[2]]
    settings = vars(run.config) | {count: int(parts[1]), "alpha": run.report["alpha"]}
    return CrossConfig(**settings)


def _of_decisions(run: Records) -> str:
    """Compare decisions with p-values."""
    arrays = read_npz(run.folder / "scores.npz", _ARRAYS, _ARRAYS)
    with needing("report"):
        cfg, n = _settings(run), run.report["n_calibration"]
    p = arrays["p_value"]
    if not ((1 / (1 + n) - 1e-6 <= p) & (p <= 1)).all():
        raise UserError(f"p-values are not all between {1 / (1 + n):.2g} and 1")
    flipped = int(np.sum(arrays["test_is_anomaly"] != cross.flagged(p, cfg.alpha)))
    if flipped:
        raise UserError(f"{flipped} decisions do not follow from p-values up to {cfg.alpha:g}")
    return f"{int(arrays['test_is_anomaly'].sum())} of {len(p)} test rows have p <= {cfg.alpha:g}"


@parallel.on_host()
def _of_scores(run: Records) -> str:
    """Score all rows again with the models in the last checkpoint, and compare all arrays."""
    recorded = run.arrays
    with needing("report"):
        cfg = _settings(run)
    with needing("data"):
        data = run.data
    learner = learners.build(for_scoring(run.config), data.shape)
    again = cross.judged(cfg, run.config, learner, data, _variables(run, cfg))
    for name, new in again.items():
        if name not in recorded and run.is_other_version:
            continue
        old = recorded.get(name, np.zeros(0))
        if name == "p_value":  # a score that is rounded otherwise may change its rank by one
            is_off = old.shape != new.shape or np.abs(old - new).max() > 1.5 / len(data.train.y)
        elif name == "test":
            is_off = old.shape != new.shape or off(old, new)[1]
        elif name != "test_is_anomaly":
            is_off = not np.array_equal(old, new)
        else:
            continue
        if is_off:
            raise UserError(f"{name} in scores.npz is not that of models and data")
    refuse_more(recorded, again)
    return f"{len(again['test'])} test rows have the recorded scores and p-values"


def _variables(run: Records, cfg: CrossConfig) -> PyTree:
    """The variables of the models of all parts [K E, ...]."""
    with needing("data"):
        shape = run.data.shape
    epochs = checkpoint.numbered(run.folder / "checkpoints")
    if run.config.train.epochs not in epochs:
        raise Unchecked("the checkpoint of the last epoch, which alone has the models, is not here")
    size = (cfg.bags or cfg.folds) * cfg.ensemble
    state = train.abstract_state(learners.build(run.config, shape), shape, size)
    with checkpoint.reader(run.folder / "checkpoints") as manager:
        return checkpoint.restore(manager, empty(state), run.config.train.epochs).variables


def _of_report(run: Records) -> str:
    """Make the report again, and compare its fields."""
    report, cfg = run.report, _settings(run)
    with needing("scores"):
        arrays = read_npz(run.folder / "scores.npz", _ARRAYS, _ARRAYS)
    made = cross.report_of(cfg, run.config, report["n_calibration"], arrays)
    refuse_differences(report, made, "report.json", run.is_other_version, ("wall_s",))
    return f"{len(made)} values follow from the files beside it"
