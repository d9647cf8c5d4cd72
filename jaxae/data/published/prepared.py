"""Storing raw arrays as TFDS data sets in array_record files, without TensorFlow.

TFDS's own MNIST builders open files through TensorFlow, so the builder here takes arrays. A record
holds a block of rows as bytes: reading 60,000 images takes 0.15 s in blocks of 1,000 and 1.4 s one
by one. Only this module imports TFDS.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxae.config import cache_dir
from jaxae.data.raw_data import Raw
from jaxae.errors import UserError, words

BLOCK = 1000  # rows per record
VERSION = "1.0.0"  # of the stored format: raise it when the features change
_PREFIX = ".preparing-"  # of incomplete folders
_ABANDONED = 3600.0  # seconds after which the process of such a folder must have been killed


def load(name: str, key: Any, read: Callable[[], Raw]) -> Raw:
    """The prepared data set `name`, made from `read()` unless it is in the cache.

    A data set is prepared under a temporary name and renamed when it is complete: an aborted
    preparation leaves no data set, and of two processes that prepare the same one, the first to
    finish wins. One that cannot be read is prepared again.

    Args:
      name: the name of the data set.
      key: JSON-able identity of the source; another key means another data set.
      read: returns the arrays; if it raises, nothing is stored.

    Raises:
      UserError: the cache folder cannot be written.
    """
    digest = hashlib.sha256(json.dumps([VERSION, name, key]).encode()).hexdigest()
    folder = cache_dir() / f"{name}-{digest[:16]}"
    if folder.is_dir():
        with contextlib.suppress(Exception):  # TFDS and array_record raise any type if damaged
            return _read(folder, name)
        shutil.rmtree(folder, ignore_errors=True)
    raw = read()
    try:
        _prepare(raw, name, folder)
    except OSError as error:
        raise UserError(
            f"cannot write prepared data to {folder.parent} ({words(error)}); set JAXAE_CACHE_DIR "
            "to a writable folder with space"
        ) from None
    return raw


def _prepare(raw: Raw, name: str, folder: Path) -> None:
    cache = folder.parent
    cache.mkdir(parents=True, exist_ok=True)
    for old in cache.glob(f"{_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):  # its process may be renaming it just now
            if time.time() - old.stat().st_mtime > _ABANDONED:
                shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(
        prefix=f"{_PREFIX}{folder.name}-", dir=cache, ignore_cleanup_errors=True
    ) as unfinished:
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints to it
            _builder(raw, name, Path(unfinished)).download_and_prepare()
        try:
            os.rename(unfinished, folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process finished first, with equal content
                raise


def _builder(raw: Raw, name: str, folder: Path) -> Any:
    """A TFDS builder of the arrays, with the splits `train` and `test` in blocks of rows."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()

    class LocalInfo(tfds.core.DatasetInfo):
        def initialize_from_bucket(self) -> None:
            """Skip the look-up of published metadata, which would leave a folder in /tmp."""

    class Rows(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version(VERSION)

        def _info(self) -> tfds.core.DatasetInfo:
            def blocks(shape: tuple[int, ...], dtype: np.dtype) -> tfds.features.Tensor:
                return tfds.features.Tensor(shape=(None, *shape), dtype=dtype, encoding="bytes")

            features = {
                "x": blocks(raw.x_train.shape[1:], raw.x_train.dtype),
                "y": blocks((), np.asarray(raw.train_class_id).dtype),
            }
            return LocalInfo(
                builder=self,
                description=f"Rows of {name} in the order of their source, {BLOCK} a record.",
                features=tfds.features.FeaturesDict(features),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: Any) -> dict:
            return {
                "train": self._generate_examples(raw.x_train, raw.train_class_id),
                "test": self._generate_examples(raw.x_test, raw.test_class_id),
            }

        def _generate_examples(self, x: np.ndarray, y: np.ndarray) -> Any:
            for first in range(0, len(x), BLOCK):
                yield first, {"x": x[first : first + BLOCK], "y": y[first : first + BLOCK]}

    Rows.name = name
    return Rows(data_dir=os.fspath(folder), file_format="array_record")


def _read(folder: Path, name: str) -> Raw:
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(folder / name / VERSION)
    arrays = []
    for split in ("train", "test"):
        source = builder.as_data_source(split=split)
        blocks = source.__getitems__(range(len(source)))
        arrays += [np.concatenate([block[part] for block in blocks]) for part in ("x", "y")]
    return Raw(*arrays)
