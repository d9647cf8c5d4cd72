"""Rows: by name or from a user's files, split, scaled and corrupted.

`loading` finds data sets by name and orders the rows of an epoch; `published` and `own` read
published data and a user's own files as `raw_data`, `splits` makes train, valid and test of these;
`sources` and `arrayfiles` are rows that need not lie in memory; `inputs` are fixed feature maps of
a row, `corruptions` make anomalies of normals.

It uses settings and random numbers (`jaxae.rng`). It does not know who takes the rows: no method,
no training, no run folder.

In a CSV or Parquet table, `own.tables.roles` decides which column is the label, the group or the
split; all others are features, but for those to ignore. A new data set is entered in
`loading.DATASETS`, a new kind of file in `own.kinds.FILES`.
"""

from jaxae.data.loading import DATASETS, index_plan, load, raw
from jaxae.data.raw_data import Raw

__all__ = ["DATASETS", "Raw", "index_plan", "load", "raw"]
