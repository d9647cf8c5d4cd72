"""Whole stories, from a configuration to a report.

`experiment` is one run: start reading there. `ahead` makes beside it what it will need soon;
`choices` settles what a configuration leaves to the rows; `protocol` is classes x seeds x settings
in one call, with `baselines` beside it; `verification` trains a finished run again, `bench`
measures.

They use everything but the command line, which does not exist for them. Nothing is loaded here: who
wants one story need not load the others.
"""
