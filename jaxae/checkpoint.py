"""Checkpoints of states with Orbax: written whole or not at all."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from jaxae.errors import UserError
from jaxae.types import TrainState

Manager = ocp.CheckpointManager


def open_manager(folder: Path, keep: int) -> Manager:
    """The checkpoints in a folder, numbered by epoch.

    Args:
      folder: made if it does not exist; unfinished checkpoints in it are removed.
      keep: how many stay; 0 = all.
    """
    options = ocp.CheckpointManagerOptions(max_to_keep=keep or None, create=True)
    return ocp.CheckpointManager(folder.absolute(), options=options)


def save(manager: Manager, epoch: int, state: TrainState, about: dict) -> None:
    """Save the state after an epoch, with what it is of; returns once the state is copied."""
    about = {**about, "leaves": _leaves(state)}
    manager.save(
        epoch,
        args=ocp.args.Composite(state=ocp.args.StandardSave(state), about=ocp.args.JsonSave(about)),
    )


def _leaves(state: TrainState) -> dict[str, str]:
    """Path -> dtype and shape of every array: what a template must have too."""
    flat = jax.tree_util.tree_leaves_with_path(state)
    return {jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in flat}


def about(manager: Manager, epoch: int) -> dict:
    """What `save` was told of a checkpoint.

    Raises:
      UserError: it is damaged.
    """
    try:
        args = ocp.args.Composite(about=ocp.args.JsonRestore())
        return manager.restore(epoch, args=args).about
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise UserError(f"{_where(manager, epoch)} cannot be read: {error}; {_REMEDY}") from error


def restore(manager: Manager, template: TrainState, epoch: int | None = None) -> TrainState:
    """A saved state, bit for bit.

    Args:
      manager: see `open_manager`.
      template: shapes, dtypes and shardings, for instance from `jax.eval_shape` of the
        initialisation; the saved state must have the same.
      epoch: None = the last one.

    Raises:
      UserError: there is no such checkpoint, it is damaged, or it does not fit the template.
    """
    epoch = manager.latest_step() if epoch is None else epoch
    if epoch not in manager.all_steps():
        raise UserError(
            f"no checkpoint of epoch {epoch} in {manager.directory}; "
            f"there are {manager.all_steps()}"
        )
    where = _where(manager, epoch)
    try:
        _check_leaves(manager, template, epoch)
        args = ocp.args.Composite(state=ocp.args.StandardRestore(template))
        return manager.restore(epoch, args=args).state
    except UserError as error:
        raise UserError(f"{where} is of another model: {error}; {_REMEDY}") from None
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise UserError(f"{where} cannot be read: {error}; {_REMEDY}") from error


_REMEDY = "remove the run folder or name another"


def _where(manager: Manager, epoch: int) -> str:
    return f"the checkpoint of epoch {epoch} in {manager.directory}"


def _check_leaves(manager: Manager, template: TrainState, epoch: int) -> None:
    """Compare before Orbax does: its own mismatch leaves tasks of a closed event loop behind."""
    saved, wanted = about(manager, epoch)["leaves"], _leaves(template)
    for path in sorted(saved | wanted):
        if saved.get(path) != wanted.get(path):
            raise UserError(f"{path} is {saved.get(path)} there and {wanted.get(path)} here")
