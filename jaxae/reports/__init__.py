"""What people look at: the report of a run, comparisons, studies, figures and pages.

A new study is entered in `studies.STUDIES`; its figures are functions in `plots`.

`reporting` makes the report, `comparison` sets two runs side by side, `studies` look beyond scores,
`plots` draws with matplotlib, `pages` writes HTML and `tables` text.

It uses all that computes and keeps. It does not know who asks: no workflow, no command. Nothing is
loaded here: `plots` needs no JAX, so that figures can be drawn again where there is none.
"""
