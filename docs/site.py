"""Build the documentation site into build/site, from the README, docs/ and the docstrings.

python -m pip install ".[docs]"
python docs/site.py
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "build/site-pages"
# The documented API, by section of the reference page.
REFERENCE = {
    "From arrays": ["jaxae.estimators.AutoencoderDetector", "jaxae.estimators.WrappedDetector"],
    "Runs": [
        "jaxae.workflows.experiment.run",
        "jaxae.cli.train.main",
        "jaxae.config.schema",
        "jaxae.workflows.auto.settle",
        "jaxae.storage.logs",
    ],
    "Data": ["jaxae.data.loading", "jaxae.data.own.files", "jaxae.data.own.series"],
    "Methods and training": ["jaxae.methods.learners", "jaxae.training.train", "jaxae.types"],
    "Extending": [
        "jaxae.methods.reconstruction.descent",
        "jaxae.methods.wrappers",
        "jaxae.data.Raw",
    ],
    "Scores and decisions": ["jaxae.scoring.scores", "jaxae.scoring.rules", "jaxae.detectors"],
    "Guarantees": [
        "jaxae.stats.conformal.ranks",
        "jaxae.stats.conformal.guarantee",
        "jaxae.stats.conformal.folds",
    ],
    "Metrics and intervals": [
        "jaxae.stats.metrics",
        "jaxae.stats.intervals",
        "jaxae.reports.comparison",
    ],
    "Protocols": ["jaxae.workflows.protocol", "jaxae.config.grids"],
    "Export and pages": ["jaxae.export.exporting", "jaxae.export.loader", "jaxae.reports.pages"],
}


def _tour() -> str:
    """The notebook as a Markdown page with its text, code and outputs."""
    cells = json.loads((ROOT / "docs/tour.ipynb").read_text(encoding="utf-8"))["cells"]
    parts = []
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell.get("outputs", []):
            picture = output.get("data", {}).get("image/png")
            if picture:
                parts.append(f"![A figure](data:image/png;base64,{''.join(picture).strip()})")
            elif "text" in output:
                parts.append(f"```text\n{''.join(output['text'])}\n```")
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Prepare the pages and build the site with MkDocs; a broken link is an error."""
    shutil.rmtree(PAGES, ignore_errors=True)
    PAGES.mkdir(parents=True)
    for path in (ROOT / "docs").glob("*.md"):
        text = path.read_text(encoding="utf-8")
        text = text.replace("](../benchmarks/", "](").replace("](../CONTRIBUTING", "](CONTRIBUTING")
        (PAGES / path.name).write_text(text, encoding="utf-8")
    for path in (ROOT / "benchmarks").glob("*.png"):
        shutil.copy(path, PAGES)
    for name, page in (("README", "index"), ("CONTRIBUTING", "CONTRIBUTING")):
        text = (ROOT / f"{name}.md").read_text(encoding="utf-8")
        text = text.replace("](docs/", "](").replace("](tour.ipynb)", "](tour.md)")
        (PAGES / f"{page}.md").write_text(text, encoding="utf-8")
    shutil.copy(ROOT / "CHANGELOG.md", PAGES / "changelog.md")
    (PAGES / "tour.md").write_text(_tour(), encoding="utf-8")
    lines = ["# Python"]
    for title, names in REFERENCE.items():
        lines += ["", f"## {title}", *(f"\n::: {name}" for name in names)]
    (PAGES / "reference.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    build = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict"]
    subprocess.run(build, cwd=ROOT, check=True)
    print(f"the site is in {ROOT / 'build/site'}; open index.html in a browser")


if __name__ == "__main__":
    main()
