"""The files of a run, each written atomically.

`disk` writes and reads files, `run_folder` opens and locks the run folder, `checkpoint` saves
training states with Orbax, with what the run was made from and its best epoch so far, `archive`
stores arrays with a description, `manifest` records the digests of all files, `outputs` says what a
file that a user names may replace, `provenance` where a result comes from; `logs` has loggers.

The package uses settings, devices and files of arrays. It does not know what the arrays mean: it
knows no method, score or metric. This module imports nothing, so that a run folder can be read
without Orbax. `jaxae.workflows.course` assembles what a checkpoint holds.
"""
