"""The command `jaxae`, and that of every experiment.

`main` has the commands, `commands` those that look at files and runs, `command` that of an
experiment; `judging` and `judgements` judge files of rows, `inspection` says what a data set holds,
`runs` lists.

It uses everything, and nothing but `__main__` knows of it. Nothing is loaded here: it is on guard
against what goes wrong before anything that takes long is loaded.
"""
