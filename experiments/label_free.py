"""Settings compared without a label: held-out normals against pseudo-anomalies made of them.

    python -m experiments.label_free RUNS/A RUNS/B ...

Each folder is a finished protocol (`experiments.one_vs_rest`). For every member the held-out
normals of its class are set against the same rows with a patch of another one pasted in, before any
input map: the mean AUROC over the members ranks the settings. The test AUROC beside it chooses
nothing; it shows what the choice was worth.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from jaxae import config, data, detectors
from jaxae.data import inputs, sources, splits
from jaxae.devices import parallel
from jaxae.errors import UserError, user_errors
from jaxae.methods import learners
from jaxae.reports.plots import files
from jaxae.stats import metrics
from jaxae.training.selection import pseudo_anomalies


def pseudo_auroc(folder: Path, draws: int = 3) -> float:
    """The mean over the members of a protocol, and over some draws of pseudo-anomalies."""
    found, learner, raw, held = [], None, None, {}
    paths = sorted(folder.glob("members/*/detector"))
    if not paths:
        raise UserError(f"{folder} has no members/*/detector; name folders of one_vs_rest")
    for path in paths:
        detector = detectors.load(path)
        cfg = detector.about.config
        raw = raw or data.raw(cfg.data)
        if cfg.data not in held:
            plain = dataclasses.replace(cfg.data, input="none")
            held[cfg.data] = sources.read(splits.make(raw, plain).valid.x)
        x = held[cfg.data]
        both = np.concatenate([x, *(pseudo_anomalies(x, seed) for seed in range(draws))])
        seen = inputs.mapped(cfg.data.input, both)
        learner = learner or learners.build(config.for_scoring(cfg), seen.shape[1:])
        scores = detectors.score_fn(detector, learner, parallel.choose(0, 1))(seen)
        found.append(float(metrics.auroc(scores, np.arange(len(both)) >= len(x))))
    return float(np.mean(found))


def main() -> None:
    """Print the settings, the best first."""
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
