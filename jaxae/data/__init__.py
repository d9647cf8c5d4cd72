"""Rows: by name or from a user's files, split, scaled and corrupted.

`loading` finds data sets by name and orders the rows of an epoch. `published` and `own` read
published data and a user's own files as `raw_data`, of which `splits` makes train, valid and test.
`sources` and `arrayfiles` are rows that need not be in memory; `inputs` are fixed feature maps of
a row; `corruptions` turn normals into anomalies.

It uses settings and random numbers (`jaxae.rng`). It does not depend on what uses the rows: no
method, no training, no run folder.

In a CSV or Parquet table, `own.tables.roles` decides which column is the label, the group or the
split; all others are features, except those to ignore. New data sets are entered in
`loading.DATASETS`, new kinds of files in `loading.FILES`.
"""

from jaxae.data.loading import DATASETS, FILES, find, index_plan, load, raw
from jaxae.data.raw_data import Raw

__all__ = ["DATASETS", "FILES", "Raw", "find", "index_plan", "load", "raw"]
