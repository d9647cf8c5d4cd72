"""A user's own files as raw data sets.

`arrays` reads .npz and .npy; `files` makes raw data sets of `tables`, of folders of `images`, and
of long series cut into `windows`; by its `schema` a detector reads new files in the same way.
"""
