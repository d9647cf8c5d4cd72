"""Figures of a long series by step: its values, scores, true ranges and alarms.

Series of more than `COLUMNS` steps are drawn as that many columns of adjacent steps: from the least
to the largest value of a column, which is marked if one of its steps is. So no peak and no alarm is
lost, however long the series.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped

from jaxae.reports.plots import style
from jaxae.stats.ranges import ranges

COLUMNS = 1000
RULE = (
    f"A series of more than {COLUMNS} steps is drawn in {COLUMNS} columns of adjacent steps, each "
    "from its least to its largest value, and marked if one of its steps is."
)
NEEDED = ("edges", "index", "is_anomaly", "score_low", "score_high", "threshold")
CHANNELS = 6  # the most that are drawn
_INTERRUPTIONS = 30  # more are not drawn: groups may take turns line by line
TRUTH, ALARM = style.ORANGE, style.VERMILLION


def columns(steps: int) -> Int[np.ndarray, " B"]:
    """The first step of each column: at most `COLUMNS` of nearly equal width."""
    count = min(steps, COLUMNS)
    return np.arange(count) * steps // max(count, 1)


def condensed(
    score: Float[np.ndarray, " T"],
    is_anomaly: Bool[np.ndarray, " T"],
    threshold: float,
    index: Int[np.ndarray, " T"],
    y: Bool[np.ndarray, " T"] | None = None,
    values: Float[np.ndarray, "T C"] | None = None,
) -> dict[str, np.ndarray]:
    """The columns of a series, as `alarms` draws them.

    Args:
      score: of each tested step.
      is_anomaly: the decisions.
      threshold: the score above which a step is flagged.
      index: the steps' positions in the file.
      y: the truth, if it is known.
      values: the series, if it can be shown.

    Returns:
      "edges" [B+1], where the columns begin and the last one ends; "index" and "is_anomaly" [B];
      "score_low" and "score_high" [B]; "threshold"; maybe "y" [B], and "low" and "high" [B, C].
    """
    first = columns(len(score))
    found = {
        "edges": np.append(first, len(score)),
        "index": index[first],
        "is_anomaly": np.logical_or.reduceat(is_anomaly, first),
        "score_low": np.minimum.reduceat(score, first),
        "score_high": np.maximum.reduceat(score, first),
        "threshold": np.float32(threshold),
    }
    if y is not None:
        found["y"] = np.logical_or.reduceat(y, first)
    if values is not None:
        shown = values[:, : CHANNELS + 1]  # one more, so that it is known to be left out
        found["low"] = np.minimum.reduceat(shown, first)
        found["high"] = np.maximum.reduceat(shown, first)
    return found


def alarms(data: dict, subtitle: str, lanes: Sequence[str] = ("truth", "alarms")):
    """The series, lanes of true ranges and alarms, and the scores with the threshold.

    Args:
      data: see `condensed`.
      subtitle: the second title line.
      lanes: the bars between the panels; those without data stay empty, for the page.

    Returns:
      The figure; its axes are those of the series (if it is known), of the lanes and of the scores.
    """
    edges, has_series = data["edges"], "low" in data
    lanes = [name for name in lanes if name != "truth" or "y" in data]
    heights = [2.2] * has_series + [0.16 * len(lanes), 1.9]
    figure, axes = style.canvas(
        9.6, 1.2 + sum(heights), len(heights), 1, sharex=True, height_ratios=heights
    )
    *of_series, between, below = axes[:, 0]
    for ax in of_series:
        _series(ax, data)
    _lanes(between, lanes, edges, {"truth": data.get("y"), "alarms": data["is_anomaly"]})
    _scores(below, data)
    for ax in (*of_series, below):
        for start, end in ranges(data.get("y", np.zeros(0, bool))):
            ax.axvspan(edges[start], edges[end], color=TRUTH, alpha=0.25, lw=0, zorder=0.5)
    below.set_xlim(0, edges[-1])
    _name_steps(below, data)
    steps = int(edges[-1])
    note = f", columns of about {steps / COLUMNS:.3g} steps" if steps >= len(edges) else ""
    return style.headings(figure, f"Alarms by step ({steps} steps{note})", subtitle)


def _interrupted(data: dict) -> Bool[np.ndarray, " B"]:
    """After which columns the file does not go on with the next step; the last one is not."""
    is_next = np.diff(data["index"]) == np.diff(data["edges"])[:-1]
    return np.append(~is_next, False)


def _name_steps(ax, data: dict) -> None:
    """Ticks name the file's steps: tested steps lie side by side, whatever is between them."""
    from matplotlib.ticker import FuncFormatter

    edges, index, is_interrupted = data["edges"], data["index"], _interrupted(data)

    def named(at: float, _) -> str:
        column = int(np.searchsorted(edges, at, side="right")) - 1
        if not 0 <= column < len(index):
            return ""
        return str(index[column] + (0 if is_interrupted[column] else int(at) - edges[column]))

    ax.xaxis.set_major_formatter(FuncFormatter(named))
    note = ""
    if 0 < is_interrupted.sum() <= _INTERRUPTIONS:
        note = " (dotted: the series is interrupted)"
        for at in edges[1:][is_interrupted]:
            ax.axvline(at, color=style.GREY, ls=":", lw=0.9)
    ax.set_xlabel(f"step of the file{note}", fontsize=8)


def _line(ax, edges: np.ndarray, low: np.ndarray, high: np.ndarray, colour: str) -> None:
    """A line of few steps, else an area from the least to the largest value of each column."""
    centres = (edges[:-1] + edges[1:]) / 2
    if len(low) == edges[-1]:
        ax.plot(centres, low, lw=0.9, color=colour)
    else:
        ax.fill_between(centres, low, high, lw=0.6, color=colour)


def _series(ax, data: dict) -> None:
    """A single channel in its units; several below each other, each over its own range."""
    low, high = data["low"], data["high"]
    shown = min(low.shape[1], CHANNELS)
    for channel in range(shown):
        ends = low[:, channel], high[:, channel]
        if shown > 1:
            least, most = ends[0].min(), ends[1].max()
            ends = tuple((end - least) / ((most - least) or 1) - 1.1 * channel for end in ends)
        _line(ax, data["edges"], *ends, style.CLASSES[(7, *range(7))[channel]])
    note = f" (the first {shown} channels)" if low.shape[1] > shown else ""
    style.label(ax, f"Series{note}", y="value" if shown == 1 else "channels, each over its range")
    ax.tick_params(labelleft=shown == 1)


def _lanes(
    ax,
    names: Sequence[str],
    edges: np.ndarray,
    masks: dict[str, Shaped[np.ndarray, " B"] | None],
) -> None:
    for lane, name in enumerate(names):
        mask = masks.get(name)
        if mask is not None:
            bars = [(edges[start], edges[end] - edges[start]) for start, end in ranges(mask)]
            colour = TRUTH if name == "truth" else ALARM
            ax.broken_barh(bars, (lane + 0.1, 0.8), color=colour, lw=0)
    style.label(ax)
    ax.grid(False)
    ax.set_ylim(len(names), 0)
    ax.set_yticks(np.arange(len(names)) + 0.5, names)
    ax.tick_params(length=0, labelbottom=False)
    ax.spines[:].set_visible(False)


def _scores(ax, data: dict) -> None:
    cut, words = float(data["threshold"]), "no step can be flagged"
    if style.spans_decades(np.append(data["score_low"], data["score_high"]), 30):
        ax.set_yscale("log")
    _line(ax, data["edges"], data["score_low"], data["score_high"], style.BLUE)
    if cut < np.finfo(np.float32).max:
        ax.axhline(cut, color=style.BLACK, ls="--", lw=0.9)
        words = f"threshold {cut:.4g}"
    style.label(ax, f"Score of each step ({words})", y="score")
