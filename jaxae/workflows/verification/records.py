"""The records of a run folder, each read when it is needed, and its data, wherever they lie now."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxae import config, detectors
from jaxae.config import DataConfig, ExperimentConfig
from jaxae.data import loading
from jaxae.data.arrayfiles import read_npz
from jaxae.errors import Missing, Unchecked, UserError
from jaxae.storage import disk, manifest, provenance
from jaxae.types import Dataset
from jaxae.workflows.verification.outcomes import AGAIN, listed

Load = Callable[[DataConfig], Dataset]


class Records:
    """The files of a run, each read once; reading one that is damaged raises a `UserError`."""

    def __init__(self, folder: Path, load: Load):
        self.folder, self._load = folder, load

    @property
    def is_sealed(self) -> bool:
        """Whether there is a manifest."""
        return (self.folder / manifest.NAME).is_file()

    @functools.cached_property
    def is_other_version(self) -> bool:
        """Whether another version may have written the run, which records other values."""
        if not self.is_sealed:
            return True
        started = disk.read_lines(self.folder / "provenance.jsonl")[-1:]
        versions = [line.get("versions", {}).get("jaxae") for line in started]
        return versions != [provenance.version("jaxae")]

    @functools.cached_property
    def config(self) -> ExperimentConfig:
        """What config.json holds."""
        return config.from_dict(disk.read_json(self.folder / "config.json"))

    @functools.cached_property
    def detector(self) -> detectors.Detector:
        """The detector."""
        return detectors.load(self.folder / "detector")

    @functools.cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays in scores.npz."""
        return read_npz(self.folder / "scores.npz")

    @functools.cached_property
    def scores(self) -> detectors.Scores:
        """The scores in scores.npz."""
        missing = [name for name in detectors.Scores._fields if name not in self.arrays]
        if missing:
            raise UserError(f"scores.npz lacks {', '.join(missing)}")
        return detectors.Scores(*(self.arrays[name] for name in detectors.Scores._fields))

    @functools.cached_property
    def digest(self) -> str:
        """The digest of the data on record."""
        digest = disk.read_json(self.folder / "data.json")
        if not isinstance(digest, str):
            raise UserError(f"data.json is not as it was written: it holds no digest; {AGAIN}")
        return digest

    @functools.cached_property
    def report(self) -> dict[str, Any]:
        """The report."""
        report = disk.read_json(self.folder / "report.json", AGAIN)
        if not isinstance(report, dict):
            raise UserError(f"report.json is not as it was written: it is not an object; {AGAIN}")
        return report

    @functools.cached_property
    def _found(self) -> tuple[DataConfig, Dataset]:
        try:
            cfg = _as_read(self.detector.about)
        except UserError:  # there is none, or its own check says so
            cfg = self.config.data
        return _found(cfg, self.folder, self.digest, self._load)

    @property
    def found_at(self) -> DataConfig:
        """The settings of the data, with the path at which they are now."""
        return self._found[0]

    @property
    def data(self) -> Dataset:
        """The data, if they have the digest on record."""
        dataset = self._found[1]
        if dataset.digest != self.digest:
            raise UserError(
                f"{self.found_at.name} has the digest {dataset.digest[:16]}, not {self.digest[:16]}"
            )
        return dataset


def _as_read(about: detectors.Description) -> DataConfig:
    """The settings of the data, with the size of square images, which was once 64 at most."""
    cfg, size = about.config.data, about.schema.size
    is_chosen = size and size[0] == size[1] and not cfg.size and cfg.name not in loading.DATASETS
    return dataclasses.replace(cfg, size=size[0]) if is_chosen else cfg


def _found(cfg: DataConfig, folder: Path, digest: str, load: Load) -> tuple[DataConfig, Dataset]:
    """The data of a run: those with this digest, else the first that can be read.

    A relative path is tried from the working directory, and then from every folder in which the run
    folder lies.

    Raises:
      Unchecked: the data are nowhere.
      UserError: they cannot be read.
    """
    other: tuple[DataConfig, Dataset] | None = None
    problems: list[UserError] = []
    for candidate in _candidates(cfg, folder):
        try:
            dataset = load(candidate)
        except UserError as error:
            problems.append(error)
            continue
        if dataset.digest == digest:
            return candidate, dataset
        other = other or (candidate, dataset)
    if other:
        return other
    for problem in problems:
        if not isinstance(problem, Missing):
            raise problem
    raise Unchecked(f"the data were not found: {problems[0]}")


def _candidates(cfg: DataConfig, folder: Path) -> Iterator[DataConfig]:
    """The settings as they are, and as seen from the folders around the run folder."""
    around = (*folder.absolute().parents, *folder.resolve().parents)
    yield from dict.fromkeys((cfg, *(loading.seen_from(parent, cfg) for parent in around)))


def of_files(folder: Path) -> str:
    """Compare the digests of files with the manifest."""
    if not (folder / manifest.NAME).is_file():
        raise Unchecked(
            f"there is no {manifest.NAME}, which is written last: the run has not finished, an "
            "earlier version wrote it, or the file was removed; the same command writes it again"
        )
    changed = manifest.changed(folder)
    if changed:
        raise UserError(listed([f"{name} {how}" for name, how in changed.items()]))
    return f"{len(manifest.read(folder))} files have the digests on record"
