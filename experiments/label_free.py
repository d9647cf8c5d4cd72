"""Compare settings without labels: held-out normals against pseudo-anomalies made from them.

    python -m experiments.label_free RUNS/A RUNS/B ...

Each folder is a finished protocol (`experiments.one_vs_rest`). A pseudo-anomaly is a held-out
normal with a patch of another one pasted in, before any input map. The settings are ranked by the
mean over the members of the AUROC of held-out normals against pseudo-anomalies. The table also
shows the test AUROC; it does not influence the ranking.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from jaxae import config, data, detectors
from jaxae.data import inputs, sources, splits
from jaxae.data.corruptions import pseudo_anomalies
from jaxae.devices import parallel
from jaxae.errors import UserError, user_errors
from jaxae.methods import learners
from jaxae.reports.plots import files
from jaxae.stats import metrics


def pseudo_auroc(folder: Path, draws: int = 3) -> float:
    """The mean AUROC over the members of a protocol and several draws of pseudo-anomalies."""
    aurocs, learner, raw, held_out = [], None, None, {}
    paths = sorted(folder.glob("members/*/detector"))
    if not paths:
        raise UserError(f"{folder} has no members/*/detector; name folders of one_vs_rest")
    for path in paths:
        detector = detectors.load(path)
        cfg = detector.about.config
        raw = raw or data.raw(cfg.data)
        if cfg.data not in held_out:
            plain = dataclasses.replace(cfg.data, input="none")
            held_out[cfg.data] = sources.read(splits.make(raw, plain).valid.x)
        x = held_out[cfg.data]
        rows = np.concatenate([x, *(pseudo_anomalies(x, seed) for seed in range(draws))])
        mapped = inputs.mapped(cfg.data.input, rows)
        learner = learner or learners.build(config.for_scoring(cfg), mapped.shape[1:])
        scores = detectors.score_fn(detector, learner, parallel.choose(0, 1))(mapped)
        aurocs.append(float(metrics.auroc(scores, np.arange(len(rows)) >= len(x))))
    return float(np.mean(aurocs))


def main() -> None:
    """Print the settings, best first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished protocols")
    with user_errors():
        rows = []
        for run in parser.parse_args().runs:
            test = files.report(run, "auroc", "classes")["auroc"]
            rows.append((pseudo_auroc(run), test, run.name))
        print(f"{'pseudo-anomalies':>16} {'test AUROC':>10}")
        for pseudo, test, name in sorted(rows, reverse=True):
            print(f"{pseudo:>16.4f} {test:>10.4f}  {name}")


if __name__ == "__main__":
    main()
