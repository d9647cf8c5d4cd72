"""What earlier versions wrote is read by this one, and means the same."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from probes import golden, images

from jaxae import detectors
from jaxae.storage import disk
from jaxae.workflows import experiment, verification

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = sorted(path.name for path in GOLDEN.iterdir() if (path / "run").is_dir())


@pytest.fixture(params=VERSIONS)
def folder(request, tmp_path, monkeypatch):
    """A copy of the golden files, in which the process is at work."""
    shutil.copytree(GOLDEN / request.param, tmp_path / "golden")
    monkeypatch.chdir(tmp_path / "golden")
    return tmp_path / "golden"


def scores(folder):
    with np.load(folder / "run" / "scores.npz") as stored:
        return {name: stored[name] for name in stored}


def test_there_are_some():
    assert "0.2.0" in VERSIONS


def test_the_detector_judges_as_it_did(folder):
    detector = detectors.load(folder / "run" / "detector")
    found, stored = detectors.judge(detector, images(20, 1)), scores(folder)
    np.testing.assert_allclose(found.score, stored["test"], rtol=1e-5)
    np.testing.assert_array_equal(found.is_anomaly, stored["test_is_anomaly"])


def test_the_run_verifies(folder):
    checks = verification.verify(folder / "run")
    unchecked = ["files"] if not (folder / "run/manifest.json").exists() else []  # older: none
    assert [check.name for check in checks if check.outcome == "not checked"] == unchecked
    assert not [check for check in checks if check.outcome == "FAILED"]
    assert {"detector", "checkpoint 2", "data", "scores"} <= {check.name for check in checks}


def test_the_checkpoint_is_gone_on_with(folder):
    """Four epochs, two of them by the version that is golden, are four epochs of this one."""
    fresh = experiment.run(golden(train__epochs=4, run_dir="fresh"))
    went_on = experiment.run(golden(train__epochs=4))
    assert went_on["epochs"] == fresh["epochs"] == 4
    losses = [
        [epoch["loss"] for epoch in disk.read_metrics(folder / run / "metrics.jsonl")]
        for run in ("run", "fresh")
    ]
    np.testing.assert_allclose(*losses, rtol=1e-4)
    one, other = (
        jax.tree.leaves(detectors.load(folder / run / "detector").variables)
        for run in ("run", "fresh")
    )
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_they_can_be_made_again(tmp_path):
    """So that the next version has some, too."""
    shutil.copytree(GOLDEN.parent, tmp_path / "tests", ignore=shutil.ignore_patterns("0.*"))
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run(
        [sys.executable, "tests/golden/make.py", "9.9.9"],
        cwd=tmp_path,
        env=env,
        check=True,
        capture_output=True,
        timeout=200,
    )
    made = {path.name for path in (tmp_path / "tests/golden/9.9.9").iterdir()}
    assert made == {path.name for path in (GOLDEN / VERSIONS[-1]).iterdir()}
