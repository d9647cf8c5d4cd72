"""Whole workflows, from a configuration to a report.

`experiment` is one run: start reading there. `precompile` compiles in another thread what a run
will need soon; `auto` settles every "auto" of a configuration by looking at the rows; `protocol`
runs classes x seeds x settings in one call, and `baselines` are the rows to compare it with;
`verification` checks a finished run or trains it again, `bench` measures speed.

They use everything but the command line. Nothing is loaded here, so that one workflow does not load
the others.
"""
