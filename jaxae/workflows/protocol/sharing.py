"""Calls that train members of one protocol at the same time: each member by one process.

A process locks the folders of the members that it trains. It leaves those that another process has
locked, and waits for them at the end, without a lock; what a process that ended left unfinished,
others then train. Processes with the same slice take turns, because they have one folder of
checkpoints; those of other slices have other folders.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from jaxae.config import ExperimentConfig
from jaxae.config.grids import ProtocolConfig
from jaxae.devices import hosts
from jaxae.storage import run_folder
from jaxae.training import train

_PAUSE = 0.5  # seconds between looks at members of other processes

Finished = Callable[[ExperimentConfig], bool]


def name_of(cfg: ProtocolConfig) -> str:
    """The name of a slice, as in names of files: "0-10", or "all"."""
    return cfg.members.replace(":", "-") or "all"


@contextlib.contextmanager
def claimed(
    cfg: ProtocolConfig, todo: Sequence[ExperimentConfig], finished: Finished
) -> Iterator[list[ExperimentConfig]]:
    """Lock the folders of members that no other process has locked, until the context ends.

    Args:
      cfg: the protocol.
      todo: the members to train or score.
      finished: whether a member is finished; another process may just have done that.

    Yields:
      The members that are locked and unfinished; [] if another process has the same slice.
    """
    with contextlib.ExitStack() as locks:
        is_ours = _locked(locks, cfg)
        yield [member for member in todo if is_ours and _claim(locks, member, finished)]


def wait_for(cfg: ProtocolConfig, left: Sequence[ExperimentConfig], finished: Finished) -> None:
    """Wait until members that other processes have are finished, or one of them is free again."""
    print(
        f"{len(left)} members, first {left[0].run_path.name}, are in use by another process: "
        "waiting for it",
        flush=True,
    )
    with train.progress_bar(len(left), 0, False, "waiting", "member") as bar:
        while True:
            missing = [member for member in left if not finished(member)]
            bar.update(len(left) - len(missing) - bar.n)
            if hosts.as_first(not missing or any(_is_free(cfg, member) for member in missing)):
                return
            time.sleep(_PAUSE)


def _claim(locks: contextlib.ExitStack, member: ExperimentConfig, finished: Finished) -> bool:
    with contextlib.ExitStack() as lock:
        if not _locked(lock, member) or hosts.as_first(finished(member)):
            return False
        locks.push(lock.pop_all())
        return True


def _locked(locks: contextlib.ExitStack, cfg: ExperimentConfig) -> bool:
    """Lock a member, or the slice of a protocol, on all processes; false if another call has it."""
    is_free = True
    try:
        if hosts.first():
            locks.enter_context(run_folder.locked(cfg.run_path, _lock(cfg)))
    except run_folder.InUse:
        is_free = False
    return hosts.as_first(is_free)


def _is_free(cfg: ProtocolConfig, member: ExperimentConfig) -> bool:
    """Whether nobody has the slice and the member."""
    return not any(run_folder.is_locked(one.run_path, _lock(one)) for one in (cfg, member))


def _lock(cfg: ExperimentConfig) -> str:
    """The lock of a slice is not that of the protocol's folder, in which slices share records."""
    return f".{name_of(cfg)}.lock" if isinstance(cfg, ProtocolConfig) else run_folder.LOCK
