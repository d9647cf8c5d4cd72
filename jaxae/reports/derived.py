"""What is made from a run's scores: it shows the old ones, so it goes when they are replaced."""

from pathlib import Path

from jaxae.reports import pages, plots, studies


def withdraw(folder: Path) -> None:
    """Remove report, pages, figures, and the arrays and tables of studies, as far as they exist.

    Call it before new scores are written. What is still asked for is then made anew. Files with
    other names are the user's and stay.
    """
    figures = plots.FIGURES | studies.figures() | plots.PROTOCOL_FIGURES | plots.CROSS_FIGURES
    names = [
        *(plots.files.REPORT, pages.NAME, pages.COMPARISON),
        *(f"figures/{name}.png" for name in figures),
        *(name for study in studies.STUDIES for name in studies.written(study)),
    ]
    for name in names:
        (folder / name).unlink(missing_ok=True)
