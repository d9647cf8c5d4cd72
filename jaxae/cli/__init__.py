"""The command `jaxae`, and that of every experiment.

`main` finds a command by its name. `train` is the command line of every experiment too; `commands`
has all the others, of which `score` scores files of rows and `inspection` describes a data set. The
package may use every other one, and only `__main__` uses it. Nothing is imported here, so that
interrupts are handled before anything slow is imported.
"""
