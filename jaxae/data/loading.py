"""Loading data by name or from a user's own files, and the order of rows in training."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jaxae.config import DataConfig, checks
from jaxae.data import generated, published, splits
from jaxae.data.own import arrays, files, folders, series, tables
from jaxae.data.raw_data import Raw
from jaxae.errors import Missing, UserError, unknown
from jaxae.ops import ceil_div
from jaxae.registry import Registry
from jaxae.rng import Purpose, host_generator
from jaxae.types import Dataset

# Name -> loader of rows that are published or generated.
DATASETS: Registry[Callable[[DataConfig], Raw]] = Registry(
    "dataset",
    Callable,
    {
        "digits": lambda cfg: published.load_digits(),
        "mnist": lambda cfg: published.load(published.MNIST, cfg.dir),
        "fashion_mnist": lambda cfg: published.load(published.FASHION_MNIST, cfg.dir),
        "ecg5000": lambda cfg: published.load(published.ECG5000, cfg.dir),
        "defects": lambda cfg: generated.load("weave", cfg.split_seed),
        "defects_grid": lambda cfg: generated.load("grid", cfg.split_seed),
        "defects_stone": lambda cfg: generated.load("stone", cfg.split_seed),
        "defects_wood": lambda cfg: generated.load("wood", cfg.split_seed),
    },
)


class Files(NamedTuple):
    """A kind of a user's own files."""

    read: Callable[[Path, DataConfig], Raw]
    reads: tuple[str, ...]  # configuration fields that this kind reads and some other does not


_COLUMNS = ("label", "group", "ignore", "one_hot", "header", "missing")
# KIND:PATH names a user's own files.
FILES: Registry[Files] = Registry(
    "kind of files",
    Files,
    {
        "npz": Files(files.npz, ("rows",)),
        "npy": Files(files.npy, ("rows",)),
        "table": Files(files.table, _COLUMNS),
        "images": Files(files.folder, ("size",)),
        "series": Files(series.read, (*_COLUMNS, "time", "window", "stride")),
    },
)


def load(cfg: DataConfig) -> Dataset:
    """Load, split and scale a data set: images [N, H, W, C], series [N, T, C] or vectors [N, F].

    Raises:
      UserError: see `raw`; or the choice of classes leaves a split without rows.
    """
    return splits.make(raw(cfg), cfg)


def raw(cfg: DataConfig) -> Raw:
    """The rows as in their source, before they are split and scaled.

    Raises:
      Missing: the name is unknown, files are missing, or there is no network.
      UserError: files are damaged or not the published ones, or a setting does not apply to them.
    """
    kind, path = find(cfg)
    reads = FILES[kind].reads if kind else ()
    unread = {field for other in FILES.values() for field in other.reads} - set(reads)
    checks.refuse_set(cfg, sorted(unread), f"data.name {cfg.name} does not read it", "data.")
    if not kind:
        return DATASETS[cfg.name](cfg)
    if not path.exists():
        raise Missing(f"{path} of data.name {cfg.name} does not exist; check the path")
    rows = FILES[kind].read(path, cfg)
    if not rows.is_labelled:
        of_classes = ("normal", "anomaly", "corruption", "balance", "split", "valid")
        checks.refuse_set(cfg, of_classes, "the rows have no labels", "data.")
    if rows.group is not None and cfg.split == "random":
        raise UserError(
            "data.split random would separate rows that are held out together; use official"
        )
    return rows


def find(cfg: DataConfig) -> tuple[str, Path]:
    """The kind and the path of a user's own files; the kind is "" for a published data set.

    For a path without a kind, its name decides: a folder contains arrays if x_train.npy or the like
    is in it, else images; a table, an .npz or a .npy is a series if `window` is set.

    Raises:
      Missing: `cfg.name` names neither a data set nor files.
      UserError: it names files of no kind that is known.
    """
    kind, _, path = cfg.name.partition(":")
    if kind in FILES and path:
        return kind, Path(path).expanduser()
    if cfg.name in DATASETS:
        return "", Path()
    alone = Path(cfg.name).expanduser()
    if cfg.name and alone.is_dir():
        if arrays.holds_arrays(alone):
            return "npy", alone
        is_table = tables.parts(alone) and not folders.files(alone)[0]
        return ("series" if cfg.window else "table") if is_table else "images", alone
    by_suffix = dict.fromkeys(tables.SUFFIXES, "table") | {".npz": "npz", ".npy": "npy"}
    kind = by_suffix.get(tables.kind(alone) or alone.suffix.lower(), "")
    if alone.is_file() and kind:
        return "series" if cfg.window else kind, alone
    raise _not_found(cfg.name)


def seen_from(folder: Path, cfg: DataConfig) -> DataConfig:
    """The settings with a relative path of the data as if the working directory were `folder`."""
    if cfg.name in DATASETS:
        is_relative = cfg.dir and not Path(cfg.dir).expanduser().is_absolute()
        return dataclasses.replace(cfg, dir=str(folder / cfg.dir)) if is_relative else cfg
    kind, colon, path = cfg.name.partition(":")
    if kind not in FILES or not path:
        kind, colon, path = "", "", cfg.name
    if not path or Path(path).expanduser().is_absolute():
        return cfg
    return dataclasses.replace(cfg, name=f"{kind}{colon}{folder / path}")


def _not_found(name: str) -> UserError:
    """Why `find` finds neither a data set nor files under this name."""
    kind, _, path = name.partition(":")
    kinds = ", ".join(f"{known}:PATH" for known in FILES)
    if path and Path(path).expanduser().exists():
        return unknown("kind of files", kind, FILES)
    if name and Path(name).expanduser().exists():
        return UserError(
            f"data.name {name!r} does not end as a kind of file does; name its kind: {kinds}"
        )
    if Path(name).suffix or any(mark in name for mark in "/\\"):
        return Missing(f"data.name {name!r} does not exist; check the path")
    return Missing(unknown("dataset or file", name, [*DATASETS, kinds]))


def index_plan(
    seed: int, epoch: int, n: int, batch_size: int, devices: int
) -> Int[np.ndarray, "D T B"]:
    """The rows that each device takes in each step of an epoch; a pure function of its arguments.

    The rows are permuted by (seed, ORDER, epoch). The last batch is completed with the first rows
    of the same order, so every row is used in every epoch and all batches have the same shape.
    Device d takes the slots d * B/D ... (d + 1) * B/D - 1 of each global batch, so the order of
    rows in the global batch does not depend on the number of devices.

    Returns:
      int32 [D, T, B/D] for D devices, global batches of B rows, and T = ceil(n / B) steps.

    Raises:
      UserError: the batch exceeds the training set, or is not divisible by the number of devices.
    """
    if batch_size > n:
        raise UserError(
            f"train.batch_size {batch_size} exceeds the {n} training rows; "
            f"set train.batch_size to at most {n}"
        )
    if batch_size % devices:
        raise UserError(
            f"train.batch_size {batch_size} is not divisible by {devices} devices; "
            f"set train.batch_size to a multiple of {devices}, or devices to a divisor of it"
        )
    order = host_generator(seed, Purpose.ORDER, epoch).permutation(n)
    steps = ceil_div(n, batch_size)
    filled = np.concatenate([order, order[: steps * batch_size - n]]).astype(np.int32)
    by_device = filled.reshape(steps, devices, batch_size // devices).swapaxes(0, 1)
    return np.ascontiguousarray(by_device)
