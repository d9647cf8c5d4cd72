"""What scores are worth: metrics that treat ties exactly, intervals, and conformal guarantees.

`curve` counts anomalies and normals above each score, `metrics` are computed from these counts,
`intervals` are confidence intervals of metrics. P-values are made in `conformal.ranks`, and those
of models trained on folds in `conformal.folds`; their error rates hold in finite samples.

Pure functions of arrays: they do not know whose scores these are - no method, no detector, no run.
Nothing is imported here: figures are drawn from `curve` in processes without JAX.
"""
