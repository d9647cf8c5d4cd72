"""One part of a stage, in this process: `python -m benchmarks.on_device.part MODULE ORDER`.

The module has `main(order)`. The order is JSON: `out`, the folder; `common`, what all findings
share; `began` and `until`, seconds of `time.time`; `stage` and `part`, where this one belongs;
`rehearsal`; `models`; `environment`, which the process has already.
"""

import importlib
import json
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.on_device.results import Journal, words
from benchmarks.on_device.stages import Clock


class Order(NamedTuple):
    """What a part is told.

    Attributes:
      journal: takes its findings.
      clock: says what it has left.
      out: the folder of results.
      rehearsal: whether sizes are small, and the device is a CPU.
      models: those of `benchmarks.cases` that are wanted, in their order.
      part: its label; parts of one module go by different ones.
    """

    journal: Journal
    clock: Clock
    out: Path
    rehearsal: bool
    models: tuple[str, ...]
    part: str


class Attempts:
    """Things that are tried one after another while there is time; a failure is a finding."""

    def __init__(self, order: Order, least: float):
        """`least`: seconds without which nothing is begun, until something took longer."""
        self._order, self._longest = order, least

    def make(self, work: Callable[[], Any], what: str, model: str, **about: Any) -> None:
        """Call `work`, which writes what it finds; say so where it fails or there is no time.

        Args:
          work: is tried.
          what: it is a finding of, as `results.HELD` names it.
          model: that it looks at.
          about: fields of the finding where there is only a reason for none.
        """
        began, left = time.monotonic(), self._order.clock.left()
        if left < 1.2 * self._longest:
            reason = {"no_time": f"{max(0.0, left):.0f} s are left"}
            self._order.journal.write(what, model, **about, **reason)
            return
        try:
            work()
        except Exception as error:
            traceback.print_exc()
            self._order.journal.write(what, model, **about, error=words(error))
        self._longest = max(self._longest, time.monotonic() - began)


def parse(told: dict) -> Order:
    """The order as `benchmarks.on_device.stages` gives it."""
    common = told["common"] | {"stage": told["stage"], "rehearsal": told["rehearsal"]}
    out = Path(told["out"])
    journal = Journal(out, common, told["began"])
    clock = Clock(told["until"])
    return Order(journal, clock, out, told["rehearsal"], tuple(told["models"]), told["part"])


def main(args: list[str]) -> int:
    """Run the part; of one that raises, who started it finds the error at the end of its log."""
    module, order = args[0], parse(json.loads(args[1]))
    try:
        importlib.import_module(module).main(order)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
