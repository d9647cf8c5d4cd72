"""Machines: which devices there are, how programs run on them, and what they can hold.

`parallel` splits a batch over devices, `hosts` joins many processes, `members` runs several models
side by side; `tuning` has the measured choices of speed, `reductions` and `precision` say how
numbers are added and multiplied; `memory` refuses what devices cannot hold; `compile_cache` keeps
compiled programs for the next run.

It uses settings and convolutions. It knows no method, no data set and no file of a run: it is given
functions and arrays. Nothing is loaded here: the command line uses `hosts` before it loads JAX.
"""
