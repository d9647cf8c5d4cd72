"""Selecting the epoch that becomes the detector, and comparing the ways to select it.

In practice one can select the last epoch, or the best by a metric that needs no labels. The epoch
that is best on the test rows is selected by the test labels, which nobody has in practice. This
choice is called the oracle, must be allowed with its own flag, and shows how much better the others
could have been.

To add a choice, name it in `CHOICES` and in the type of `TrainConfig.select`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxae import detectors, scoring
from jaxae.config import ExperimentConfig, for_scoring
from jaxae.detectors import evaluation, label_free
from jaxae.devices.parallel import Devices, Layout
from jaxae.errors import UserError
from jaxae.methods import learners
from jaxae.stats import metrics
from jaxae.types import Array, Dataset, Learner, PyTree, Settings

Metrics = dict[str, Float[np.ndarray, " E"]]


class Choice(NamedTuple):
    """A rule that picks an epoch."""

    words: str  # what it picks by, for reports
    metric: str  # the name of a metric in `metrics.jsonl`
    sign: int = 1  # 1 = the highest is best, -1 = the lowest
    oracle: bool = False  # whether it looks at test labels

    def merit(self, metrics: Mapping[str, Any]) -> Any:
        """How good an epoch is by its metrics; higher = better, and of equals the later is best."""
        return self.sign * metrics[self.metric]


CHOICES: dict[str, Choice] = {
    "last": Choice("last epoch", "epoch"),
    "valid_loss": Choice("validation loss", "valid_loss", -1),
    "pseudo_anomalies": Choice("pseudo-anomalies", "pseudo_auroc"),
    "oracle": Choice("test labels (oracle)", "test_auroc", oracle=True),
}


class Selected(NamedTuple):
    """The best epochs so far of R runs, which have E members together."""

    epoch: Int[np.ndarray, " R"]
    merit: Float[np.ndarray, " R"]  # see `Choice.merit`
    variables: PyTree  # `TrainState.variables` after these epochs [E, ...]


def choice_of(cfg: ExperimentConfig) -> Choice | None:
    """The choice that a configuration names; None = the last epoch, which training always keeps."""
    return None if cfg.train.select == "last" else CHOICES[cfg.train.select]


def check(cfg: ExperimentConfig, data: Dataset | None = None) -> None:
    """Raise a `UserError` if test labels choose the epoch that are missing or not allowed."""
    if data is not None and CHOICES[cfg.train.select].oracle and not data.is_labelled:
        raise UserError(
            f"train.select {cfg.train.select} chooses the epoch by test labels, and these rows "
            "have none; select valid_loss or pseudo_anomalies"
        )
    if CHOICES[cfg.train.select].oracle and not cfg.train.oracle:
        raise UserError(
            f"train.select {cfg.train.select} chooses the epoch by test labels, so its numbers are "
            "not results; allow it with --train.oracle, or select valid_loss or pseudo_anomalies"
        )


def watch(
    cfg: ExperimentConfig, learner: Learner, data: Dataset, devices: Devices
) -> Callable[[PyTree, Settings], Callable[[], Metrics]]:
    """`(variables [E, ...], settings [E]) -> metrics of one epoch`, by which it may be selected.

    The devices begin at once; call the returned function to wait for the metrics.

    valid_loss is always measured. If epochs are monitored or selected by them, so are pseudo_auroc,
    the AUROC of the run's score between valid rows and pseudo-anomalies made from them, and
    test_auroc and test_equal_error_f1, which use the test labels, if there are any, so only the
    oracle selects by them. A score that needs fitting is fitted after each epoch on all training
    rows.
    """
    losses = evaluation.loss_fn(learner, data.valid.x, devices)
    needed = {CHOICES[cfg.train.select].metric}
    if cfg.train.monitor:
        choices = CHOICES.values()
        needed = {choice.metric for choice in choices if data.is_labelled or not choice.oracle}
    score = scoring.resolve(cfg.score)
    scorer = learners.build(for_scoring(cfg), data.shape)
    pairs = (
        label_free.pairs(data.valid.x, cfg.data.split_seed) if "pseudo_auroc" in needed else None
    )
    scorers = {
        name: evaluation.scores_fn(scorer, score, x, devices)
        for name, x in (("pseudo_auroc", pairs), ("test_auroc", data.test.x))
        if name in needed
    }

    def scored(variables: PyTree) -> dict[str, evaluation.Pending]:
        fitted = detectors.fit_score(scorer, variables, data, cfg, devices) if scorers else {}
        return {name: begin(variables, fitted) for name, begin in scorers.items()}

    def begin(variables: PyTree, settings: Settings) -> Callable[[], Metrics]:
        valid_loss = losses(variables, settings)
        begun = None if score.is_fitted else scored(variables)  # fitting has to wait for outputs

        def measured() -> Metrics:
            metrics = {"valid_loss": valid_loss()}
            pending = scored(variables) if begun is None else begun
            scores = {name: fetch() for name, fetch in pending.items()}
            if "pseudo_auroc" in scores:
                metrics["pseudo_auroc"] = label_free.auroc(scores["pseudo_auroc"])
            if "test_auroc" in scores:
                metrics |= _on_test(scores["test_auroc"], data.test.y)
            return metrics

        return measured

    return begin


def _on_test(scores: Float[np.ndarray, "E N"], y: Bool[np.ndarray, " N"]) -> Metrics:
    return {
        "test_auroc": np.array([metrics.auroc(row, y) for row in scores]),
        "test_equal_error_f1": np.array([metrics.equal_error(row, y).f1 for row in scores]),
    }


def keep(
    choice: Choice,
    best: Selected | None,
    epoch: int,
    variables: PyTree,
    metrics: Metrics,
    runs: int,
    layout: Layout,
) -> Selected:
    """The better of each run's best epoch so far and this one, by the mean over its members.

    The variables, placed by `layout`, are copied for the runs in which this epoch is better.
    """
    merit = np.mean(choice.merit(metrics).reshape(runs, -1), axis=1).astype(np.float64)
    is_better = np.ones(runs, bool) if best is None else merit >= best.merit
    if best is None or is_better.all():
        epochs = np.full(runs, epoch, np.int32)
        return Selected(epochs, merit, jax.tree.map(jnp.copy, variables))
    if not is_better.any():
        return best
    of_members = np.repeat(is_better, len(metrics[choice.metric]) // runs)
    return Selected(
        np.where(is_better, np.int32(epoch), best.epoch),
        np.where(is_better, merit, best.merit),
        _where(layout.place(of_members), variables, best.variables),
    )


@jax.jit
def _where(is_better: Array, new: PyTree, old: PyTree) -> PyTree:
    def chosen(a: Array, b: Array) -> Array:
        of_leaf = is_better.reshape(is_better.shape + (1,) * (a.ndim - is_better.ndim))
        return jnp.where(of_leaf, a, b)

    return jax.tree.map(chosen, new, old)


def with_merits(
    choice: Choice, best: Selected, courses: Sequence[list[dict] | None], where: Path
) -> Selected:
    """The best epochs of a checkpoint, with their merits from the logs.

    Args:
      choice: the choice of all runs.
      best: as restored from the checkpoint.
      courses: each run's epochs in `metrics.jsonl`; None = it diverged.
      where: the checkpoint, for the message.

    Raises:
      UserError: a log selects another epoch.
    """
    merits = best.merit.copy()
    for i, course in enumerate(courses):
        if course is None:
            continue
        epoch, logged = int(best.epoch[i]), best_epoch(course, choice)
        if epoch != logged:
            raise UserError(
                f"{where} keeps epoch {epoch}, but in metrics.jsonl epoch {logged} is the best "
                f"by {choice.words}; restore that file, or name another --run-dir"
            )
        merits[i] = choice.merit(course[epoch - 1])
    return best._replace(merit=merits)


def best_epoch(course: list[dict], choice: Choice) -> int:
    """The number of the best epoch; the last one of equals."""
    return max(course, key=lambda line: (choice.merit(line), line["epoch"]))["epoch"]


def summary(cfg: ExperimentConfig, course: list[dict]) -> dict[str, Any]:
    """For a report: how the epoch was selected, which one it is, and what other choices give.

    If every epoch was monitored, "selection" lists for each choice its epoch and the test AUROC at
    that epoch, a mean over members, and "gap", the oracle's AUROC minus the selected epoch's.
    """
    choice = CHOICES[cfg.train.select]
    report = {"selected_by": choice.words, "selected_epoch": best_epoch(course, choice)}
    needed = {choice.metric for choice in CHOICES.values()}
    if not all(needed <= line.keys() for line in course):
        return report
    epochs = {name: best_epoch(course, choice) for name, choice in CHOICES.items()}
    by = {
        name: {"epoch": epoch, "auroc": course[epoch - 1]["test_auroc"]}
        for name, epoch in epochs.items()
    }
    gap = by["oracle"]["auroc"] - by[cfg.train.select]["auroc"]
    return report | {"selection": by | {"gap": gap}}
