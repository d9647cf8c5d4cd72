"""Machines: which devices there are, what runs on them how, and what they can hold.

`parallel` shares a batch out, `hosts` joins many processes, `members` is the axis of models side by
side; `tuning` is every choice of speed that was measured, `means` and `precision` are how numbers
are added and multiplied; `memory` asks before devices are filled; `compiled` keeps programs for the
next run, in a folder that `private` makes.

It uses settings and convolutions. It knows no method, no data set and no file of a run: it is given
functions and arrays. Nothing is loaded here, since a command line asks `hosts` before JAX is there.
"""
