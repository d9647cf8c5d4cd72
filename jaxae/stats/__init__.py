"""What scores are worth: metrics that treat ties exactly, intervals, and conformal guarantees.

`curve` counts anomalies and normals above each score, `metrics` are computed from these counts,
`intervals` are confidence intervals of metrics. `conformal.ranks` computes p-values, and
`conformal.folds` those of models trained on folds; their error rates hold in finite samples.

Pure functions of arrays: no method, no detector and no run is known here. Nothing is imported
here: figures are drawn from `curve` in processes without JAX.
"""
