"""Machines: which devices there are, how programs run on them, and what they can hold.

`parallel` chooses devices and lays out members and batches over them, `hosts` connects several
processes, which meet and compare what they will do in `meeting`, `members` runs models side by
side; `tuning` holds the fastest measured options; `reductions` and `precision` are how numbers are
added and multiplied; `memory` refuses what does not fit on the devices; `compile_cache` keeps
compiled programs for the next run.

This wing uses `config` and `ops`. It knows nothing of methods, data sets or run files: it works on
functions and arrays. Importing it loads no module: the command line uses `hosts` before JAX.
"""
