"""A plugin of pytest: each test's outcome is a line of a file as soon as it is known.

So that a run that is ended has said what it found: `pytest -p benchmarks.on_device.outcomes`, with
the file's name in `FILE`. Workers of pytest-xdist report through the process that started them.
"""

import os
from typing import Any

FILE = "JAXAE_TEST_OUTCOMES"  # the variable that names it


class _Writer:
    def __init__(self, path: str):
        self._path = path

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Write `outcome name` of a call, or of what kept a test from being called."""
        if report.when == "call" or report.outcome != "passed":
            with open(self._path, "a") as file:
                file.write(f"{report.outcome} {report.nodeid}\n")


def pytest_configure(config: Any) -> None:
    """Listen, unless this is a worker."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Writer(os.environ[FILE]))
