"""Evaluation of scores: metrics that treat ties exactly, intervals, and conformal guarantees.

`curve` counts anomalies and normals above each score, `metrics` are computed from these counts,
`intervals` are confidence intervals of metrics. `steps` are metrics of a series by step, `ranges`
those of its alarms, `pixels` those of score maps. `conformal.ranks` computes p-values, and
`conformal.folds` those of models trained on folds; their error rates hold in finite samples.

These are pure functions of arrays; they know nothing of methods, detectors or runs. This module
imports nothing, because figures are drawn from `curve` and `ranges` in processes without JAX.
"""
