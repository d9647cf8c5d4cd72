"""The report of a complete protocol, made from its members' folders, and its table."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxae.config import DataConfig, ExperimentConfig, checks
from jaxae.config.grids import ProtocolConfig
from jaxae.errors import UserError
from jaxae.reports import plots, tables
from jaxae.reports.plots import contents
from jaxae.stats.intervals.tasks import Task, over_tasks
from jaxae.storage import disk
from jaxae.training import selection
from jaxae.types import Dataset

Tasks = dict[int, Task]  # normal class -> task


def make(
    cfg: ProtocolConfig,
    members: Sequence[ExperimentConfig],
    datasets: dict[DataConfig, Dataset],
    baseline: Callable[[str, DataConfig, Dataset], Float[np.ndarray, "S N"]],
) -> dict:
    """The report of a grid whose members are all finished, as in `report.json`.

    The main result of a sweep is the point with the lowest mean validation loss, which uses
    held-out normals alone; "points" lists all points.

    Args:
      cfg: the protocol.
      members: all members.
      datasets: the data set of each class.
      baseline: `(name, data, data set) -> scores` of the test rows by seed.
    """
    sweep = _sweep(members, [spec.partition("=")[0] for spec in cfg.sweep])
    tasks = sweep.tasks[sweep.best]
    first = sweep.points[sweep.best][0]
    report = {
        "name": cfg.name,
        "dataset": cfg.data.name,
        "method": first.method,
        "input": first.data.input,
        "score": first.score,
        "epochs": first.train.epochs,
        "selected_by": selection.CHOICES[first.train.select].words,
        "seeds": [*range(cfg.seed, cfg.seed + cfg.seeds)],
        "members": len(members),
        **_values(tasks.values()),
        "interval": "95 %, of other test rows" + (" and other seeds" if cfg.seeds > 1 else ""),
        "classes": {k: _class(k, task, datasets) for k, task in tasks.items()},
        "baselines": {
            name: _baseline(functools.partial(baseline, name), tasks, datasets)
            for name in cfg.baselines
        },
        "warnings": _warnings(members, tasks),
    }
    if choices := _selection(sweep.points[sweep.best]):
        report["selection"] = choices
        for member in sweep.points[sweep.best]:
            values = report["classes"][member.data.normal[0]]
            values["epochs_std"] = max(values.get("epochs_std", 0.0), _epochs_std(member))
        report["epochs_std"] = max(values["epochs_std"] for values in report["classes"].values())
    return report | _of_points(sweep)


class _Sweep(NamedTuple):
    """The members at each point of a sweep, with their scores and mean validation losses."""

    points: dict[str, list[ExperimentConfig]]
    tasks: dict[str, Tasks]
    loss: dict[str, float]

    @property
    def best(self) -> str:
        """The point with the lowest loss."""
        return min(self.points, key=self.loss.__getitem__)


def _sweep(members: Sequence[ExperimentConfig], fields: Sequence[str]) -> _Sweep:
    points: dict[str, list[ExperimentConfig]] = {}
    for member in members:
        point = ", ".join(f"{field} {checks.value(member, field):g}" for field in fields)
        points.setdefault(point, []).append(member)
    tasks = {point: _tasks(configs) for point, configs in points.items()}
    return _Sweep(points, tasks, {point: _valid_loss(configs) for point, configs in points.items()})


def _of_points(sweep: _Sweep) -> dict[str, Any]:
    """What a report says of the points; {} if there is only one."""
    if len(sweep.points) == 1:
        return {}
    points = {
        point: {"valid_loss": sweep.loss[point], **_values(by_class.values())}
        for point, by_class in sweep.tasks.items()
    }
    return {"point": f"{sweep.best} (lowest validation loss)", "points": points}


def _tasks(members: Sequence[ExperimentConfig]) -> Tasks:
    """The scores of every seed of each class, read from the members' folders."""
    by_class: dict[int, list[dict[str, np.ndarray]]] = {}
    for member in members:
        stored = plots.files.scores(member.run_path, "test", "test_y", "test_id", "test_class_id")
        seeds = by_class.setdefault(member.data.normal[0], [])
        if seeds and not _are_same_rows(seeds[0], stored):
            raise UserError(
                f"{member.run_path} and seed {members[0].seed} of its class have different test "
                "rows; remove the folder and run again"
            )
        seeds.append(stored)
    return {
        k: Task(
            np.stack([stored["test"] for stored in seeds]),
            *(seeds[0][name] for name in ("test_y", "test_id", "test_class_id")),
        )
        for k, seeds in by_class.items()
    }


def _are_same_rows(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    """Whether two members have the same test rows: by their digests too, if both have them."""
    names = {"test_id", "test_y", contents.ROW_DIGEST} & one.keys() & other.keys()
    return all(np.array_equal(one[name], other[name]) for name in names)


def _valid_loss(members: Sequence[ExperimentConfig]) -> float:
    losses = [plots.files.report(m.run_path, "valid_loss")["valid_loss"] for m in members]
    return float(np.mean(losses))


def _warnings(members: Sequence[ExperimentConfig], tasks: Tasks) -> list[str]:
    """The warnings in the members' reports, and one per class whose seeds gave identical scores."""
    lines = [
        f"{member.run_path.name}: {line}"
        for member in members
        for line in plots.files.report(member.run_path, "warnings")["warnings"]
    ]
    for k, task in tasks.items():
        if len(np.unique(task.scores, axis=0)) < len(task.scores):
            lines.append(f"class {k}: seeds gave identical scores")
    return lines


def _selection(members: Sequence[ExperimentConfig]) -> dict[str, float]:
    """Mean test AUROC over members for each choice of the epoch, and the gap to the oracle's.

    {} unless every epoch was monitored: training may have begun without `train.monitor`.
    """
    reports = [plots.files.report(m.run_path) for m in members]
    choices = [report["selection"] for report in reports if "selection" in report]
    if len(choices) < len(members):
        return {}
    auroc = {name: np.mean([c[name]["auroc"] for c in choices]) for name in selection.CHOICES}
    auroc["gap"] = np.mean([c["gap"] for c in choices])
    return {name: float(value) for name, value in auroc.items()}


def _epochs_std(member: ExperimentConfig) -> float:
    """Standard deviation of the test AUROC over the last five epochs."""
    epochs = disk.read_metrics(member.run_path / "metrics.jsonl")[-5:]
    return float(np.std([epoch["test_auroc"] for epoch in epochs]))


def _values(tasks: Iterable[Task]) -> dict[str, Any]:
    """AUROC over tasks, its interval, and its standard deviation over seeds."""
    summary = over_tasks([*tasks])
    return {
        "auroc": summary.mean,
        "auroc_interval": [*summary.interval],
        "auroc_std": None if np.isnan(summary.seeds_std) else summary.seeds_std,
    }


def _class_values(task: Task) -> dict[str, Any]:
    """`_values` of one class, with normals and anomalies as strata, as in `intervals.report`."""
    return _values([task._replace(stratum=task.y.astype(int))])


def _class(k: int, task: Task, datasets: dict[DataConfig, Dataset]) -> dict:
    n_train = next(len(d.train.y) for cfg, d in datasets.items() if cfg.normal == (k,))
    sizes = {"n_train": n_train, "n_normal": int((~task.y).sum()), "n_anomaly": int(task.y.sum())}
    return _class_values(task) | sizes


def _baseline(
    scores: Callable[[DataConfig, Dataset], np.ndarray],
    tasks: Tasks,
    datasets: dict[DataConfig, Dataset],
) -> dict:
    scored = {
        k: tasks[k]._replace(scores=scores(data, dataset))
        for data, dataset in datasets.items()
        for k in map(int, data.normal)
    }
    classes = {k: _class_values(task) for k, task in scored.items()}
    return {**_values(scored.values()), "classes": classes}


def table(report: dict) -> str:
    """The report as tables: classes and their mean, then the sweep, then the choices of the epoch.

    If epochs were monitored, "5 epochs" is the standard deviation of the test AUROC over the last
    five epochs, for the least stable seed; in the line of the mean, for the least stable class.
    """
    monitored = "selection" in report
    baselines = report["baselines"]
    rows = [["normal", *_HEADS, *["5 epochs"] * monitored, *baselines]]
    for k, values in [*report["classes"].items(), ("mean", report)]:
        epochs = [f"{values['epochs_std']:.4f}"] if monitored else []
        scores = [b if k == "mean" else b["classes"][k] for b in baselines.values()]
        auroc = [f"{baseline['auroc']:.4f}" for baseline in scores]
        rows.append([str(k), *_cells(values), *epochs, *auroc])
    blocks = [tables.aligned(rows, right=range(len(rows[0])))]
    if "points" in report:
        rows = [["point", *_HEADS, "validation loss"]]
        for point, values in report["points"].items():
            rows.append([point, *_cells(values), f"{values['valid_loss']:.5g}"])
        blocks.append(tables.aligned(rows, right=range(1, 5)))
    if monitored:
        names = {"gap": "gap to the oracle"}
        rows = [["epoch chosen by", "AUROC"]]
        rows += [[names.get(name, name), f"{v:.4f}"] for name, v in report["selection"].items()]
        blocks.append(tables.aligned(rows, right=(1,)))
    title = (
        f"{report['dataset']}, each class against the rest: {report['method']}, score "
        f"{report['score']}, {len(report['seeds'])} seeds, by {report['selected_by']}"
    )
    warnings = [f"warning: {line}" for line in report["warnings"]]
    return "\n".join([title, "\n\n".join(blocks), *warnings])


_HEADS = ("AUROC", "95 % interval", "std")


def _cells(values: dict) -> tuple[str, str, str]:
    std = "" if values["auroc_std"] is None else f"{values['auroc_std']:.4f}"
    return f"{values['auroc']:.4f}", tables.interval(values["auroc_interval"]), std
