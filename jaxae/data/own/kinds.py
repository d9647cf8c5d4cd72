"""The kinds of a user's own files, by name, and which settings each of them reads."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from jaxae.config import DataConfig, checks
from jaxae.data.own import arrays, files, tables
from jaxae.data.raw_data import Raw
from jaxae.errors import UserError, unknown
from jaxae.registry import Registry

_COLUMNS = ("label", "group", "ignore", "one_hot")


class Files(NamedTuple):
    """A kind of a user's own files."""

    read: Callable[[Path, DataConfig], Raw]
    reads: tuple[str, ...]  # fields of the configuration, of those that not every kind reads


# KIND:PATH names a user's own files.
FILES: Registry[Files] = Registry(
    "kind of files",
    Files,
    {
        "npz": Files(lambda path, cfg: arrays.npz(path, cfg.rows), ("rows",)),
        "npy": Files(lambda path, cfg: arrays.npy(path, cfg.rows), ("rows",)),
        "table": Files(files.table, _COLUMNS),
        "images": Files(files.folder, ("size",)),
        "series": Files(files.series, (*_COLUMNS, "window", "stride")),
    },
)


def read(kind: str, path: Path, cfg: DataConfig) -> Raw:
    """A user's own files, of the kind and at the place that `find` says.

    Raises:
      UserError: they do not exist, or do not hold what their kind needs.
    """
    if not path.exists():
        raise UserError(f"{path} of data.name {cfg.name} does not exist; check the path")
    raw = FILES[kind].read(path, cfg)
    if raw.group is not None and cfg.split == "random":
        raise UserError(
            "data.split random would separate rows that are held out together; use official"
        )
    return raw


def refuse_unread(cfg: DataConfig, kind: str) -> None:
    """Refuse settings that a kind of files does not read; "" = a data set by its name.

    Raises:
      UserError: one of them is not at its default.
    """
    reads = FILES[kind].reads if kind else ()
    unread = {name for other in FILES.values() for name in other.reads} - set(reads)
    checks.refuse_set(cfg, sorted(unread), f"data.name {cfg.name} does not read it", "data.")


def find(cfg: DataConfig, names: Iterable[str] = ()) -> tuple[str, Path]:
    """The kind of a user's own files, and where they are; "" for a data set by name.

    A path alone is read as its name says: a folder holds images, or arrays if y_test.npy is there,
    a table or an .npz is a series where `window` is set.

    Args:
      cfg: names them.
      names: the data sets that have names of their own.

    Raises:
      UserError: neither a data set nor files.
    """
    kind, _, path = cfg.name.partition(":")
    if kind in FILES and path:
        return kind, Path(path).expanduser()
    if cfg.name in names:
        return "", Path()
    alone = Path(cfg.name).expanduser()
    if cfg.name and alone.is_dir():
        return "npy" if (alone / "y_test.npy").is_file() else "images", alone
    by_suffix = dict.fromkeys(tables.SUFFIXES, "table") | {".npz": "npz"}
    if alone.is_file() and alone.suffix.lower() in by_suffix:
        return "series" if cfg.window else by_suffix[alone.suffix.lower()], alone
    raise unknown("dataset", cfg.name, [*names, *(f"{name}:PATH" for name in FILES)])
