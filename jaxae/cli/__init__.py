"""The command `jaxae`, and that of every experiment.

`main` finds a command by its name. `train` is its own module, since it is the command line of every
experiment too; `commands` has all others. `score` scores files of rows, `inspection` says what a
data set holds, `listing` lists runs. It uses everything, and nothing but `__main__` knows of it.
Nothing is loaded here: interrupts are handled before anything slow is loaded.
"""
