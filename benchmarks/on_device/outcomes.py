"""A pytest plugin that appends each test's outcome to a file as soon as it is known.

If the run is stopped, the outcomes so far are kept: `pytest -p benchmarks.on_device.outcomes`, with
the file's name in the variable `FILE`. Workers of pytest-xdist report through the main process.
"""

import os
from typing import Any

FILE = "JAXAE_TEST_OUTCOMES"  # the variable that names it


class _Writer:
    def __init__(self, path: str):
        self._path = path

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Write `outcome name` of a test that ran, or of the setup that kept it from running."""
        if report.when == "call" or report.outcome != "passed":
            with open(self._path, "a") as file:
                file.write(f"{report.outcome} {report.nodeid}\n")


def pytest_configure(config: Any) -> None:
    """Register the plugin, except in a worker."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Writer(os.environ[FILE]))
