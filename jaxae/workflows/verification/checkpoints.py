"""The checks of checkpoints: whole, of this run, and where its detector comes from."""

from collections.abc import Callable

import jax
import numpy as np

from jaxae import detectors
from jaxae.errors import UserError
from jaxae.ops import ceil_div
from jaxae.storage import archive, checkpoint, disk, run_folder
from jaxae.types import TrainState
from jaxae.workflows.verification.outcomes import Check, check, needing
from jaxae.workflows.verification.records import Records

Template = Callable[[detectors.Detector], TrainState]


def of_checkpoints(run: Records, template: Template | None = None) -> list[Check]:
    """A check of each checkpoint of a run.

    Args:
      run: the run.
      template: gives the training state of a detector; None = there is no detector to compare with.
    """
    epochs = checkpoint.numbered(run.folder / "checkpoints")
    return [check(f"checkpoint {n}", _of_checkpoint, run, n, template) for n in epochs]


def _of_checkpoint(run: Records, epoch: int, template: Template | None) -> str:
    folder = run.folder / "checkpoints"
    checkpoint.check_whole(folder / str(epoch))
    with needing("detector" if template else "configuration and the digest of the data"):
        detector = run.detector if template else None
        cfg = detector.about.config if detector else run.config
        digest = detector.about.data_digest if detector else run.digest
    with checkpoint.reader(folder) as manager:
        about = checkpoint.about(manager, epoch)
        made_from = about if "config" in about else next(iter(about["runs"].values()))
        # Of folds, what identifies the parts follows the digest of the data.
        made_from = made_from | {"data_digest": made_from["data_digest"].partition(",")[0]}
        run_folder.refuse_other(made_from, cfg, digest, folder / str(epoch))
        if template is None or detector is None:
            return "whole, of this run"
        with needing("scores and metrics"):
            steps = ceil_div(len(run.scores.train), cfg.train.batch_size)
            last = disk.read_metrics(run.folder / "metrics.jsonl")[-1]["epoch"]
        model = empty(template(detector))
        state = checkpoint.restore(manager, model, epoch)
        if (state.step != epoch * steps).any():
            raise UserError(f"it holds {state.step.max() / steps:g} epochs; rename it back")
        if epoch != last:
            return "whole, of this run"
        variables = state.variables
        if cfg.train.select != "last":
            chosen = {"epoch": np.zeros((1,), np.int32), "variables": model.variables}
            variables = checkpoint.restore_chosen(manager, chosen, epoch)["variables"]
    if not _equal(variables, detector.variables):
        raise UserError("the detector's parameters are not those of this checkpoint")
    return "whole, the detector's parameters"


def empty(state: TrainState) -> TrainState:
    """Arrays on the host with the shapes and dtypes of a state, to restore one into."""
    return jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), state)


def _equal(one: dict, other: dict) -> bool:
    a, b = archive.flat(one), archive.flat(other)
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)
