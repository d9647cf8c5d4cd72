"""Pages: one HTML file for a run, a comparison or a grid, which opens without a network.

Pages are made from the files of run folders. `run` writes the page of one run, `many` those of
several runs; they share `frame`, `page.css` and `page.js`. Figures come from `jaxae.reports.plots`;
the slider moves SVG elements drawn over them.
"""

from pathlib import Path
from typing import Any

from jaxae.errors import UserError
from jaxae.reports.pages import many
from jaxae.reports.pages import run as single
from jaxae.reports.plots import files
from jaxae.storage import disk, manifest, outputs

NAME = "report.html"
COMPARISON = "comparison.html"
_UNSHOWN = (NAME, "baselines/", "checkpoints/", "figures/", "members/")  # no page reads them


def write(folder: Path) -> Path:
    """Write the page of a run, of a grid or of a cross-conformal run into its folder.

    Raises:
      UserError: the folder contains none of them, its files have changed since the run ended or
        hold what no run writes, or it cannot be written.
    """
    if not (folder / files.REPORT).is_file():
        raise UserError(f"{folder} holds no finished run; name a folder with report.json")
    if (folder / manifest.NAME).is_file():
        shown = [name for name in manifest.read(folder) if not name.startswith(_UNSHOWN)]
        manifest.refuse_changed(folder, shown, files.AGAIN)
    with files.as_written(folder):
        report = files.report(folder)
        if "classes" in report and "auroc_interval" in report:
            content = many.grid(folder, report)
        elif "p_values" in report and "threshold" not in report:
            content = many.cross(folder, report)
        else:
            content = single.page(single.read(folder))
    path = _written(folder / NAME, content)
    manifest.add(folder, path)
    return path


def write_comparison(
    one: Path, other: Path, differences: dict[str, dict[str, Any]], out: Path
) -> Path:
    """Write the page of two runs and of `differences`, the result of `comparison.compare`.

    Raises:
      UserError: a report is missing or damaged, a configuration has changed since the run ended, or
        the page cannot be written.
    """
    for folder in (one, other):
        manifest.refuse_changed(folder, (files.REPORT, "config.json"), files.AGAIN)
    with files.as_written(one):
        content = many.compared((one, other), differences)
    return _written(out, content)


def _written(path: Path, content: str) -> Path:
    with outputs.system_errors(str(path)):
        disk.write_text(path, content)
    return path
