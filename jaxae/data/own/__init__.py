"""A user's own files as raw data sets.

`arrays` reads .npz and .npy; `files` makes raw data sets of `tables`, of folders of `images`, and
of long series cut into `windows`; `schema` says how new files are read in the same way.
"""
