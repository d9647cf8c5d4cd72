"""Pages: one HTML file for a run, a comparison or a grid, which opens without a network.

Pages are made from the files of run folders. `run` writes the page of one run, `many` those of
several runs; they share `frame`, `page.css` and `page.js`. Figures come from `jaxae.reports.plots`;
the slider moves SVG elements drawn over them.
"""

from pathlib import Path
from typing import Any

from jaxae.errors import UserError, words
from jaxae.reports.pages import many
from jaxae.reports.pages import run as single
from jaxae.reports.plots import files
from jaxae.storage import manifest
from jaxae.storage.disk import write_text

NAME = "report.html"


def write(folder: Path) -> Path:
    """Write the page of a run, or of a grid, into its folder.

    Raises:
      UserError: the folder contains neither, or cannot be written.
    """
    if not (folder / files.REPORT).is_file():
        raise UserError(f"{folder} holds no finished run; name a folder with report.json")
    report = files.report(folder)
    is_grid = "classes" in report and "auroc_interval" in report
    content = many.grid(folder, report) if is_grid else single.page(single.read(folder))
    path = _written(folder / NAME, content)
    manifest.add(folder, path)
    return path


def write_comparison(
    one: Path, other: Path, differences: dict[str, dict[str, Any]], out: Path
) -> Path:
    """Write the page of two runs and of `differences`, the result of `comparison.compare`.

    Raises:
      UserError: a report is missing, or the page cannot be written.
    """
    return _written(out, many.compared((one, other), differences))


def _written(path: Path, content: str) -> Path:
    try:
        write_text(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({words(error)})") from None
    return path
