"""What a run keeps on disk, each file written whole or not at all.

`disk` writes and reads files, `run_folder` opens the run folder, `checkpoint` saves training states
with Orbax, `archive` stores arrays with their description, `provenance` records where a result
comes from, and `logs` has the loggers.

The package uses settings, devices and files of arrays. It does not know what the arrays mean: no
method, no score, no metric. Nothing is imported here, so that a run folder can be read without
Orbax. The checkpoint of a grid is assembled in `jaxae.workflows.protocol.training`.
"""
