"""Run one part of a stage: `python -m benchmarks.on_device.part MODULE ORDER`.

The module has a function `main(order)`. ORDER is JSON with: `out`, the folder of results; `common`,
the fields that all results share; `began` and `until`, in seconds of `time.time`; the names `stage`
and `part`; `rehearsal`; `models`; and `environment`, the variables that the process already has.
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
    """The parameters of a part.

    Attributes:
      journal: records the results.
      clock: knows the remaining time.
      out: the folder of results.
      rehearsal: whether sizes are small and the device is a CPU.
      models: the requested models of `benchmarks.cases`, in order.
      part: its label, which distinguishes parts that run the same module.
    """

    journal: Journal
    clock: Clock
    out: Path
    rehearsal: bool
    models: tuple[str, ...]
    part: str


class Attempts:
    """Makes measurements one after another while time permits; records failures."""

    def __init__(self, order: Order, least: float):
        """`least`: seconds that a measurement is assumed to need, until one took longer."""
        self._order, self._longest = order, least

    def make(self, work: Callable[[], Any], what: str, model: str, **about: Any) -> None:
        """Call `work`, which records its results; record a failure or a lack of time.

        Args:
          work: the measurement.
          what: the kind of result, a key of `results.HELD`.
          model: the model measured.
          about: more fields, for a record that only says why there is no result.
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
    """Parse ORDER as written by `benchmarks.on_device.stages`."""
    common = told["common"] | {"stage": told["stage"], "rehearsal": told["rehearsal"]}
    out = Path(told["out"])
    journal = Journal(out, common, told["began"])
    clock = Clock(told["until"])
    return Order(journal, clock, out, told["rehearsal"], tuple(told["models"]), told["part"])


def main(args: list[str]) -> int:
    """Run the part. An exception ends the process; the parent reads it from the end of the log."""
    module, order = args[0], parse(json.loads(args[1]))
    try:
        importlib.import_module(module).main(order)
    except Exception:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
