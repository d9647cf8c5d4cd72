"""A complete protocol from configuration to report: classes x seeds x settings, as one grid.

Each member is an experiment with its own folder and its own detector. The report is made from these
folders; it does not matter which process wrote them.
"""

import functools
import time

from jaxae.config import ExperimentConfig
from jaxae.config.grids import ProtocolConfig
from jaxae.devices import hosts, parallel
from jaxae.reports import derived, plots, protocols
from jaxae.storage import disk, manifest, outputs, run_folder
from jaxae.workflows import baselines
from jaxae.workflows.protocol import cross, sharing, training
from jaxae.workflows.protocol.expansion import expand, is_finished, named, refuse_unread

__all__ = ["cross", "expand", "run"]


def run(cfg: ProtocolConfig, loggers: training.Loggers = lambda member: ()) -> dict | None:
    """Train the members that are not trained yet, then write the report if all are finished.

    A finished member is not trained again, so a call that was stopped can be repeated, and slices
    (`cfg.members`) that other processes train into the same folder are merged; if they overlap,
    the processes share the members, see `sharing`.

    Args:
      cfg: the protocol.
      loggers: makes the loggers of a member from its configuration; called for each unfinished one.

    Returns:
      The report, as in `report.json`; None if members are still missing, and in all processes but
      the first.

    Raises:
      UserError: see `expansion.expand` and `jaxae.workflows.experiment.run`.
      FloatingPointError: members diverged or collapsed; raised after all others are finished.
    """
    clock = time.perf_counter()
    refuse_unread(cfg)
    baselines.check(cfg.baselines)
    outputs.check_run_folder(cfg)
    hosts.join(cfg.hosts)
    parallel.start(cfg)
    members, datasets = expand(cfg)
    chosen = [members[i] for i in named(cfg.members, len(members))]

    def finished(member: ExperimentConfig) -> bool:
        return is_finished(member, datasets[member.data].digest)

    def unfinished(some: list[ExperimentConfig]) -> list[ExperimentConfig]:
        return [member for member in some if not hosts.as_first(finished(member))]

    settled = ProtocolConfig(**vars(cfg) | vars(members[0]))
    run_folder.agree(settled, [dataset.digest for dataset in datasets.values()])
    todo = unfinished(chosen)
    print(f"{len(members)} members in {cfg.run_path}; {len(todo)} of {len(chosen)} to train")
    while todo:
        with parallel.on_host():
            left = training.train_members(cfg, todo, datasets, loggers, finished)
        todo = unfinished(left)
        if todo:
            sharing.wait_for(cfg, todo, finished)
            todo = unfinished(todo)
    return _report(cfg, members, datasets, finished, clock) if hosts.first() else None


def _report(
    cfg: ProtocolConfig,
    members: list[ExperimentConfig],
    datasets: training.Datasets,
    finished: sharing.Finished,
    clock: float,
) -> dict | None:
    """Write the report, unless members are missing, and its figure; adds seconds since `clock`."""
    with parallel.on_host(), training.reported(cfg):
        missing = [i for i, member in enumerate(members) if not finished(member)]
        if missing:
            print(f"{len(missing)} members are not trained yet, first {missing[0]}: no report yet")
            return None
        baseline = functools.partial(baselines.cached_scores, cfg)
        report = protocols.make(cfg, members, datasets, baseline)
        report |= {"wall_s": time.perf_counter() - clock}
        manifest.withdraw(cfg.run_path)
        derived.withdraw(cfg.run_path)  # of another call, perhaps with other classes
        disk.write_json(cfg.run_path / "report.json", report)
        (drawn,) = plots.draw(cfg.run_path, plots.PROTOCOL_FIGURES)
        manifest.seal(cfg.run_path)
    print(protocols.table(report))
    print(f"figure {drawn}; each member's detector is in {cfg.run_path / 'members'}")
    return report
