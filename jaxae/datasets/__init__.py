"""Where rows come from: published files, prepared once with TFDS, and data a user has already.

`published` knows the files, `files` fetches bytes, `idx` and `ucr` parse them, `prepared` keeps the
result as a TFDS data set, `local` needs no download, and `splits` makes train, valid and test.
"""
