"""A whole protocol from configuration to report: classes x seeds x settings, trained as one grid.

Each member is an experiment of its own and leaves a folder of its own, with a detector that judges
alone; the report is made of these folders, whoever filled them.
"""

import time

from jaxae.config.grids import ProtocolConfig
from jaxae.devices import parallel
from jaxae.reports import plots
from jaxae.storage import disk
from jaxae.workflows import baselines
from jaxae.workflows.protocol import cross, summary, training
from jaxae.workflows.protocol.expansion import expand, is_finished, named, refuse_unread

__all__ = ["cross", "expand", "run"]


def run(cfg: ProtocolConfig) -> dict | None:
    """Train what is not trained yet, then report if all members are there.

    A finished member is not trained again: a call that was stopped goes on, and slices
    (`cfg.members`) that other processes trained into the same folder are merged.

    Returns:
      The report, as `report.json` holds it; None where members are missing still.

    Raises:
      UserError: see `expansion.expand` and `jaxae.workflows.experiment.run`.
      FloatingPointError: members diverged or collapsed; all others are finished first.
    """
    clock = time.perf_counter()
    refuse_unread(cfg)
    parallel.start(cfg)
    baselines.check(cfg.baselines)
    members, datasets = expand(cfg)
    chosen = [members[i] for i in named(cfg.members, len(members))]
    todo = [member for member in chosen if not is_finished(member)]
    print(f"{len(members)} members in {cfg.run_path}; {len(todo)} of {len(chosen)} to train")
    if todo:
        with parallel.on_host():
            training.train_members(cfg, todo, datasets)
    missing = [i for i, member in enumerate(members) if not is_finished(member)]
    if missing:
        print(f"{len(missing)} members are not trained yet, first {missing[0]}: no report so far")
        return None
    with parallel.on_host():
        report = summary.make(cfg, members, datasets)
    report |= {"wall_s": time.perf_counter() - clock}
    disk.write_json(cfg.run_path / "report.json", report)
    (drawn,) = plots.draw(cfg.run_path, plots.PROTOCOL_FIGURES)
    print(summary.table(report))
    print(f"figure {drawn}; each member's detector is in {cfg.run_path / 'members'}")
    return report
