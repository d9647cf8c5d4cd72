"""The command `jaxae`, and that of every experiment.

`main` finds a command by its name, `commands` has them all but `train`, whose command line is an
experiment's: `command`. `judging` scores files of rows, `inspection` says what a data set holds,
`runs` lists runs. It uses everything, and nothing but `__main__` knows of it. Nothing is loaded
here: interrupts are handled before anything slow is loaded.
"""
