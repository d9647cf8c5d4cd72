"""What a run keeps on disk, each file written whole or not at all.

`disk` writes files and reads them back, `run_folder` is the run folder, `checkpoint` Orbax's
states, `archive` arrays with their description, `provenance` where a result comes from, `logs` the
loggers.

It uses settings, devices and files of arrays. It does not know what the arrays mean: no method, no
score, no metric. Nothing is loaded here, so that a run folder can be read without Orbax.

A run's checkpoint (`checkpoint.save`) holds the training state, JSON about the run, and, unless
the last epoch is to be kept, the variables of the best epoch so far with its number. That of a grid
of members is put together in `jaxae.workflows.protocol.training`.
"""
