"""What README and docs say can be done: their Python runs, their commands and links exist."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from jaxae.cli import main as cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PYTHON = [
    (path, code)
    for path in PAGES
    for code in re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL)
    if not re.search("wandb|mlflow|WandB", code)  # see test_logs
]


def _overlaps(said, begin, end):
    first, last = map(int, said.split())
    return first <= end and last >= begin and last - first < 100


# What the last line that it prints must say.
SAYS = {
    "README.md": lambda said: said.startswith("[ 1  1  1 -1 -1]"),
    "images.md": lambda said: said == "(2, 256, 256) True",
    "experiments.md": lambda said: float(re.search(r"'auroc': ([\d.]+)", said).group(1)) > 0.99,
    "detectors.md": lambda said: "'auroc': 1.0" in said and "'auroc_interval': [" in said,
    "adding_a_score.md": lambda said: "(5, 28, 28)" in said and 0.5 < float(said.split()[-1]) <= 1,
    "adding_a_rule.md": lambda said: said == "trimmed:3 on valid",
    "adding_a_data_set.md": lambda said: 0.9 < float(said) <= 1,
    "adding_a_method.md": lambda said: 0.8 < float(said) <= 1,
    "adding_an_experiment.md": lambda said: said.endswith("the run is in runs/mine"),
    "series.md": lambda said: _overlaps(said, 7000, 7029),
    "logging.md": lambda said: said.startswith("['digits_conv', '1 ") and "AUROC" in said,
}


@pytest.mark.slow
@pytest.mark.parametrize(("path", "code"), PYTHON, ids=[path.name for path, _ in PYTHON])
def test_the_python_of_the_pages_runs(path, code, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert SAYS[path.name](done.stdout.splitlines()[-1])


def shell(text):
    """The commands of fenced blocks, continued lines joined."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    return "\n".join(blocks).replace("\\\n", " ").splitlines()


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_and_links_lead_somewhere(path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    text = path.read_text()
    for line in shell(text):
        module = re.search(r"python3? -m ([\w.]+)", line)
        if module:
            assert find_spec(module.group(1)) or module.group(1) == "pip", line
        command = re.match(r"jaxae (\w+)", line)
        if command:
            assert command.group(1) in ("train", "run", *cli.COMMANDS), line
    for link in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (path.parent / link).exists(), link
    for name in re.findall(r"`((?:jaxae|tests|experiments|benchmarks|docs)/[\w/.]+)`", text):
        assert (ROOT / name).exists() or name.endswith("/mine.py"), name


def test_the_front_door_is_one_screen():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 80
    assert len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 45
    assert len(cli.USAGE.splitlines()) <= 16


@pytest.mark.slow
def test_the_tour_runs(tmp_path, monkeypatch):
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    bin_folder = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.delenv("MPLBACKEND", raising=False)
    tour = nbformat.read(ROOT / "docs/tour.ipynb", as_version=4)
    nbclient.NotebookClient(tour, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    said = "".join(
        output.get("text", "") for cell in tour.cells for output in cell.get("outputs", [])
    )
    assert not re.search(r"^error: ", said, flags=re.MULTILINE)
    flagged = re.search(r"flagged: ([\d.]+)% of the benign rows, ([\d.]+)% of the malignant", said)
    assert float(flagged.group(1)) < 20 < 50 < float(flagged.group(2))
    assert float(re.search(r"AUROC ([\d.]+), 95 %", said).group(1)) > 0.9
    assert "report.html" in said
    assert "rows are anomalies" in said
