"""What a protocol's members found together: the report, its table and its figure."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxae.config import DataConfig, ExperimentConfig, checks
from jaxae.config.grids import ProtocolConfig
from jaxae.data import sources
from jaxae.errors import UserError
from jaxae.reports import plots
from jaxae.stats.intervals.tasks import Summary, Task, over_tasks
from jaxae.storage import runfiles
from jaxae.training import selection
from jaxae.types import Dataset
from jaxae.workflows import baselines

Found = dict[int, Task]  # of each class that is normal in turn


def of(
    cfg: ProtocolConfig, members: Sequence[ExperimentConfig], datasets: dict[DataConfig, Dataset]
) -> dict:
    """The report of a grid whose members are all finished, as `report.json` holds it.

    Of several points of a sweep the headline is that with the lowest mean validation loss, which
    looks at held-out normals alone; all stand beside it.
    """
    points: dict[str, list[ExperimentConfig]] = {}
    for member in members:
        points.setdefault(_point(cfg, member), []).append(member)
    found = {point: _tasks(of_point) for point, of_point in points.items()}
    loss = {point: _mean_of(of_point, "valid_loss") for point, of_point in points.items()}
    best = min(points, key=loss.__getitem__)
    first = points[best][0]
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
        **_values(over_tasks([*found[best].values()])),
        "interval": "95 %, of other test rows" + (" and other seeds" if cfg.seeds > 1 else ""),
        "classes": {k: _of_class(k, task, datasets) for k, task in found[best].items()},
        "baselines": {name: _baseline(cfg, name, found[best], datasets) for name in cfg.baselines},
    }
    report["warnings"] = [*_warnings(members), *_twins(found[best])]
    if first.train.monitor:
        report["selection"] = _choices(points[best])
        for member in points[best]:
            of_class = report["classes"][member.data.normal[0]]
            of_class["epochs_std"] = max(of_class.get("epochs_std", 0.0), _unrest(member))
        report["epochs_std"] = max(of["epochs_std"] for of in report["classes"].values())
    if len(points) > 1:
        report["point"] = f"{best} (lowest validation loss)"
        report["points"] = {
            point: {"valid_loss": loss[point], **_values(over_tasks([*tasks.values()]))}
            for point, tasks in found.items()
        }
    return report


def _point(cfg: ProtocolConfig, member: ExperimentConfig) -> str:
    fields = [spec.partition("=")[0] for spec in cfg.sweep]
    return ", ".join(f"{field} {checks.value(member, field):g}" for field in fields)


def _tasks(members: Sequence[ExperimentConfig]) -> Found:
    """The scores of each class's seeds, from the members' folders."""
    of_class: dict[int, list[dict[str, np.ndarray]]] = {}
    for member in members:
        stored = plots.files.arrays(member.run_path / "scores.npz", "test", "test_y", "test_id")
        of_seeds = of_class.setdefault(member.data.normal[0], [])
        if of_seeds and not np.array_equal(of_seeds[0]["test_id"], stored["test_id"]):
            raise UserError(
                f"{member.run_path} judged other test rows than seed {members[0].seed} of its "
                "class; remove it, and run again"
            )
        of_seeds.append(stored)
    return {
        k: Task(
            np.stack([one["test"] for one in found]),
            *(found[0][name] for name in ("test_y", "test_id", "test_class_id")),
        )
        for k, found in of_class.items()
    }


def _mean_of(members: Sequence[ExperimentConfig], name: str) -> float:
    return float(np.mean([plots.files.report(m.run_path, name)[name] for m in members]))


def _warnings(members: Sequence[ExperimentConfig]) -> Iterator[str]:
    """What the members' own reports warn of."""
    for member in members:
        for line in plots.files.report(member.run_path, "warnings")["warnings"]:
            yield f"{member.run_path.name}: {line}"


def _twins(found: Found) -> Iterator[str]:
    """Seeds that cannot be told apart: there are fewer than it seems."""
    for k, task in found.items():
        if len(np.unique(task.scores, axis=0)) < len(task.scores):
            yield f"class {k}: seeds gave identical scores"


def _choices(members: Sequence[ExperimentConfig]) -> dict[str, float]:
    """Mean test AUROC over members by each choice of the epoch, and the gap to the oracle's."""
    of_member = [plots.files.report(m.run_path, "selection")["selection"] for m in members]
    found = {
        name: float(np.mean([of[name]["auroc"] for of in of_member])) for name in selection.CHOICES
    }
    return found | {"gap": float(np.mean([of["gap"] for of in of_member]))}


def _unrest(member: ExperimentConfig) -> float:
    """Standard deviation of the test AUROC over the last five epochs."""
    course = runfiles.read_metrics(member.run_path / "metrics.jsonl")[-5:]
    return float(np.std([epoch["test_auroc"] for epoch in course]))


def _values(found: Summary) -> dict[str, Any]:
    return {
        "auroc": found.mean,
        "auroc_interval": [*found.interval],
        "auroc_std": None if np.isnan(found.seeds_std) else found.seeds_std,
    }


def _alone(task: Task) -> Summary:
    """Of one class: rows are drawn within its two sides, as `intervals.report` has it."""
    return over_tasks([task._replace(stratum=task.y.astype(int))])


def _of_class(k: int, task: Task, datasets: dict[DataConfig, Dataset]) -> dict:
    dataset = next(one for of, one in datasets.items() if of.normal == (k,))
    sizes = {"n_train": len(dataset.train.y), "n_normal": int((~task.y).sum())}
    return {**_values(_alone(task)), **sizes, "n_anomaly": int(task.y.sum())}


def _baseline(
    cfg: ProtocolConfig, name: str, found: Found, datasets: dict[DataConfig, Dataset]
) -> dict:
    tasks = {
        of.normal[0]: found[of.normal[0]]._replace(scores=_baseline_scores(cfg, name, of, dataset))
        for of, dataset in datasets.items()
    }
    classes = {k: _values(_alone(task)) for k, task in tasks.items()}
    return {**_values(over_tasks([*tasks.values()])), "classes": classes}


def _baseline_scores(
    cfg: ProtocolConfig, name: str, of: DataConfig, dataset: Dataset
) -> np.ndarray:
    """Of every seed, [S, N]; kept in the run folder."""
    seeds = range(cfg.seed, cfg.seed + cfg.seeds) if name in baselines.SEEDED else [cfg.seed]
    path = cfg.run_path / "baselines" / f"{name}-class{of.normal[0]}.npz"
    if path.exists():
        kept = plots.files.arrays(path, "scores", "seeds", "digest")
        if kept["seeds"].tolist() == [*seeds] and str(kept["digest"]) == dataset.digest:
            return kept["scores"]
    train, test = sources.read(dataset.train.x), sources.read(dataset.test.x)
    scores = np.stack([baselines.scores(name, train, test, seed) for seed in seeds])
    path.parent.mkdir(exist_ok=True)
    runfiles.write_arrays(
        path, {"scores": scores, "seeds": np.array(seeds), "digest": np.array(dataset.digest)}
    )
    return scores


def table(report: dict) -> str:
    """The report as a table: a line for each class and one for their mean.

    Where epochs were monitored, "5 epochs" is the standard deviation of the test AUROC over the
    last five, of the unsteadiest seed; beside the mean, of the unsteadiest class.
    """
    names = [*report["baselines"]]
    head = [f"{'normal':>8} {'AUROC':>7} {'95 % interval':>16} {'std':>6}"]
    watched = "selection" in report
    head += [f"{'5 epochs':>8}"] * watched
    head += [f"{name:>{_width(name)}}" for name in names]
    lines = [" ".join(head)]
    for k, found in [*report["classes"].items(), ("mean", report)]:
        cells = [_cells(str(k), found)]
        if watched:
            cells.append(f"{found['epochs_std']:>8.4f}")
        for name in names:
            of = report["baselines"][name]
            value = of["auroc"] if k == "mean" else of["classes"][k]["auroc"]
            cells.append(f"{value:>{_width(name)}.4f}")
        lines.append(" ".join(cells))
    for point, found in report.get("points", {}).items():
        lines.append(f"{_cells('', found)} {point}, validation loss {found['valid_loss']:.5g}")
    for name, auroc in report.get("selection", {}).items():
        lines.append(f"{auroc:>16.4f} {'is the gap to the oracle' if name == 'gap' else name}")
    rule = "-" * max(map(len, lines))
    title = (
        f"{report['dataset']}, each class against the rest: {report['method']}, score "
        f"{report['score']}, {len(report['seeds'])} seeds, by {report['selected_by']}"
    )
    warned = [f"warning: {line}" for line in report["warnings"]]
    return "\n".join([title, rule, *lines, rule, *warned])


def _width(name: str) -> int:
    return max(len(name), 6)


def _cells(label: str, found: dict) -> str:
    low, high = found["auroc_interval"]
    std = "" if found["auroc_std"] is None else f"{found['auroc_std']:.4f}"
    return f"{label:>8} {found['auroc']:>7.4f} {f'[{low:.4f}, {high:.4f}]':>16} {std:>6}"
