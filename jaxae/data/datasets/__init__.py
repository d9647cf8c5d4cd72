"""Where rows come from: published files, prepared once with TFDS, and data a user has already.

`published` knows the files, `files` fetches bytes, `idx` and `ucr` parse them, `prepared` keeps the
result as a TFDS data set, `local` needs no download, and `splits` makes train, valid and test.
Of a user's own files `kinds` knows the kinds and `own` makes raw data sets: of `tables`, of folders
of `images`, and of long series cut into `windows`; `schema` says how to read new files alike.
"""
