"""Folders that nobody else can write to, for what is run when it is read."""

import os
import stat
from pathlib import Path

from jaxae.errors import UserError

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def make(folder: Path, remedy: str) -> None:
    """Make a folder for this user alone, or take an own one back from the eyes of others.

    Args:
      folder: made with the parents that it lacks.
      remedy: what to do where it is refused.

    Raises:
      OSError: it cannot be made.
      UserError: another user owns it, others may write to it and may have done so, or they may
        replace it, since they may write to a parent that is not sticky as /tmp is.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = folder.resolve()
    known = folder.stat()
    if known.st_uid != os.geteuid():
        raise UserError(f"{folder} belongs to another user (number {known.st_uid}); {remedy}")
    if known.st_mode & _OTHERS_WRITE:
        raise UserError(f"{folder} may be written by others; remove it, or {remedy}")
    for parent in folder.parents:
        mode = parent.stat().st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise UserError(f"{parent} may be written by everyone, and so {folder} too; {remedy}")
    folder.chmod(known.st_mode & stat.S_IRWXU)
