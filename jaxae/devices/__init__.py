"""Devices: which ones there are, how programs run on them, and what they can hold.

A new choice of speed belongs in `tuning`, with its measurement; results must not depend on it.

`parallel` splits a batch over devices, `hosts` joins many processes, `members` is the axis of
models side by side; `tuning` has every choice of speed that was measured, `means` and `precision`
how numbers are added and multiplied; `memory` checks what fits before devices are filled;
`compiled` keeps programs for the next run, in a folder that `private` makes.

It uses settings and convolutions. It takes functions and arrays, and knows no method, no data set
and no file of a run. Nothing is loaded here, because the command line asks `hosts` before JAX is
imported.
"""
