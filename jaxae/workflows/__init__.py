"""Complete workflows, from a configuration to a report.

`experiment` is one run: start reading there. `course` trains one run or many; `precompile` compiles
what a run will need in a second thread; `auto` replaces every "auto" with a value chosen from the
rows; `crossfit` scores every training row by a model that was not trained on it; `protocol` runs
classes x seeds x settings in one call, `baselines` are methods to compare it with; `verification`
checks a finished run or protocol or trains it again, `bench` measures speed.

Workflows use every wing except `cli`. Importing this package loads no module, so that one workflow
does not load the others.
"""
