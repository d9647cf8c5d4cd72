"""The command `jaxae`, and the command of every experiment.

`main` finds a command by its name. `train` is also the command line of every experiment;
`commands` has all others; `score` scores files of rows, `evaluate` gives metrics of labelled ones,
and `inspection` describes a data set. This package may use all others, and only `__main__` uses it.
This module imports nothing, so that interrupts are handled before anything slow is imported.
"""
