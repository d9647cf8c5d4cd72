"""What README and docs say can be done: their Python runs, their commands and links exist."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from jaxae import cli

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PYTHON = [
    (path, code)
    for path in PAGES
    for code in re.findall(r"```python\n(.*?)```", path.read_text(), flags=re.DOTALL)
]
# What the last line that it prints must say.
SAYS = {
    "README.md": lambda said: said.startswith("[ 1  1  1 -1 -1]"),
    "experiments.md": lambda said: float(re.search(r"'auroc': ([\d.]+)", said).group(1)) > 0.99,
    "extending.md": lambda said: 0.5 < float(said) <= 1,
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
        assert (ROOT / name).exists(), name


def test_the_front_door_is_one_screen():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 80
    assert len(cli.USAGE.splitlines()) <= 16
