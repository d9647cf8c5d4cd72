"""How many epochs fit into `train.budget` seconds, by the speed of the first steps.

The budget only lowers the number of epochs that `jaxae.workflows.auto` chose, which is what rows of
this kind can use; an epoch is never cut. The measured steps are thrown away and the number is
recorded as `train.epochs`, so a run repeats bit for bit without a clock.
"""

import dataclasses

from jaxae import config
from jaxae.config import ExperimentConfig
from jaxae.config.checks import AUTO
from jaxae.devices import hosts, parallel
from jaxae.errors import UserError
from jaxae.ops import ceil_div
from jaxae.training import speed
from jaxae.types import Learner, Source

_WHOLE, _SHORT = 16, 8  # an epoch of so few steps is measured whole, of others so many steps
_TIMES = 4  # short epochs, the first of which is a warm-up
_SHARE = 0.05  # of the budget, after which no further short epoch is begun
_WARM_UP = 1.5  # how many times as long as others the first epoch takes at most


def settle(
    asked: ExperimentConfig,
    cfg: ExperimentConfig,
    learner: Learner,
    x: Source,
    devices: parallel.Devices,
) -> ExperimentConfig:
    """Lower `train.epochs` to what fits into the budget, and say so in a line.

    A run folder that was begun with the same budget keeps its number. All processes get the number
    of the first.

    Args:
      asked: the configuration before `jaxae.workflows.auto` settled it.
      cfg: the settled one.
      learner: of `cfg`.
      x: training rows.
      devices: those that will train.

    Returns:
      `cfg` with the number of epochs, unchanged if `asked` sets epochs or no budget.

    Raises:
      UserError: the batch does not fit into the memory.
    """
    budget = cfg.train.budget
    if asked.train.epochs != AUTO or not budget:
        if budget:
            print(
                f"train.epochs is {cfg.train.epochs}, so train.budget {budget:g} chooses nothing; "
                "with --train.epochs auto it does"
            )
        return cfg
    began, same = _begun(cfg)
    if hosts.as_first(same):
        began = hosts.as_first(began)
        print(
            f"{cfg.run_path} was begun with {began} epochs, which stay; --train.epochs N trains N"
        )
        return _with_epochs(cfg, began)
    steps = ceil_div(len(x), cfg.train.batch_size)
    per_s = _steps_per_s(cfg, learner, x, devices, steps)
    fitting = min(cfg.train.epochs, int(per_s * budget / steps))
    chosen = hosts.as_first(int(max(1, fitting, began)))
    print(_in_words(cfg, per_s, steps, chosen))
    return _with_epochs(cfg, chosen)


def _with_epochs(cfg: ExperimentConfig, epochs: int) -> ExperimentConfig:
    return dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, epochs=epochs))


def _begun(cfg: ExperimentConfig) -> tuple[int, bool]:
    """The epochs on record in the run folder, 0 if there is none; whether its budget is the same.

    A record that cannot be read counts as none here, since the run folder refuses it later.
    """
    try:
        begun = config.from_json((cfg.run_path / "config.json").read_text()).train
    except (OSError, ValueError, UserError):
        return 0, False
    return int(begun.epochs), begun.budget == cfg.train.budget


def _steps_per_s(
    cfg: ExperimentConfig, learner: Learner, x: Source, devices: parallel.Devices, steps: int
) -> float:
    """The speed of training; a first short epoch suffices to see that an epoch exceeds all."""
    batch, budget = cfg.train.batch_size, cfg.train.budget
    count = speed.steps_of(batch, x.shape[1:], steps if steps <= _WHOLE else _SHORT)
    rows = x if count >= steps else x[: count * batch]

    def enough(speeds: list[float]) -> bool:
        if len(speeds) == 1:
            return steps / speeds[0] > _WARM_UP * budget
        spent = sum(count / per_s for per_s in speeds[1:])
        return len(speeds) == _TIMES or spent > _SHARE * budget

    return speed.measure(learner, rows, cfg, devices, enough).steps_per_s


def _in_words(cfg: ExperimentConfig, per_s: float, steps: int, epochs: int) -> str:
    budget, total = cfg.train.budget, epochs * steps
    speed, seconds = f"about {per_s:.3g} steps/s", f"train.budget {budget:g} s"
    if total / per_s > budget:
        times = "one epoch" if epochs == 1 else f"the {epochs} epochs on record"
        rows = max(1, int(per_s * budget)) * cfg.train.batch_size
        return (
            f"{speed}: {times} of {steps} steps takes about {total / per_s:.3g} s, more than "
            f"{seconds}; an epoch is not cut, but --data.limit {rows} trains on fewer rows"
        )
    if epochs == cfg.train.epochs:
        return (
            f"{speed}: all {epochs} epochs, {total} steps, take about {total / per_s:.3g} s, "
            f"within {seconds}"
        )
    return (
        f"{speed}: {epochs} epochs, {total} steps fit into {seconds}, of {cfg.train.epochs} that "
        f"these rows could use; --train.epochs {cfg.train.epochs} trains all"
    )
