"""Data sets, by name or from a user's files: loading, splitting, scaling and corrupting rows.

`loading` finds data sets by name and orders the rows of an epoch. `published` and `own` read
published data and a user's own files as `raw_data`, of which `splits` makes train, valid and test;
`generated` draws textures with defects.
`trimming` leaves out rows unlike the others. `sources` and `arrayfiles` are rows that need not be
in memory; `inputs` are fixed feature maps of a row; `corruptions` turn normals into anomalies,
`augmentations` into more normals to train on.

This wing uses settings and random numbers (`jaxae.rng`). It does not depend on the users of the
rows: methods, training, run folders.

In a CSV or Parquet table, `own.tables.roles` decides which column is the label, the group or the
split; all other columns are features, except those to ignore. Enter new data sets in
`loading.DATASETS`, new kinds of files in `loading.FILES`.
"""

from jaxae.data.loading import DATASETS, FILES, find, index_plan, load, raw
from jaxae.data.raw_data import Raw

__all__ = ["DATASETS", "FILES", "Raw", "find", "index_plan", "load", "raw"]
