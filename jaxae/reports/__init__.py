"""Results for people to read: the report of a run, comparisons, studies, figures and pages.

`reporting` makes the report of a run and its table, `unlabelled` what it says of rows without
labels, `protocols` that of a protocol, `comparison` compares two runs, `studies` evaluate beyond
scores, `plots` draws with matplotlib, `pages` writes HTML, `derived` removes all these when scores
are replaced, `media` shows a run to loggers, `listing` lists runs, and `tables` aligns cells. A new
study is entered in `studies.STUDIES`; its figures are functions in `plots`.

This wing must not depend on workflows or commands. This module imports nothing, because `plots`
needs no JAX: figures can be drawn again on a machine without it.
"""
