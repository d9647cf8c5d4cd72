"""What scores are worth: metrics that treat ties exactly, intervals, and conformal guarantees.

`curve` sweeps scores once for all metrics, `metrics` measures them against the truth, `intervals`
says how far that can be trusted, `conformal` turns scores into p-values whose error rates hold in
finite samples.

Pure functions of arrays: they do not know whose scores these are - no method, no detector, no run.
Nothing is imported here: figures are drawn from `curve` in processes without JAX.
"""
