"""Whole workflows, from a configuration to a report.

`experiment` is one run: start reading there. `ahead` compiles beside it what it will need soon;
`choices` makes the settings that are left to the rows; `protocol` is classes x seeds x settings in
one call, with `baselines` beside it; `verification` checks a finished run, `bench` measures speed.

They use everything but the command line, of which they know nothing. Nothing is imported here, so
that one workflow does not load the others.
"""
