"""Reading a user's own files as raw data sets.

`arrays` reads .npz and .npy; `files` makes raw data sets from `tables`, folders of `images`, and
long series cut into `windows`; with its `schema` a detector reads new files in the same way.
"""
