"""The files of a run, each written atomically.

`disk` writes and reads files, `run_folder` opens the run folder, `checkpoint` saves training states
with Orbax, `archive` stores arrays with their description, `provenance` records where a result
comes from, and `logs` has the loggers.

The package uses settings, devices and files of arrays. It does not know what the arrays mean: it
knows no method, score or metric. This module imports nothing, so that a run folder can be read
without Orbax. `jaxae.workflows.protocol.training` assembles the checkpoint of a grid.
"""
