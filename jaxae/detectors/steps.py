"""Decisions about the steps of a series, and the alarms that they make.

Steps are not exchangeable: neighbours share windows. So what is calibrated is blocks of held-out
steps, twice as long as a window, of which the highest score is one observation. With B blocks the
p-value of a score is (1 + the number of blocks that reach it) / (B + 1). If a new normal block of
that length is exchangeable with them, the probability that any of its steps has a p-value of at
most alpha is at most alpha. Neighbouring blocks, and blocks of a series that drifts, are not
exchangeable; of a stationary series whose steps forget each other within a block, nearly so.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxae import scoring
from jaxae.config import ExperimentConfig
from jaxae.data.own import windows
from jaxae.detectors import calibration, streams
from jaxae.detectors.detector import Detector
from jaxae.detectors.judging import LARGEST
from jaxae.devices import parallel
from jaxae.errors import UserError
from jaxae.stats.conformal import lowest_alpha, p_values
from jaxae.types import Dataset, Decision, Learner, Split, above_threshold

State = Mapping[str, Any]  # what `held_out` returns
NAME = "steps"  # of that in `Detector.places`
_FEW_BLOCKS = 5  # with fewer, no p-value is below 1/5
_MORE_BLOCKS = "a higher --data.valid-fraction, a smaller --data.window or a longer series"
PER_BLOCK = 2  # windows whose steps a block has: it shares none with the block after the next one


class Judged(NamedTuple):
    """The judgement of every step of a series; NaN and False where no window holds it."""

    score: Float[np.ndarray, " T"]
    p_value: Float[np.ndarray, " T"]
    is_anomaly: Bool[np.ndarray, " T"]


class Alarm(NamedTuple):
    """Flagged steps that are close together."""

    start: int  # the first
    end: int  # the last
    peak: int  # the one with the highest score, or the middle one of such
    flagged: int  # their number


class Blocks(NamedTuple):
    """Blocks of adjacent held-out steps."""

    number: Int[np.ndarray, " K"]  # of each step's block, from 0; -1 = its stretch is too short
    length: int  # the fewest steps of a block


def blocks(step: Int[np.ndarray, " K"], stretch: Int[np.ndarray, " K"], window: int) -> Blocks:
    """Divide rising steps into blocks of at least `PER_BLOCK` windows that no stretch's end cuts.

    If no adjacent steps are that many, a block is the longest run of them.
    """
    ends = np.flatnonzero((np.diff(step) != 1) | (np.diff(stretch) != 0)) + 1
    sizes = np.diff([0, *ends.tolist(), len(step)])
    length = min(PER_BLOCK * window, int(sizes.max()))
    number, count = [], 0
    for size in sizes.tolist():
        parts = size // length
        place = np.arange(size) * parts // size
        number.append(count + place if parts else np.full(size, -1))
        count += parts
    return Blocks(np.concatenate(number).astype(np.int32), length)


def held_out(
    detector: Detector, learner: Learner, data: Dataset, devices: parallel.Devices
) -> State:
    """What decides about steps, for `Detector.places`: held-out scores, blocks and threshold.

    A rule whose guarantee needs exchangeable scores is fitted on the highest score of each block,
    and flags nothing if the blocks are too few for it; any other on the scores of all steps.
    """
    score = streams.of_split(streams.values_fn(detector, learner, devices), data, data.valid).score
    found = blocks(*_steps_of(data, data.valid), window_of(data))
    state = {"score": score, "block": found.number, "length": np.int32(found.length)}
    return state | {"rule": fitted(state, detector.decision.rule)}


def _steps_of(data: Dataset, split: Split) -> tuple[Int[np.ndarray, " K"], Int[np.ndarray, " K"]]:
    """The steps of a split's windows, and their stretches."""
    assert data.steps
    start, stretch = data.steps.start[split.id], data.steps.stretch
    step = np.flatnonzero(windows.covered(start, window_of(data), len(stretch)))
    return step, stretch[step]


def tested(
    detector: Detector, learner: Learner, data: Dataset, devices: parallel.Devices
) -> dict[str, np.ndarray]:
    """What a run records of the steps of its test windows, in the order of their series.

    Returns:
      "step_index" [K], their positions in the file; "step_stretch" [K], which rises where no
      window crosses; "step_score", "step_is_anomaly" and, of a labelled series, the truth "step_y".
      {} if the detector decides nothing about steps.
    """
    if not state_of(detector) or not data.steps:
        return {}
    step, score = streams.of_split(streams.values_fn(detector, learner, devices), data, data.test)
    found = {
        "step_index": data.steps.row[step],
        "step_stretch": data.steps.stretch[step],
        "step_score": score,
        "step_is_anomaly": judged(detector, score).is_anomaly,
    }
    if data.test_place_y is not None:
        y = np.zeros(len(data.steps.row), bool)
        place = data.steps.start[data.test.id][:, None] + np.arange(window_of(data))
        y[place[data.test_place_y]] = True
        found["step_y"] = y[step]
    return found


def window_of(data: Dataset) -> int:
    """The steps of a raw window."""
    return (data.raw_shape or data.shape)[0]


def fitted(state: State, rule: str) -> dict[str, Any]:
    """The state of a threshold rule for steps; see `held_out`."""
    if not scoring.rule(rule).exchangeable:
        return scoring.fit_rule(rule, np.asarray(state["score"])).state
    if too_few(len(maxima(state)), int(state["length"]), rule):
        return {"threshold": LARGEST}
    return scoring.fit_rule(rule, maxima(state)).state


def decision_of(detector: Detector) -> Decision:
    """What decides about steps; its calibration scores, for p-values, are those of blocks."""
    state = state_of(detector)
    assert state
    return Decision(detector.decision.rule, state["rule"], maxima(state))


def too_few(count: int, length: int, rule: str) -> str:
    """Why so many held-out blocks are too few for a rule, with a remedy; "" = they are not."""
    spec, name = scoring.rule(rule), rule.partition(":")[0]
    try:
        if spec.exchangeable and spec.rank:
            spec.rank(count)
    except UserError:
        return (
            f"{rule} flags no step: {_smallest(count, length)}; train with --threshold.rule "
            f"{name}:{lowest_alpha(count):g}, or hold out more blocks by {_MORE_BLOCKS}"
        )
    return ""


def _smallest(count: int, length: int) -> str:
    blocks = f"{count} held-out block{'s' if count > 1 else ''} of {length} steps"
    return f"with {blocks} no p-value is below 1/{count + 1}"


def refuse_few(cfg: ExperimentConfig, data: Dataset) -> None:
    """Refuse a rule that promises something of blocks, of which too few would be held out.

    Where windows do not overlap, it promises something of windows, and `warnings` has a line.
    """
    rule = cfg.threshold.rule
    if not data.steps or not calibration.windows_overlap(cfg):
        return
    found = blocks(*_steps_of(data, data.valid), window_of(data))
    if problem := too_few(int(found.number.max()) + 1, found.length, rule):
        raise UserError(problem)


def basis(detector: Detector) -> str:
    """What p-values of steps rest on."""
    state = state_of(detector)
    assert state
    count, length = len(maxima(state)), int(state["length"])
    plural = "s" if count > 1 else ""
    return (
        f"ranks among the highest scores of {count} held-out block{plural} of {length} steps, so "
        f"none is below 1/{count + 1}; a normal block that is exchangeable with these holds a step "
        "with p <= alpha with probability alpha at most"
    )


def exported(detector: Detector) -> dict[str, int | bool | float]:
    """What an export must know beside the arrays to judge steps; {} = it cannot.

    It cannot where a rule decides otherwise than by its threshold.
    """
    rule = scoring.rule(detector.decision.rule)
    if not state_of(detector) or rule.decide is not above_threshold:
        return {}
    return {
        "stride": detector.about.schema.stride,
        "by_map": streams.is_mapped(detector.about.config),
        "above": decision_of(detector).threshold,
    }


def why_no_alarms(detector: Detector) -> str:
    """Why the rule can flag no step; "" = it can."""
    state = state_of(detector)
    assert state
    return too_few(len(maxima(state)), int(state["length"]), detector.decision.rule)


def warnings(detector: Detector) -> list[str]:
    """Lines about what decisions and p-values of steps cannot say here."""
    rule, state = detector.decision.rule, state_of(detector)
    if not state:
        return []
    count, problem = len(maxima(state)), why_no_alarms(detector)
    if count < _FEW_BLOCKS and not problem:
        what = "how often normal steps raise alarms is hardly known"
        problem = f"{_smallest(count, int(state['length']))}, and {what}; {_MORE_BLOCKS} helps"
    lines = [problem] if problem else []
    if scoring.rule(rule).exchangeable and calibration.windows_overlap(detector.about.config):
        lines.append(f"windows overlap: {rule} promises something of steps, but not of windows")
    return lines


def maxima(state: State) -> Float[np.ndarray, " B"]:
    """The highest score of each held-out block."""
    block, score = np.asarray(state["block"]), np.asarray(state["score"])
    highest = np.full(int(block.max()) + 1, -LARGEST, score.dtype)
    np.maximum.at(highest, block[block >= 0], score[block >= 0])
    return highest


def judged(detector: Detector, score: Float[np.ndarray, " T"]) -> Judged:
    """P-values and decisions of scores of steps; NaN are steps of no window."""
    decision, is_scored = decision_of(detector), ~np.isnan(score)
    p_value, is_anomaly = np.full(len(score), np.nan), np.zeros(len(score), bool)
    p_value[is_scored] = p_values(decision, score[is_scored])
    is_anomaly[is_scored] = scoring.decide(decision, score[is_scored])
    return Judged(score, p_value, is_anomaly)


def state_of(detector: Detector) -> State | None:
    """What decides about steps; None: the detector was not fitted on a series, or long ago."""
    return detector.places.get(NAME)


@parallel.on_host()
def judge(
    detector: Detector, series: Float[np.ndarray, "T C"], start: Int[np.ndarray, " N"]
) -> Judged:
    """Judge every step of a raw series from its windows.

    The windows are cut, scaled and scored some thousands at a time.

    Args:
      detector: fitted on a series; see `state_of`.
      series: the steps, in the units of those that the detector was fitted on.
      start: the first step of each window; they rise.

    Raises:
      UserError: the detector cannot judge the windows.
    """
    score = np.full(len(series), np.nan, np.float32)
    for part in streams.of_series(detector, series, start):
        score[part.step] = part.score
    return judged(detector, score)


def alarms(judged: Judged, stretch: Int[np.ndarray, " T"], window: int) -> list[Alarm]:
    """The alarms of a series: flagged steps that a window holds together are one.

    Such steps have a common cause in that window as far as its scores can tell, and the scores
    between them waver. No alarm crosses from one stretch to the next.
    """
    flagged = np.flatnonzero(judged.is_anomaly)
    is_apart = (np.diff(flagged) >= window) | (np.diff(stretch[flagged]) != 0)
    found = []
    for run in np.split(flagged, np.flatnonzero(is_apart) + 1) if len(flagged) else []:
        highest = run[judged.score[run] == judged.score[run].max()]
        peak = int(highest[len(highest) // 2])  # a value beyond float32 saturates whole windows
        found.append(Alarm(int(run[0]), int(run[-1]), peak, len(run)))
    return found


def why_no_guarantee(cfg: ExperimentConfig) -> str:
    """Why p-values of steps guarantee no error rate, whatever the blocks are; "" = none is known.

    Beyond that, they need blocks that are exchangeable, which no check can show.
    """
    if reason := calibration.why_held_out_differ(cfg):
        return reason
    is_scaled = scoring.resolve(cfg.score).standardise
    flaw = "is standardised on the held-out windows; use a --score without + or ^"
    return f"score {cfg.score!r} {flaw}" if is_scaled else ""
